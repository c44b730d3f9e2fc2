//! Recipe text to [`Recipe`]: reading within limits, YAML with places, includes, `--set`, shape,
//! parameters and expressions. Nothing here knows which cells and edges a recipe makes; that is
//! [`crate::plan`].

mod document;
pub(crate) mod expression;
mod extends;
mod interpolate;
mod load;
mod loaded;
mod overrides;
mod params;
mod schema;
mod scope;
mod shape;
pub(crate) mod source;
pub(crate) mod tree;
mod yaml;

pub(crate) use interpolate::has_expression;
pub use load::load;
pub use loaded::Recipe;
pub(crate) use loaded::{Defaults, Step};
pub use schema::json_schema;
pub(crate) use shape::is_name;
pub(crate) use yaml::parse;

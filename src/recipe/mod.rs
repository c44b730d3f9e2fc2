//! Recipe text to [`Recipe`]: reading within limits, YAML with places, includes, `--set`, shape,
//! parameters and expressions. Nothing here knows which cells and edges a recipe makes; that is
//! [`crate::plan`].

mod document;
pub(crate) mod expression;
mod interpolate;
mod load;
mod overrides;
mod params;
#[path = "recipe.rs"]
mod recipe_type;
mod schema;
mod scope;
mod shape;
pub(crate) mod source;
pub(crate) mod tree;
mod yaml;

pub use load::load;
pub use recipe_type::Recipe;
pub(crate) use interpolate::has_expression;
pub(crate) use recipe_type::{Defaults, Step};
pub(crate) use shape::is_name;
#[cfg(test)]
pub(crate) use yaml::parse;
pub use schema::json_schema;

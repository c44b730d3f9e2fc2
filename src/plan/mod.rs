//! [`Recipe`](crate::recipe::Recipe) to [`Plan`]: matrix cells, edges, typed parameters. `check`,
//! `plan`, `graph` and `run` all use the same object. Nothing here touches the cache or runs
//! anything.

mod build;
mod cells;
mod cycle;
mod draft;
mod fields;
mod graphviz;
mod json;
mod links;
mod mermaid;
#[path = "plan.rs"]
mod plan_type;
mod select;
mod settings;

pub use build::build;
pub use json::{NodeJson, PlanJson};
pub use plan_type::{Plan, StepNode};
pub use select::Selection;
pub use settings::Resources;

//! [`Recipe`](crate::recipe::Recipe) to [`Plan`]: matrix cells, edges, typed parameters. `check`,
//! `plan`, `graph` and `run` all use the same object. Nothing here touches the cache or runs
//! anything.

mod build;
mod cells;
mod cycle;
mod draft;
mod fields;
mod graph;
mod graphviz;
mod json;
mod links;
mod matrix;
mod mermaid;
mod pin;
mod select;
mod settings;
mod states;
mod task_files;
mod typed;

pub use build::build;
pub use graph::{Plan, StepNode};
pub use json::{NodeJson, PlanJson};
pub use select::Selection;
pub use settings::Resources;

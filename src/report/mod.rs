//! From evaluation results to documents. Reads artifacts and their lineage only.

mod compare;
mod context;
mod plot;
mod provenance;
mod render;
mod signatures;
mod table;

pub use compare::Comparison;
pub use context::ReportContext;
pub use plot::plot_svg;
pub use provenance::{Provenance, StepRow, SwapRow, TrainingRow};
pub use render::{Template, render};
pub(crate) use table::without_axis;
pub use table::{Row, TaskTable};

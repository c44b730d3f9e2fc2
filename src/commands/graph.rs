//! `evergraft graph`.

use super::shared::{planned, print, print_json};
use crate::{
    cli::{GraphArgs, GraphFormat},
    error::Error,
};

pub(super) fn run(args: &GraphArgs) -> Result<(), Error> {
    let plan = planned(&args.recipe.recipe, &args.recipe.set)?;
    match args.format {
        GraphFormat::Mermaid => print(&plan.to_mermaid()),
        GraphFormat::Dot => print(&plan.to_dot()),
        GraphFormat::Json => print_json(&plan.to_json()),
    }
}

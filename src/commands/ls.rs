//! `evergraft ls`.

use std::collections::BTreeSet;

use super::shared::{open_cache, planned, print, print_json, table};
use crate::{
    cli::{Cli, Format, ListArgs},
    error::Error,
    exec::status,
};

pub(super) fn run(cli: &Cli, args: &ListArgs) -> Result<(), Error> {
    let plan = planned(&args.recipe.recipe, &args.recipe.set)?;
    let cache = open_cache(cli)?;
    let nodes = status(&plan, &cache, &BTreeSet::new())?;
    if args.format == Format::Json {
        return print_json(&nodes.iter().map(|(_, node)| node).collect::<Vec<_>>());
    }
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|(index, node)| {
            let kind = plan.graph[*index].kind.name.to_owned();
            vec![node.step.clone(), kind, node.path.clone().unwrap_or_else(|| "-".to_owned())]
        })
        .collect();
    print(&table(&rows))
}

//! `evergraft ls`.

use super::shared::{Survey, print, print_json, table};
use crate::{
    cli::{Cli, Format, ListArgs},
    error::Error,
};

pub(super) fn run(cli: &Cli, args: &ListArgs) -> Result<(), Error> {
    let survey = Survey::of(cli, &args.recipe)?;
    if args.format == Format::Json {
        return print_json(&survey.nodes().collect::<Vec<_>>());
    }
    let rows: Vec<Vec<String>> = survey
        .nodes()
        .zip(survey.kinds())
        .map(|(node, kind)| {
            vec![node.step.clone(), kind.to_owned(), node.path.clone().unwrap_or_else(|| "-".to_owned())]
        })
        .collect();
    print(&table(&rows))
}

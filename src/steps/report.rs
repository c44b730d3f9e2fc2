//! `uses: report`: results, statistics and provenance through a template.

use std::{fs, io::Read as _, path::Path, sync::Arc};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use serde_json::Value;

use super::{Input, StepContext};
use crate::{
    params::ReportParams,
    report::{ReportContext, TaskTable, Template, plot_svg, render, without_axis},
};

const SHIPPED: &str = include_str!("../../templates/report.md.j2");
const TEX_TABLE: &str = include_str!("../../templates/table.tex.j2");
/// Longest template that is read.
const MAX_TEMPLATE: u64 = 1 << 20;

/// The variables of the template of one table.
#[derive(Serialize)]
struct OneTable<'r> {
    title: &'r str,
    evergraft: &'r str,
    table: &'r TaskTable,
}

pub(crate) fn run(params: &ReportParams, ctx: &StepContext) -> anyhow::Result<()> {
    let results =
        params.results.iter().map(|result| ctx.input(result).cloned()).collect::<anyhow::Result<Vec<_>>>()?;
    let context = ReportContext::new(params, &results)?;
    if let Some(baseline) = params.vars.get("baseline").and_then(Value::as_str)
        && context.comparisons.is_empty()
    {
        let rows = context.tables.iter().flat_map(|table| &table.rows).map(|row| format!("`{}`", row.label));
        let rows: std::collections::BTreeSet<String> = rows.collect();
        ctx.warn(format_args!(
            "nothing is compared: `vars.baseline` is `{baseline}`, and the rows are {}",
            rows.into_iter().collect::<Vec<_>>().join(", ")
        ));
    }
    context.warnings.iter().for_each(|warning| ctx.warn(warning));
    for name in params.labels.keys() {
        let named =
            |input: &Arc<Input>| input.step == *name || without_axis(&input.node, &params.over) == *name;
        if !results.iter().any(named) {
            ctx.warn(format_args!("`labels` names `{name}`, which is no step or cell of the results"));
        }
    }
    let has_cells = results.iter().any(|input| !input.cell.is_empty());
    // `seed` is the default; a recipe that says otherwise means an axis of its own.
    if has_cells
        && params.over != "seed"
        && !results.iter().any(|input| input.cell.contains_key(&params.over))
    {
        ctx.warn(format_args!("`over: {}` is an axis of no result, so nothing is averaged", params.over));
    }
    ctx.write_json("report.json", &serde_json::to_value(&context)?)?;
    let (name, text) = match &params.template_file {
        Some(file) => {
            let name = file.0.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, read_template(&file.0)?)
        }
        None => ("report.md.j2".to_owned(), SHIPPED.to_owned()),
    };
    let template = Template { name: &name, text: &text };
    write(ctx, &format!("report.{}", template.ending()), &render(&template, &context)?)?;
    write(ctx, "report.svg", &plot_svg(&context.tables))?;
    fs::create_dir(ctx.out.join("tables")).context("cannot make `tables`")?;
    let tex = Template { name: "table.tex.j2", text: TEX_TABLE };
    for table in &context.tables {
        let one = OneTable { title: &context.title, evergraft: context.evergraft, table };
        write(ctx, &format!("tables/{}.tex", table.task), &render(&tex, &one)?)?;
    }
    Ok(())
}

fn read_template(path: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read the template `{}`", path.display());
    let mut text = String::new();
    fs::File::open(path)
        .with_context(cannot)?
        .take(MAX_TEMPLATE + 1)
        .read_to_string(&mut text)
        .with_context(cannot)?;
    ensure!(text.len() as u64 <= MAX_TEMPLATE, "the template `{}` is longer than 1 MiB", path.display());
    Ok(text)
}

fn write(ctx: &StepContext, name: &str, text: &str) -> anyhow::Result<()> {
    fs::write(ctx.out.join(name), text).with_context(|| format!("cannot write `{name}`"))
}

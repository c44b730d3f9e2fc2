//! What several verbs need: the plan, the cache, stdout, tables.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    cache::Cache,
    cli::Cli,
    env,
    error::{Error, hinted},
    hub::LockFile,
    plan::{self, Plan},
    recipe,
};

/// Reads a recipe and makes its plan, with the commits of its lock file.
pub(super) fn planned(recipe: &Path, sets: &[String]) -> Result<Plan, Error> {
    let mut plan = plan::build(&recipe::load(recipe, sets)?)?;
    if plan.wants_pins() {
        plan.pin(&LockFile::of_recipe(&plan.recipe_path).map_err(Error::Usage)?.commits);
    }
    Ok(plan)
}

pub(super) fn cache_root(cli: &Cli) -> Result<PathBuf, Error> {
    cli.cache_dir.clone().or_else(env::cache_dir).ok_or_else(|| {
        let hint = format!("set --cache-dir or {}", env::CACHE_DIR);
        Error::Usage(hinted("there is no home folder to keep the cache in", hint))
    })
}

pub(super) fn open_cache(cli: &Cli) -> Result<Cache, Error> {
    Cache::open(&cache_root(cli)?).map_err(Error::Usage)
}

/// Prints results. A closed pipe is an error that ends the program quietly.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Error::Other(error.into()))
}

pub(super) fn print_json(value: &impl Serialize) -> Result<(), Error> {
    print(&(serde_json::to_string_pretty(value).map_err(|error| Error::Other(error.into()))? + "\n"))
}

/// Columns padded to their widest cell; the last is left as it is.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let padding = if column + 1 == row.len() { 0 } else { widths[column] - cell.chars().count() };
            format!("{cell}{}", " ".repeat(padding))
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

//! `evergraft init`.

use std::{fs::OpenOptions, io::Write as _};

use anyhow::Context as _;

use super::shared::print;
use crate::{
    cli::InitArgs,
    error::{Error, hinted},
    recipe::json_schema,
};

const RECIPE: &str = include_str!("../../templates/recipe.yaml");

pub(super) fn run(args: &InitArgs) -> Result<(), Error> {
    let path = &args.recipe;
    let cannot = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => hinted(
            format!("`{}` is there already", path.display()),
            "give another name; nothing is overwritten",
        ),
        _ => anyhow::anyhow!("cannot write `{}`: {error}", path.display()),
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| Error::Usage(cannot(e)))?;
    file.write_all(RECIPE.as_bytes()).map_err(|error| Error::Usage(cannot(error)))?;
    let schema = path.with_file_name("recipe.schema.json");
    if !schema.exists() {
        let text = serde_json::to_string_pretty(&json_schema()).map_err(anyhow::Error::from)? + "\n";
        std::fs::write(&schema, text).with_context(|| format!("cannot write `{}`", schema.display()))?;
    }
    print(&format!("wrote `{0}`; change its sources, then: evergraft check {0}\n", path.display()))
}

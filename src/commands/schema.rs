//! `evergraft schema`.

use super::shared::print_json;
use crate::{
    cli::{SchemaArgs, SchemaOf},
    error::Error,
    params::task_schema,
    recipe::json_schema,
};

pub(super) fn run(args: &SchemaArgs) -> Result<(), Error> {
    print_json(&match args.of {
        SchemaOf::Recipe => json_schema(),
        SchemaOf::Task => task_schema(),
    })
}

//! `evergraft schema`.

use super::shared::print_json;
use crate::{error::Error, recipe::json_schema};

pub(super) fn run() -> Result<(), Error> {
    print_json(&json_schema())
}

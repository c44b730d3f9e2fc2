//! Rows of `.csv` files: the first line names the fields, every value is a text.

use std::{io::Read, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::read::{MAX_LINE, Row};

/// Most fields of a row.
const MAX_FIELDS: usize = 10_000;

/// Every row, in order.
pub(super) fn read_csv(reader: impl Read, path: &Path) -> anyhow::Result<Vec<Row>> {
    let shown = path.display();
    let mut reader = csv::ReaderBuilder::new().from_reader(reader);
    let names: Vec<String> = reader
        .headers()
        .with_context(|| format!("`{shown}` has no readable first line of field names"))?
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}').to_owned())
        .collect();
    ensure!(names.len() <= MAX_FIELDS, "`{shown}` has more than {MAX_FIELDS} fields");
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).with_context(|| format!("`{shown}` is damaged"))? {
        ensure!(
            record.as_slice().len() as u64 <= MAX_LINE,
            "`{shown}`, row {}: longer than {MAX_LINE} bytes",
            rows.len() + 1
        );
        let values = record.iter().map(|value| Value::String(value.to_owned()));
        rows.push(names.iter().cloned().zip(values).collect());
    }
    Ok(rows)
}

//! Rows of `.parquet` files.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use anyhow::{Context as _, anyhow, ensure};
use parquet::{
    file::{reader::FileReader as _, serialized_reader::SerializedFileReader},
    record::Field,
};
use serde_json::{Map, Number, Value};

use super::read::{MAX_BYTES, Row};

/// Every row, in order.
pub(super) fn read_parquet(path: &Path) -> anyhow::Result<Vec<Row>> {
    let damaged = || format!("`{}` is not a parquet file that can be read", path.display());
    // The reader asserts in places what a damaged file can break.
    catch_unwind(AssertUnwindSafe(|| rows(path)))
        .unwrap_or_else(|_| Err(anyhow!("its parts contradict each other")))
        .with_context(damaged)
}

fn rows(path: &Path) -> anyhow::Result<Vec<Row>> {
    let reader = SerializedFileReader::new(File::open(path)?)?;
    let mut rows = Vec::new();
    let mut bytes = 0;
    for row in reader.get_row_iter(None)? {
        let row: Row = row?.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect();
        bytes += row.iter().map(|(name, value)| (name.len() + 40 + size(value)) as u64).sum::<u64>();
        ensure!(bytes <= MAX_BYTES, "its rows are larger than {MAX_BYTES} bytes");
        rows.push(row);
    }
    Ok(rows)
}

/// Bytes that are no text, and numbers that JSON does not have, read as null.
fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float16(value) => float(value.to_f64()),
        Field::Float(value) => float(f64::from(value)),
        Field::Double(value) => float(value),
        Field::Str(value) => value.into(),
        Field::Bytes(value) => std::str::from_utf8(value.data()).map_or(Value::Null, Value::from),
        Field::Group(row) => {
            row.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect()
        }
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => Value::Object(
            map.entries().iter().map(|(key, field)| (text(key), value(field.clone()))).collect::<Map<_, _>>(),
        ),
        other => other.to_string().into(),
    }
}

fn text(field: &Field) -> String {
    match field {
        Field::Str(text) => text.clone(),
        other => other.to_string(),
    }
}

fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| 32 + size(item)).sum(),
        Value::Object(map) => map.iter().map(|(name, item)| 40 + name.len() + size(item)).sum(),
        _ => 0,
    }
}

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

#[cfg(test)]
mod tests {
    use parquet::{
        basic::Compression,
        data_type::{ByteArray, ByteArrayType, Int64Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::*;

    fn file(compression: Compression) -> Vec<u8> {
        let schema = "message rows { optional binary text (UTF8); required int64 n; }";
        let schema = std::sync::Arc::new(parse_message_type(schema).unwrap());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let mut bytes = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties.into()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let texts = [ByteArray::from("one"), ByteArray::from("three")];
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&[1, 0, 1]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[1, 2, 3], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        bytes
    }

    fn read(bytes: &[u8]) -> anyhow::Result<Vec<Row>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        std::fs::write(&path, bytes).unwrap();
        read_parquet(&path)
    }

    #[test]
    fn rows_of_every_compression() {
        let zstd = Compression::ZSTD(parquet::basic::ZstdLevel::try_new(1).unwrap());
        let gzip = Compression::GZIP(parquet::basic::GzipLevel::try_new(1).unwrap());
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip, zstd] {
            let rows = serde_json::to_string(&read(&file(compression)).unwrap()).unwrap();
            assert_eq!(rows, r#"[{"text":"one","n":1},{"text":null,"n":2},{"text":"three","n":3}]"#);
        }
    }

    #[test]
    fn damage_is_an_error_or_other_rows_and_never_a_crash() {
        let whole = file(Compression::SNAPPY);
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "cut at {end}");
        }
        for at in 0..whole.len() {
            for bit in [1, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= bit;
                let _ = read(&bytes);
            }
        }
    }
}

//! Reading rows from `.json`, `.jsonl`, `.csv` and `.txt` files, plain or gzipped, and from `.parquet`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value, json};

use super::{read_csv::read_csv, read_parquet::read_parquet};
use crate::error::hinted;

/// Longest accepted line, and largest accepted file after inflating: a gzip bomb ends here.
pub(super) const MAX_LINE: u64 = 64 << 20;
pub(super) const MAX_BYTES: u64 = 8 << 30;

/// One row: named values.
pub type Row = Map<String, Value>;

/// Every row of a file, in order.
///
/// # Errors
/// When the file cannot be read, is of an unknown kind, or holds something else than objects; the
/// message names the line or row.
pub fn read_rows(path: &Path) -> anyhow::Result<Vec<Row>> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let inner = name.strip_suffix(".gz").unwrap_or(&name);
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot read `{shown}`"))?;
    let reader: Box<dyn Read> = if inner.len() < name.len() {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(file)
    };
    let mut reader = BufReader::with_capacity(1 << 16, reader.take(MAX_BYTES + 1));
    let rows = match Path::new(inner).extension().and_then(|extension| extension.to_str()) {
        Some("jsonl" | "ndjson") => read_lines(&mut reader, path)?,
        Some("json") => read_array(&mut reader, path)?,
        Some("csv") => read_csv(&mut reader, path)?,
        Some("parquet") if inner.len() == name.len() => read_parquet(path)?,
        Some("txt") => read_paragraphs(&mut reader, path)?,
        _ => {
            return Err(hinted(
                format!("`{shown}` is not a kind of file that holds rows"),
                "use .json (an array of objects), .jsonl, .csv or .txt, each plain or with .gz, or .parquet",
            ));
        }
    };
    ensure!(reader.get_ref().limit() > 0, "`{shown}` holds more than {} GiB of text", MAX_BYTES >> 30);
    ensure!(!rows.is_empty(), "`{shown}` holds no row");
    Ok(rows)
}

fn read_lines(reader: &mut impl BufRead, path: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for number in 1.. {
        let Some(line) = next_line(reader, path, number)? else { break };
        if line.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(&line)
            .with_context(|| format!("{}:{number}: not valid JSON", path.display()))?;
        rows.push(object(value, path, &format!("line {number}"))?);
    }
    Ok(rows)
}

fn read_array(reader: &mut impl BufRead, path: &Path) -> anyhow::Result<Vec<Row>> {
    let value: Value =
        serde_json::from_reader(reader).with_context(|| format!("`{}` is not valid JSON", path.display()))?;
    let Value::Array(items) = value else {
        return Err(hinted(
            format!("`{}` is not an array of objects", path.display()),
            "one JSON object a line belongs into a .jsonl file",
        ));
    };
    let row = |(index, item)| object(item, path, &format!("row {}", index + 1));
    items.into_iter().enumerate().map(row).collect()
}

fn read_paragraphs(reader: &mut impl BufRead, path: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut paragraph = String::new();
    for number in 1.. {
        let line = next_line(reader, path, number)?;
        match &line {
            Some(line) if !line.trim().is_empty() => paragraph.push_str(line),
            _ => {
                let text = paragraph.trim_end_matches(['\n', '\r']);
                if !text.is_empty() {
                    rows.push(Row::from_iter([("text".to_owned(), json!(text))]));
                }
                paragraph.clear();
            }
        }
        if line.is_none() {
            break;
        }
    }
    Ok(rows)
}

/// The next line with its end, or nothing at the end of the file.
fn next_line(reader: &mut impl BufRead, path: &Path, number: usize) -> anyhow::Result<Option<String>> {
    let mut bytes = Vec::new();
    let shown = path.display();
    let read = reader
        .by_ref()
        .take(MAX_LINE + 1)
        .read_until(b'\n', &mut bytes)
        .with_context(|| format!("{shown}:{number}: cannot read on"))?;
    ensure!(bytes.len() as u64 <= MAX_LINE, "{shown}:{number}: the line is longer than {MAX_LINE} bytes");
    let text = String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{shown}:{number}: not UTF-8"))?;
    Ok((read > 0).then_some(text))
}

fn object(value: Value, path: &Path, place: &str) -> anyhow::Result<Row> {
    match value {
        Value::Object(row) => Ok(row),
        other => bail!("`{}`, {place}: expected an object, found {}", path.display(), kind(&other)),
    }
}

/// A value's JSON type, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn reads_every_kind_plain_and_gzipped() {
        let cases: [(&str, &[u8], &str); 4] = [
            ("a.csv", b"x,\"y z\"\n1,\"a\nb\"\n", r#"[{"x":"1","y z":"a\nb"}]"#),
            ("a.jsonl", b"{\"x\":1}\n\n{\"x\":2}", r#"[{"x":1},{"x":2}]"#),
            ("a.json", b"[{\"x\":1},{\"x\":2}]", r#"[{"x":1},{"x":2}]"#),
            ("a.txt", b"one\ntwo\n\n\nthree\n", r#"[{"text":"one\ntwo"},{"text":"three"}]"#),
        ];
        for (name, bytes, expected) in cases {
            let (_folder, path) = write(name, bytes);
            assert_eq!(serde_json::to_string(&read_rows(&path).unwrap()).unwrap(), expected);
            let (_folder, path) = write(&format!("{name}.gz"), &gzip(bytes));
            assert_eq!(serde_json::to_string(&read_rows(&path).unwrap()).unwrap(), expected);
        }
    }

    #[test]
    fn bad_files_are_named_with_the_place() {
        let cases: [(&str, &[u8], &str); 9] = [
            ("a.csv", b"x,y\n1\n", "a.csv` is damaged"),
            ("a.parquet", b"PAR1 no", "is not a parquet file that can be read"),
            ("a.jsonl", b"{\"x\":1}\n{\"x\":", "a.jsonl:2: not valid JSON"),
            ("a.jsonl", b"{\"x\":1}\n[1]", "line 2: expected an object, found a list"),
            ("a.jsonl", b"\xff\n", "a.jsonl:1: not UTF-8"),
            ("a.json", b"{\"x\":1}", "is not an array of objects"),
            ("a.json", b"[{}, 3]", "row 2: expected an object, found a number"),
            ("a.jsonl", b"", "holds no row"),
            ("a.xls", b"x", "is not a kind of file that holds rows"),
        ];
        for (name, bytes, expected) in cases {
            let (_folder, path) = write(name, bytes);
            let message = format!("{:#}", read_rows(&path).unwrap_err());
            assert!(message.contains(expected), "{message}");
        }
        let (_folder, path) = write("a.jsonl.gz", &gzip(b"{\"x\":1}\n")[..12]);
        assert!(read_rows(&path).is_err(), "a torn gzip file");
    }
}

//! The key-value part of a GGUF file. Arrays stay where they are in the file until asked for, so
//! reading a header costs no memory that the file's size does not bound.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};

use super::cursor::Cursor;
use crate::error::excerpt;

/// Keys are short; the specification allows 65535 bytes.
const MAX_KEY: usize = 65_535;
/// Arrays of arrays are allowed by the format and used by nobody.
const MAX_DEPTH: usize = 4;

/// A value of the header.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
    Text(String),
    /// Kind and number of the elements, and where they start.
    Array {
        kind: u32,
        length: usize,
        start: usize,
    },
}

const UINT8: u32 = 0;
const INT8: u32 = 1;
const UINT16: u32 = 2;
const INT16: u32 = 3;
const UINT32: u32 = 4;
const INT32: u32 = 5;
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const UINT64: u32 = 10;
const INT64: u32 = 11;
const FLOAT64: u32 = 12;

/// Bytes of one value of this kind, or the fewest if that depends on the value.
fn min_size(kind: u32) -> anyhow::Result<usize> {
    Ok(match kind {
        UINT8 | INT8 | BOOL => 1,
        UINT16 | INT16 => 2,
        UINT32 | INT32 | FLOAT32 => 4,
        UINT64 | INT64 | FLOAT64 | STRING => 8,
        ARRAY => 12,
        other => bail!("unknown value type {other}"),
    })
}

fn read_value(cursor: &mut Cursor<'_>, kind: u32, depth: usize) -> anyhow::Result<Value> {
    Ok(match kind {
        UINT8 => Value::Unsigned(cursor.u8()?.into()),
        INT8 => Value::Signed(cursor.u8()?.cast_signed().into()),
        UINT16 => Value::Unsigned(cursor.u16()?.into()),
        INT16 => Value::Signed(cursor.u16()?.cast_signed().into()),
        UINT32 => Value::Unsigned(cursor.u32()?.into()),
        INT32 => Value::Signed(cursor.u32()?.cast_signed().into()),
        FLOAT32 => Value::Float(cursor.f32()?.into()),
        BOOL => match cursor.u8()? {
            0 => Value::Flag(false),
            1 => Value::Flag(true),
            other => bail!("a boolean must be 0 or 1, found {other}"),
        },
        STRING => Value::Text(cursor.text()?.to_owned()),
        UINT64 => Value::Unsigned(cursor.u64()?),
        INT64 => Value::Signed(cursor.u64()?.cast_signed()),
        FLOAT64 => Value::Float(cursor.f64()?),
        ARRAY => {
            ensure!(depth < MAX_DEPTH, "arrays are nested more than {MAX_DEPTH} deep");
            let kind = cursor.u32()?;
            let size = min_size(kind)?;
            let length = cursor.count("array elements", size)?;
            let start = cursor.position();
            if matches!(kind, STRING | ARRAY) {
                for _ in 0..length {
                    match kind {
                        STRING => drop(cursor.text()?),
                        _ => drop(read_value(cursor, ARRAY, depth + 1)?),
                    }
                }
            } else {
                cursor.take((length * size) as u64)?;
            }
            Value::Array { kind, length, start }
        }
        other => bail!("unknown value type {other}"),
    })
}

/// All key-value pairs of a file.
#[derive(Debug)]
pub(super) struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    pub(super) fn read(cursor: &mut Cursor<'_>, count: usize) -> anyhow::Result<Self> {
        let mut pairs = BTreeMap::new();
        for _ in 0..count {
            let key = cursor.text().context("in a metadata key")?;
            ensure!(
                key.len() <= MAX_KEY,
                "a metadata key has {} bytes, above the limit of {MAX_KEY}",
                key.len()
            );
            let value = cursor
                .u32()
                .and_then(|kind| read_value(cursor, kind, 0))
                .with_context(|| format!("in metadata `{}`", excerpt(key)))?;
            let twice = pairs.insert(key.to_owned(), value).is_some();
            ensure!(!twice, "metadata `{}` is there twice", excerpt(key));
        }
        Ok(Self(pairs))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub(super) fn text(&self, key: &str) -> anyhow::Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => bail!("metadata `{key}` must be a text"),
        }
    }

    pub(super) fn flag(&self, key: &str) -> anyhow::Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => bail!("metadata `{key}` must be true or false"),
        }
    }

    pub(super) fn number(&self, key: &str) -> anyhow::Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) => Ok(Some(*number)),
            Some(_) => bail!("metadata `{key}` must be a float"),
        }
    }

    pub(super) fn whole(&self, key: &str) -> anyhow::Result<Option<u64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(number)) => Ok(Some(*number)),
            Some(Value::Signed(number)) if *number >= 0 => Ok(Some(number.cast_unsigned())),
            Some(_) => bail!("metadata `{key}` must be a whole number of 0 or more"),
        }
    }

    /// An array of texts. `bytes` is the file.
    pub(super) fn texts<'a>(&self, bytes: &'a [u8], key: &str) -> anyhow::Result<Option<Vec<&'a str>>> {
        self.array(key, &[STRING], "texts", |_, length, start| {
            let mut cursor = Cursor::at(bytes, start);
            (0..length).map(|_| cursor.text()).collect()
        })
    }

    /// An array of 32-bit floats.
    pub(super) fn floats(&self, bytes: &[u8], key: &str) -> anyhow::Result<Option<Vec<f32>>> {
        self.array(key, &[FLOAT32], "32-bit floats", |_, length, start| {
            let mut cursor = Cursor::at(bytes, start);
            (0..length).map(|_| cursor.f32()).collect()
        })
    }

    /// An array of 32-bit integers of either sign.
    pub(super) fn integers(&self, bytes: &[u8], key: &str) -> anyhow::Result<Option<Vec<i64>>> {
        self.array(key, &[INT32, UINT32], "32-bit integers", |kind, length, start| {
            let mut cursor = Cursor::at(bytes, start);
            let next = |_| {
                let value = cursor.u32()?;
                Ok(if kind == INT32 { value.cast_signed().into() } else { value.into() })
            };
            (0..length).map(next).collect()
        })
    }

    fn array<T>(
        &self,
        key: &str,
        kinds: &[u32],
        what: &str,
        read: impl FnOnce(u32, usize, usize) -> anyhow::Result<Vec<T>>,
    ) -> anyhow::Result<Option<Vec<T>>> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::Array { kind, length, start }) if kinds.contains(&kind) => {
                read(kind, length, start).map(Some)
            }
            Some(_) => bail!("metadata `{key}` must be an array of {what}"),
        }
    }
}

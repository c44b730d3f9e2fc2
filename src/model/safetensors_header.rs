//! The header of a `.safetensors` file: where each tensor lies, checked against the file's length.
//!
//! Our own reader of the JSON, since the `safetensors` crate takes the last of two tensors with one
//! name and mostly does not say which tensor is wrong.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context as _, bail, ensure};
use safetensors::{Dtype, tensor::TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::error::excerpt;

/// Headers beyond this length are refused, as the format's reference implementation does.
const MAX_HEADER: u64 = 100_000_000;
/// The key that holds texts about the file and no tensor.
const METADATA: &str = "__metadata__";

/// A checked header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    /// Where offsets count from.
    pub(super) data_start: usize,
}

impl Header {
    /// Reads and checks the header of a whole file.
    ///
    /// # Errors
    /// When it is malformed, or its tensors overlap, leave gaps or do not fill the file.
    pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let (length, rest) =
            bytes.split_first_chunk().context("the file is cut short: it has no whole header length")?;
        let length = u64::from_le_bytes(*length);
        ensure!(length <= MAX_HEADER, "the header claims {length} bytes, above the limit of {MAX_HEADER}");
        let length = usize::try_from(length).context("the header is too long for this machine")?;
        let header = rest.get(..length).with_context(|| {
            format!("the header claims {length} bytes, but only {} follow: the file is cut short", rest.len())
        })?;
        let Entries(tensors) = serde_json::from_slice(header).context("malformed header")?;
        check_places(&tensors, rest.len() - length)?;
        Ok(Self { tensors, data_start: 8 + length })
    }
}

/// Tensors must follow each other without gap or overlap and fill what follows the header. Two
/// files with the same tensors are then the same.
fn check_places(tensors: &BTreeMap<String, TensorInfo>, present: usize) -> anyhow::Result<()> {
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| info.data_offsets);
    let mut claimed = 0;
    for (name, info) in in_order {
        check_tensor(info, claimed, present).with_context(|| format!("in tensor `{}`", excerpt(name)))?;
        claimed = info.data_offsets.1;
    }
    ensure!(claimed == present, "{} bytes follow the last tensor", present - claimed);
    Ok(())
}

/// One tensor, when those before it end at `free_from` and `present` bytes follow the header.
fn check_tensor(info: &TensorInfo, free_from: usize, present: usize) -> anyhow::Result<()> {
    let (start, end) = info.data_offsets;
    ensure!(start <= end, "its `data_offsets` [{start}, {end}] end before they start");
    if start != free_from {
        let how = if start < free_from { "overlaps" } else { "leaves a gap after" };
        bail!(
            "its `data_offsets` [{start}, {end}] are wrong: it {how} the one before it, which ends at {free_from}"
        );
    }
    let values = info.shape.iter().try_fold(1_usize, |values, &size| values.checked_mul(size));
    let bits = values.and_then(|values| values.checked_mul(info.dtype.bitsize()));
    let bits = bits.context("its `shape` overflows the number of its bytes")?;
    ensure!(bits.is_multiple_of(8), "its values of type {} take no whole number of bytes", info.dtype);
    ensure!(
        bits / 8 == end - start,
        "its `shape` of type {} takes {} bytes, but its `data_offsets` [{start}, {end}] hold {}",
        info.dtype,
        bits / 8,
        end - start
    );
    ensure!(
        end <= present,
        "its `data_offsets` end at {end}, but only {present} bytes follow the header: the file is cut short"
    );
    Ok(())
}

/// The header's JSON.
struct Entries(BTreeMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor).map(Self)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = BTreeMap<String, TensorInfo>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut metadata = false;
        while let Some(name) = entries.next_key::<String>()? {
            let twice = if name == METADATA {
                entries.next_value::<BTreeMap<String, String>>()?;
                std::mem::replace(&mut metadata, true)
            } else {
                let Tensor(info) = entries.next_value().map_err(|error| {
                    A::Error::custom(format!("in tensor `{}`: {}", excerpt(&name), excerpt(error)))
                })?;
                tensors.insert(name.clone(), info).is_some()
            };
            if twice {
                return Err(A::Error::custom(format!("`{}` is there twice", excerpt(name))));
            }
        }
        Ok(tensors)
    }
}

/// One tensor's entry.
struct Tensor(TensorInfo);

impl<'de> Deserialize<'de> for Tensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Fields {
            dtype: Dtype,
            shape: Vec<usize>,
            data_offsets: (usize, usize),
        }
        let Fields { dtype, shape, data_offsets } = Fields::deserialize(deserializer)?;
        Ok(Self(TensorInfo { dtype, shape, data_offsets }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(header: &str, data: usize) -> String {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(std::iter::repeat_n(0, data));
        format!("{:#}", Header::read(&bytes).unwrap_err())
    }

    #[test]
    fn wrong_entries_are_named() {
        let f32s = |shape: &str, offsets: &str| {
            format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#)
        };
        for (header, data, words) in [
            (
                format!(r#"{{"a":{},"b":{}}}"#, f32s("[2]", "[0,8]"), f32s("[2]", "[4,12]")),
                12,
                "tensor `b`: its `data_offsets` [4, 12] are wrong: it overlaps",
            ),
            (
                format!(r#"{{"a":{},"b":{}}}"#, f32s("[1]", "[0,4]"), f32s("[1]", "[8,12]")),
                12,
                "tensor `b`: its `data_offsets` [8, 12] are wrong: it leaves a gap after the one before it",
            ),
            (
                format!(r#"{{"a":{}}}"#, f32s("[1]", "[4,0]")),
                4,
                "tensor `a`: its `data_offsets` [4, 0] end before",
            ),
            (
                format!(r#"{{"a":{}}}"#, f32s("[2]", "[0,4]")),
                4,
                "tensor `a`: its `shape` of type F32 takes 8 bytes",
            ),
            (
                format!(r#"{{"a":{}}}"#, f32s("[4294967296,4294967296]", "[0,4]")),
                4,
                "tensor `a`: its `shape` overflows",
            ),
            (format!(r#"{{"a":{}}}"#, f32s("[-1]", "[0,4]")), 4, "tensor `a`: "),
            (format!(r#"{{"a":{}}}"#, f32s("[99999999999999999999]", "[0,4]")), 4, "tensor `a`: "),
            (format!(r#"{{"a":{0},"a":{0}}}"#, f32s("[1]", "[0,4]")), 4, "`a` is there twice"),
            (format!(r#"{{"a":{}}}"#, f32s("[1]", "[0,400]").replace("[1]", "[100]")), 4, "cut short"),
            (
                r#"{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#.to_owned(),
                4,
                "tensor `a`: unknown variant `F31`",
            ),
            (r#"{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}"#.to_owned(), 1, "no whole number"),
            (
                r#"{"a":{"dtype":"F32","data_offsets":[0,4]}}"#.to_owned(),
                4,
                "tensor `a`: missing field `shape`",
            ),
            (r#"{"__metadata__":{},"__metadata__":{}}"#.to_owned(), 0, "`__metadata__` is there twice"),
            ("{}".to_owned(), 3, "3 bytes follow the last tensor"),
            ("[]".to_owned(), 0, "an object of tensors"),
        ] {
            let found = error_of(&header, data);
            assert!(found.contains(words), "{header}: {found}");
        }
    }

    #[test]
    fn tensors_of_no_values_lie_anywhere_between() {
        let header = r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4]);
        assert_eq!(Header::read(&bytes).unwrap().tensors.len(), 2);
    }
}

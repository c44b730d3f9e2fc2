//! Writes weights as one `.safetensors` file, a tensor at a time: the whole model is never held.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, ensure};
use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo};

use crate::params::Dtype;

/// Writes the named tensors, sorted by name so that equal weights give equal bytes.
/// `load` is asked for each tensor's values in that order.
///
/// # Errors
/// When `load` fails or returns another number of values than the shape says, or the disk is full.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    dtype: Dtype,
    mut load: impl FnMut(&str) -> anyhow::Result<Vec<f32>>,
) -> anyhow::Result<()> {
    let cannot = || format!("cannot write `{}`", path.display());
    let mut tensors: Vec<&(String, Vec<usize>)> = tensors.iter().collect();
    tensors.sort();
    let header = header(&tensors, dtype).with_context(cannot)?;

    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).with_context(cannot)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).with_context(cannot)?;
    file.write_all(&header).with_context(cannot)?;
    for (name, shape) in tensors {
        let values = load(name)?;
        ensure!(
            values.len() == shape.iter().product::<usize>(),
            "tensor `{name}` has {} values, but its shape is {shape:?}",
            values.len()
        );
        for part in values.chunks(1 << 16) {
            let bytes: Vec<u8> = match dtype {
                Dtype::F32 => part.iter().flat_map(|value| value.to_le_bytes()).collect(),
                Dtype::Bf16 => part.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
                Dtype::F16 => part.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            };
            file.write_all(&bytes).with_context(cannot)?;
        }
    }
    file.flush().with_context(cannot)
}

/// The JSON header, padded with spaces so that the data starts at a multiple of eight.
fn header(tensors: &[&(String, Vec<usize>)], dtype: Dtype) -> anyhow::Result<Vec<u8>> {
    let size = dtype.bytes();
    let dtype = match dtype {
        Dtype::F32 => safetensors::Dtype::F32,
        Dtype::Bf16 => safetensors::Dtype::BF16,
        Dtype::F16 => safetensors::Dtype::F16,
    };
    let mut offset = 0;
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, shape) in tensors {
        let bytes = shape.iter().product::<usize>() * size;
        let info = TensorInfo { dtype, shape: shape.clone(), data_offsets: (offset, offset + bytes) };
        entries.push((name.clone(), info));
        offset += bytes;
    }
    // transformers refuses files without this entry.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut header = serde_json::to_vec(&Metadata::new(Some(format), entries)?)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SafetensorsWeights, WeightSource as _};

    #[test]
    fn what_is_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let tensors = vec![("b".to_owned(), vec![2, 3]), ("a".to_owned(), vec![4])];
        let values = |name: &str| -> Vec<f32> {
            let n = if name == "b" { 6 } else { 4 };
            (0..n).map(|i| i as f32 * 0.3 - 1.0).collect()
        };
        for (dtype, tolerance) in [(Dtype::F32, 0.0), (Dtype::Bf16, 4e-3)] {
            let path = dir.path().join("x.safetensors");
            write_safetensors(&path, &tensors, dtype, |name| Ok(values(name))).unwrap();
            let first = std::fs::read(&path).unwrap();
            write_safetensors(&path, &tensors, dtype, |name| Ok(values(name))).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), first);

            let read = SafetensorsWeights::open_file(&path).unwrap();
            assert_eq!(read.names(), ["a", "b"]);
            assert_eq!(read.shape("b"), Some(vec![2, 3]));
            for name in ["a", "b"] {
                for (found, expected) in read.load(name).unwrap().iter().zip(values(name)) {
                    assert!((found - expected).abs() <= tolerance * expected.abs());
                }
            }
        }
    }

    #[test]
    fn a_wrong_number_of_values_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let tensors = vec![("a".to_owned(), vec![4])];
        let path = dir.path().join("x.safetensors");
        let error = write_safetensors(&path, &tensors, Dtype::F32, |_| Ok(vec![0.0])).unwrap_err();
        assert!(error.to_string().contains("has 1 values"));
    }
}

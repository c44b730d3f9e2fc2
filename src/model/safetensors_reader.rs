//! Weights in `.safetensors` files: one file, or shards listed in an index. A tensor that is wanted
//! in the format it has on disk stays in the memory map; others are converted one at a time.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use burn::tensor::{AllocationProperty, Bytes, TensorData};
use half::{bf16, f16};
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::{
    cast::tensor_dtype,
    files::read_json,
    mmap::{MappedFile, MappedSlice},
    safetensors_header::Header,
    weights::WeightSource,
};
use crate::{error::excerpt, params::Dtype};

/// Name of the single weight file of a Hugging Face folder.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// Name of the list of shards.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Tensors of one or several `.safetensors` files.
#[derive(Debug)]
pub struct SafetensorsWeights {
    shards: Vec<Shard>,
    /// Tensor name to shard.
    tensors: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: Arc<MappedFile>,
    header: Header,
}

impl SafetensorsWeights {
    /// Opens one file.
    ///
    /// # Errors
    /// When the file is not a whole, well-formed safetensors file.
    pub fn open_file(path: &Path) -> anyhow::Result<Self> {
        let shard = Shard::open(path)?;
        let tensors = shard.header.tensors.keys().map(|name| (name.clone(), 0)).collect();
        Ok(Self { shards: vec![shard], tensors })
    }

    /// Opens the weights of a Hugging Face folder, single or sharded.
    ///
    /// # Errors
    /// When there are none, or a file is damaged.
    pub fn open_dir(dir: &Path) -> anyhow::Result<Self> {
        if dir.join(SINGLE_FILE).is_file() {
            return Self::open_file(&dir.join(SINGLE_FILE));
        }
        let index = dir.join(INDEX_FILE);
        if !index.is_file() {
            return Err(missing_weights(dir));
        }
        let weight_map = read_weight_map(&index)?;
        let mut shards: Vec<Shard> = Vec::new();
        let mut opened: BTreeMap<String, usize> = BTreeMap::new();
        let mut tensors = BTreeMap::new();
        for (tensor, shard_name) in weight_map {
            let shard = match opened.get(&shard_name) {
                Some(&shard) => shard,
                None => {
                    let shard = Shard::open(&dir.join(&shard_name));
                    shards.push(shard.with_context(|| format!("in `{}`", index.display()))?);
                    opened.insert(shard_name.clone(), shards.len() - 1);
                    shards.len() - 1
                }
            };
            ensure!(
                shards[shard].header.tensors.contains_key(&tensor),
                "`{}` lists tensor `{}` in `{shard_name}`, but it is not there",
                index.display(),
                excerpt(&tensor)
            );
            tensors.insert(tensor, shard);
        }
        Ok(Self { shards, tensors })
    }

    /// Names of the shard files that a folder's index lists, or the single file's.
    pub(crate) fn files_in(dir: &Path) -> anyhow::Result<Vec<String>> {
        if dir.join(SINGLE_FILE).is_file() {
            return Ok(vec![SINGLE_FILE.to_owned()]);
        }
        let index = dir.join(INDEX_FILE);
        if !index.is_file() {
            return Err(missing_weights(dir));
        }
        let mut files: Vec<String> = read_weight_map(&index)?.into_values().collect();
        files.sort();
        files.dedup();
        files.push(INDEX_FILE.to_owned());
        Ok(files)
    }

    fn find(&self, name: &str) -> Option<(&Shard, &TensorInfo)> {
        let shard = &self.shards[*self.tensors.get(name)?];
        Some((shard, shard.header.tensors.get(name)?))
    }

    /// A tensor's bytes in the file, its number format and its shape.
    fn read(&self, name: &str) -> anyhow::Result<(MappedSlice, Dtype, &[usize])> {
        let (shard, info) =
            self.find(name).with_context(|| format!("the weights do not contain tensor `{name}`"))?;
        let (start, end) = info.data_offsets;
        let bytes =
            MappedSlice::new(&shard.file, shard.header.data_start + start..shard.header.data_start + end)
                .with_context(|| format!("tensor `{name}` lies outside `{}`", shard.path.display()))?;
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => bail!(
                "tensor `{name}` in `{}` has type `{other}`; only F32, F16 and BF16 are read",
                shard.path.display()
            ),
        };
        Ok((bytes, dtype, &info.shape))
    }
}

impl WeightSource for SafetensorsWeights {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.find(name).map(|(_, info)| info.shape.clone())
    }

    fn stored_dtype(&self, name: &str) -> Option<Dtype> {
        self.read(name).ok().map(|(_, stored, _)| stored)
    }

    fn load(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let (slice, stored, _) = self.read(name)?;
        Ok(convert(slice.as_ref(), stored, |value| value))
    }

    fn load_as(&self, name: &str, dtype: Dtype) -> anyhow::Result<TensorData> {
        let (slice, stored, shape) = self.read(name)?;
        // Nothing makes a file place its tensors at whole numbers of values, though all writers do.
        let aligned = slice.as_ref().as_ptr().addr().is_multiple_of(dtype.bytes());
        if stored != dtype || !aligned || cfg!(target_endian = "big") {
            let (bytes, shape) = (slice.as_ref(), shape.to_vec());
            return Ok(match dtype {
                Dtype::F32 => TensorData::new(convert(bytes, stored, |value| value), shape),
                Dtype::Bf16 => TensorData::new(convert(bytes, stored, bf16::from_f32), shape),
                Dtype::F16 => TensorData::new(convert(bytes, stored, f16::from_f32), shape),
            });
        }
        let bytes = Bytes::from_shared(bytes::Bytes::from_owner(slice), AllocationProperty::File);
        Ok(TensorData::from_bytes(bytes, shape.to_vec(), tensor_dtype(dtype)))
    }
}

/// Little-endian values of one number format as those of another.
fn convert<T>(bytes: &[u8], stored: Dtype, to: impl Fn(f32) -> T) -> Vec<T> {
    match stored {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| to(f32::from_le_bytes(b))).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|&b| to(f16::from_le_bytes(b).to_f32())).collect(),
        Dtype::Bf16 => bytes.as_chunks().0.iter().map(|&b| to(bf16::from_le_bytes(b).to_f32())).collect(),
    }
}

impl Shard {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = MappedFile::open(path)?;
        let header = Header::read(file.bytes())
            .with_context(|| format!("`{}` is not a valid safetensors file", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Arc::new(file), header })
    }
}

/// Tensor name to shard file name.
fn read_weight_map(index: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let value = read_json(index)?;
    let map = value
        .get("weight_map")
        .and_then(Value::as_object)
        .with_context(|| format!("`{}` has no object `weight_map`", index.display()))?;
    map.iter()
        .map(|(tensor, shard)| {
            let shard = shard.as_str().filter(|name| is_plain_file_name(name)).with_context(|| {
                format!(
                    "`weight_map` of `{}` gives tensor `{}` the shard `{}`, which is not a plain file name",
                    index.display(),
                    excerpt(tensor),
                    excerpt(shard)
                )
            })?;
            Ok((tensor.clone(), shard.to_owned()))
        })
        .collect()
}

/// Whether a name stays inside its folder.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(_)))
        && components.next().is_none()
        && !name.contains(['/', '\\', '\0'])
}

fn missing_weights(dir: &Path) -> anyhow::Error {
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"]
        .iter()
        .find(|name| dir.join(name).exists());
    match pickled {
        Some(name) => crate::error::hinted(
            format!("`{}` holds its weights as a pickle (`{name}`), which is not read", dir.display()),
            "pickles can run code; convert the model to safetensors first (`model.save_pretrained(...)` in Python)",
        ),
        None => crate::error::hinted(
            format!("`{}` has neither `{SINGLE_FILE}` nor `{INDEX_FILE}`", dir.display()),
            "a Hugging Face model folder holds config.json and safetensors weights",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(std::iter::repeat_n(0, data));
        bytes
    }

    fn error_of(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let error = SafetensorsWeights::open_file(&path).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("x.safetensors"), "{text}");
        text
    }

    #[test]
    fn a_tensor_in_its_own_format_stays_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let header = r#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#;
        for spaces in 0..8 {
            let header = format!("{header}{}", " ".repeat(spaces));
            let mut file = file_with(&header, 0);
            file.extend([1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()));
            std::fs::write(&path, &file).unwrap();
            let weights = SafetensorsWeights::open_file(&path).unwrap();
            let data = weights.load_as("a", Dtype::F32).unwrap();
            assert_eq!(data.bytes().property() == AllocationProperty::File, header.len() % 4 == 0);
            assert_eq!(data.try_to_vec::<f32>().unwrap(), [1.5, -2.0]);
            let rounded = weights.load_as("a", Dtype::Bf16).unwrap();
            assert_eq!(rounded.try_to_vec::<bf16>().unwrap(), [bf16::from_f32(1.5), bf16::from_f32(-2.0)]);
        }
    }

    #[test]
    fn a_cut_file_says_so_at_every_length() {
        let whole = file_with(r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#, 16);
        for length in 0..whole.len() {
            assert!(error_of(&whole[..length]).contains("cut short"), "at {length}");
        }
    }

    #[test]
    fn hostile_headers_are_errors() {
        assert!(error_of(&u64::MAX.to_le_bytes()).contains("above the limit"));
        let mut tensors = Vec::new();
        for i in 0_u64..8 {
            let (start, end) = (i << 61, ((i as u128 + 1) << 61).min(u64::MAX as u128));
            let size = if i == 7 { (1_u64 << 61) - 1 } else { 1 << 61 };
            tensors
                .push(format!(r#""{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#));
        }
        error_of(&file_with(&format!("{{{}}}", tensors.join(",")), 16));
        error_of(&file_with("[", 0));
    }

    #[test]
    fn shard_names_must_stay_in_the_folder() {
        for name in ["../x.safetensors", "/x", "a/b", "..", ".", "", "a\\b"] {
            assert!(!is_plain_file_name(name), "{name}");
        }
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
    }

    #[test]
    fn pickles_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pytorch_model.bin"), b"x").unwrap();
        let error = SafetensorsWeights::open_dir(dir.path()).unwrap_err();
        assert!(error.to_string().contains("pytorch_model.bin"));
        assert!(crate::error::hint_of(&error).unwrap().contains("safetensors"));
    }
}

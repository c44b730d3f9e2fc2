//! `uses: merge`: a Hugging Face folder with the adapter folded in.

use std::fs;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    StepContext,
    base::small_files,
    model_input::{adapter_base, read_lineage},
};
use crate::{
    model::{BaseFolder, WeightSource as _, expected_tensors, write_safetensors},
    params::MergeParams,
    peft::Merged,
};

pub(crate) fn run(params: &MergeParams, ctx: &StepContext) -> anyhow::Result<()> {
    let adapter = ctx.input(&params.adapter)?;
    let mut lineage = read_lineage(&adapter.path)?;
    let base = adapter_base(adapter, &lineage)?;
    let folder = BaseFolder::open(&base.path)?;
    let merged = Merged::open(&folder.config, folder.weights.as_ref(), &adapter.path)?;
    let dtype = params.dtype;
    ctx.take_over(&base.path, small_files())?;
    // The base's own config, so that fields unknown to evergraft survive.
    let path = ctx.out.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).context("cannot read `config.json`")?)?;
    if let Some(fields) = config.as_object_mut() {
        fields.remove("torch_dtype");
        fields.insert("dtype".to_owned(), json!(dtype.torch_name()));
    }
    ctx.write_json("config.json", &config)?;
    let tensors = expected_tensors(&folder.config);
    ctx.progress.begin(Some(tensors.len() as u64), "tensors");
    let mut done = 0;
    write_safetensors(&ctx.out.join("model.safetensors"), &tensors, dtype, |name| {
        ctx.cancel.check()?;
        done += 1;
        ctx.progress.update(done, name);
        merged.load(name)
    })?;
    lineage["merged_into"] = json!(base.digest);
    ctx.write_json("evergraft.json", &lineage)
}

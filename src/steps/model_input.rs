//! From the artifact that `model:` names to a loaded model.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use burn::tensor::Device;
use serde_json::Value;

use super::{Input, StepContext, bases::Bare};
use crate::{
    digest::Digest,
    error::hinted,
    model::{BaseFolder, Decoder, ModelConfig, Tokenizer},
    params::Dtype,
    peft::Adapter,
};

/// A model ready to run, and what it is made of.
pub(super) struct LoadedModel {
    /// The network, with the adapter attached.
    pub model: Decoder,
    /// The base's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The base's shape.
    pub config: ModelConfig,
    /// The base's folder.
    pub base_path: PathBuf,
    /// Content digest of the base's artifact.
    pub base_digest: Digest,
    /// The adapter's `evergraft.json`.
    pub adapter: Option<Value>,
}

/// A base's network and tokenizer.
pub(crate) fn load_base(
    folder: &Path,
    device: &Device,
    dtype: Dtype,
) -> anyhow::Result<(Decoder, Tokenizer)> {
    let base = BaseFolder::open(folder)?;
    let tokenizer = base.tokenizer.ok_or_else(|| {
        hinted(
            "the base has no tokenizer",
            "put a `tokenizer.json` beside its weights, or set `tokenizer:` in its step",
        )
    })?;
    Ok((Decoder::load(&base.config, base.weights.as_ref(), device, dtype)?, tokenizer))
}

/// Loads a bare base, a trained adapter on its own base, or a moved adapter on its new one.
///
/// # Errors
/// When the artifact is of another kind, a file is damaged, or the adapter does not fit.
pub(super) fn load_for_eval(
    input: &Arc<Input>,
    device: &Device,
    dtype: Dtype,
    ctx: &StepContext,
) -> anyhow::Result<LoadedModel> {
    let (base, adapter) = match input.kind.as_str() {
        "base" | "pretrain" | "merge" => (Arc::clone(input), None),
        "train" | "adapter" | "swap" => {
            let lineage = read_lineage(&input.path)?;
            let base = adapter_base(input, &lineage)?;
            (base, Some(lineage))
        }
        kind => bail!("`{}` is a `{kind}` step, which holds no model", input.node),
    };
    let Bare { mut model, tokenizer, kept } = ctx.bases.get(&base, device, dtype)?;
    if kept {
        ctx.log(format_args!("base `{}` is loaded already", base.node));
    }
    if adapter.is_some() {
        Adapter::load(&mut model, &input.path)
            .with_context(|| format!("cannot attach the adapter of `{}`", input.node))?;
    }
    let config = model.config.clone();
    Ok(LoadedModel {
        model,
        tokenizer,
        config,
        base_path: base.path.clone(),
        base_digest: base.digest.clone(),
        adapter,
    })
}

/// An adapter folder's `evergraft.json`.
pub(crate) fn read_lineage(folder: &Path) -> anyhow::Result<Value> {
    let path = folder.join("evergraft.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not JSON", path.display()))
}

/// The base that an adapter runs on.
///
/// # Errors
/// When it is not among what the adapter was made from.
pub(crate) fn adapter_base(adapter: &Arc<Input>, lineage: &Value) -> anyhow::Result<Arc<Input>> {
    let digest = base_digest(lineage)?;
    adapter
        .find(&digest)
        .with_context(|| format!("the base {digest} of `{}` is not among its inputs", adapter.node))
}

/// Where an adapter moved to, else where it was trained.
fn base_digest(lineage: &Value) -> anyhow::Result<Digest> {
    let text = lineage.get("moved_to").or_else(|| lineage.get("base_digest")).and_then(Value::as_str);
    let text = text.context("the adapter's `evergraft.json` names no base")?;
    text.parse().map_err(anyhow::Error::msg)
}

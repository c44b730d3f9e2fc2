//! From the artifact that `model:` names to a loaded model.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use burn::tensor::Device;
use serde_json::Value;

use super::{Input, StepContext, bases::Bare};
use crate::{
    digest::Digest,
    error::hinted,
    model::{BaseFolder, Decoder, ModelConfig, Tokenizer, WeightSource},
    params::Dtype,
    peft::Adapter,
};

/// A base whose files were checked, and of which nothing but the weights is still to be read.
pub(super) struct OpenedBase {
    /// Its shape.
    pub config: ModelConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    weights: Box<dyn WeightSource>,
}

impl OpenedBase {
    /// Reads the weights.
    pub(super) fn load(&self, device: &Device, dtype: Dtype) -> anyhow::Result<Decoder> {
        Decoder::load(&self.config, self.weights.as_ref(), device, dtype)
    }
}

/// Opens a base that has a tokenizer.
///
/// # Errors
/// When a file is missing or damaged.
pub(super) fn open_base(folder: &Path) -> anyhow::Result<OpenedBase> {
    let BaseFolder { config, weights, tokenizer } = BaseFolder::open(folder)?;
    let tokenizer = tokenizer.ok_or_else(|| {
        hinted(
            "the base has no tokenizer",
            "put a `tokenizer.json` beside its weights, or set `tokenizer:` in its step",
        )
    })?;
    Ok(OpenedBase { config, tokenizer, weights })
}

/// What an evaluation is of, before its weights are loaded: a bare base, a trained adapter on its own
/// base, or a moved adapter on its new one.
pub(super) struct Evaluated {
    /// The base's shape and tokenizer.
    pub opened: Arc<OpenedBase>,
    /// The base.
    pub base: Arc<Input>,
    /// The adapter's `evergraft.json`.
    pub adapter: Option<Value>,
    input: Arc<Input>,
}

impl Evaluated {
    /// Opens what `model:` names.
    ///
    /// # Errors
    /// When the artifact is of another kind, or a file of the base is missing or damaged.
    pub(super) fn open(input: &Arc<Input>, ctx: &StepContext) -> anyhow::Result<Self> {
        let (base, adapter) = match input.kind.as_str() {
            "base" | "pretrain" | "merge" => (Arc::clone(input), None),
            "train" | "adapter" | "swap" => {
                let lineage = read_lineage(&input.path)?;
                (adapter_base(input, &lineage)?, Some(lineage))
            }
            kind => bail!("`{}` is a `{kind}` step, which holds no model", input.node),
        };
        let opened = ctx.bases.open(&base)?;
        Ok(Self { opened, base, adapter, input: Arc::clone(input) })
    }

    /// The network, with the adapter attached.
    ///
    /// # Errors
    /// When a file is damaged, or the adapter does not fit.
    pub(super) fn load(&self, device: &Device, dtype: Dtype, ctx: &StepContext) -> anyhow::Result<Decoder> {
        let Bare { mut model, kept } = ctx.bases.get(&self.base, &self.opened, device, dtype)?;
        let already = if kept { " already" } else { "" };
        ctx.log(format_args!("base `{}` is loaded{already}", self.base.node));
        if self.adapter.is_some() {
            Adapter::load(&mut model, &self.input.path)
                .with_context(|| format!("cannot attach the adapter of `{}`", self.input.node))?;
        }
        Ok(model)
    }
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

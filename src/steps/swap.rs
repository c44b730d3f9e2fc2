//! `uses: swap`: attach a trained adapter to another base, after checking that the two fit.
//!
//! Shapes must be equal. Beyond that the step measures how far the new base's weights are from
//! the old one's: an adapter can only survive an update that continued the old weights. For every
//! weight matrix of the layers it takes the cosine between the old and the new values. Training
//! that goes on from a checkpoint keeps it near 1, while two runs from different random starts
//! have it near 0 (for n entries, within a few 1/sqrt(n)). The verdict is the median over all
//! matrices against [`CONTINUED_COSINE`]; docs/swap.md has the measurements behind it.

use std::fs;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{StepContext, model_input::read_lineage};
use crate::{
    digest::Digest,
    error::hinted,
    model::{BaseFolder, WeightSource},
    params::SwapParams,
    peft::{ADAPTER_FILES, Adapter},
};

/// Median cosine from which a base counts as a continuation of another.
const CONTINUED_COSINE: f64 = 0.5;

pub(crate) fn run(params: &SwapParams, ctx: &StepContext) -> anyhow::Result<()> {
    let adapter = ctx.input(&params.adapter)?;
    let target = ctx.input(&params.to)?;
    let mut lineage = read_lineage(&adapter.path)?;
    Adapter::read(&adapter.path)?;
    let old_digest: Digest = lineage
        .get("base_digest")
        .and_then(Value::as_str)
        .context("the adapter's `evergraft.json` names no base")?
        .parse()
        .map_err(anyhow::Error::msg)?;
    let old = adapter.find(&old_digest).context("the adapter's own base is not among its inputs")?;
    let (old_base, new_base) = (BaseFolder::open(&old.path)?, BaseFolder::open(&target.path)?);
    old_base.config.check_same_shape(&new_base.config).map_err(|difference| {
        hinted(
            format!("the adapter of `{}` does not fit `{}`: {difference:#}", adapter.node, target.node),
            "an adapter only moves between bases of one shape; train it anew on this one",
        )
    })?;
    let drift = measure(ctx, old_base.weights.as_ref(), new_base.weights.as_ref())?;
    let same_tokenizer =
        fs::read(old.path.join("tokenizer.json")).ok() == fs::read(target.path.join("tokenizer.json")).ok();
    if !same_tokenizer {
        ctx.warn(
            "the old and the new base have different `tokenizer.json` files; the adapter may meet other token ids than it learned",
        );
    }
    if target.digest == old_digest {
        ctx.warn("the new base is the one that the adapter was trained on: nothing moves");
    }
    let verdict = if drift.median_cosine >= CONTINUED_COSINE { "continued" } else { "re-pretrained" };
    if verdict == "re-pretrained" {
        ctx.warn(format_args!(
            "the new base looks re-pretrained rather than continued from the old one: the median cosine between their weight matrices is {:.3}, below {CONTINUED_COSINE}; expect the adapter to fail, and re-tune it",
            drift.median_cosine
        ));
    }
    for name in ADAPTER_FILES {
        fs::copy(adapter.path.join(name), ctx.out.join(name))
            .with_context(|| format!("cannot copy `{name}`"))?;
    }
    lineage["moved_to"] = json!(target.digest);
    ctx.write_json("evergraft.json", &lineage)?;
    let report = json!({
        "verdict": verdict,
        "median_cosine": drift.median_cosine,
        "threshold": CONTINUED_COSINE,
        "same_tokenizer": same_tokenizer,
        "from": old_digest,
        "to": target.digest,
        "relative_change": { "attention": drift.attention, "ffn": drift.ffn },
    });
    ctx.log(format_args!(
        "{verdict}: median cosine {:.4}; relative change of attention {:.4}, of FFN {:.4}",
        drift.median_cosine, drift.attention, drift.ffn
    ));
    ctx.write_json("swap.json", &report)
}

/// How far one base's weights are from another's.
struct Drift {
    median_cosine: f64,
    /// `|new - old| / |old|` over all attention matrices.
    attention: f64,
    /// The same over all FFN matrices.
    ffn: f64,
}

fn measure(ctx: &StepContext, old: &dyn WeightSource, new: &dyn WeightSource) -> anyhow::Result<Drift> {
    let names: Vec<String> = old.names().into_iter().filter(|name| name.ends_with("_proj.weight")).collect();
    ctx.progress.begin(Some(names.len() as u64), "matrices");
    let mut cosines = Vec::with_capacity(names.len());
    // Squared length of the change and of the old weights, for attention and FFN.
    let mut change = [[0.0f64; 2]; 2];
    for (done, name) in names.iter().enumerate() {
        ctx.cancel.check()?;
        let (a, b) = (old.load(name)?, new.load(name)?);
        let (mut dot, mut aa, mut bb, mut difference) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for (x, y) in a.iter().zip(&b) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            dot += x * y;
            aa += x * x;
            bb += y * y;
            difference += (y - x) * (y - x);
        }
        cosines.push(if aa > 0.0 && bb > 0.0 { dot / (aa * bb).sqrt() } else { 0.0 });
        let part = &mut change[usize::from(name.contains(".mlp."))];
        part[0] += difference;
        part[1] += aa;
        ctx.progress.update(done as u64 + 1, name);
    }
    cosines.sort_by(f64::total_cmp);
    let relative =
        |[difference, length]: [f64; 2]| if length > 0.0 { (difference / length).sqrt() } else { 0.0 };
    Ok(Drift {
        median_cosine: cosines.get(cosines.len() / 2).copied().context("the base has no weight matrix")?,
        attention: relative(change[0]),
        ffn: relative(change[1]),
    })
}

//! The rows that a training measures and does not learn from.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::StepContext;
use crate::{data::TokenSet, params::ArtifactRef, train::hold_out};

/// The rows to train on and those to measure.
pub(crate) fn rows<'t>(
    ctx: &StepContext,
    tokens: &'t TokenSet,
    eval_tokens: Option<&ArtifactRef>,
    validation_split: Option<f64>,
) -> anyhow::Result<(Cow<'t, TokenSet>, Option<TokenSet>)> {
    if let Some(share) = validation_split {
        let (train, held_out) = hold_out(tokens, share)?;
        return Ok((Cow::Owned(train), Some(held_out)));
    }
    let held_out = eval_tokens.map(|input| TokenSet::open(&ctx.input(input)?.path)).transpose()?;
    Ok((Cow::Borrowed(tokens), held_out))
}

/// Adds what was held out to a lineage.
pub(crate) fn add_to_lineage(
    lineage: &mut Value,
    ctx: &StepContext,
    eval_tokens: Option<&ArtifactRef>,
    validation_split: Option<f64>,
) -> anyhow::Result<()> {
    if let Some(input) = eval_tokens {
        lineage["eval_tokens_digest"] = json!(ctx.input(input)?.digest);
    }
    if let Some(share) = validation_split {
        lineage["validation_split"] = json!(share);
    }
    Ok(())
}

//! The rows that a training learns from, and those that it only measures.

use serde_json::{Value, json};

use super::StepContext;
use crate::{data::TokenSet, model::Decoder, params::ArtifactRef, train::hold_out};

/// The rows of a training.
pub(crate) struct Rows {
    /// To learn from.
    pub(crate) train: TokenSet,
    /// To measure.
    pub(crate) held_out: Option<TokenSet>,
}

impl Rows {
    /// Reads the rows and checks that the model takes them.
    pub(crate) fn open(
        ctx: &StepContext,
        model: &Decoder,
        tokens: &ArtifactRef,
        eval_tokens: Option<&ArtifactRef>,
        validation_split: Option<f64>,
    ) -> anyhow::Result<Self> {
        let open = |input: &ArtifactRef| -> anyhow::Result<TokenSet> {
            let rows = TokenSet::open(&ctx.input(input)?.path)?;
            rows.check_vocabulary(model.config.vocab_size)?;
            rows.check_length(model.max_positions())?;
            Ok(rows)
        };
        let rows = open(tokens)?;
        if let Some(share) = validation_split {
            let (train, held_out) = hold_out(&rows, share)?;
            return Ok(Self { train, held_out: Some(held_out) });
        }
        Ok(Self { train: rows, held_out: eval_tokens.map(open).transpose()? })
    }
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

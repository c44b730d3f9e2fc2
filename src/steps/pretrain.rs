//! `uses: pretrain`: continue a base's pre-training, all parameters: its next version.

use serde_json::json;

use super::{StepContext, metrics::MetricsLog, model_input::load_base};
use crate::{
    data::TokenSet,
    device,
    model::{TOKENIZER_FILE_NAMES, TensorWeights, write_model},
    params::PretrainParams,
    train::{Subject, Trainer},
};

pub(crate) fn run(params: &PretrainParams, ctx: &StepContext) -> anyhow::Result<()> {
    let base = ctx.input(&params.base)?;
    let tokens = TokenSet::open(&ctx.input(&params.tokens)?.path)?;
    let (mut model, tokenizer) =
        load_base(&base.path, &device::resolve(params.device)?.autodiff(), params.dtype)?;
    tokens.check_vocabulary(model.config.vocab_size)?;
    tokens.check_length(model.max_positions())?;
    let trainer = Trainer {
        tokens: &tokens,
        pad: tokenizer.pad_token_id()? as i32,
        params: &params.optimizer,
        subject: Subject::Everything,
        seed: params.seed,
    };
    let mut metrics = MetricsLog::create(ctx, &params.optimizer, trainer.total_steps())?;
    let summary = trainer.run(&mut model, &mut |update| metrics.record(update))?;
    metrics.finish()?;
    ctx.take_over(&base.path, TOKENIZER_FILE_NAMES)?;
    let dtype = params.save_dtype;
    let config = model.config.clone();
    write_model(ctx.out, &config, &TensorWeights::new(model.params()), dtype)?;
    let lineage = json!({
        "evergraft": env!("CARGO_PKG_VERSION"),
        "continued_from": base.digest,
        "tokens_digest": ctx.input(&params.tokens)?.digest,
        "seed": params.seed,
    });
    ctx.write_json("evergraft.json", &lineage)?;
    ctx.write_json("train.json", &serde_json::to_value(&summary)?)?;
    ctx.log(format_args!(
        "loss {:.4} -> {:.4} in {} steps",
        summary.first_loss, summary.last_loss, summary.steps
    ));
    Ok(())
}

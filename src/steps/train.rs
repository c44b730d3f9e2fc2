//! `uses: train`: an adapter on a frozen base.

use serde_json::json;

use super::{StepContext, metrics::MetricsLog, model_input::load_base};
use crate::{
    data::TokenSet,
    device,
    params::TrainParams,
    peft::Adapter,
    train::{Subject, Trainer},
};

pub(crate) fn run(params: &TrainParams, ctx: &StepContext) -> anyhow::Result<()> {
    let base = ctx.input(&params.base)?;
    let tokens = TokenSet::open(&ctx.input(&params.tokens)?.path)?;
    let (mut model, tokenizer) =
        load_base(&base.path, &device::resolve(params.device)?.autodiff(), params.dtype)?;
    tokens.check_vocabulary(model.config.vocab_size)?;
    tokens.check_length(model.max_positions())?;
    let adapter = Adapter::new(&params.adapter);
    let trainable = adapter.attach_new(&mut model, params.seed)?;
    ctx.log(format_args!("{trainable} trainable parameters"));
    let trainer = Trainer {
        tokens: &tokens,
        pad: tokenizer.pad_token_id()? as i32,
        params: &params.optimizer,
        subject: Subject::Adapter {
            trans_peft: params.trans_peft.clone(),
            lora_dropout: params.adapter.lora_dropout,
        },
        seed: params.seed,
    };
    let mut metrics = MetricsLog::create(ctx, &params.optimizer, trainer.total_steps())?;
    let summary = trainer.run(&mut model, &mut |update| metrics.record(update))?;
    metrics.finish()?;
    adapter.save(&mut model, ctx.out)?;
    let config = &model.config;
    let mut lineage = json!({
        "evergraft": env!("CARGO_PKG_VERSION"),
        "base_digest": base.digest,
        "base_shape": config.to_json(),
        "tokens_digest": ctx.input(&params.tokens)?.digest,
        "pc": params.trans_peft.pc,
        "pi": params.trans_peft.pi,
        "mask": params.trans_peft.mask,
        "seed": params.seed,
        // Stands for the recipe: everything that this adapter depends on.
        "step_key": ctx.key,
        "trainable_parameters": trainable,
    });
    // A hub source stands in the key with its commit.
    let source = base.params.get("source").and_then(serde_json::Value::as_str);
    if let Some(revision) = source.filter(|source| source.starts_with("hf://")) {
        lineage["base_revision"] = json!(revision);
    }
    ctx.write_json("evergraft.json", &lineage)?;
    ctx.write_json("train.json", &serde_json::to_value(&summary)?)?;
    ctx.log(format_args!(
        "loss {:.4} -> {:.4} in {} steps",
        summary.first_loss, summary.last_loss, summary.steps
    ));
    Ok(())
}

//! `uses: train`: an adapter on a frozen base.

use serde_json::json;

use super::{StepContext, held_out, metrics, model_input::load_base, onlooker::Onlooker};
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
    let (mut model, _) = load_base(&base.path, &device::resolve(params.device)?.autodiff(), params.dtype)?;
    let (rows, held_out) =
        held_out::rows(ctx, &tokens, params.eval_tokens.as_ref(), params.validation_split)?;
    for rows in held_out.iter().chain([&tokens]) {
        rows.check_vocabulary(model.config.vocab_size)?;
        rows.check_length(model.max_positions())?;
    }
    let adapter = Adapter::new(&params.adapter);
    let trainable = adapter.attach_new(&mut model, params.seed)?;
    ctx.log(format_args!("{trainable} trainable parameters"));
    let trainer = Trainer {
        tokens: &rows,
        held_out: held_out.as_ref(),
        params: &params.optimizer,
        subject: Subject::Adapter {
            trans_peft: params.trans_peft.clone(),
            lora_dropout: params.adapter.lora_dropout,
        },
        seed: params.seed,
        checkpoints: Some(ctx.checkpoints),
    };
    let mut onlooker = Onlooker::new(ctx, &params.optimizer, trainer.total_steps());
    let finished = trainer.run(&mut model, &mut onlooker)?;
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
        "schedule": params.trans_peft.schedule,
        "mean_pc": finished.summary.rates.map(|rates| rates.mean_pc),
        "mean_pi": finished.summary.rates.map(|rates| rates.mean_pi),
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
    held_out::add_to_lineage(&mut lineage, ctx, params.eval_tokens.as_ref(), params.validation_split)?;
    ctx.write_json("evergraft.json", &lineage)?;
    metrics::write(ctx, &finished)
}

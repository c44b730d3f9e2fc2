//! `uses: train`: an adapter on a frozen base.

use serde_json::json;

use super::{StepContext, held_out, held_out::Rows, metrics, model_input::open_base, onlooker::Onlooker};
use crate::{
    device,
    params::TrainParams,
    peft::Adapter,
    train::{Subject, Trainer},
};

pub(crate) fn run(params: &TrainParams, ctx: &StepContext) -> anyhow::Result<()> {
    let base = ctx.input(&params.base)?;
    let device = device::resolve(params.device)?.autodiff();
    let mut model = open_base(&base.path)?.load(&device, params.dtype)?;
    let (eval_tokens, split) = (params.eval_tokens.as_ref(), params.validation_split);
    let rows = Rows::open(ctx, &model, &params.tokens, eval_tokens, split)?;
    let adapter = Adapter::new(&params.adapter);
    let trainable = adapter.attach_new(&mut model, params.seed)?;
    ctx.log(format_args!("{trainable} trainable parameters"));
    let trainer = Trainer {
        tokens: &rows.train,
        held_out: rows.held_out.as_ref(),
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
    held_out::add_to_lineage(&mut lineage, ctx, eval_tokens, split)?;
    ctx.write_json("evergraft.json", &lineage)?;
    metrics::write(ctx, &finished)
}

//! `uses: pretrain`: continue a base's pre-training, all parameters: its next version.

use serde_json::json;

use super::{StepContext, held_out, held_out::Rows, metrics, model_input::open_base, onlooker::Onlooker};
use crate::{
    device,
    model::{TOKENIZER_FILE_NAMES, TensorWeights, write_model},
    params::PretrainParams,
    train::{Subject, Trainer},
};

pub(crate) fn run(params: &PretrainParams, ctx: &StepContext) -> anyhow::Result<()> {
    let base = ctx.input(&params.base)?;
    let device = device::resolve(params.device)?.autodiff();
    let mut model = open_base(&base.path)?.load(&device, params.dtype)?;
    let (eval_tokens, split) = (params.eval_tokens.as_ref(), params.validation_split);
    let rows = Rows::open(ctx, &model, &params.tokens, eval_tokens, split)?;
    let trainer = Trainer {
        tokens: &rows.train,
        held_out: rows.held_out.as_ref(),
        params: &params.optimizer,
        subject: Subject::Everything,
        seed: params.seed,
        checkpoints: Some(ctx.checkpoints),
    };
    let mut onlooker = Onlooker::new(ctx, &params.optimizer, trainer.total_steps());
    let finished = trainer.run(&mut model, &mut onlooker)?;
    ctx.take_over(&base.path, TOKENIZER_FILE_NAMES)?;
    let dtype = params.save_dtype;
    let config = model.config.clone();
    write_model(ctx.out, &config, &TensorWeights::new(model.params()), dtype)?;
    let mut lineage = json!({
        "evergraft": env!("CARGO_PKG_VERSION"),
        "continued_from": base.digest,
        "tokens_digest": ctx.input(&params.tokens)?.digest,
        "seed": params.seed,
    });
    held_out::add_to_lineage(&mut lineage, ctx, eval_tokens, split)?;
    ctx.write_json("evergraft.json", &lineage)?;
    metrics::write(ctx, &finished)
}

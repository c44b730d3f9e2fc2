//! `uses: base`: a base model as a Hugging Face folder of its own.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    StepContext,
    dataset::{rows_of, text},
    source::{self, ModelSource},
};
use crate::{
    error::hinted,
    hub::ModelPart,
    model::{
        BaseFolder, ModelConfig, RandomWeights, SafetensorsWeights, SourceFormat, SourceModel,
        TOKENIZER_FILE_NAMES, Tokenizer, TokenizerFiles, parameter_count, write_model,
    },
    params::{BaseParams, Dtype, RandomInit},
};

/// Files of a model folder beside its weights that are taken over where they exist.
pub(super) fn small_files() -> impl Iterator<Item = &'static str> {
    ["config.json", "generation_config.json"].into_iter().chain(TOKENIZER_FILE_NAMES)
}

pub(crate) fn run(params: &BaseParams, ctx: &StepContext) -> anyhow::Result<()> {
    match (&params.source, &params.init) {
        (Some(source), _) => {
            let model = source::model(source, &params.sha256, ModelPart::Whole, ctx)?;
            let taken = from_source(params, model.path(), ctx);
            // The folder that it was fetched into tells nobody anything.
            match model {
                ModelSource::Fetched(_) => taken.with_context(|| format!("in `{}`", source.0.display()))?,
                ModelSource::Local(_) => taken?,
            }
        }
        (None, Some(init)) => from_nothing(init, ctx)?,
        (None, None) => unreachable!("the planner refuses a base without source and init"),
    }
    let base = BaseFolder::open(ctx.out)?;
    if base.tokenizer.is_none() {
        ctx.warn("this base has no tokenizer; set `tokenizer:` before it can be trained or evaluated");
    }
    ctx.log(format_args!("{}, {} parameters", base.config.model_type, parameter_count(&base.config)));
    Ok(())
}

fn from_source(params: &BaseParams, source: &Path, ctx: &StepContext) -> anyhow::Result<()> {
    let digest = (ctx.source_digest)(source)?;
    ctx.log(format_args!("digest of the source: {digest}"));
    if let Some(pinned) = &params.digest {
        ensure!(
            *pinned == digest.to_string(),
            "`{}` has the digest `{digest}`, but the recipe pins `{pinned}`",
            source.display()
        );
    }
    let format = SourceFormat::detect(source)?;
    ctx.log(format_args!("format: {}", format.name()));
    match format {
        SourceFormat::HuggingFace => {
            BaseFolder::open(source)?;
            let weights = SafetensorsWeights::files_in(source)?;
            ctx.take_over(source, small_files())?;
            ctx.progress.begin(Some(weights.len() as u64), "files");
            for (done, name) in weights.iter().enumerate() {
                ctx.cancel.check()?;
                // A copy, not a link: the source may be edited in place later.
                fs::copy(source.join(name), ctx.out.join(name))
                    .with_context(|| format!("cannot copy `{name}`"))?;
                ctx.progress.update(done as u64 + 1, name);
            }
        }
        SourceFormat::Gguf | SourceFormat::Llama2c => {
            let model = match params.tokenizer {
                Some(_) => SourceModel::open_without_tokenizer(source)?,
                None => SourceModel::open_native(source)?,
            }
            .into_halves();
            ctx.progress.begin(None, "bytes");
            write_model(ctx.out, &model.config, model.weights.as_ref(), Dtype::F32)?;
            if let Some(tokenizer) = &model.tokenizer {
                tokenizer.write(ctx.out)?;
            }
        }
    }
    if let Some(tokenizer) = &params.tokenizer {
        let files = source::model(tokenizer, &[], ModelPart::Tokenizer, ctx)?;
        take_tokenizer(files.path(), ctx)?;
    }
    Ok(())
}

fn take_tokenizer(path: &Path, ctx: &StepContext) -> anyhow::Result<()> {
    if path.is_dir() {
        Tokenizer::from_dir(path)?;
        ctx.take_over(path, TOKENIZER_FILE_NAMES)?;
        // The source's own would name tokens of its own tokenizer.
        for name in TOKENIZER_FILE_NAMES.into_iter().filter(|name| !path.join(name).is_file()) {
            let target = ctx.out.join(name);
            if target.exists() {
                fs::remove_file(target).with_context(|| format!("cannot remove `{name}`"))?;
            }
        }
        return Ok(());
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => {
            Tokenizer::from_file(path)?;
            fs::copy(path, ctx.out.join("tokenizer.json")).context("cannot copy `tokenizer.json`")?;
            Ok(())
        }
        Some("bin") => {
            let config = ModelConfig::from_json(&crate::model::read_json(&ctx.out.join("config.json"))?)?;
            TokenizerFiles::from_llama2c(path, config.vocab_size)?.write(ctx.out)
        }
        _ => Err(hinted(
            format!("`{}` is no known tokenizer", path.display()),
            "give a tokenizer.json, a folder that holds one, or a llama2.c tok*.bin",
        )),
    }
}

fn from_nothing(init: &RandomInit, ctx: &StepContext) -> anyhow::Result<()> {
    let rows = rows_of(&ctx.input(&init.tokenizer.text)?.path)?;
    let texts = rows.iter().map(|row| text(row, "text").to_owned()).collect::<Vec<_>>();
    TokenizerFiles::train(init.tokenizer.vocab_size, texts.into_iter())?.write(ctx.out)?;
    let tokenizer = Tokenizer::from_dir(ctx.out)?;
    let mut config = init.config.clone();
    config.insert("vocab_size".to_owned(), json!(tokenizer.vocab_size()));
    if let Some(eos) = tokenizer.eos_token_id() {
        config.entry("eos_token_id").or_insert(json!(eos));
    }
    let config = ModelConfig::from_json(&Value::Object(config)).context("in `init.config`")?;
    config.validate().context("in `init.config`")?;
    write_model(ctx.out, &config, &RandomWeights::new(config.clone(), init.seed), Dtype::F32)?;
    ctx.write_json("evergraft.json", &json!({ "evergraft": env!("CARGO_PKG_VERSION"), "seed": init.seed }))
}

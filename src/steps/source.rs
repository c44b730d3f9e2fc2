//! Sources of a step: files that are here, and those that are fetched first.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::StepContext;
use crate::{
    hub::{self, FetchedModel, ModelPart, Settings, Work},
    params::{Address, HubAddress, SourceFile},
};

/// A source of a model that is here now.
pub(super) enum ModelSource {
    Local(PathBuf),
    Fetched(FetchedModel),
}

impl ModelSource {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Local(path) => path,
            Self::Fetched(model) => &model.path,
        }
    }
}

/// A model, or its tokenizer alone.
pub(super) fn model(
    source: &SourceFile,
    sha256: &[String],
    part: ModelPart,
    ctx: &StepContext,
) -> anyhow::Result<ModelSource> {
    let address = match address(source) {
        None => return Ok(ModelSource::Local(source.0.clone())),
        Some(address) => address,
    };
    match &address {
        Address::Hub(hub) => with_work(ctx, |work| {
            hub::fetch_model(&Settings::from_env()?, at_commit(hub)?, part, work).map(ModelSource::Fetched)
        }),
        Address::Web(url) => web(url, sha256.first(), ctx).map(ModelSource::Local),
    }
    .with_context(|| format!("in `{address}`"))
}

/// The files with a dataset's rows; local folders are still to be looked into.
pub(super) fn rows(
    sources: &[SourceFile],
    sha256: &[String],
    subset: Option<&str>,
    split: &str,
    ctx: &StepContext,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut digests = sha256.iter();
    let mut paths = Vec::new();
    for source in sources {
        match address(source) {
            None => paths.push(source.0.clone()),
            Some(Address::Web(url)) => paths.push(web(&url, digests.next(), ctx)?),
            Some(Address::Hub(hub)) => paths.extend(with_work(ctx, |work| {
                hub::fetch_dataset(&Settings::from_env()?, at_commit(&hub)?, subset, split, work)
            })?),
        }
    }
    Ok(paths)
}

fn address(source: &SourceFile) -> Option<Address> {
    source.0.to_str().and_then(Address::accepted)
}

fn web(url: &str, sha256: Option<&String>, ctx: &StepContext) -> anyhow::Result<PathBuf> {
    let sha256 = sha256.context("the planner refuses a web file without a digest")?;
    with_work(ctx, |work| hub::fetch_web(&Settings::from_env()?, url, sha256, ctx.downloads, work))
}

/// The planner puts the commit into the address; without one the key would not tell the content.
fn at_commit(hub: &HubAddress) -> anyhow::Result<&HubAddress> {
    if hub.commit().is_none() {
        bail!("the step was planned without the commit of `{hub}`");
    }
    Ok(hub)
}

fn with_work<T>(ctx: &StepContext, run: impl FnOnce(&Work) -> anyhow::Result<T>) -> anyhow::Result<T> {
    run(&Work {
        stop: &|| ctx.cancel.check(),
        log: &|line| ctx.log(line),
        warn: &|line| ctx.warn(line),
        progress: ctx.progress,
    })
}

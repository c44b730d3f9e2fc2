//! `uses: adapter`: an adapter that was trained elsewhere, beside the base it was trained on.

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};

use super::{StepContext, source, source::ModelSource};
use crate::{
    device,
    hub::ModelPart,
    model::{BaseFolder, Decoder, read_json},
    params::{DeviceName, ImportParams},
    peft::{ADAPTER_FILES, Adapter},
};

pub(crate) fn run(params: &ImportParams, ctx: &StepContext) -> anyhow::Result<()> {
    let base = ctx.input(&params.base)?;
    let found = source::model(&params.source, &[], ModelPart::Adapter, ctx)?;
    let taken = take(found.path(), base, ctx);
    // The folder that it was fetched into tells nobody anything.
    match found {
        ModelSource::Fetched(_) => taken.with_context(|| format!("in `{}`", params.source.0.display())),
        ModelSource::Local(_) => taken,
    }
}

fn take(folder: &std::path::Path, base: &super::Input, ctx: &StepContext) -> anyhow::Result<()> {
    ensure!(
        folder.is_dir(),
        "`{}` is not a folder; give the one that holds adapter_config.json",
        folder.display()
    );
    Adapter::read(folder)?;
    let opened = BaseFolder::open(&base.path)?;
    // On the CPU, and in the format that they are stored in, the base's weights are only mapped: a
    // look at every shape costs little.
    let device = device::resolve(DeviceName::Flex)?;
    let embedding = opened.config.names().embedding;
    let dtype = opened.weights.stored_dtype(embedding).unwrap_or_default();
    let mut model = Decoder::load(&opened.config, opened.weights.as_ref(), &device, dtype)?;
    Adapter::load(&mut model, folder)
        .with_context(|| format!("the adapter does not fit the base `{}`", base.node))?;
    ctx.take_over(folder, ADAPTER_FILES)?;
    // What Evergraft wrote of the adapter's training stays true.
    let theirs = folder.join("evergraft.json");
    let mut lineage = match theirs.is_file() {
        true => read_json(&theirs)?.as_object().cloned().context("`evergraft.json` is not an object")?,
        false => Map::new(),
    };
    let digest = json!(base.digest);
    if lineage.get("base_digest").is_some_and(|trained_on| *trained_on != digest) {
        ctx.warn(format_args!(
            "its `evergraft.json` says that it was trained on a base of another content than `{}`; \
             to move it there, name its own base here and use `swap`",
            base.node
        ));
    }
    lineage.insert("base_digest".to_owned(), digest);
    lineage.insert("base_shape".to_owned(), opened.config.to_json());
    lineage.entry("evergraft").or_insert_with(|| json!(env!("CARGO_PKG_VERSION")));
    lineage.insert("imported".to_owned(), json!(true));
    ctx.write_json("evergraft.json", &Value::Object(lineage))
}

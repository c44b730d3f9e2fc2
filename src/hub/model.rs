//! Which files of a model repository are needed, and a folder that shows these alone.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::{
    Work,
    api::{RepoFile, files_of, needs_all_folders},
    fetch::Source,
    offline,
};
use crate::{
    error::hinted,
    params::{HubAddress, is_safe_path},
    progress::Silent,
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Longest index that is read.
const MAX_INDEX: u64 = 64 << 20;
/// Files that a base with a tokenizer always has.
const EXPECTED: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];
/// Files that some bases have.
const OPTIONAL: [&str; 4] =
    ["generation_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"];

/// A model here: a folder with nothing but the files that are needed, or one file.
#[derive(Debug)]
pub struct FetchedModel {
    /// The folder or file.
    pub path: PathBuf,
    /// Holds the links; goes with this value.
    _links: tempfile::TempDir,
}

/// What is wanted of a model repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelPart {
    /// Configuration, tokenizer and weights.
    Whole,
    /// The tokenizer's files alone.
    Tokenizer,
    /// An adapter's files.
    Adapter,
}

pub(super) fn fetch(source: &Source, part: ModelPart, work: &Work) -> anyhow::Result<FetchedModel> {
    let offline = source.settings.offline;
    let all = match offline {
        true => offline::files_there(source)?,
        false => files_of(source.http, source.settings, source.hub, needs_all_folders(source.hub), work)?,
    };
    let get = |files: &[RepoFile], work: &Work| match offline {
        true => offline::use_there(source, files, work),
        false => source.fetch(files, work),
    };
    if let Some(file) = all.iter().find(|file| source.hub.path.as_ref() == Some(&file.path)) {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        // A llama2.c checkpoint ends in `.bin` too; whoever opens the file looks at its bytes.
        if is_pickle(name) && (!name.ends_with(".bin") || name.starts_with("pytorch_model")) {
            return Err(pickle(source, name));
        }
        let places = get(std::slice::from_ref(file), work)?;
        let links = view(&[(name, &places[0])])?;
        return Ok(FetchedModel { path: links.path().join(name), _links: links });
    }
    let inside = Inside::new(source, &all)?;
    let mut wanted: Vec<RepoFile> = inside
        .files
        .iter()
        .filter(|(name, _)| is_small(name, part))
        .map(|(_, file)| (*file).clone())
        .collect();
    match offline {
        true => inside.check_offline(source, work)?,
        false => inside.remember_missing(source),
    }
    if part == ModelPart::Whole {
        let read_index = |file: &RepoFile| -> anyhow::Result<PathBuf> {
            let quiet = Work { progress: &Silent, ..*work };
            Ok(get(std::slice::from_ref(file), &quiet)?.remove(0))
        };
        wanted.extend(inside.weights(source, read_index)?);
    }
    let places = get(&wanted, work)?;
    let named: Vec<(&str, &PathBuf)> = wanted.iter().map(|file| inside.name(file)).zip(&places).collect();
    let links = view(&named)?;
    Ok(FetchedModel { path: links.path().to_owned(), _links: links })
}

/// The files of one folder of a repository, by their names in it.
struct Inside<'a> {
    prefix: String,
    files: Vec<(&'a str, &'a RepoFile)>,
    all: &'a [RepoFile],
}

impl<'a> Inside<'a> {
    fn new(source: &Source, all: &'a [RepoFile]) -> anyhow::Result<Self> {
        let prefix = source.hub.path.as_ref().map(|path| format!("{path}/")).unwrap_or_default();
        let files: Vec<_> = all
            .iter()
            .filter_map(|file| Some((file.path.strip_prefix(&prefix)?, file)))
            // A name in another folder is not of this model; one with tricks is looked at later.
            .filter(|(name, _)| !name.contains('/') || name.starts_with(['/', '.']))
            .collect();
        ensure!(!files.is_empty(), "`{}` holds no file", source.hub);
        Ok(Self { prefix, files, all })
    }

    fn find(&self, name: &str) -> Option<&'a RepoFile> {
        self.files.iter().find(|(other, _)| *other == name).map(|(_, file)| *file)
    }

    fn name<'f>(&self, file: &'f RepoFile) -> &'f str {
        file.path.strip_prefix(&self.prefix).unwrap_or(&file.path)
    }

    /// The single file of weights, or the index and the shards that it names.
    fn weights(
        &self,
        source: &Source,
        read: impl Fn(&RepoFile) -> anyhow::Result<PathBuf>,
    ) -> anyhow::Result<Vec<RepoFile>> {
        if let Some(file) = self.find(SINGLE) {
            return Ok(vec![file.clone()]);
        }
        let Some(index) = self.find(INDEX) else { return Err(self.no_weights(source)) };
        ensure!(index.size <= MAX_INDEX, "`{INDEX}` of `{}` is longer than {MAX_INDEX} bytes", source.hub);
        let mut wanted = vec![index.clone()];
        for name in shards(&read(index)?).with_context(|| format!("in `{INDEX}` of `{}`", source.hub))? {
            match self.find(&name) {
                Some(file) => wanted.push(file.clone()),
                None if source.settings.offline => {
                    return Err(offline::missing(&format!("`{name}` of `{}` is not here", source.hub)));
                }
                None => bail!(
                    "`{INDEX}` of `{}` names `{}`, which it does not hold",
                    source.hub,
                    name.escape_debug()
                ),
            }
        }
        Ok(wanted)
    }

    fn no_weights(&self, source: &Source) -> anyhow::Error {
        if source.settings.offline {
            return offline::missing(&format!(
                "neither `{SINGLE}` nor `{INDEX}` of `{}` is here",
                source.hub
            ));
        }
        if let Some((name, _)) = self.files.iter().find(|(name, _)| is_pickle(name)) {
            return pickle(source, name);
        }
        let gguf = self
            .all
            .iter()
            .map(|file| file.path.as_str())
            .find(|name| name.ends_with(".gguf") && is_safe_path(name));
        let hint = match gguf {
            Some(name) if source.hub.path.is_none() => {
                let address = HubAddress { path: Some(name.to_owned()), ..source.hub.clone() };
                format!("for a GGUF file name it: `{address}`")
            }
            _ => "is it the repository of a model?".to_owned(),
        };
        hinted(format!("`{}` holds no `{SINGLE}` and no `{INDEX}`", source.hub), hint)
    }

    /// The list of files is complete: what is not in it does not exist. Other tools read these
    /// marks too.
    fn remember_missing(&self, source: &Source) {
        let folder = source.folder();
        for name in EXPECTED.iter().chain(&OPTIONAL).filter(|name| self.find(name).is_none()) {
            folder.remember_to_lack(source.hub.revision(), &format!("{}{name}", self.prefix));
        }
    }

    /// Another tool may have fetched some files only. What must be there is an error, what may be
    /// missing a warning.
    fn check_offline(&self, source: &Source, work: &Work) -> anyhow::Result<()> {
        let (folder, commit) = (source.folder(), source.hub.revision());
        let unknown = |name: &&str| {
            self.find(name).is_none() && !folder.is_known_to_lack(commit, &format!("{}{name}", self.prefix))
        };
        if let Some(name) = EXPECTED.iter().find(|name| unknown(name)) {
            return Err(offline::missing(&format!("`{name}` of `{}` is not here", source.hub)));
        }
        // The newest of the optional files replaced the last.
        let unsure: Vec<&str> = OPTIONAL[..3].iter().filter(|name| unknown(name)).copied().collect();
        if !unsure.is_empty() {
            work.warn(&format!(
                "offline: took what the hub's cache holds of `{}`; whether it has `{}` is not known",
                source.hub,
                unsure.join("`, `")
            ));
        }
        Ok(())
    }
}

/// The files that an index names, each once.
fn shards(index: &Path) -> anyhow::Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(&fs::read(index)?)?;
    Ok(index.weight_map.into_values().collect())
}

fn is_small(name: &str, part: ModelPart) -> bool {
    if part == ModelPart::Adapter {
        return ["adapter_config.json", "adapter_model.safetensors", "evergraft.json"].contains(&name);
    }
    let tokenizer = name.starts_with("tokenizer") && name.ends_with(".json");
    let always = tokenizer || name == "special_tokens_map.json";
    always || (part == ModelPart::Whole && (EXPECTED.contains(&name) || OPTIONAL.contains(&name)))
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|ending| name.ends_with(ending))
}

fn pickle(source: &Source, name: &str) -> anyhow::Error {
    hinted(
        format!("`{name}` of `{}` is a pickle, which is not fetched", source.hub),
        "pickles can run code; use a revision with safetensors, such as `@refs/pr/1` where the hub made one",
    )
}

/// A folder of links.
fn view(files: &[(&str, &PathBuf)]) -> anyhow::Result<tempfile::TempDir> {
    let make = || -> std::io::Result<tempfile::TempDir> {
        let folder = tempfile::Builder::new().prefix("evergraft-").tempdir()?;
        files.iter().try_for_each(|(name, place)| symlink(place, folder.path().join(name)))?;
        Ok(folder)
    };
    make().context("cannot make a folder of links")
}

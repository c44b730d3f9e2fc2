//! Which files of a dataset repository hold the wanted split.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, ensure};

use super::{
    Work,
    api::{RepoFile, files_of},
    card::{Subset, subsets},
    fetch::Source,
    offline, pattern,
    splits::{folders, kind, of_one_kind, of_split},
};
use crate::{error::hinted, params::is_safe_path, progress::Silent};

const CARD: &str = "README.md";
/// Longest card that is read.
const MAX_CARD: u64 = 8 << 20;

/// Fetches the files of a split; gives their places in the order of their rows.
pub(super) fn fetch(
    source: &Source,
    subset: Option<&str>,
    split: &str,
    work: &Work,
) -> anyhow::Result<Vec<PathBuf>> {
    let offline = source.settings.offline;
    let all = match offline {
        true => offline::files_there(source)?,
        false => files_of(source.http, source.settings, source.hub, true, work)?,
    };
    let get = |files: &[RepoFile], work: &Work| match offline {
        true => offline::use_there(source, files, work),
        false => source.fetch(files, work),
    };
    let find = |path: &str| all.iter().find(|file| file.path == path);
    if let Some(file) = source.hub.path.as_deref().and_then(find) {
        return get(std::slice::from_ref(file), work);
    }
    let card = match find(CARD).filter(|file| source.hub.path.is_none() && file.size <= MAX_CARD) {
        None => Vec::new(),
        Some(file) => {
            let quiet = Work { progress: &Silent, ..*work };
            let place = get(std::slice::from_ref(file), &quiet)?;
            let text = String::from_utf8_lossy(&fs::read(&place[0])?).into_owned();
            subsets(&text).unwrap_or_else(|error| {
                work.log(&format!("the card is not used: {error:#}"));
                Vec::new()
            })
        }
    };
    // From here on names are shown and looked for.
    all.iter().filter(|file| kind(&file.path).is_some()).try_for_each(|file| file.check_name(source.hub))?;
    let paths: Vec<&str> =
        all.iter().map(|file| file.path.as_str()).filter(|path| is_safe_path(path)).collect();
    let chosen = choose(source, &card, &paths, subset, split)?;
    if offline && !offline::check_shards(source.hub, &chosen)? {
        work.warn(&format!(
            "offline: took `{}` of `{}`; whether there is more is not known",
            chosen.join("`, `"),
            source.hub
        ));
    }
    work.log(&format!("files of `{split}`: {}", chosen.join(", ")));
    let files: Vec<RepoFile> = chosen.into_iter().filter_map(find).cloned().collect();
    get(&files, work)
}

/// The paths of the split's files.
fn choose<'p>(
    source: &Source,
    card: &[Subset],
    paths: &[&'p str],
    subset: Option<&str>,
    split: &str,
) -> anyhow::Result<Vec<&'p str>> {
    let declared = pick(source, card, subset)?;
    if let Some(splits) = declared.map(|subset| &subset.splits).filter(|splits| !splits.is_empty()) {
        let names = || splits.iter().map(|(name, _)| name.clone()).collect();
        let patterns = splits.iter().find(|(name, _)| name == split);
        let (_, patterns) = patterns.ok_or_else(|| no_split(source, split, names()))?;
        return by_patterns(source, patterns, paths, split);
    }
    let folder = match (&source.hub.path, declared.and_then(|subset| subset.folder.as_deref()), subset) {
        (Some(path), _, _) => path.as_str(),
        (None, Some(folder), _) => folder,
        (None, None, Some(subset)) => subset,
        (None, None, None) => "",
    };
    let below = |prefix: &str| -> Vec<&'p str> {
        paths.iter().copied().filter(|path| path.starts_with(prefix)).collect()
    };
    let inside = match folder {
        "" => paths.to_vec(),
        folder => match below(&format!("{folder}/")) {
            found if found.is_empty() => below(&format!("data/{folder}/")),
            found => found,
        },
    };
    ensure!(!inside.is_empty(), "`{}` has no folder `{folder}`", source.hub);
    let found = of_split(&inside, split).map_err(|splits| no_split(source, split, splits))?;
    let folders = folders(&found);
    if folders.len() > 1 {
        let names = folders.into_iter().take(30).collect::<Vec<_>>().join(", ");
        return Err(hinted(
            format!("`{}` has files of the split `{split}` in several folders", source.hub),
            format!("set `subset:` to one of: {names}"),
        ));
    }
    Ok(found)
}

/// The subset that is meant.
fn pick<'c>(source: &Source, card: &'c [Subset], subset: Option<&str>) -> anyhow::Result<Option<&'c Subset>> {
    let names = || card.iter().map(|subset| subset.name.as_str()).take(30).collect::<Vec<_>>().join(", ");
    let found = match subset {
        Some(name) => card.iter().find(|subset| subset.name == name),
        None if card.len() == 1 => card.first(),
        None => card.iter().find(|s| s.default).or_else(|| card.iter().find(|s| s.name == "default")),
    };
    if found.is_none() && !card.is_empty() {
        let message = match subset {
            Some(name) => format!("`{}` has no subset `{name}`", source.hub),
            None => format!("`{}` has several subsets", source.hub),
        };
        return Err(hinted(message, format!("set `subset:` to one of: {}", names())));
    }
    Ok(found)
}

fn by_patterns<'p>(
    source: &Source,
    patterns: &[String],
    paths: &[&'p str],
    split: &str,
) -> anyhow::Result<Vec<&'p str>> {
    let mut found: Vec<&str> = Vec::new();
    for text in patterns {
        let pattern = pattern::compile(text).with_context(|| format!("in the card of `{}`", source.hub))?;
        let mut matching: Vec<&str> = paths.iter().copied().filter(|path| pattern.is_match(path)).collect();
        matching.retain(|path| kind(path).is_some() && !found.contains(path));
        matching.sort_unstable();
        found.extend(matching);
    }
    let found = of_one_kind(found);
    if !found.is_empty() {
        return Ok(found);
    }
    let message = format!("`{}` has no file for the split `{split}` that can be read here", source.hub);
    if source.settings.offline {
        return Err(offline::missing(&message));
    }
    Err(hinted(
        message,
        "parquet, jsonl, json, csv and txt are read; `@refs/convert/parquet` often has parquet",
    ))
}

fn no_split(source: &Source, split: &str, there: Vec<String>) -> anyhow::Error {
    let message = format!("`{}` has no split `{split}`", source.hub);
    if source.settings.offline {
        return offline::missing(&message);
    }
    let hint = match there.is_empty() {
        true => "it holds no file with rows that can be read (parquet, jsonl, json, csv, txt)".to_owned(),
        false => format!("splits: {}", there.join(", ")),
    };
    hinted(message, hint)
}

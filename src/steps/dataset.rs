//! `uses: dataset`: rows from files, here or fetched, into one canonical `data.jsonl`.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{StepContext, source};
use crate::{
    data::{Row, canonical, read_rows},
    digest::Digest,
    error::hinted,
    params::{DatasetParams, Sources, Split},
    rng,
};

/// Endings of a split's file in a folder source, in the order they are looked for.
const ENDINGS: [&str; 9] =
    ["jsonl", "json", "jsonl.gz", "json.gz", "txt", "txt.gz", "parquet", "csv", "csv.gz"];

pub(crate) fn run(params: &DatasetParams, ctx: &StepContext) -> anyhow::Result<()> {
    let split: Split = match &params.split {
        Some(text) => text.parse().map_err(anyhow::Error::msg)?,
        None => Split::default(),
    };
    let name = if split.name.is_empty() { "train" } else { &split.name };
    let fetch = |files: &[_]| source::rows(files, &params.sha256, params.subset.as_deref(), name, ctx);
    let paths = match &params.source {
        Sources::File(file) => fetch(std::slice::from_ref(file))?,
        Sources::Files(files) => fetch(files)?,
        Sources::Step(file) => vec![inside(&ctx.input(&file.step)?.path, &file.path)?],
    };
    let mut rows: Vec<(String, Row)> = Vec::new();
    let mut digests = Vec::new();
    for path in &paths {
        let path = pick_split(path, &split)?;
        digests.push(Digest::of_file(&path)?);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let read = read_rows(&path)?;
        rows.extend(read.into_iter().enumerate().map(|(i, row)| (format!("{name}, row {}", i + 1), row)));
        ctx.cancel.check()?;
    }
    let total = rows.len();
    if let Some(seed) = params.shuffle_seed {
        let mut random = rng::stream(seed, "dataset", &[]);
        for i in (1..rows.len()).rev() {
            rows.swap(i, random.below(i as u64 + 1) as usize);
        }
    }
    let kept = &rows[split.range(total)];
    ensure!(
        !kept.is_empty(),
        "the split `{}` keeps none of {total} rows",
        params.split.as_deref().unwrap_or_default()
    );
    ctx.progress.begin(Some(kept.len() as u64), "rows");
    let file = File::create(ctx.out.join("data.jsonl")).context("cannot write `data.jsonl`")?;
    let mut file = BufWriter::new(file);
    for (place, row) in kept {
        let row = canonical(row, params.format, &params.fields, place)?;
        serde_json::to_writer(&mut file, &row)?;
        writeln!(file).context("cannot write `data.jsonl`")?;
    }
    file.flush().context("cannot write `data.jsonl`")?;
    ctx.log(format_args!("{} of {total} rows from {} file(s)", kept.len(), paths.len()));
    let about = json!({
        "format": params.format,
        "rows": kept.len(),
        "source_rows": total,
        "split": params.split,
        "shuffle_seed": params.shuffle_seed,
        "source_digests": digests,
    });
    ctx.write_json("dataset.json", &about)
}

/// A file inside an artifact; anything that would leave it is refused.
fn inside(folder: &Path, relative: &str) -> anyhow::Result<PathBuf> {
    let plain = Path::new(relative).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    ensure!(plain && !relative.is_empty(), "`{relative}` is not a path inside the step's artifact");
    let path = folder.join(relative);
    ensure!(path.is_file(), "the step's artifact has no file `{relative}`");
    Ok(path)
}

/// The file of a split: the source itself, or a folder's `<split>.<ending>`.
fn pick_split(path: &Path, split: &Split) -> anyhow::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let name = if split.name.is_empty() { "train" } else { &split.name };
    let candidates = ENDINGS.map(|ending| path.join(format!("{name}.{ending}")));
    candidates.iter().find(|candidate| candidate.is_file()).cloned().ok_or_else(|| {
        hinted(
            format!("folder `{}` has no file for the split `{name}`", path.display()),
            format!("expected `{name}.jsonl` or `{name}.json`, plain or with .gz"),
        )
    })
}

/// Every row of a `dataset` artifact.
pub(crate) fn rows_of(folder: &Path) -> anyhow::Result<Vec<Row>> {
    read_rows(&folder.join("data.jsonl"))
}

/// A text field of a canonical row; missing reads as empty.
pub(crate) fn text<'a>(row: &'a Row, field: &str) -> &'a str {
    row.get(field).and_then(Value::as_str).unwrap_or_default()
}

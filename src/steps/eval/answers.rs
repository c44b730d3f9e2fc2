//! What the model said so far: `answers_<task>.jsonl` beside the step's checkpoints, a line for each
//! item as it is done. A killed evaluation reads it and goes on; a line that the kill tore is not there.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::eval::Score;

/// What the model said to one item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Generation(String),
    /// A log-likelihood, and whether greedy decoding gives it: for each choice or window.
    Scores(Vec<(f64, bool)>),
}

#[derive(Serialize, Deserialize)]
struct Line {
    doc_id: usize,
    answer: Answer,
}

/// The answers to one task.
pub(super) struct Answers {
    path: PathBuf,
    file: File,
    found: BTreeMap<usize, Answer>,
}

impl Answers {
    /// Reads what an earlier run left.
    pub(super) fn open(folder: &Path, task: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let path = folder.join(format!("answers_{task}.jsonl"));
        let cannot = || format!("cannot write `{}`", path.display());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        let (found, whole) = parse(&bytes);
        let mut file =
            File::options().create(true).truncate(false).write(true).open(&path).with_context(cannot)?;
        file.set_len(whole as u64).with_context(cannot)?;
        file.seek(SeekFrom::End(0)).with_context(cannot)?;
        Ok(Self { path, file, found })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// The answer to an item.
    pub(super) fn get(&self, doc_id: usize) -> Option<&Answer> {
        self.found.get(&doc_id)
    }

    /// Keeps some answers in one write; of what a kill tears, the whole lines are good.
    pub(super) fn add(&mut self, answers: Vec<(usize, Answer)>) -> anyhow::Result<()> {
        let mut text = String::new();
        for (doc_id, answer) in &answers {
            text += &serde_json::to_string(&Line { doc_id: *doc_id, answer: answer.clone() })?;
            text.push('\n');
        }
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write `{}`", self.path.display()))?;
        self.found.extend(answers);
        Ok(())
    }
}

/// The answers in whole lines, and how many bytes those take.
fn parse(bytes: &[u8]) -> (BTreeMap<usize, Answer>, usize) {
    let mut found = BTreeMap::new();
    let mut whole = 0;
    for text in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(Ok(line)) = text.strip_suffix(b"\n").map(serde_json::from_slice::<Line>) else { break };
        found.insert(line.doc_id, line.answer);
        whole += text.len();
    }
    (found, whole)
}

impl Answer {
    /// Of the scores of an item's parts.
    pub(super) fn of_scores(scores: &[Score]) -> Self {
        Self::Scores(scores.iter().map(|score| (score.log_likelihood, score.is_greedy)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_file_is_read_up_to_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut answers = Answers::open(dir.path(), "t").unwrap();
        answers.add(vec![(3, Answer::Generation("a\nb".to_owned()))]).unwrap();
        answers.add(vec![(1, Answer::Scores(vec![(-0.1, true), (-1e-300, false)]))]).unwrap();
        let path = dir.path().join("answers_t.jsonl");
        let whole = fs::read(&path).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for end in 0..=whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            let found = Answers::open(dir.path(), "t").unwrap();
            let expected = usize::from(end >= first) + usize::from(end == whole.len());
            assert_eq!(found.count(), expected, "{end}");
            assert_eq!(fs::metadata(&path).unwrap().len(), [0, first, whole.len()][expected] as u64);
        }
        let again = Answers::open(dir.path(), "t").unwrap();
        assert_eq!(again.get(1), Some(&Answer::Scores(vec![(-0.1, true), (-1e-300, false)])));
    }
}

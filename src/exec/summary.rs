//! What a run came to; `run.json`.

use std::path::PathBuf;

use serde::Serialize;

/// How many steps count as the slowest.
const SLOWEST: usize = 3;

/// What a run came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunSummary {
    /// The recipe's name.
    pub recipe: String,
    /// Version of evergraft.
    pub evergraft: String,
    /// Start in RFC 3339.
    pub started: String,
    /// Wall time.
    pub seconds: f64,
    /// Steps that ran.
    pub executed: usize,
    /// Steps found in the cache.
    pub cached: usize,
    /// Steps that failed.
    pub failed: usize,
    /// Steps that did not run.
    pub skipped: usize,
    /// Every step with its key and artifact.
    pub steps: Vec<StepSummary>,
    /// The run's folder.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Reports in the run's folder.
    pub reports: Vec<PathBuf>,
}

/// One line of [`RunSummary::steps`].
#[derive(Debug, Clone, Serialize)]
pub struct StepSummary {
    /// Node id.
    pub step: String,
    /// `executed`, `cached`, `failed` or `skipped`.
    pub state: &'static str,
    /// Digest of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Digest of the artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// Run time of the run that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl StepSummary {
    pub(super) fn without_result(step: &str, state: &'static str) -> Self {
        Self { step: step.to_owned(), state, key: None, artifact: None, seconds: None }
    }
}

impl RunSummary {
    /// The steps that took longest in this run, with their seconds.
    pub(super) fn slowest(&self) -> Vec<(String, f64)> {
        let ran = self.steps.iter().filter(|step| step.state == "executed");
        let mut times: Vec<_> = ran.filter_map(|step| Some((step.step.clone(), step.seconds?))).collect();
        times.sort_by(|a, b| b.1.total_cmp(&a.1));
        times.truncate(SLOWEST);
        times
    }
}

//! What the folder of a run tells of it, while it runs and afterwards.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{digest::Digest, error::hinted};

/// How a run ended, if it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// A process holds it.
    Running,
    /// It came to its end, with or without failures.
    Finished,
    /// Its process is gone, and it never came to its end.
    Killed,
}

/// One step of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PastStep {
    /// Node id.
    pub step: String,
    /// `open`, `waiting`, `running`, `executed`, `cached`, `failed` or `skipped`.
    pub state: &'static str,
    /// What the last event says of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
}

/// The end of a run; `run.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct PastSummary {
    /// The recipe's name.
    pub recipe: String,
    /// Start in RFC 3339.
    pub started: String,
    /// Its steps.
    pub steps: Vec<PastResult>,
}

/// One step of [`PastSummary`].
#[derive(Debug, Clone, Deserialize)]
pub struct PastResult {
    /// Node id.
    pub step: String,
    /// `executed`, `cached`, `failed` or `skipped`.
    pub state: String,
    /// Digest of its key, if it has a result.
    pub key: Option<Digest>,
}

/// The folder of a run.
#[derive(Debug, Clone)]
pub struct PastRun {
    /// Its folder, without links.
    pub folder: PathBuf,
}

impl PastRun {
    /// Finds a run by its folder, or by what follows `outputs` in it (`quickstart/latest`).
    ///
    /// # Errors
    /// When there is none.
    pub fn find(run: &Path, outputs: &Path) -> anyhow::Result<Self> {
        let places = [run.to_owned(), outputs.join(run), outputs.join(run).join("latest")];
        let found = places.iter().find(|place| place.join("events.jsonl").is_file());
        let folder = found.ok_or_else(|| {
            hinted(
                format!("`{}` is no folder of a run", run.display()),
                format!("runs lie below `{}`, e.g. `my-recipe/latest`", outputs.display()),
            )
        })?;
        Ok(Self {
            folder: folder.canonicalize().with_context(|| format!("cannot read `{}`", folder.display()))?,
        })
    }

    /// Whether it runs, and how it ended.
    ///
    /// # Errors
    /// When its events cannot be read.
    pub fn state(&self) -> anyhow::Result<RunState> {
        let events = self.folder.join("events.jsonl");
        let file = File::open(&events).with_context(|| format!("cannot read `{}`", events.display()))?;
        Ok(match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => RunState::Running,
            _ if self.folder.join("run.json").is_file() => RunState::Finished,
            _ => RunState::Killed,
        })
    }

    /// Every step of its plan, in order, with the last thing that happened to it.
    ///
    /// # Errors
    /// When a file of it cannot be read.
    pub fn steps(&self) -> anyhow::Result<Vec<PastStep>> {
        let nodes: Value = self.json("plan.json")?;
        let ids = nodes["nodes"].as_array().into_iter().flatten().filter_map(|node| node["id"].as_str());
        let mut steps: Vec<PastStep> =
            ids.map(|id| PastStep { step: id.to_owned(), state: "open", about: String::new() }).collect();
        let path = self.folder.join("events.jsonl");
        let bytes = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let places: HashMap<String, usize> =
            steps.iter().enumerate().map(|(place, step)| (step.step.clone(), place)).collect();
        // A last line that is not whole yet says nothing.
        let text = String::from_utf8_lossy(&bytes);
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let Some(place) = event["step"].as_str().and_then(|step| places.get(step)) else { continue };
            if let Some((state, about)) = read_event(&event) {
                (steps[*place].state, steps[*place].about) = (state, about);
            }
        }
        Ok(steps)
    }

    /// How it ended.
    ///
    /// # Errors
    /// When it did not, or its summary cannot be read.
    pub fn summary(&self) -> anyhow::Result<PastSummary> {
        if !self.folder.join("run.json").is_file() {
            bail!("the run `{}` has not come to its end", self.folder.display());
        }
        self.json("run.json")
    }

    /// The artifact of a step.
    pub fn artifact(&self, step: &str) -> PathBuf {
        self.folder.join("steps").join(step).join("artifact")
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<T> {
        let path = self.folder.join(name);
        let cannot = || format!("cannot read `{}`", path.display());
        serde_json::from_slice(&fs::read(&path).with_context(cannot)?).with_context(cannot)
    }
}

/// What an event makes of its step.
fn read_event(event: &Value) -> Option<(&'static str, String)> {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let seconds = |name: &str| event[name].as_f64().map(|seconds| format!("{seconds:.1} s"));
    Some(match event["event"].as_str()? {
        "step_started" => ("running", text("why")),
        "step_progress" => {
            let total = event["total"].as_u64().map(|total| format!(" of {total}")).unwrap_or_default();
            let left = seconds("eta_seconds").map(|left| format!(", {left} left")).unwrap_or_default();
            let done = format!("{}{total} {}{left}  {}", event["done"], text("unit"), text("message"));
            ("running", done.trim_end().to_owned())
        }
        "step_retried" => ("running", format!("try {}: {}", event["attempt"], text("error"))),
        "step_waiting" => ("waiting", text("message")),
        "step_cached" => ("cached", String::new()),
        "step_finished" => ("executed", seconds("seconds").map(|s| format!("in {s}")).unwrap_or_default()),
        "step_failed" => ("failed", text("error").lines().next().unwrap_or_default().to_owned()),
        "step_skipped" => ("skipped", text("because")),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_byte_costs_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("plan.json"), r#"{"nodes": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}"#)
            .unwrap();
        let events = [
            &br#"{"event": "step_started", "step": "a", "why": "new"}"#[..],
            b"{\"event\": \"step_started\", \"step\": \"b\", \"why\": \"\xff\"}",
            br#"{"event": "step_cached", "step": "c"}"#,
            br#"{"event": "step_finished", "step": "a", "#,
        ];
        fs::write(dir.path().join("events.jsonl"), events.join(&b'\n')).unwrap();
        let steps = PastRun { folder: dir.path().to_owned() }.steps().unwrap();
        let states: Vec<&str> = steps.iter().map(|step| step.state).collect();
        assert_eq!(states, ["running", "running", "cached"]);
    }
}

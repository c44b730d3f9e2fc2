//! One event a line on stdout, for `--format json`.

use std::{sync::Mutex, time::Duration};

use super::{Event, Observer, Progress, pace::Pace};

/// Time between two events of a running step.
const PAUSE: Duration = Duration::from_secs(5);

/// Prints events as JSON lines.
#[derive(Debug, Default)]
pub struct JsonLines;

impl Observer for JsonLines {
    fn event(&self, event: &Event) {
        use std::io::Write as _;
        if let Ok(line) = serde_json::to_string(event) {
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }

    fn progress(&self, step: &str) -> Box<dyn Progress> {
        Box::new(Events { step: step.to_owned(), at: Mutex::new((Pace::new(None, ""), 0)) })
    }
}

struct Events {
    step: String,
    /// The pace, and the units done.
    at: Mutex<(Pace, u64)>,
}

impl Events {
    fn say(&self, pace: &Pace, done: u64, message: &str) {
        JsonLines.event(&Event::StepProgress {
            step: self.step.clone(),
            done,
            total: pace.total,
            unit: pace.unit.clone(),
            eta_seconds: pace.left(done).map(|left| left.as_secs_f64()),
            message: message.to_owned(),
        });
    }
}

impl Progress for Events {
    fn begin(&self, total: Option<u64>, unit: &str) {
        if let Ok(mut at) = self.at.lock() {
            *at = (Pace::new(total, unit), 0);
        }
    }

    fn update(&self, done: u64, message: &str) {
        let Ok(mut at) = self.at.lock() else { return };
        at.1 = done;
        if at.0.is_due(done, PAUSE) {
            self.say(&at.0, done, message);
        }
    }

    fn note(&self, message: &str) {
        if let Ok(at) = self.at.lock() {
            self.say(&at.0, at.1, message);
        }
    }

    fn warn(&self, message: &str) {
        JsonLines.event(&Event::StepWarned { step: self.step.clone(), message: message.to_owned() });
    }
}

//! One event a line on stdout, for `--format json`.

use super::{Event, Observer};
use super::{Progress, Silent};

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

    fn progress(&self, _: &str) -> Box<dyn Progress> {
        Box::new(Silent)
    }
}

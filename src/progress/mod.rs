//! How steps tell a person that they are alive. Only this module and `commands` print.

use std::io::Write as _;

mod bars;
mod event;
mod json;
mod pace;
mod plain;
mod tensorboard;
mod view;

pub use bars::Bars;
pub use event::{Event, Observer};
pub use json::JsonLines;
pub use plain::Plain;
pub use tensorboard::EventFile;

/// A place where one step reports how far it is.
pub trait Progress: Send + Sync {
    /// A phase of work begins: `total` units (or unknown) called `unit`, e.g. `steps`.
    fn begin(&self, total: Option<u64>, unit: &str);
    /// `done` units are done; `message` is the newest figure worth seeing (`loss 1.234`).
    fn update(&self, done: u64, message: &str);
    /// Something that happens once and is worth a line (`resumes at step 50 of 100`).
    fn note(&self, _message: &str) {}
    /// Something is wrong that does not stop the step and does not touch its result.
    fn warn(&self, _message: &str) {}
}

/// Reports nothing; for tests and library use.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: Option<u64>, _: &str) {}
    fn update(&self, _: u64, _: &str) {}
}

/// A line on stderr. Where nobody reads it any more (`| less`, left) the work goes on.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

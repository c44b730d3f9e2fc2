//! Bars on a terminal: one line per running step with rate, time left and newest figure.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Event, Observer};
use super::{
    Progress,
    plain::{is_loud, lines},
};

/// Draws bars on stderr, with lines above them.
#[derive(Debug, Default)]
pub struct Bars {
    all: MultiProgress,
    /// Failures and warnings only.
    pub quiet: bool,
}

impl Observer for Bars {
    fn event(&self, event: &Event) {
        for line in lines(event) {
            // Bars already show what runs.
            let shown = if self.quiet { is_loud(&line) } else { !line.starts_with("run ") };
            if shown {
                let _ = self.all.println(line);
            }
        }
    }

    fn progress(&self, step: &str) -> Box<dyn Progress> {
        let bar = self.all.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {prefix} {elapsed} {wide_msg}"));
        bar.set_prefix(step.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Box::new(Bar(bar))
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn begin(&self, total: Option<u64>, unit: &'static str) {
        if let Some(total) = total {
            self.0.set_style(style(&format!(
                "{{spinner}} {{prefix}} {{bar:20}} {{pos}}/{{len}} {unit} {{elapsed}}<{{eta}} {{wide_msg}}"
            )));
            self.0.set_length(total);
        }
        self.0.reset();
    }

    fn note(&self, message: &str) {
        self.0.println(format!("         {}  {message}", self.0.prefix()));
    }

    fn warn(&self, message: &str) {
        self.0.println(format!("warning: {}: {message}", self.0.prefix()));
    }

    fn update(&self, done: u64, message: &str) {
        // A resumed step jumps ahead: that says nothing about its speed.
        if self.0.position() == 0 && done > 1 {
            self.0.set_position(done);
            self.0.reset_eta();
        }
        self.0.set_position(done);
        self.0.set_message(message.to_owned());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

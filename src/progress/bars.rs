//! The live view on a terminal: running steps below, lines of what happened above.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use console::{Style, Term};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Event, Observer, Progress,
    plain::{is_loud, lines},
    say,
    view::{View, Work},
};

/// Between two pictures.
const BEAT: Duration = Duration::from_millis(200);

/// Draws on stderr.
#[derive(Debug)]
pub struct Bars {
    /// Failures and warnings only.
    quiet: bool,
    /// One "bar" whose text is the whole view: it clears, redraws and prints lines above.
    screen: ProgressBar,
    /// Never held while the screen is asked for something: it asks for the view itself.
    view: Arc<Mutex<View>>,
}

impl Bars {
    /// An empty view; it appears with the first event.
    pub fn new(quiet: bool) -> Self {
        let view = Arc::new(Mutex::new(View::new()));
        let (shown, beats) = (Arc::clone(&view), Arc::new(AtomicUsize::new(0)));
        let style = ProgressStyle::with_template("{view}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("view", move |_: &_, out: &mut dyn std::fmt::Write| {
            let (rows, columns) = Term::stderr().size_checked().unwrap_or((24, 80));
            let beat = beats.fetch_add(1, Ordering::Relaxed);
            let _ = out.write_str(&lock(&shown).render(rows.into(), columns.into(), beat));
        });
        let screen = ProgressBar::new_spinner().with_style(style);
        Self { quiet, screen, view }
    }
}

fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observer for Bars {
    fn event(&self, event: &Event) {
        lock(&self.view).react(event);
        if let Event::RunStarted { .. } = event {
            self.screen.enable_steady_tick(BEAT);
        }
        let over = matches!(event, Event::RunFinished { .. });
        if over {
            self.screen.finish_and_clear();
        }
        for line in lines(event) {
            // What runs is in the view already.
            let shown = if self.quiet { is_loud(&line) } else { !line.starts_with("run ") };
            if shown && over {
                say(&coloured(&line));
            } else if shown {
                self.screen.println(coloured(&line));
            }
        }
    }

    fn progress(&self, step: &str) -> Box<dyn Progress> {
        let row = Row { step: step.to_owned(), screen: self.screen.clone(), view: Arc::clone(&self.view) };
        row.change(|work| work.begin(None, ""));
        Box::new(row)
    }
}

/// The first word in its colour; `NO_COLOR` turns that off.
fn coloured(line: &str) -> String {
    let end = line.find([':', ' ']).unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    let style = Style::new().for_stderr();
    let style = match word {
        "error" => style.red().bold(),
        "warning" | "retry" | "skipped" | "stop" => style.yellow(),
        "hint" => style.cyan(),
        "done" => style.green(),
        _ => return line.to_owned(),
    };
    format!("{}{rest}", style.apply_to(word))
}

/// Where one step reports.
struct Row {
    step: String,
    screen: ProgressBar,
    view: Arc<Mutex<View>>,
}

impl Row {
    fn change(&self, change: impl FnOnce(&mut Work)) {
        change(lock(&self.view).work(&self.step));
    }
}

impl Progress for Row {
    fn begin(&self, total: Option<u64>, unit: &str) {
        self.change(|work| work.begin(total, unit));
    }

    fn update(&self, done: u64, message: &str) {
        self.change(|work| work.update(done, message));
    }

    fn note(&self, message: &str) {
        self.screen.println(format!("         {}  {message}", self.step));
    }

    fn warn(&self, message: &str) {
        self.screen.println(coloured(&format!("warning: {}: {message}", self.step)));
    }
}

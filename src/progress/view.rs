//! What a terminal shows of a run at one moment: a line for each running step, as many as fit, and one
//! for the whole run. Pure: state and size in, text out.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use console::{measure_text_width, pad_str, truncate_str};

use super::{Event, pace::Pace};

/// Width of a bar.
const BAR: usize = 14;
/// The shortest message worth showing.
const SHORTEST: usize = 8;
/// The longest name that is shown whole on any terminal.
const LONGEST_NAME: usize = 32;
const SPINNER: [&str; 4] = ["-", "\\", "|", "/"];

/// The state of a run.
#[derive(Debug)]
pub(super) struct View {
    begun: Instant,
    steps: usize,
    executed: usize,
    cached: usize,
    failed: usize,
    skipped: usize,
    /// In the order in which they began.
    rows: Vec<String>,
    work: BTreeMap<String, Work>,
}

/// How far a step is.
#[derive(Debug)]
pub(super) struct Work {
    since: Instant,
    pace: Pace,
    done: u64,
    message: String,
    gpus: String,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            pace: Pace::new(None, ""),
            done: 0,
            message: String::new(),
            gpus: String::new(),
        }
    }
}

impl Work {
    pub(super) fn begin(&mut self, total: Option<u64>, unit: &str) {
        (self.pace, self.done) = (Pace::new(total, unit), 0);
    }

    pub(super) fn update(&mut self, done: u64, message: &str) {
        // Only notes when the work began: the view is drawn all the time.
        self.pace.is_due(done, Duration::MAX);
        self.done = done;
        message.clone_into(&mut self.message);
    }
}

impl View {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            steps: 0,
            executed: 0,
            cached: 0,
            failed: 0,
            skipped: 0,
            rows: Vec::new(),
            work: BTreeMap::new(),
        }
    }

    pub(super) fn work(&mut self, step: &str) -> &mut Work {
        self.work.entry(step.to_owned()).or_default()
    }

    pub(super) fn react(&mut self, event: &Event) {
        match event {
            Event::RunStarted { steps, .. } => self.steps = *steps,
            Event::StepStarted { step, gpus, .. } => {
                let work = self.work(step);
                work.since = Instant::now();
                if !gpus.is_empty() {
                    work.gpus = format!("gpu {}", gpus.join(","));
                }
                self.rows.push(step.clone());
            }
            Event::StepCached { step, .. } => {
                self.cached += 1;
                self.forget(step);
            }
            Event::StepFinished { step, .. } => {
                self.executed += 1;
                self.forget(step);
            }
            Event::StepFailed { step, .. } => {
                self.failed += 1;
                self.forget(step);
            }
            Event::StepSkipped { step, .. } => {
                self.skipped += 1;
                self.forget(step);
            }
            _ => {}
        }
    }

    fn forget(&mut self, step: &str) {
        self.rows.retain(|row| row != step);
        self.work.remove(step);
    }

    /// The lines for a terminal of this size. `beat` turns the spinners.
    pub(super) fn render(&self, rows: usize, columns: usize, beat: usize) -> String {
        // A line that fills the last column would wrap on some terminals.
        let width = columns.saturating_sub(1);
        // One for the run, and one above everything for what is printed.
        let room = rows.saturating_sub(2).max(1);
        let shown = &self.rows[..self.rows.len().min(room)];
        let longest = shown.iter().map(|name| measure_text_width(name)).max().unwrap_or(0);
        let name_width = longest.min(LONGEST_NAME.min(width / 3));
        let spinner = SPINNER[beat % SPINNER.len()];
        let mut lines: Vec<String> = shown
            .iter()
            .filter_map(|name| {
                let start = format!("{spinner} {}", fixed(name, name_width));
                Some(line(start, &self.work.get(name)?.pieces(), width))
            })
            .collect();
        lines.push(line(String::new(), &self.whole(self.rows.len() - shown.len()), width));
        lines.join("\n")
    }

    /// The line of the whole run.
    fn whole(&self, hidden: usize) -> Vec<Piece> {
        let decided = self.executed + self.cached + self.failed + self.skipped;
        let mut pieces = vec![
            Piece { rank: 0, text: format!("{decided}/{} steps", self.steps) },
            Piece { rank: 1, text: format!("{} running", self.rows.len()) },
        ];
        let mut add = |rank, count: usize, what: &str| {
            if count > 0 {
                pieces.push(Piece { rank, text: format!("{count} {what}") });
            }
        };
        add(2, self.failed, "failed");
        add(5, self.cached, "cached");
        add(4, self.skipped, "skipped");
        add(3, hidden, "not shown");
        pieces.push(Piece { rank: 2, text: Pace::brief(self.begun.elapsed()) });
        pieces
    }
}

/// A part of a line. Those of low rank stay where there is little room.
struct Piece {
    rank: usize,
    text: String,
}

impl Work {
    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut add = |rank, text: String| {
            if !text.is_empty() {
                pieces.push(Piece { rank, text });
            }
        };
        let Pace { total, unit, .. } = &self.pace;
        match total.filter(|total| *total > 0) {
            Some(total) => {
                let part = (self.done as f64 / total as f64).min(1.0);
                let full = (part * BAR as f64) as usize;
                add(5, format!("{}{}", "█".repeat(full), "░".repeat(BAR - full)));
                add(1, format!("{:>3.0}%", (part * 100.0).floor()));
                add(4, format!("{}/{total} {unit}", self.done));
            }
            None if self.done > 0 => add(4, format!("{} {unit}", self.done)),
            None => {}
        }
        add(6, self.pace.rate(self.done).map(per_second).unwrap_or_default());
        match self.pace.left(self.done) {
            Some(left) => add(2, format!("{} left", Pace::brief(left))),
            None => add(2, Pace::brief(self.since.elapsed())),
        }
        add(3, self.gpus.clone());
        add(7, self.message.clone());
        pieces
    }
}

/// Units a second, or seconds a unit where they are slow.
fn per_second(rate: f64) -> String {
    match rate {
        100.0.. => format!("{rate:.0}/s"),
        1.0.. => format!("{rate:.1}/s"),
        _ => format!("{:.1} s each", 1.0 / rate),
    }
}

/// What begins a line, and those of the pieces that find room, in their order.
fn line(start: String, pieces: &[Piece], width: usize) -> String {
    let mut by_rank: Vec<usize> = (0..pieces.len()).collect();
    by_rank.sort_by_key(|at| pieces[*at].rank);
    let mut free = width.saturating_sub(measure_text_width(&start));
    let mut chosen: BTreeMap<usize, String> = BTreeMap::new();
    for at in by_rank {
        let (text, last) = (&pieces[at].text, at + 1 == pieces.len());
        let room = free.saturating_sub(if start.is_empty() && chosen.is_empty() { 0 } else { 2 });
        let wanted = measure_text_width(text);
        if wanted <= room {
            free = room - wanted;
            chosen.insert(at, text.clone());
        } else if last && room >= SHORTEST {
            // What comes last is a message: its beginning is better than nothing.
            chosen.insert(at, truncate_str(text, room, "…").into_owned());
            free = 0;
        }
    }
    let parts = Some(start).filter(|start| !start.is_empty()).into_iter().chain(chosen.into_values());
    let line = parts.collect::<Vec<_>>().join("  ");
    truncate_str(&line, width, "…").into_owned()
}

/// A name in a column of this width: its ends tell more than its middle.
fn fixed(name: &str, width: usize) -> String {
    let count = name.chars().count();
    if measure_text_width(name) <= width || width < 3 || count < width {
        return pad_str(name, width, console::Alignment::Left, Some("…")).into_owned();
    }
    let (head, tail) = (width / 2, width - width / 2 - 1);
    let mut short: String = name.chars().take(head).collect();
    short.push('…');
    short.extend(name.chars().skip(count - tail));
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(view: &mut View, step: &str, gpus: &[&str]) {
        let gpus = gpus.iter().map(|&gpu| gpu.to_owned()).collect();
        view.react(&Event::StepStarted { step: step.to_owned(), why: String::new(), gpus });
        // No time has passed before that, however slow the test is.
        view.begun = Instant::now() + Duration::from_secs(3600);
        view.work(step).since = view.begun;
    }

    fn run(steps: usize) -> View {
        let mut view = View::new();
        let (recipe, folder) = (String::new(), String::new());
        view.react(&Event::RunStarted { recipe, steps, folder });
        view
    }

    #[test]
    fn a_step_shows_what_there_is_room_for() {
        let mut view = run(3);
        started(&mut view, "train[method=lora,seed=1]", &["1"]);
        let work = view.work("train[method=lora,seed=1]");
        work.begin(Some(200), "steps");
        work.update(50, "loss 1.25");
        let first = |columns| view.render(24, columns, 0).lines().next().unwrap().to_owned();
        assert_eq!(
            first(100),
            "- train[method=lora,seed=1]  ███░░░░░░░░░░░   25%  50/200 steps  0s  gpu 1  loss 1.25"
        );
        assert_eq!(first(60), "- train[met…a,seed=1]   25%  50/200 steps  0s  gpu 1");
        assert_eq!(first(40), "- train[…eed=1]   25%  0s  gpu 1");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_more_than_fit() {
        let mut view = run(200);
        for step in 0..200 {
            let name = format!("a step whose name is long 日本語[seed={step}]");
            started(&mut view, &name, &["0", "1", "2", "3"]);
            let work = view.work(&name);
            work.begin(Some(1_000_000), "steps");
            work.update(999_999, "a message of many words that says a lot");
        }
        for columns in [1, 2, 10, 20, 40, 80, 300] {
            for rows in [1, 2, 3, 10, 50] {
                let text = view.render(rows, columns, 3);
                assert!(text.lines().count() <= rows.max(2) - usize::from(rows > 2), "{rows}: {text}");
                let widest = text.lines().map(measure_text_width).max().unwrap();
                assert!(widest < columns.max(2), "{columns}: {text}");
            }
        }
        let text = view.render(10, 80, 0);
        assert!(text.ends_with("0/200 steps  200 running  192 not shown  0s"), "{text}");
    }

    #[test]
    fn the_run_counts_what_is_decided() {
        let mut view = run(4);
        started(&mut view, "a", &[]);
        started(&mut view, "b", &[]);
        let (step, artifact) = ("c".to_owned(), String::new());
        view.react(&Event::StepCached { step, artifact, warnings: Vec::new() });
        let (step, artifact) = ("a".to_owned(), String::new());
        view.react(&Event::StepFinished { step, artifact, seconds: 1.0, warnings: Vec::new() });
        assert_eq!(view.render(24, 80, 1), "\\ b  0s\n2/4 steps  1 running  1 cached  0s");
    }
}

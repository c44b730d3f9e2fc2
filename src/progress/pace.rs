//! How far a step is and how long it may still take.

use std::time::{Duration, Instant};

/// One phase of a step's work.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) total: Option<u64>,
    pub(super) unit: String,
    /// The first units that were told and when: a resumed step does not begin at 0.
    first: Option<(u64, Instant)>,
    said: Instant,
}

impl Pace {
    pub(super) fn new(total: Option<u64>, unit: &str) -> Self {
        Self { total, unit: unit.to_owned(), first: None, said: Instant::now() }
    }

    /// Notes that `done` units are done; gives whether somebody should be told, at most once a `pause`.
    pub(super) fn is_due(&mut self, done: u64, pause: Duration) -> bool {
        self.first.get_or_insert((done, Instant::now()));
        let due = self.said.elapsed() >= pause;
        if due {
            self.said = Instant::now();
        }
        due
    }

    /// Units a second so far.
    pub(super) fn rate(&self, done: u64) -> Option<f64> {
        let (first, since) = self.first?;
        let units = done.checked_sub(first).filter(|units| *units > 0)?;
        Some(units as f64 / since.elapsed().as_secs_f64().max(1e-9))
    }

    /// Time to the end at the speed so far.
    pub(super) fn left(&self, done: u64) -> Option<Duration> {
        let (rate, total) = (self.rate(done)?, self.total?);
        Duration::try_from_secs_f64(total.saturating_sub(done) as f64 / rate).ok()
    }

    /// `42s`, `1m05s`, `1h02m`.
    pub(super) fn brief(time: Duration) -> String {
        match time.as_secs() {
            seconds @ 0..60 => format!("{seconds}s"),
            seconds @ 60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
            seconds @ 3600..360_000 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
            seconds => format!("{}d", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_step_counts_only_what_it_did_itself() {
        let mut pace = Pace::new(Some(100), "steps");
        assert!(pace.left(50).is_none(), "nothing is known yet");
        pace.first = Some((80, Instant::now() - Duration::from_secs(10)));
        assert!(!pace.is_due(90, Duration::from_secs(60)));
        // Ten steps in ten seconds, ten to go.
        let left = pace.left(90).unwrap().as_secs_f64();
        assert!((left - 10.0).abs() < 0.5, "{left}");
        assert!(pace.left(80).is_none());
        assert!(Pace::new(None, "rows").left(5).is_none());
    }

    #[test]
    fn times_are_short() {
        let brief = |seconds| Pace::brief(Duration::from_secs(seconds));
        assert_eq!([5, 65, 3725, 400_000].map(brief), ["5s", "1m05s", "1h02m", "4d"]);
    }
}

//! How far a step is and how long it may still take, for those who are told only now and then.

use std::time::{Duration, Instant};

/// One phase of a step's work.
pub(super) struct Pace {
    pub(super) total: Option<u64>,
    pub(super) unit: &'static str,
    /// The first units that were told and when: a resumed step does not begin at 0.
    first: Option<(u64, Instant)>,
    said: Instant,
}

impl Pace {
    pub(super) fn new(total: Option<u64>, unit: &'static str) -> Self {
        Self { total, unit, first: None, said: Instant::now() }
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

    /// Time to the end at the speed so far.
    pub(super) fn left(&self, done: u64) -> Option<Duration> {
        let ((first, since), total) = (self.first?, self.total?);
        let seconds = since.elapsed().as_secs_f64() / done.checked_sub(first).filter(|n| *n > 0)? as f64;
        Duration::try_from_secs_f64(seconds * total.saturating_sub(done) as f64).ok()
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
}

//! [`Work`]: what the caller lends to a fetch: a way to stop it, a log and a progress bar.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::progress::Progress;

/// Lent by the caller.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// Fails once the work shall stop.
    pub stop: &'a (dyn Fn() -> anyhow::Result<()> + Sync),
    /// Takes a line for the log.
    pub log: &'a (dyn Fn(&str) + Sync),
    /// Takes a line that the user must see.
    pub warn: &'a (dyn Fn(&str) + Sync),
    /// Shows how far it is.
    pub progress: &'a dyn Progress,
}

impl Work<'_> {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        (self.stop)()
    }

    pub(super) fn log(&self, line: &str) {
        (self.log)(line);
    }

    pub(super) fn warn(&self, line: &str) {
        (self.warn)(line);
    }
}

/// Bytes of all files together, shown now and then.
pub(super) struct Meter<'a> {
    progress: &'a dyn Progress,
    bytes: AtomicU64,
    shown: Mutex<Instant>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(progress: &'a dyn Progress, total: u64) -> Self {
        progress.begin(Some(total >> 20).filter(|total| *total > 0), "MiB");
        Self { progress, bytes: AtomicU64::new(0), shown: Mutex::new(Instant::now()) }
    }

    pub(super) fn add(&self, bytes: u64, name: &str) {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Ok(mut shown) = self.shown.try_lock()
            && shown.elapsed() > Duration::from_millis(100)
        {
            *shown = Instant::now();
            self.progress.update(bytes >> 20, name);
        }
    }

    /// Shows the final state.
    pub(super) fn finish(&self) {
        self.progress.update(self.bytes.load(Ordering::Relaxed) >> 20, "");
    }

    /// Bytes that must be fetched once more.
    pub(super) fn take_back(&self, bytes: u64) {
        let _ = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| Some(all.saturating_sub(bytes)));
    }
}

/// Calls `on_stop` as soon as the work shall stop, even while `run` waits for a server.
pub(super) fn watched<T>(work: &Work, on_stop: impl FnOnce() + Send, run: impl FnOnce() -> T) -> T {
    /// Ends the watch even when `run` panics.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let done = AtomicBool::new(false);
    let stop = work.stop;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                if stop().is_err() {
                    on_stop();
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let _over = Over(&done);
        run()
    })
}

//! The wish that work should stop, passed from signals and timeouts to every long loop.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

/// Set by a signal; long loops ask it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicI32>);

/// The error of a step that stopped because it was asked to.
#[derive(Debug)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped on request")
    }
}

impl std::error::Error for Cancelled {}

impl Cancel {
    /// Asks everything to stop because of this signal.
    pub fn set(&self, signal: i32) {
        self.0.store(signal, Ordering::SeqCst);
    }

    /// The signal, once there was one.
    pub fn signal(&self) -> Option<i32> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }

    /// # Errors
    /// [`Cancelled`] once a signal came; pass it up with `?`.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.signal().is_some() { Err(anyhow::Error::new(Cancelled)) } else { Ok(()) }
    }
}

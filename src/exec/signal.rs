//! SIGINT, SIGTERM and SIGHUP (the terminal closed): the first asks for an orderly stop, the second ends the process at once.

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::cancel::Cancel;

/// Starts watching; gives the token that the first signal sets.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn watch_signals() -> anyhow::Result<Cancel> {
    let cancel = Cancel::default();
    let token = cancel.clone();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if token.signal().is_some() {
                crate::steps::kill_running();
                std::process::exit(128 + signal);
            }
            token.set(signal);
        }
    });
    Ok(cancel)
}

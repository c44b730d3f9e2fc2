//! SIGINT, SIGTERM and SIGHUP (the terminal closed): the first asks for an orderly stop, the second ends the process at once.
//! A SIGHUP that `nohup` ignores stays ignored.

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
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
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

/// Whether whoever started this process had a signal ignored. Told on Linux alone.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (signal - 1) != 0)
}

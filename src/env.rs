//! Every environment variable that evergraft reads; `NO_COLOR` is honoured by the libraries that
//! colour.

use std::path::PathBuf;

/// Folder of the step cache; wins over `XDG_CACHE_HOME` and `HOME`.
pub const CACHE_DIR: &str = "EVERGRAFT_CACHE_DIR";
/// Any value but `0` turns progress bars off (plain lines remain).
pub const NO_PROGRESS: &str = "EVERGRAFT_NO_PROGRESS";
/// Set by continuous-integration services: no progress bars.
pub const CI: &str = "CI";

/// Whether a switch-like variable is on.
pub fn is_on(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}

/// `EVERGRAFT_CACHE_DIR`, else `$XDG_CACHE_HOME/evergraft`, else `~/.cache/evergraft`.
pub fn cache_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(CACHE_DIR)
        .or_else(|| {
            set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("evergraft"))
        })
        .or_else(|| set("HOME").map(|path| path.join(".cache/evergraft")))
}

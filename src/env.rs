//! Every environment variable that evergraft reads; `NO_COLOR` is honoured by the libraries that
//! colour.

use std::{path::PathBuf, time::Duration};

/// Folder of the step cache; wins over `XDG_CACHE_HOME` and `HOME`.
pub const CACHE_DIR: &str = "EVERGRAFT_CACHE_DIR";
/// Address of a cache that other machines share; `--remote` wins.
pub const REMOTE: &str = "EVERGRAFT_REMOTE";
/// What the remote cache is used for: `off`, `read`, `write` or `read-write`; `--remote-mode` wins.
pub const REMOTE_MODE: &str = "EVERGRAFT_REMOTE_MODE";
/// Any value but `0` turns progress bars off (plain lines remain).
pub const NO_PROGRESS: &str = "EVERGRAFT_NO_PROGRESS";
/// Set by continuous-integration services: no progress bars.
pub const CI: &str = "CI";
/// Seconds between asking a step to stop and killing it [default: 10].
pub const STOP_GRACE: &str = "EVERGRAFT_STOP_GRACE";
/// `place:n`, in a debug build: where a test kills the process (`src/fault.rs`).
#[cfg(debug_assertions)]
pub const FAULT: &str = "EVERGRAFT_FAULT";

/// How LibTorch's threads wait for each other; set to `passive` for steps that compute, where it is not set.
pub const OMP_WAIT_POLICY: &str = "OMP_WAIT_POLICY";
/// How often they look before they sleep; set likewise.
pub const GOMP_SPINCOUNT: &str = "GOMP_SPINCOUNT";
/// How many heaps the C library has; set likewise, as are the next two.
pub const MALLOC_ARENA_MAX: &str = "MALLOC_ARENA_MAX";
/// From how much free memory on it gives some back.
pub const MALLOC_TRIM_THRESHOLD: &str = "MALLOC_TRIM_THRESHOLD_";
/// From which size on it asks the system for each piece.
pub const MALLOC_MMAP_THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";

/// The graphics cards that may be used; `run` hands them out one by one, and sets it for each step that
/// has some.
pub const CUDA_VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// Whether Python keeps what it compiles beside what it imports; set to `1` for `command` steps, where it is
/// not set.
pub const PYTHONDONTWRITEBYTECODE: &str = "PYTHONDONTWRITEBYTECODE";

/// Where the hub is [default: <https://huggingface.co>].
pub const HF_ENDPOINT: &str = "HF_ENDPOINT";
/// Folder of the hub's files; wins over `HF_HOME`.
pub const HF_HUB_CACHE: &str = "HF_HUB_CACHE";
/// Folder that holds `hub` and `token` [default: $XDG_CACHE_HOME/huggingface or
/// ~/.cache/huggingface].
pub const HF_HOME: &str = "HF_HOME";
/// Access token of the hub; wins over the file `$HF_HOME/token`. Sent to the endpoint alone, in a
/// header; never stored, hashed or printed.
pub const HF_TOKEN: &str = "HF_TOKEN";
/// File that holds the token, instead of `$HF_HOME/token`.
pub const HF_TOKEN_PATH: &str = "HF_TOKEN_PATH";
/// `1`, `on`, `yes` or `true`: make no request, use what the hub's cache holds.
pub const HF_HUB_OFFLINE: &str = "HF_HUB_OFFLINE";
/// PEM file of the certificates to trust, instead of those built in.
pub const SSL_CERT_FILE: &str = "SSL_CERT_FILE";

/// The value of a variable that is set and not empty.
pub fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The path that a variable holds.
pub fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `HF_HOME`, else `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface`.
pub fn hf_home() -> Option<PathBuf> {
    path(HF_HOME)
        .or_else(|| path("XDG_CACHE_HOME").map(|folder| folder.join("huggingface")))
        .or_else(|| path("HOME").map(|home| home.join(".cache/huggingface")))
}

/// How long a step that was asked to stop may still take.
pub fn stop_grace() -> Duration {
    let seconds = text(STOP_GRACE).and_then(|seconds| seconds.parse().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(Duration::from_secs(10))
}

/// Whether a switch-like variable is on.
pub fn is_on(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}

/// `EVERGRAFT_CACHE_DIR`, else `$XDG_CACHE_HOME/evergraft`, else `~/.cache/evergraft`.
pub fn cache_dir() -> Option<PathBuf> {
    path(CACHE_DIR)
        .or_else(|| {
            path("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("evergraft"))
        })
        .or_else(|| path("HOME").map(|path| path.join(".cache/evergraft")))
}

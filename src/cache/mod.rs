//! The step cache: artifacts by content, one record a key as the only commit point, kernel locks.
//! Nothing else writes below the cache folder, but for downloads and checkpoints.
//!
//! ```text
//! <cache>/CACHEDIR.TAG, use.lock
//! <cache>/steps-v1/records/ab/<key>      what a key led to; a checksum line, then JSON
//! <cache>/steps-v1/artifacts/ab/<digest>/   the files, named by their content
//! <cache>/steps-v1/logs/ab/<key>.txt     the log of the run that made it
//! <cache>/steps-v1/shown/ab/<key>-<digest>/  links to an artifact and a log, which run folders link to
//! <cache>/steps-v1/last/<node>           the key that a node of a recipe last had, for `explain`
//! <cache>/steps-v1/sources/<path>      digests of files outside the cache, so that they are read once
//! <cache>/steps-v1/checkpoints/<key>/   where a killed training goes on; gone once its result is there
//! <cache>/steps-v1/kept/<run>          the keys that a kept run needs
//! <cache>/steps-v1/locks/<key>, users/, tmp/, damaged/, format
//! <cache>/downloads-v1/<sha256>/         files of the web, kept by the steps that fetch them
//! ```

mod files;
mod folder;
mod kept;
mod lock;
mod mode;
mod prune;
mod record;
mod remote;
mod sources;
mod store;
mod verify;
mod workspace;

pub use folder::Cache;
pub use kept::KeptRun;
pub(crate) use lock::open as open_lock;
pub use lock::{LockOptions, UseLock};
pub use mode::Mode;
pub use prune::{PruneRules, Pruned, PrunedItem};
pub use record::{ArtifactFile, Record};
pub use remote::Remote;
pub use sources::Source;
pub use store::{EntryLock, Lookup, MissReason};
pub use verify::{Damage, Size};
pub use workspace::Workspace;

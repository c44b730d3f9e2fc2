//! Fuzz targets of evergraft; docs/fuzzing.md tells how to run them.

mod entries;

use std::{fs, path::Path, sync::LazyLock};

pub use entries::*;

/// Works in a folder that is emptied before the next input, and reused: making one takes longer
/// than reading most inputs.
pub fn in_folder(work: impl FnOnce(&Path)) {
    static FOLDER: LazyLock<tempfile::TempDir> =
        LazyLock::new(|| tempfile::tempdir().expect("the folder for temporary files can be written"));
    for entry in fs::read_dir(FOLDER.path()).expect("it is there").flatten() {
        fs::remove_file(entry.path()).expect("it holds files only");
    }
    work(FOLDER.path());
}

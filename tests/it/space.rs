//! A folder with a recipe, and the real binary run in it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::messages;

/// A temporary folder with its own cache.
pub(crate) struct Space {
    dir: tempfile::TempDir,
}

/// What the binary did.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Space {
    /// A folder that holds `recipe.yaml`.
    pub(crate) fn new(recipe: &str) -> Self {
        let space = Self { dir: tempfile::tempdir().unwrap() };
        space.write("recipe.yaml", recipe);
        space
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Copies a folder of this repository, so that no place in a recipe depends on where that lies.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(from);
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            self.write(
                &format!("{to}/{}", entry.file_name().display()),
                std::fs::read(entry.path()).unwrap(),
            );
        }
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evergraft"));
        command
            .args(args)
            .current_dir(self.path())
            .env("EVERGRAFT_CACHE_DIR", self.path().join("cache"))
            .env("EVERGRAFT_NO_PROGRESS", "1");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.ran(args, self.command(args).output().unwrap())
    }

    /// What a run with these words said, compared with what it said when the snapshot was made.
    pub(crate) fn ran(&self, args: &[&str], output: Output) -> Ran {
        let ran = Ran::from(output);
        messages::must_be_known(self.path(), args, &ran);
        ran
    }

    /// Runs, and insists on this exit code.
    pub(crate) fn expect(&self, code: i32, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "{args:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran
    }

    /// Runs the recipe; gives the numbers of executed and cached steps.
    pub(crate) fn counts(&self, args: &[&str]) -> (u64, u64) {
        let args: Vec<&str> = ["run", "--format", "json"].iter().chain(args).copied().collect();
        let ran = self.expect(0, &args);
        let last: serde_json::Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        assert_eq!(last["event"], "run_finished");
        (last["executed"].as_u64().unwrap(), last["cached"].as_u64().unwrap())
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Every file below a folder, sorted; none where there is no folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().flatten();
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

//! Several runners on one cache, a cache that cannot be written, clocks that go back, signals, and files that
//! change while they are read.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use evergraft::{
    cache::{Cache, Mode},
    digest::Digest,
};

use crate::{
    kill::{files, results},
    processes::of_space,
    space::Space,
};

/// Twelve steps in three layers; each notes that it ran.
fn layers() -> String {
    let mut recipe = "version: 1\nname: kill\nsteps:\n".to_owned();
    for at in 0..12 {
        let before = if at < 4 { Vec::new() } else { vec![at - 4, (at / 4 - 1) * 4 + (at + 1) % 4] };
        let steps: Vec<String> = before.iter().map(|b| format!("s{b}: \"${{{{ steps.s{b} }}}}\"")).collect();
        let cats: String = before.iter().map(|b| format!("cat \\\"$STEP_S{b}/o\\\" >> o; ")).collect();
        recipe += &format!(
            "  s{at}: {{ uses: command, with: {{ run: \"echo s{at} >> \\\"$COUNT\\\"; echo {at} > o; {cats}\", steps: {{ {} }}, outputs: [o] }} }}\n",
            steps.join(", ")
        );
    }
    recipe
}

#[test]
fn runners_at_once_run_every_step_once() {
    let undisturbed = Space::new(&layers());
    let run = |space: &Space, outputs: &str| {
        let mut command = space.command(&["run", "-q", "--outputs", outputs]);
        command.env("COUNT", space.path().join("count"));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    assert!(run(&undisturbed, "outputs").wait().unwrap().success());
    for runners in [2, 8] {
        let space = Space::new(&layers());
        // One folder of outputs for all, as on a shared disk.
        let children: Vec<_> = (0..runners).map(|_| run(&space, "outputs")).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let mut ran: Vec<String> = space.read("count").lines().map(str::to_owned).collect();
        ran.sort();
        let once: BTreeSet<String> = (0..12).map(|at| format!("s{at}")).collect();
        assert_eq!(ran, once.into_iter().collect::<Vec<_>>(), "{runners} runners");
        assert_eq!(results(&space), results(&undisturbed));
        let cache = |space: &Space| files(&space.path().join("cache"));
        assert_eq!(cache(&space), cache(&undisturbed));
        space.expect(0, &["cache", "verify"]);
    }
}

const TWO: &str = r#"version: 1
name: two
params: { word: one }
steps:
  a: { uses: command, with: { run: "cat \"$INPUT_1\" > a", inputs: [in.txt], outputs: [a] } }
  b: { uses: command, with: { run: "cat \"$STEP_A/a\" > b; echo ${{ params.word }} >> b", steps: { a: "${{ steps.a }}" }, outputs: [b] } }
"#;

fn two() -> Space {
    let space = Space::new(TWO);
    space.write("in.txt", "in");
    space.counts(&[]);
    space
}

/// Mounts something until it is dropped.
struct Mount(PathBuf);

impl Mount {
    /// A folder that is there, at the same place and not to be written.
    fn read_only(folder: &Path) -> Option<Self> {
        let mount = |args: &[&str]| Command::new("mount").args(args).arg(folder).output();
        let folder_text = folder.to_str().unwrap();
        let bound = mount(&["--bind", folder_text]).is_ok_and(|output| output.status.success());
        let bound = bound.then(|| Self(folder.to_owned()))?;
        mount(&["-o", "remount,bind,ro"]).is_ok_and(|output| output.status.success()).then_some(bound)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Root may write whatever the mode of a file says, so the disk itself forbids it.
#[test]
fn a_cache_on_a_read_only_disk_is_read() {
    let space = two();
    let before = files(&space.path().join("cache"));
    let Some(mount) = Mount::read_only(&space.path().join("cache")) else {
        eprintln!("skipped: only root can mount a read-only disk");
        return;
    };
    assert!(fs::write(space.path().join("cache/x"), "").is_err(), "the disk can be written");
    let ran = space.expect(0, &["run"]);
    assert!(ran.stderr.contains("0 run, 2 cached"), "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot be written (Read-only file system"), "{}", ran.stderr);
    let ran = space.expect(0, &["run", "--set", "params.word=two"]);
    assert!(ran.stderr.contains("1 run, 1 cached"), "{}", ran.stderr);
    assert_eq!(space.read("outputs/two/latest/steps/b/artifact/b"), "intwo\n");
    space.expect(0, &["plan", "--check"]);
    space.expect(0, &["cache", "verify"]);
    let ran = space.expect(2, &["cache", "prune", "--max-size", "0"]);
    assert!(ran.stderr.contains("is only read"), "{}", ran.stderr);
    drop(mount);
    assert_eq!(files(&space.path().join("cache")), before);
}

/// Everything was written tomorrow: what a clock that was set back leaves.
#[test]
fn files_of_the_future_are_as_good_as_others() {
    let space = two();
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    let all = walkdir::WalkDir::new(space.path().join("cache")).into_iter().map(Result::unwrap);
    let cached = all.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path);
    for path in cached.chain([space.path().join("in.txt")]) {
        fs::File::open(&path).unwrap().set_modified(tomorrow).unwrap();
    }
    assert_eq!(space.counts(&[]), (0, 2));
    space.expect(0, &["cache", "verify"]);
    // What is of the future was used just now.
    let ran = space.expect(0, &["cache", "prune", "--older-than", "1h"]);
    assert!(ran.stdout.contains("removed 0 things"), "{}", ran.stdout);
    // Another content of the same length and, as far as a program can do that, of the same time.
    let input = space.write("in.txt", "IN");
    fs::File::open(&input).unwrap().set_modified(tomorrow).unwrap();
    assert_eq!(space.counts(&[]), (2, 0));
    assert_eq!(space.read("outputs/two/latest/steps/b/artifact/b"), "INone\n");
    // And back to the first one, written in the past.
    let input = space.write("in.txt", "in");
    fs::File::open(&input).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(space.counts(&[]), (0, 2));
}

/// Stopping and going on ends many system calls early (EINTR), as a signal with a handler does. A second of it
/// would be luck, so it goes on until the run is over.
#[test]
fn a_rain_of_signals_changes_nothing() {
    let undisturbed = Space::new(&layers());
    let start = |space: &Space| {
        let mut command = space.command(&["run", "-q"]);
        command.env("COUNT", space.path().join("count"));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    assert!(start(&undisturbed).wait().unwrap().success());
    let space = Space::new(&layers());
    let mut child = start(&space);
    let mut rained = 0;
    while child.try_wait().unwrap().is_none() {
        // The runner, the processes of its steps, and theirs.
        let pids: Vec<String> = of_space(&space).iter().map(u32::to_string).collect();
        for signal in ["-WINCH", "-STOP", "-CONT"] {
            let _ = Command::new("kill").arg(signal).args(&pids).stderr(Stdio::null()).status();
            rained += pids.len();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(rained > 0);
    assert_eq!(results(&space), results(&undisturbed));
    space.expect(0, &["cache", "verify"]);
}

#[test]
fn a_file_that_changes_while_its_step_runs_gives_no_result() {
    let space = two();
    let input = space.path().join("in.txt");
    // The step itself is the one who changes it: no need to be quick. The first time the length stays.
    for change in ["printf IN", "printf 'in and more'"] {
        space.write("in.txt", "in");
        let recipe = format!(
            "version: 1\nname: two\nsteps:\n  a: {{ uses: command, with: {{ run: \"cat \\\"$INPUT_1\\\" > a; {change} > '{}'\", inputs: [in.txt], outputs: [a] }} }}\n",
            input.display()
        );
        space.write("recipe.yaml", recipe);
        let ran = space.expect(1, &["run"]);
        assert!(
            ran.stderr.contains("in.txt` was changed while the step read it; run again"),
            "{}",
            ran.stderr
        );
        space.expect(5, &["plan", "--check"]);
    }
}

/// A map of a file that is cut meanwhile would end the process (SIGBUS).
#[test]
fn a_file_that_is_cut_while_it_is_read_is_told_of_or_read() {
    let space = Space::new("version: 1\n");
    let cache = Cache::open(&space.path().join("cache"), Mode::default()).unwrap();
    let content = vec![b'a'; 1 << 20];
    let path = space.write("file", &content);
    let done = AtomicBool::new(false);
    let mut errors = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Cuts it to nothing first.
                fs::write(&path, &content).unwrap();
            }
        });
        for _ in 0..50 {
            // What a run does: the digest for the key, and a look at the end of the step.
            errors.extend(cache.source(&path).and_then(|source| source.check_unchanged()).err());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(errors.iter().all(|error| error.to_string().contains("was changed while")), "{errors:?}");
    assert_eq!(cache.source(&path).unwrap().digest, Digest::of_bytes(&content));
}

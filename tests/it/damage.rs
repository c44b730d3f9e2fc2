//! Every file that the cache and a run's folder keep about themselves, cut at every length and with a bit
//! of every byte turned: a miss, a warning or a clear error; never a panic, and never a wrong hit.

use std::{
    fs,
    path::{Path, PathBuf},
};

use evergraft::{
    cache::{Cache, Mode},
    digest::Digest,
    exec::PastRun,
};

use crate::space::{Ran, Space};

const RECIPE: &str = r#"version: 1
name: two
steps:
  a: { uses: command, with: { run: "cat \"$INPUT_1\" > x", inputs: [in.txt], outputs: [x] } }
  b: { uses: command, with: { run: "cat \"$STEP_A/x\" > y", steps: { a: "${{ steps.a }}" }, outputs: [y] } }
"#;

/// A finished run of `RECIPE`, kept.
fn space() -> Space {
    let space = Space::new(RECIPE);
    space.write("in.txt", "one");
    space.expect(0, &["run", "-q"]);
    space.expect(0, &["cache", "keep", "two/latest"]);
    space
}

fn open(space: &Space) -> Cache {
    Cache::open(&space.path().join("cache"), Mode::default()).unwrap()
}

/// The files below a folder of the cache.
fn files(space: &Space, folder: &str) -> Vec<PathBuf> {
    let below = walkdir::WalkDir::new(space.path().join("cache/steps-v1").join(folder)).sort_by_file_name();
    let files = below.into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    files.map(walkdir::DirEntry::into_path).collect()
}

/// Damages a file in every way and looks each time; then it is whole again. Gives the number of ways.
fn damaged(file: &Path, mut look: impl FnMut(&str)) -> usize {
    let whole = fs::read(file).unwrap();
    assert!(!whole.is_empty(), "{}", file.display());
    let cuts = (0..whole.len()).map(|end| (format!("cut at {end}"), whole[..end].to_vec()));
    let turns = (0..whole.len()).map(|at| {
        let mut other = whole.clone();
        other[at] ^= 1 << (at % 8);
        (format!("a bit turned at {at}"), other)
    });
    let mut ways = 0;
    for (way, bytes) in cuts.chain(turns) {
        // Written over, some file systems would wait for the disk each time.
        fs::remove_file(file).unwrap();
        fs::write(file, bytes).unwrap();
        look(&way);
        ways += 1;
    }
    fs::write(file, whole).unwrap();
    ways
}

fn digest_of(record: &Path) -> Digest {
    format!("blake3:{}", record.file_name().unwrap().to_str().unwrap()).parse().unwrap()
}

#[test]
fn a_damaged_record_is_a_miss() {
    let space = space();
    let cache = open(&space);
    for record in files(&space, "records") {
        let digest = digest_of(&record);
        let ways = damaged(&record, |way| {
            assert!(cache.peek(&digest).is_err(), "{way}");
            assert!(cache.key_of(&digest).is_none(), "{way}");
        });
        assert!(ways > 1000 && cache.peek(&digest).is_ok());
    }
}

#[test]
fn a_damaged_memory_of_a_node_is_none() {
    let space = space();
    let cache = open(&space);
    let memories = files(&space, "last");
    assert_eq!(memories.len(), 2);
    for memory in memories {
        let known = |cache: &Cache| ["a", "b"].map(|node| cache.last_key("two", node).is_some());
        assert_eq!(known(&cache), [true, true]);
        damaged(&memory, |way| {
            assert_eq!(known(&cache).iter().filter(|known| **known).count(), 1, "{way}");
        });
        fs::write(&memory, "torn").unwrap();
        // It is for explanations alone, so nothing is said.
        let ran = space.expect(0, &["run"]);
        assert!(ran.stderr.contains("0 run, 2 cached") && !ran.stderr.contains("warning"), "{}", ran.stderr);
        assert_eq!(known(&cache), [true, true], "it is written again");
    }
}

#[test]
fn a_damaged_memory_of_a_source_is_read_again() {
    let space = space();
    // Only of what has not changed for two seconds the digest is remembered.
    std::thread::sleep(std::time::Duration::from_millis(2200));
    space.expect(0, &["plan"]);
    // It is not written again while it is damaged.
    let cache = Cache::open(&space.path().join("cache"), Mode::Read).unwrap();
    let [memory] = &files(&space, "sources")[..] else { panic!("one source is remembered") };
    damaged(memory, |way| {
        let source = cache.source(&space.path().join("in.txt").canonicalize().unwrap()).unwrap();
        assert_eq!(source.digest, Digest::of_bytes(b"one"), "{way}");
    });
}

#[test]
fn a_damaged_list_of_what_is_kept_stops_pruning() {
    let space = space();
    let cache = open(&space);
    let [list] = &files(&space, "kept")[..] else { panic!("one run is kept") };
    damaged(list, |way| {
        let error = cache.kept().expect_err(way).to_string();
        assert!(error.contains("does not tell what it keeps"), "{way}: {error}");
    });
    let whole = fs::read(list).unwrap();
    fs::write(list, &whole[..whole.len() - 1]).unwrap();
    let ran = space.run(&["cache", "prune", "--max-size", "0"]);
    assert!(ran.code != 0 && ran.stderr.contains("keep the run again"), "{}", ran.stderr);
    assert_eq!(files(&space, "records").len(), 2, "nothing was removed");
}

#[test]
fn a_damaged_format_is_at_worst_a_newer_one() {
    let space = space();
    let records: Vec<Digest> = files(&space, "records").iter().map(|path| digest_of(path)).collect();
    let format = space.path().join("cache/steps-v1/format");
    damaged(&format, |way| {
        let cache = open(&space);
        for digest in &records {
            assert_eq!(&cache.peek(digest).unwrap().digest, digest, "{way}");
        }
        let warnings = cache.take_warnings();
        assert!(warnings.iter().all(|warning| warning.contains("a newer evergraft")), "{way}: {warnings:?}");
    });
}

/// Its files have no checksums: they are for people, and nothing in the cache goes by them.
#[test]
fn a_damaged_run_folder_is_an_error_or_another_text() {
    let space = space();
    let outputs = space.path().join("outputs");
    let run = PastRun::find(Path::new("two/latest"), &outputs).unwrap();
    let (mut told, mut errors) = (0, 0);
    for name in ["plan.json", "run.json", "events.jsonl"] {
        damaged(&run.folder.join(name), |way| {
            let run = PastRun::find(&run.folder, &outputs).unwrap();
            run.state().expect(way);
            for error in [run.steps().err(), run.summary().err()].into_iter().flatten() {
                let text = format!("{error:#}");
                assert!(text.contains(name), "{way}: `{text}` does not name {name}");
                errors += 1;
            }
            told += 1;
        });
    }
    assert!(errors > 500 && told > errors);
    let whole = space.read("outputs/two/latest/run.json");
    space.write("outputs/two/latest/run.json", &whole[..whole.len() / 2]);
    for verb in [&["diff", "two/latest", "two/latest"][..], &["cache", "keep", "two/latest"]] {
        // What it says depends on how long the times in the file are: no snapshot of it.
        let ran = Ran::from(space.command(verb).output().unwrap());
        assert!(ran.code != 0 && ran.stderr.contains("run.json"), "{verb:?}: {}", ran.stderr);
    }
    assert_eq!(space.counts(&[]), (0, 2), "the cache does not go by it");
}

//! The remote cache: a folder in every test, a real S3 server in the ignored one
//! (`scripts/check-remote.sh`).

use std::path::{Path, PathBuf};

use crate::space::{Ran, Space, files_below};

const CHAIN: &str = r#"version: 1
name: chain
steps:
  a: { uses: command, with: { run: "echo told; mkdir d; cat \"$INPUT_1\" > d/a.txt; touch d/empty; mkdir d/none; printf '#!/bin/sh\necho hi\n' > tool; chmod 755 tool", inputs: [in.txt], outputs: [d, tool] } }
  b: { uses: command, with: { run: "\"$STEP_A/tool\" > b.txt; cat \"$STEP_A/d/a.txt\" >> b.txt", steps: { a: "${{ steps.a }}" }, outputs: [b.txt] } }
"#;

/// A machine: a folder and a cache of its own.
fn machine(recipe: &str) -> Space {
    let space = Space::new(recipe);
    space.write("in.txt", "abc");
    space
}

fn counts(space: &Space, remote: &str, more: &[&str]) -> (u64, u64, String) {
    let args: Vec<&str> =
        ["run", "--format", "json", "--remote", remote].iter().chain(more).copied().collect();
    let ran = space.expect(0, &args);
    let last: serde_json::Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    (last["executed"].as_u64().unwrap(), last["cached"].as_u64().unwrap(), ran.stdout)
}

fn warnings(events: &str) -> Vec<String> {
    let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events
        .filter(|event| event["event"] == "step_warned")
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect()
}

/// Every object of a kind, `files` or `records`.
fn objects(remote: &Path, kind: &str) -> Vec<PathBuf> {
    files_below(&remote.join("steps-v1").join(kind))
}

/// Results go to the remote and come from it, whole.
fn two_machines_share(remote: &str) {
    let (one, two) = (machine(CHAIN), machine(CHAIN));
    assert_eq!(counts(&one, remote, &[]).0, 2);
    let plan = two.expect(0, &["plan", "--check", "--remote", remote]);
    assert!(plan.stdout.contains("in the remote cache"), "{}", plan.stdout);
    let (executed, cached, events) = counts(&two, remote, &[]);
    assert_eq!((executed, cached), (0, 2), "{events}");
    assert!(warnings(&events).is_empty(), "{events}");
    for file in ["a/artifact/d/a.txt", "a/artifact/d/empty", "b/artifact/b.txt", "a/log.txt"] {
        let path = format!("outputs/chain/latest/steps/{file}");
        assert_eq!(two.read(&path), one.read(&path));
    }
    assert!(two.path().join("outputs/chain/latest/steps/a/artifact/d/none").is_dir());
    two.expect(0, &["cache", "verify"]);
    // What came from there is there to stay.
    assert_eq!(two.counts(&[]), (0, 2));
}

#[test]
fn two_machines_share_results() {
    let remote = tempfile::tempdir().unwrap();
    two_machines_share(remote.path().to_str().unwrap());
    let file = format!("file://{}", remote.path().display());
    assert_eq!(counts(&machine(CHAIN), &file, &[]).0, 0);
}

#[test]
fn modes_say_which_way_results_go() {
    let remote = tempfile::tempdir().unwrap();
    let path = remote.path().to_str().unwrap();
    assert_eq!(counts(&machine(CHAIN), path, &["--remote-mode", "read"]).0, 2);
    assert_eq!(counts(&machine(CHAIN), path, &["--remote-mode", "off"]).0, 2);
    assert!(objects(remote.path(), "records").is_empty());
    assert_eq!(counts(&machine(CHAIN), path, &["--remote-mode", "write"]).0, 2);
    assert_eq!(objects(remote.path(), "records").len(), 2);
    assert_eq!(counts(&machine(CHAIN), path, &["--remote-mode", "write"]).0, 2);
    assert_eq!(counts(&machine(CHAIN), path, &["--remote-mode", "read"]).0, 0);
    let space = machine(CHAIN);
    let mut command = space.command(&["run"]);
    let ran = Ran::from(command.env("EVERGRAFT_REMOTE", path).output().unwrap());
    assert!(ran.stderr.contains("0 run, 2 cached"), "{}", ran.stderr);
    // Every step runs where the cache says so, whatever another machine has made.
    for mode in ["off", "write"] {
        let space = machine(CHAIN);
        let args = ["--cache-mode", mode, "--remote", path];
        let plan = space.expect(5, &[&["plan", "--check"][..], &args].concat()).stdout;
        assert!(!plan.contains("in the remote cache"), "{plan}");
        assert_eq!(counts(&space, path, &args[..2]).0, 2);
    }
}

#[test]
fn damage_of_any_object_is_a_warning_and_is_mended() {
    let remote = tempfile::tempdir().unwrap();
    let path = remote.path().to_str().unwrap();
    counts(&machine(CHAIN), path, &[]);
    let all = [objects(remote.path(), "files"), objects(remote.path(), "records")].concat();
    assert_eq!(all.len(), 7, "{all:?}");
    for object in all {
        let whole = std::fs::read(&object).unwrap();
        if whole.is_empty() {
            continue;
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [Some(flipped), Some(whole[..whole.len() - 1].to_vec()), Some(Vec::new()), None] {
            match &damaged {
                Some(bytes) => std::fs::write(&object, bytes).unwrap(),
                None => std::fs::remove_file(&object).unwrap(),
            }
            let space = machine(CHAIN);
            let (executed, _, events) = counts(&space, path, &[]);
            let is_record = object.starts_with(remote.path().join("steps-v1/records"));
            let told = warnings(&events);
            if damaged.is_none() && is_record {
                assert!(told.is_empty(), "{told:?}");
            } else {
                assert_eq!(told.len(), 1, "{told:?}");
                assert!(told[0].contains("the remote cache") && told[0].contains(path), "{told:?}");
            }
            // A result is whole without its log.
            let is_log = whole == b"told\n";
            assert_eq!(executed == 0, is_log, "{object:?} {events}");
            assert!(space.read("outputs/chain/latest/steps/b/artifact/b.txt") == "hi\nabc");
            space.expect(0, &["cache", "verify"]);
            if is_log {
                std::fs::write(&object, &whole).unwrap();
            }
            // Whoever made it anew has put it right.
            assert!(damaged != Some(std::fs::read(&object).unwrap()), "{object:?}");
            assert_eq!(counts(&machine(CHAIN), path, &[]).0, 0);
        }
    }
}

/// A record whose checksums are all right, by somebody who may write to the remote.
fn forge(record: &Path, change: impl Fn(&mut serde_json::Value)) {
    let text = std::fs::read_to_string(record).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(text.split_once('\n').unwrap().1).unwrap();
    change(&mut value["record"]);
    let files = value["record"]["files"].as_array().unwrap().clone();
    let digests: Vec<evergraft::digest::Digest> =
        files.iter().map(|file| file["digest"].as_str().unwrap().parse().unwrap()).collect();
    let content = evergraft::digest::Digest::of_files(files.iter().zip(&digests).map(|(file, digest)| {
        (file["path"].as_str().unwrap().as_bytes(), file["executable"] == true, digest)
    }));
    value["record"]["artifact"] = content.to_string().into();
    let json = serde_json::to_string_pretty(&value).unwrap();
    let check = evergraft::digest::Digest::of_bytes(json.as_bytes());
    std::fs::write(record, format!("{check}\n{json}")).unwrap();
}

#[test]
fn hostile_records_do_nothing() {
    let recipe = "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"echo x > x\", outputs: [x] } }\n";
    let remote = tempfile::tempdir().unwrap();
    let path = remote.path().to_str().unwrap();
    counts(&machine(recipe), path, &[]);
    let [record] = &objects(remote.path(), "records")[..] else { panic!("one record") };
    let whole = std::fs::read(record).unwrap();
    let outside = remote.path().join("outside").display().to_string();
    let long = |value: &mut serde_json::Value| value["files"][0]["size"] = (1_u64 << 62).into();
    type Change = Box<dyn Fn(&mut serde_json::Value)>;
    let changes: Vec<(&str, Change)> = vec![
        (
            "leaves the artifact's folder",
            Box::new(|value| value["files"][0]["path"] = "../../../../evil".into()),
        ),
        (
            "leaves the artifact's folder",
            Box::new(move |value| value["files"][0]["path"] = outside.clone().into()),
        ),
        ("is too large", Box::new(long)),
        (
            "a file is named twice",
            Box::new(|value| {
                let file = value["files"][0].clone();
                value["files"].as_array_mut().unwrap().push(file);
            }),
        ),
        (
            "of no use",
            Box::new(|value| {
                let mut file = value["files"][0].clone();
                file["path"] = "x/below-a-file".into();
                value["files"].as_array_mut().unwrap().push(file);
            }),
        ),
        ("belongs to another key", Box::new(|value| value["key"]["params"]["run"] = "echo evil".into())),
    ];
    for (words, change) in changes {
        std::fs::write(record, &whole).unwrap();
        forge(record, change);
        let space = machine(recipe);
        let (executed, _, events) = counts(&space, path, &["--remote-mode", "read"]);
        let told = warnings(&events);
        assert_eq!((executed, told.len()), (1, 1), "{words}: {events}");
        assert!(told[0].contains(words), "{words}: {told:?}");
        let tmp = space.path().join("cache/steps-v1/tmp");
        assert!(std::fs::read_dir(tmp).unwrap().next().is_none(), "nothing half-fetched stays");
        space.expect(0, &["cache", "verify"]);
    }
    assert!(!remote.path().join("outside").exists());
}

#[test]
fn a_hostile_record_does_not_steer_the_terminal() {
    let remote = tempfile::tempdir().unwrap();
    let path = remote.path().to_str().unwrap();
    let recipe = "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"echo x > x\", outputs: [x] } }\n";
    counts(&machine(recipe), path, &[]);
    let [record] = &objects(remote.path(), "records")[..] else { panic!("one record") };
    forge(record, |value| {
        value["node"] = "\u{1b}[2Ja".into();
        value["warnings"] = vec!["\u{1b}]0;evil\u{7}"; 1000].into();
    });
    let space = machine(recipe);
    let ran = space.expect(0, &["run", "--remote", path, "--remote-mode", "read"]);
    assert!(ran.stderr.contains("0 run, 1 cached"), "{}", ran.stderr);
    assert!(!ran.stderr.contains(['\u{1b}', '\u{7}']), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("]0;evil").count(), 50, "{}", ran.stderr);
    let kept = space.expect(0, &["cache", "prune", "--max-size", "0", "--dry-run"]).stdout;
    assert!(kept.contains(" [2Ja") && !kept.contains('\u{1b}'), "{kept}");
}

#[test]
fn a_remote_that_does_not_answer_is_one_warning() {
    let space = machine(CHAIN);
    let run = |args: &[&str]| {
        let mut command = space.command(args);
        let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "planted-secret")];
        space.ran(args, command.envs(keys).env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").output().unwrap())
    };
    let ran = run(&["run", "--remote", "s3://bucket/folder"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("is left alone from here on").count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("2 run, 0 cached"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("planted-secret"), "{}", ran.stderr);
}

#[test]
fn wrong_addresses_are_told_before_anything_runs() {
    let space = machine(CHAIN);
    for (address, words) in [
        ("ftp://host/folder", "names no kind of store"),
        ("s3://id:key@bucket/folder", "must not hold credentials"),
        ("az://container/folder?sig=x", "must not hold credentials"),
        ("s3:///folder", "names no bucket"),
        ("recipe.yaml", "cannot use the remote cache"),
    ] {
        let ran = space.expect(2, &["run", "--remote", address]);
        assert!(ran.stderr.contains(words), "{address}: {}", ran.stderr);
    }
    assert!(!space.path().join("outputs").exists());
}

/// What `scripts/check-remote.sh` starts: a server of S3, then one of Azure.
#[test]
#[ignore = "needs a server; run scripts/check-remote.sh"]
fn a_real_server_shares_results() {
    let remote = std::env::var("EVERGRAFT_TEST_REMOTE").expect("scripts/check-remote.sh sets it");
    two_machines_share(&remote);
    // More than one piece each way.
    let recipe = "version: 1\nname: chain\nsteps:\n  a: { uses: command, with: { run: \"head -c 40000000 /dev/urandom > big\", outputs: [big] } }\n";
    let (one, two) = (machine(recipe), machine(recipe));
    assert_eq!(counts(&one, &remote, &[]).0, 1);
    assert_eq!(counts(&two, &remote, &[]).0, 0);
    let big = |space: &Space| {
        std::fs::read(space.path().join("outputs/chain/latest/steps/a/artifact/big")).unwrap()
    };
    assert!(big(&one) == big(&two));
    // Both make it at once: the first record stays, and the other's upload is no failure.
    let (_, _, events) = counts(&one, &remote, &["--force"]);
    assert!(warnings(&events).is_empty(), "{events}");
    assert!(big(&one) != big(&two));
    let three = machine(recipe);
    assert_eq!(counts(&three, &remote, &[]).0, 0);
    assert!(big(&three) == big(&two), "a record is written once");
}

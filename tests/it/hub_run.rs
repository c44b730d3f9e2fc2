//! Recipes with hub sources, run by the real binary.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    hub_server::{COMMIT, Hub, NEWER, Reply, ranged, sha256},
    messages,
    processes::kill,
    space::{Ran, Space},
};

const RECIPE: &str = r#"version: 1
name: hubbed
steps:
  old: { uses: base, with: { source: "hf://org/m", revision: main } }
  rows: { uses: dataset, with: { source: "hf://datasets/org/d", format: gsm8k, split: "train[:2]" } }
"#;
const TOKEN: &str = "hf_verysecret";
const ROWS: &str = "question,answer\n1+1?,#### 2\n1+2?,#### 3\n1+3?,#### 4\n";

fn llama() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama-untied-sharded")
}

struct World {
    hub: Hub,
    space: Space,
}

impl World {
    fn new(recipe: &str) -> Self {
        let hub = Hub::start();
        hub.folder("models/org/m", COMMIT, &llama());
        hub.repo("datasets/org/d", COMMIT, &[("README.md", b"# d"), ("train.csv", ROWS.as_bytes())]);
        Self { hub, space: Space::new(recipe) }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.space.command(args);
        for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "SSL_CERT_FILE"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.hub.url).env("HF_HOME", self.space.path().join("hf"));
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.ran(&mut self.command(args), args)
    }

    fn offline(&self, args: &[&str]) -> Ran {
        self.ran(self.command(args).env("HF_HUB_OFFLINE", "1"), args)
    }

    fn ran(&self, command: &mut Command, args: &[&str]) -> Ran {
        let ran = Ran::from(command.output().unwrap());
        messages::must_be_known(self.space.path(), args, &ran);
        ran
    }

    fn expect(&self, code: i32, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "{args:?}\n{}\n{}", ran.stdout, ran.stderr);
        ran
    }

    fn asked(&self) -> usize {
        self.hub.requests().len()
    }
}

#[test]
fn wrong_settings_are_told() {
    let world = World::new(RECIPE);
    world.space.write("words", "two words");
    world.space.write("binary", [0xff]);
    let path = |name: &str| world.space.path().join(name).display().to_string();
    for (name, value) in [
        ("HF_ENDPOINT", "nowhere".to_owned()),
        ("HF_TOKEN", "two words".to_owned()),
        ("HF_TOKEN_PATH", path("words")),
        ("HF_TOKEN_PATH", path("binary")),
    ] {
        let args = ["run", "-q"];
        let ran = world.ran(world.command(&args).env(name, value), &args);
        assert!(ran.code != 0 && !ran.stderr.contains("two words"), "{name}: {}", ran.stderr);
    }
    assert_eq!(world.asked(), 0);
    for lock in [
        format!("version: 1\ncommits: {{ nonsense: \"{COMMIT}\" }}\n"),
        "version: 1\ncommits: { \"hf://org/m@main\": short }\n".to_owned(),
        format!("version: 1\n# {}\n", "long".repeat(1 << 20)),
    ] {
        world.space.write("recipe.lock", lock);
        assert_ne!(world.run(&["run", "-q"]).code, 0);
    }
}

#[test]
fn a_commit_is_pinned_once_and_everything_agrees() {
    let world = World::new(RECIPE);
    // Planning asks nobody, and says what it does not know.
    let plan = world.expect(5, &["plan", "--check"]);
    assert!(
        plan.stdout.contains("the commit of `hf://org/m@main` is not in the lock file yet"),
        "{}",
        plan.stdout
    );
    let check = world.expect(0, &["check"]);
    assert!(check.stdout.contains("`hf://datasets/org/d@main` has no commit"), "{}", check.stdout);
    assert_eq!(world.asked(), 0);
    assert!(!world.space.path().join("recipe.lock").exists());

    let ran = world.expect(0, &["run"]);
    assert!(ran.stderr.contains("2 run, 0 cached"), "{}", ran.stderr);
    let lock = world.space.read("recipe.lock");
    assert!(lock.contains(&format!("  \"hf://org/m@main\": \"{COMMIT}\"\n")), "{lock}");
    assert!(lock.contains(&format!("  \"hf://datasets/org/d@main\": \"{COMMIT}\"\n")), "{lock}");
    let rows = world.space.read("outputs/hubbed/latest/steps/rows/artifact/data.jsonl");
    assert_eq!(rows.lines().count(), 2);
    assert!(rows.contains("\"answer\":\"2\""), "{rows}");

    // The second run executes nothing and makes no request; nor does anything else.
    let before = world.asked();
    let ran = world.expect(0, &["run"]);
    assert!(ran.stderr.contains("0 run, 2 cached"), "{}", ran.stderr);
    world.expect(0, &["plan", "--check"]);
    world.expect(0, &["explain", "old"]);
    assert_eq!(world.offline(&["run"]).code, 0);
    assert_eq!(world.asked(), before);

    // `main` moves: nothing changes until somebody asks.
    world.hub.folder("models/org/m", NEWER, &llama());
    world.hub.repo("datasets/org/d", NEWER, &[("train.csv", ROWS.replace("1+1", "2+0").as_bytes())]);
    world.hub.move_head(NEWER);
    world.expect(0, &["plan", "--check"]);
    assert_eq!(world.asked(), before);
    let ran = world.expect(0, &["run", "--update-lock"]);
    assert!(ran.stderr.contains(&format!("{COMMIT} -> {NEWER}")), "{}", ran.stderr);
    assert!(ran.stderr.contains("2 run, 0 cached"), "{}", ran.stderr);
    assert!(world.space.read("recipe.lock").contains(NEWER));
    assert!(world.space.read("outputs/hubbed/latest/steps/rows/artifact/data.jsonl").contains("2+0"));
}

#[test]
fn only_the_selected_sources_are_pinned() {
    let world = World::new(RECIPE);
    world.expect(0, &["run", "--only", "rows"]);
    let lock = world.space.read("recipe.lock");
    assert!(lock.contains("datasets/org/d") && !lock.contains("hf://org/m"), "{lock}");
}

#[test]
fn a_whole_commit_needs_no_lock() {
    let world = World::new(&RECIPE.replace("revision: main", &format!("revision: \"{COMMIT}\"")));
    world.expect(0, &["run", "--only", "old"]);
    assert!(!world.space.path().join("recipe.lock").exists());
    assert!(world.hub.requests().iter().all(|request| !request.path.contains("/revision/")));
}

#[test]
fn offline_is_honest() {
    let world = World::new(RECIPE);
    let ran = world.offline(&["run"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("HF_HUB_OFFLINE") && ran.stderr.contains("hint: unset"), "{}", ran.stderr);
    assert_eq!(world.asked(), 0);
    world.expect(0, &["run"]);
    let before = world.asked();
    // The step's result is gone, the hub's files are not.
    assert_eq!(world.run(&["cache", "clean"]).code, 0);
    let ran = world.offline(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("2 run"), "{}", ran.stderr);
    assert_eq!(world.offline(&["run", "--update-lock"]).code, 2);
    assert_eq!(world.asked(), before);
}

#[test]
fn a_damaged_lock_file_is_told() {
    let world = World::new(RECIPE);
    for text in [
        "<<<<<<< HEAD\n",
        "version: 2\n",
        "version: 1\ncommits: { \"hf://org/m@main\": abc }\n",
        "version: 1\nx: 1\n",
    ] {
        world.space.write("recipe.lock", text);
        let ran = world.expect(2, &["plan"]);
        assert!(
            ran.stderr.contains("cannot use the lock file") && ran.stderr.contains("hint: "),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    let world = World::new(RECIPE);
    let shard = std::fs::read_dir(llama())
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().ends_with(".safetensors"))
        .unwrap();
    let name = shard.file_name().into_string().unwrap();
    let bytes = std::fs::read(shard.path()).unwrap();
    let (wanted, body) = (name.clone(), bytes.clone());
    world.hub.twist(move |request, _| {
        request.path.ends_with(&wanted).then(|| Reply { stall: Some(5000), ..ranged(request, &body) })
    });
    let part =
        world.space.path().join("hf/hub/models--org--m/blobs").join(format!("{}.incomplete", sha256(&bytes)));
    let mut child =
        world.command(&["run", "--only", "old"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while std::fs::metadata(&part).map_or(0, |about| about.len()) < 5000 {
        assert!(start.elapsed() < Duration::from_secs(30), "the download did not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    kill(&mut child, &world.space);
    world.hub.behave();
    world.expect(0, &["run", "--only", "old"]);
    let starts: Vec<_> =
        world.hub.requests().iter().filter(|r| r.path.ends_with(&name)).map(|r| r.start()).collect();
    assert_eq!(starts, [None, Some(5000)]);
    assert!(!part.exists());
}

#[test]
fn ctrl_c_ends_a_silent_download() {
    for silent in ["train.csv", "/revision/main"] {
        let world = World::new(RECIPE);
        world.hub.twist(move |request, _| {
            request.path.ends_with(silent).then(|| Reply { stall: Some(3), ..Reply::new(200, ROWS) })
        });
        let child = world.command(&["run", "--only", "rows"]).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while !world.hub.requests().iter().any(|request| request.path.ends_with(silent)) {
            assert!(start.elapsed() < Duration::from_secs(30), "the download did not begin");
            std::thread::sleep(Duration::from_millis(10));
        }
        let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let sent = Instant::now();
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran.code, 130, "{}", ran.stderr);
        assert!(sent.elapsed() < Duration::from_secs(5), "{:?}", sent.elapsed());
    }
}

#[test]
fn the_token_is_sent_and_nowhere_kept() {
    let world = World::new(RECIPE);
    world.space.write("hf/token", format!("{TOKEN}\n"));
    world.hub.twist(|request, _| {
        request.path.ends_with("train.csv").then(|| Reply::new(403, "").with("X-Error-Code", "GatedRepo"))
    });
    let failed = world.expect(1, &["run", "-k"]);
    assert!(failed.stderr.contains("must let you in"), "{}", failed.stderr);
    world.hub.behave();
    let ran = world.expect(0, &["run"]);
    let sent = format!("Bearer {TOKEN}");
    assert!(world.hub.requests().iter().all(|request| request.header("authorization") == Some(&sent)));
    for text in [&failed.stderr, &failed.stdout, &ran.stderr, &ran.stdout] {
        assert!(!text.contains(TOKEN));
    }
    std::fs::remove_file(world.space.path().join("hf/token")).unwrap();
    for entry in walkdir::WalkDir::new(world.space.path()).into_iter().flatten() {
        if entry.file_type().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
            assert!(!found, "{}", entry.path().display());
        }
    }
}

#[test]
fn web_files_count_by_content() {
    let bytes = r#"[{"question":"1?","answer":"1 #### 1"}]"#;
    let world = World::new("");
    world.hub.twist(move |request, _| Some(ranged(request, bytes.as_bytes())));
    let recipe = |path: &str, digest: &str| {
        format!(
            "version: 1\nsteps:\n  rows: {{ uses: dataset, with: {{ source: \"{}/{path}\", sha256: {digest}, format: gsm8k }} }}\n",
            world.hub.url
        )
    };
    world.space.write("recipe.yaml", recipe("a/rows.json", &sha256(bytes.as_bytes())));
    let ran = world.expect(0, &["run"]);
    assert!(ran.stderr.contains("1 run"), "{}", ran.stderr);
    // A mirror serves the same file: nothing to do, nobody to ask.
    world.space.write("recipe.yaml", recipe("mirror/rows.json", &sha256(bytes.as_bytes())));
    world.expect(0, &["plan", "--check"]);
    assert_eq!(world.asked(), 1);
    world.space.write("recipe.yaml", recipe("a/rows.json", &sha256(b"other")));
    let ran = world.expect(1, &["run"]);
    assert!(ran.stderr.contains("do not have the SHA-256 digest"), "{}", ran.stderr);
}

#[test]
fn parquet_rows_are_read() {
    let world = World::new(&RECIPE.replace("train[:2]", "test[1:]"));
    world.hub.repo("datasets/org/d", COMMIT, &[("data/test-00000-of-00001.parquet", &parquet_rows())]);
    world.expect(0, &["run", "--only", "rows"]);
    let rows = world.space.read("outputs/hubbed/latest/steps/rows/artifact/data.jsonl");
    assert_eq!(rows.lines().count(), 2, "{rows}");
    assert!(rows.contains("\"instruction\":\"q2\"") && rows.contains("\"answer\":\"3\""), "{rows}");
}

/// Three rows of GSM8K, as other tools write them: optional columns, compressed.
fn parquet_rows() -> Vec<u8> {
    use parquet::{
        basic::{Compression, ZstdLevel},
        data_type::{ByteArray, ByteArrayType},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };
    let schema = "message rows { optional binary question (UTF8); optional binary answer (UTF8); }";
    let schema = std::sync::Arc::new(parse_message_type(schema).unwrap());
    let level = ZstdLevel::try_new(3).unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in [["q1", "q2", "q3"], ["#### 1", "#### 2", "#### 3"]] {
        let values: Vec<ByteArray> = column.iter().map(|text| ByteArray::from(*text)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&[1, 1, 1]), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

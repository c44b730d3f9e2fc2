//! Fetching from a hub that cuts, lies, redirects and stalls.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use evergraft::{
    hub::{self, ModelPart, Retry, Settings, Token, Work},
    params::{Address, HubAddress},
    progress::Silent,
};
use serde_json::json;

use crate::{
    hub_server::{COMMIT, Hub, Reply, Request, git_blob, ranged, sha256},
    messages::known,
};

const TOKEN: &str = "hf_verysecret";

/// A cache folder, and everything that was logged.
struct Place {
    dir: tempfile::TempDir,
    lines: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), lines: Mutex::default(), stop: AtomicBool::new(false) }
    }

    fn settings(&self, hub: &Hub) -> Settings {
        let fast = Duration::from_millis(2);
        Settings {
            endpoint: hub.url.clone(),
            cache: self.dir.path().join("hub"),
            token: None,
            offline: false,
            certificates: None,
            retry: Retry { attempts: 4, first: fast, longest: 5 * fast, obey: Duration::from_secs(1) },
            parallel: 4,
        }
    }

    fn work<T>(&self, run: impl FnOnce(&Work) -> T) -> T {
        let say = |line: &str| self.lines.lock().unwrap().push(line.to_owned());
        let stop = || {
            anyhow::ensure!(!self.stop.load(Ordering::SeqCst), "stopped on request");
            Ok(())
        };
        run(&Work { stop: &stop, log: &say, warn: &say, progress: &Silent })
    }

    fn model(&self, settings: &Settings, text: &str) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let address = address(text);
        let fetched = self.work(|work| hub::fetch_model(settings, &address, ModelPart::Whole, work));
        fetched.map(|model| content(&model.path)).map_err(|error| known(&error))
    }

    fn rows(
        &self,
        settings: &Settings,
        text: &str,
        subset: Option<&str>,
        split: &str,
    ) -> Result<Vec<String>, String> {
        let address = address(text);
        let fetched = self.work(|work| hub::fetch_dataset(settings, &address, subset, split, work));
        let name = |path: PathBuf| {
            assert!(path.is_file());
            let root = self.dir.path().join("hub");
            let parts: Vec<_> = path.strip_prefix(root).unwrap().iter().skip(3).collect();
            parts.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
        };
        fetched.map(|paths| paths.into_iter().map(name).collect()).map_err(|error| known(&error))
    }

    /// Every file and link below the cache, without its links' targets.
    fn files(&self) -> Vec<String> {
        let root = self.dir.path();
        let mut all: Vec<String> = walkdir::WalkDir::new(root)
            .into_iter()
            .flatten()
            .filter(|entry| !entry.file_type().is_dir())
            .map(|entry| entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned())
            .collect();
        all.sort();
        all
    }

    fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

fn address(text: &str) -> HubAddress {
    match Address::accepted(text) {
        Some(Address::Hub(hub)) => hub.at(COMMIT),
        other => panic!("{text}: {other:?}"),
    }
}

fn content(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    if path.is_file() {
        return BTreeMap::from([(name(path), fs::read(path).unwrap())]);
    }
    let entries = fs::read_dir(path).unwrap().flatten();
    entries.map(|entry| (name(&entry.path()), fs::read(entry.path()).unwrap())).collect()
}

/// Bytes that differ from place to place.
fn noise(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8 ^ seed).collect()
}

const SMALL: [(&str, &[u8]); 4] = [
    ("config.json", b"{}"),
    ("tokenizer.json", b"{\"a\":1}"),
    ("tokenizer_config.json", b"{\"b\":1}"),
    ("generation_config.json", b"{\"c\":1}"),
];

/// `org/m` with one file of weights.
fn one_file(hub: &Hub, weights: &[u8]) {
    let mut files = SMALL.to_vec();
    files.push(("model.safetensors", weights));
    hub.repo("models/org/m", COMMIT, &files);
}

fn is_weights(request: &Request) -> bool {
    request.path.ends_with("model.safetensors")
}

#[test]
fn only_what_is_needed_is_fetched_into_the_common_layout() {
    let (hub, place) = (Hub::start(), Place::new());
    let weights = noise(20_000, 1);
    let mut files = SMALL.to_vec();
    files.extend([
        ("model.safetensors", weights.as_slice()),
        ("pytorch_model.bin", b"pickle"),
        ("consolidated.safetensors", b"again"),
        ("README.md", b"# m"),
        ("onnx/model.onnx", b"x"),
        ("sub/model.safetensors", b"other"),
        ("chat_template.jinja", b"{{ x }}"),
    ]);
    hub.repo("models/org/m", COMMIT, &files);
    let settings = place.settings(&hub);
    let got = place.model(&settings, "hf://org/m").unwrap();
    let names: Vec<&str> = got.keys().map(String::as_str).collect();
    let expected = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected);
    assert_eq!(hub.fetched(), expected);
    assert_eq!(got["model.safetensors"], weights);
    let root = place.dir.path().join("hub/models--org--m");
    assert_eq!(fs::read(root.join("blobs").join(sha256(&weights))).unwrap(), weights);
    assert_eq!(fs::read(root.join("blobs").join(git_blob(b"{}"))).unwrap(), b"{}");
    let link = root.join("snapshots").join(COMMIT).join("config.json");
    assert_eq!(fs::read_link(link).unwrap(), Path::new("../../blobs").join(git_blob(b"{}")));
    assert!(!place.files().iter().any(|name| name.ends_with(".incomplete")));
    // Once more: the list of files, and nothing else.
    let before = hub.requests().len();
    assert_eq!(place.model(&settings, "hf://org/m").unwrap(), got);
    assert_eq!(hub.requests().len(), before + 1);
}

#[test]
fn the_index_names_the_shards() {
    let (hub, place) = (Hub::start(), Place::new());
    let index = json!({ "weight_map": { "a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors" } });
    let index = index.to_string();
    let mut files = SMALL.to_vec();
    let shards = [noise(70_000, 2), noise(50_000, 3)];
    files.extend([
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-1.safetensors", &shards[0]),
        ("model-2.safetensors", &shards[1]),
        ("model-3.safetensors", b"not named"),
    ]);
    hub.repo("models/org/m", COMMIT, &files);
    let got = place.model(&place.settings(&hub), "hf://org/m").unwrap();
    assert_eq!(got["model-1.safetensors"], shards[0]);
    assert_eq!(got["model-2.safetensors"], shards[1]);
    assert!(!hub.fetched().contains(&"model-3.safetensors".to_owned()));
}

#[test]
fn repositories_without_safe_weights_say_so() {
    let (hub, place) = (Hub::start(), Place::new());
    hub.repo("models/org/pickle", COMMIT, &[("config.json", b"{}"), ("pytorch_model.bin", b"x")]);
    hub.repo("models/org/gguf", COMMIT, &[("config.json", b"{}"), ("m-q4.gguf", b"GGUF....")]);
    let settings = place.settings(&hub);
    let error = place.model(&settings, "hf://org/pickle").unwrap_err();
    assert!(error.contains("is a pickle, which is not fetched"), "{error}");
    assert!(!hub.fetched().contains(&"pytorch_model.bin".to_owned()));
    let error = place.model(&settings, "hf://org/gguf").unwrap_err();
    assert!(error.contains("holds no `model.safetensors`"), "{error}");
    let got = place.model(&settings, "hf://org/gguf@main/m-q4.gguf").unwrap();
    assert_eq!(got["m-q4.gguf"], b"GGUF....");
    let error = place.model(&settings, "hf://org/none").unwrap_err();
    assert!(error.contains("404"), "{error}");
}

#[test]
fn a_connection_that_breaks_again_and_again_is_resumed() {
    let (hub, place) = (Hub::start(), Place::new());
    let weights = noise(3_000_000, 4);
    one_file(&hub, &weights);
    let bytes = weights.clone();
    hub.twist(move |request, before| {
        let cut = [1_200_000, 5, 0, 1_100_000].get(before)?;
        is_weights(request).then(|| Reply { cut: Some(*cut), ..ranged(request, &bytes) })
    });
    let got = place.model(&place.settings(&hub), "hf://org/m").unwrap();
    assert!(got["model.safetensors"] == weights);
    let starts: Vec<_> = hub.requests().iter().filter(|r| is_weights(r)).map(Request::start).collect();
    let at = |start| Some(start);
    assert_eq!(starts, [None, at(1_200_000), at(1_200_005), at(1_200_005), at(2_300_005)]);
}

#[test]
fn a_server_that_never_gets_further_is_given_up() {
    let (hub, place) = (Hub::start(), Place::new());
    let weights = noise(3_000_000, 4);
    one_file(&hub, &weights);
    // No ranges: every try brings the same two megabytes.
    hub.twist(move |request, _| {
        is_weights(request).then(|| Reply { cut: Some(2_000_000), ..Reply::new(200, weights.clone()) })
    });
    let error = place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
    assert!(error.contains("gave up"), "{error}");
    assert!(hub.requests().iter().filter(|request| is_weights(request)).count() <= 5);
}

#[test]
fn what_a_killed_run_left_is_used_if_it_is_right() {
    for (left, right) in [(1000, true), (1000, false), (20_000, false), (30_000, false), (20_000, true)] {
        let (hub, place) = (Hub::start(), Place::new());
        let weights = noise(20_000, 5);
        one_file(&hub, &weights);
        let blobs = place.dir.path().join("hub/models--org--m/blobs");
        fs::create_dir_all(&blobs).unwrap();
        let mut part = noise(30_000, 5);
        part.truncate(left);
        if !right {
            part[10] ^= 1;
        }
        fs::write(blobs.join(format!("{}.incomplete", sha256(&weights))), part).unwrap();
        let got = place.model(&place.settings(&hub), "hf://org/m").unwrap();
        assert!(got["model.safetensors"] == weights, "{left} {right}");
        let asked = hub.requests().into_iter().filter(is_weights).count();
        let expected = match (left, right) {
            (20_000, true) => 0,
            (1000, false) => 2,
            _ => 1,
        };
        assert_eq!(asked, expected, "{left} {right}");
    }
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let (hub, place) = (Hub::start(), Place::new());
    let weights = noise(50_000, 6);
    one_file(&hub, &weights);
    let bytes = weights.clone();
    hub.twist(move |request, before| {
        let whole = Reply::new(200, bytes.clone());
        is_weights(request).then_some(if before == 0 { Reply { cut: Some(20_000), ..whole } } else { whole })
    });
    assert!(place.model(&place.settings(&hub), "hf://org/m").unwrap()["model.safetensors"] == weights);
    // One that answers with another part than asked is not believed.
    let (hub, place) = (Hub::start(), Place::new());
    one_file(&hub, &weights);
    let bytes = weights.clone();
    hub.twist(move |request, before| match (is_weights(request), before) {
        (true, 0) => Some(Reply { cut: Some(20_000), ..ranged(request, &bytes) }),
        (true, 1) => Some(Reply::new(206, &bytes[10..]).with("Content-Range", "bytes 10-49999/50000")),
        _ => None,
    });
    assert!(place.model(&place.settings(&hub), "hf://org/m").unwrap()["model.safetensors"] == weights);
}

#[test]
fn busy_servers_are_asked_again_and_not_for_ever() {
    let (hub, place) = (Hub::start(), Place::new());
    one_file(&hub, b"weights");
    hub.twist(|request, before| {
        let status = if request.path.starts_with("/api") { [500, 502, 429] } else { [503, 504, 408] };
        status.get(before).map(|status| Reply::new(*status, "busy"))
    });
    let start = Instant::now();
    place.model(&place.settings(&hub), "hf://org/m").unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(place.log().contains("429"), "{}", place.log());

    let (hub, place) = (Hub::start(), Place::new());
    one_file(&hub, b"weights");
    hub.twist(|request, _| is_weights(request).then(|| Reply::new(503, "busy")));
    let error = place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
    assert!(error.contains("gave up after 4 tries") && error.contains("503"), "{error}");
    assert_eq!(hub.requests().iter().filter(|request| is_weights(request)).count(), 4);
}

#[test]
fn a_server_that_asks_to_wait_is_obeyed_within_limits() {
    let (hub, place) = (Hub::start(), Place::new());
    one_file(&hub, b"weights");
    hub.twist(|request, before| {
        (is_weights(request) && before == 0).then(|| Reply::new(429, "").with("Retry-After", "3600"))
    });
    let start = Instant::now();
    place.model(&place.settings(&hub), "hf://org/m").unwrap();
    // `obey` is one second here.
    assert!((1.0..5.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
}

#[test]
fn refusals_are_final_and_explained() {
    for (status, code, token, expected) in [
        (401, "", None, "private or gated"),
        (401, "", Some(TOKEN), "may your token read it"),
        (403, "GatedRepo", None, "must let you in"),
        (404, "RevisionNotFound", None, "is the revision right"),
        (404, "EntryNotFound", None, "is the path right"),
        (410, "", None, "refuses"),
    ] {
        let (hub, place) = (Hub::start(), Place::new());
        one_file(&hub, b"weights");
        hub.twist(move |request, _| {
            is_weights(request).then(|| Reply::new(status, "").with("X-Error-Code", code))
        });
        let settings = Settings { token: token.and_then(Token::new), ..place.settings(&hub) };
        let work = |work: &Work| hub::fetch_model(&settings, &address("hf://org/m"), ModelPart::Whole, work);
        let error = place.work(work).unwrap_err();
        let hint = evergraft::error::hint_of(&error).unwrap_or_default();
        assert!(hint.contains(expected), "{status}: {hint}");
        known(&error);
        assert_eq!(hub.requests().iter().filter(|request| is_weights(request)).count(), 1);
    }
}

#[test]
fn wrong_bytes_never_become_a_blob() {
    let weights = noise(20_000, 7);
    let mut other = weights.clone();
    other[19_999] ^= 1;
    let lies: Vec<(&str, Reply)> = vec![
        ("do not have the SHA-256 digest", Reply::new(200, other)),
        ("the list of files says 20000", Reply::new(200, "short")),
        ("the list of files says 20000", Reply::new(200, noise(20_001, 7))),
        ("broke after 100 of 20000", Reply { length: Some(20_000), ..Reply::new(200, noise(100, 7)) }),
        ("answers 206 with another range", Reply::new(206, "x")),
        ("answers 416 with another range", Reply::new(416, "x")),
    ];
    for (expected, lie) in lies {
        let (hub, place) = (Hub::start(), Place::new());
        one_file(&hub, &weights);
        hub.twist(move |request, _| {
            let mut lie = lie.clone();
            // Each try begins at the start again.
            lie.headers.push(("Connection".to_owned(), "close".to_owned()));
            is_weights(request).then_some(lie)
        });
        let error = place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
        assert!(error.contains(expected) && error.contains("model.safetensors"), "{expected}: {error}");
        let blob = place.dir.path().join("hub/models--org--m/blobs").join(sha256(&weights));
        assert!(!blob.exists());
        // Nothing bad is left behind: an honest server is enough.
        hub.behave();
        assert!(place.model(&place.settings(&hub), "hf://org/m").unwrap()["model.safetensors"] == weights);
    }
}

#[test]
fn wrong_small_files_are_found_too() {
    let (hub, place) = (Hub::start(), Place::new());
    one_file(&hub, b"weights");
    hub.twist(|request, _| request.path.ends_with("/config.json").then(|| Reply::new(200, "[]")));
    let error = place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
    assert!(error.contains("do not have the git digest"), "{error}");
}

#[test]
fn a_damaged_blob_is_fetched_again() {
    let (hub, place) = (Hub::start(), Place::new());
    one_file(&hub, b"weights");
    let settings = place.settings(&hub);
    place.model(&settings, "hf://org/m").unwrap();
    let blob = place.dir.path().join("hub/models--org--m/blobs").join(sha256(b"weights"));
    fs::write(&blob, b"weighty").unwrap();
    assert_eq!(place.model(&settings, "hf://org/m").unwrap()["model.safetensors"], b"weights");
    assert!(place.log().contains("was damaged"), "{}", place.log());
}

#[test]
fn the_token_goes_to_the_endpoint_alone() {
    let (hub, cdn, place) = (Hub::start(), Hub::start(), Place::new());
    one_file(&hub, b"weights");
    let far = format!("{}/far?Signature=secret", cdn.url);
    hub.twist(move |request, _| match request.path.as_str() {
        path if path.ends_with("/config.json") => Some(Reply::redirect("/near?x=1")),
        "/near?x=1" => Some(Reply::new(200, "{}")),
        path if path.ends_with("model.safetensors") => Some(Reply::redirect(far.clone())),
        _ => None,
    });
    cdn.twist(|request, before| {
        Some(if before == 0 { Reply::new(500, "") } else { ranged(request, b"weights") })
    });
    let settings = Settings { token: Token::new(TOKEN), ..place.settings(&hub) };
    place.model(&settings, "hf://org/m").unwrap();
    for request in hub.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer hf_verysecret"), "{}", request.path);
    }
    assert_eq!(cdn.requests().len(), 2);
    assert!(cdn.requests().iter().all(|request| request.header("authorization").is_none()));
    // Neither the token nor the signature of a link is told to anybody.
    assert!(place.log().contains("/far"), "{}", place.log());
    assert!(!place.log().contains("secret"), "{}", place.log());
    assert!(!format!("{settings:?}").contains("secret"));
    for name in place.files() {
        let bytes = fs::read(place.dir.path().join(name)).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains("secret"));
    }
}

#[test]
fn redirects_end() {
    let (hub, place) = (Hub::start(), Place::new());
    one_file(&hub, b"weights");
    for target in ["/loop", "ftp://x/y", "http://user@127.0.0.1/", ""] {
        hub.twist(move |request, _| {
            let ours = is_weights(request) || request.path == "/loop";
            ours.then(|| Reply::redirect(target))
        });
        let before = hub.requests().len();
        let error = place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
        assert!(hub.requests().len() - before < 16, "{target}: {error}");
    }
    let long = format!("/{}", "a".repeat(20_000));
    for reply in [Reply::new(302, ""), Reply::redirect(&long)] {
        hub.twist(move |request, _| is_weights(request).then(|| reply.clone()));
        place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
    }
}

#[test]
fn dangerous_names_are_refused_before_anything_is_fetched() {
    for name in [
        "../../evil.csv",
        "/tmp/evil.csv",
        "a\\..\\evil.csv",
        "a\0.csv",
        "a/../../../x.csv",
        "a//b.csv",
        "./a.csv",
    ] {
        let (hub, place) = (Hub::start(), Place::new());
        hub.repo("datasets/org/d", COMMIT, &[(name, b"x\n1\n"), ("ok.csv", b"x\n1\n")]);
        let error = place.rows(&place.settings(&hub), "hf://datasets/org/d", None, "train").unwrap_err();
        assert!(error.contains("dangerous name"), "{name:?}: {error}");
        assert!(hub.fetched().is_empty(), "{name:?}");
        assert!(!place.files().iter().any(|file| file.contains("csv")), "{name:?}");
    }
    let (hub, place) = (Hub::start(), Place::new());
    let index = json!({ "weight_map": { "a": "../evil.safetensors" } }).to_string();
    let mut files = SMALL.to_vec();
    files.extend([("model.safetensors.index.json", index.as_bytes()), ("../evil.safetensors", b"evil")]);
    hub.repo("models/org/m", COMMIT, &files);
    let error = place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
    assert!(error.contains("dangerous name"), "{error}");
}

#[test]
fn a_name_that_is_file_and_folder_stays_inside() {
    let (hub, place) = (Hub::start(), Place::new());
    hub.repo("datasets/org/d", COMMIT, &[("a.csv", b"x\n1\n"), ("a.csv/b.csv", b"x\n2\n")]);
    let error = place.rows(&place.settings(&hub), "hf://datasets/org/d", None, "train").unwrap_err();
    assert!(error.contains("cannot make the link"), "{error}");
    let blob = place.dir.path().join("hub/datasets--org--d/blobs").join(git_blob(b"x\n1\n"));
    assert_eq!(fs::read(blob).unwrap(), b"x\n1\n");
}

#[test]
fn nonsense_in_lists_of_files_is_refused() {
    let file = |path: &str, oid: &str| json!({ "type": "file", "path": path, "size": 3, "oid": oid });
    let answers = [
        (json!([file("config.json", "../../../evil")]), "has no digest"),
        (json!([file("config.json", "")]), "has no digest"),
        (json!({ "error": "x" }), "something else than expected"),
        (
            json!([{ "type": "file", "path": "config.json", "size": -1, "oid": "x" }]),
            "something else than expected",
        ),
        (json!([]), "holds no file"),
    ];
    for (answer, expected) in answers {
        let (hub, place) = (Hub::start(), Place::new());
        hub.twist(move |request, _| request.path.contains("/tree/").then(|| Reply::json(&answer)));
        let error = place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    // So does an endless list.
    let (hub, place) = (Hub::start(), Place::new());
    let folders: Vec<_> =
        (0..60_000).map(|_| json!({ "type": "directory", "path": "d", "oid": "" })).collect();
    let next = format!("<{}/tree/>; rel=\"next\"", hub.url);
    let page = Reply::json(&folders.into()).with("Link", next);
    hub.twist(move |_, _| Some(page.clone()));
    let error = place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
    assert!(error.contains("files and folders"), "{error}");
    // An endless answer ends at a limit.
    let (hub, place) = (Hub::start(), Place::new());
    hub.twist(|_, _| Some(Reply::new(200, vec![b' '; (32 << 20) + 2])));
    let error = place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
    assert!(error.contains("answers with more than"), "{error}");
}

#[test]
fn a_file_of_any_size_takes_no_memory_before_it_is_there() {
    let (hub, place) = (Hub::start(), Place::new());
    let files = json!([
        { "type": "file", "path": "config.json", "size": u64::MAX, "oid": git_blob(b"{}") },
        { "type": "file", "path": "model.safetensors", "size": u64::MAX, "oid": git_blob(b"{}") },
    ]);
    hub.twist(move |request, _| {
        Some(if request.path.contains("/tree/") { Reply::json(&files) } else { Reply::new(200, "{}") })
    });
    let error = place.model(&place.settings(&hub), "hf://org/m").unwrap_err();
    assert!(error.contains("the list of files says 18446744073709551615"), "{error}");
}

#[test]
fn long_lists_come_in_pages_of_one_host() {
    let (hub, other, place) = (Hub::start(), Hub::start(), Place::new());
    let page = |name: &str| {
        Reply::json(&json!([{ "type": "file", "path": name, "size": 4, "oid": git_blob(b"x\n1\n") }]))
    };
    hub.repo("datasets/org/d", COMMIT, &[("a.csv", b"x\n1\n"), ("b.csv", b"x\n1\n")]);
    let next = format!("<{}/more>; rel=\"next\"", hub.url);
    hub.twist(move |request, _| match request.path.as_str() {
        "/more" => Some(page("b.csv")),
        path if path.contains("/tree/") => Some(page("a.csv").with("Link", next.clone())),
        _ => None,
    });
    let settings = place.settings(&hub);
    assert_eq!(place.rows(&settings, "hf://datasets/org/d", None, "train").unwrap(), ["a.csv", "b.csv"]);
    let next = format!("<{}/more>; rel=\"next\"", other.url);
    hub.twist(move |request, _| {
        request.path.contains("/tree/").then(|| page("a.csv").with("Link", next.clone()))
    });
    let error = place.rows(&settings, "hf://datasets/org/d", None, "train").unwrap_err();
    assert!(error.contains("goes on at another host"), "{error}");
    assert!(other.requests().is_empty());
}

#[test]
fn offline_makes_no_request_and_names_what_is_missing() {
    let (hub, place) = (Hub::start(), Place::new());
    one_file(&hub, b"weights");
    let offline = Settings { offline: true, ..place.settings(&hub) };
    let error = place.model(&offline, "hf://org/m").unwrap_err();
    assert!(error.contains("HF_HUB_OFFLINE") && error.contains("no file of"), "{error}");
    let error =
        place.work(|work| hub::resolve(&offline, &address("hf://org/m").at("main"), work)).unwrap_err();
    assert!(known(&error).contains("`hf://org/m@main`"), "{error:#}");
    assert!(hub.requests().is_empty());

    let online = place.settings(&hub);
    let commit = place.work(|work| hub::resolve(&online, &address("hf://org/m").at("main"), work)).unwrap();
    assert_eq!(commit, COMMIT);
    let got = place.model(&online, "hf://org/m").unwrap();
    let before = hub.requests().len();
    assert_eq!(
        place.work(|work| hub::resolve(&offline, &address("hf://org/m").at("main"), work)).unwrap(),
        COMMIT
    );
    assert_eq!(place.model(&offline, "hf://org/m").unwrap(), got);
    let snapshot = place.dir.path().join("hub/models--org--m/snapshots").join(COMMIT);
    fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    let error = place.model(&offline, "hf://org/m").unwrap_err();
    assert!(error.contains("`tokenizer.json`"), "{error}");
    // Another tool found out that there is none.
    let none = place.dir.path().join("hub/models--org--m/.no_exist").join(COMMIT);
    assert!(none.join("chat_template.jinja").exists() && !none.join("config.json").exists());
    fs::write(none.join("tokenizer.json"), "").unwrap();
    assert_eq!(place.model(&offline, "hf://org/m").unwrap().len(), got.len() - 1);
    fs::write(snapshot.join("model.safetensors"), "damaged").unwrap();
    let error = place.model(&offline, "hf://org/m").unwrap_err();
    assert!(error.contains("`model.safetensors`") || error.contains("damaged"), "{error}");
    assert_eq!(hub.requests().len(), before);
}

#[test]
fn a_stop_does_not_wait_for_a_silent_server() {
    for silent in ["/tree/", "model.safetensors"] {
        let (hub, place) = (Hub::start(), Place::new());
        let weights = noise(50_000, 8);
        one_file(&hub, &weights);
        hub.twist(move |request, _| {
            request
                .path
                .contains(silent)
                .then(|| Reply { stall: Some(1000), ..Reply::new(200, noise(50_000, 8)) })
        });
        let settings = place.settings(&hub);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                place.stop.store(true, Ordering::SeqCst);
            });
            let start = Instant::now();
            let error = place.model(&settings, "hf://org/m").unwrap_err();
            assert!(start.elapsed() < Duration::from_secs(5), "{silent}: {:?}", start.elapsed());
            assert!(error.contains("stopped on request"), "{error}");
        });
    }
}

#[test]
fn two_runs_at_once_fetch_each_file_once() {
    let (hub, place) = (Hub::start(), Place::new());
    let weights = noise(200_000, 9);
    one_file(&hub, &weights);
    let settings = place.settings(&hub);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert!(place.model(&settings, "hf://org/m").unwrap()["model.safetensors"] == weights)
            });
        }
    });
    assert_eq!(hub.requests().iter().filter(|request| is_weights(request)).count(), 1);
}

#[test]
fn shards_are_fetched_in_parallel() {
    let (hub, place) = (Hub::start(), Place::new());
    let names: Vec<String> = (0..4).map(|at| format!("train-0000{at}-of-00004.csv")).collect();
    let texts: Vec<String> = (0..4).map(|at| format!("x\n{at}\n")).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    hub.repo("datasets/org/d", COMMIT, &files);
    // Each answer waits until all are asked for.
    let asked = AtomicUsize::new(0);
    hub.twist(move |request, _| {
        if request.path.contains("/resolve/") {
            asked.fetch_add(1, Ordering::SeqCst);
            let start = Instant::now();
            while asked.load(Ordering::SeqCst) < 4 && start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        None
    });
    let start = Instant::now();
    let got = place.rows(&place.settings(&hub), "hf://datasets/org/d", None, "train").unwrap();
    assert_eq!(got, names);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn progress_counts_all_files_together() {
    #[derive(Default)]
    struct Seen(Mutex<Vec<(Option<u64>, u64)>>);
    impl evergraft::progress::Progress for Seen {
        fn begin(&self, total: Option<u64>, unit: &str) {
            assert_eq!(unit, "MiB");
            self.0.lock().unwrap().push((total, 0));
        }
        fn update(&self, done: u64, _: &str) {
            self.0.lock().unwrap().push((None, done));
        }
    }
    let (hub, place) = (Hub::start(), Place::new());
    one_file(&hub, &noise(5 << 20, 11));
    let seen = Seen::default();
    let settings = place.settings(&hub);
    let work = |work: &Work| {
        let work = Work { progress: &seen, ..*work };
        hub::fetch_model(&settings, &address("hf://org/m"), ModelPart::Whole, &work).map(drop)
    };
    place.work(work).unwrap();
    let seen = seen.0.lock().unwrap();
    assert_eq!((seen[0], seen.last()), ((Some(5), 0), Some(&(None, 5))));
}

#[test]
fn a_card_tells_subsets_and_splits() {
    let (hub, place) = (Hub::start(), Place::new());
    let card = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n  - split: test\n    path: main/test-*\n- config_name: socratic\n  data_files:\n  - split: train\n    path: socratic/train-*\n---\n";
    hub.repo(
        "datasets/openai/gsm8k",
        COMMIT,
        &[
            ("README.md", card.as_bytes()),
            ("main/train-00000-of-00001.csv", b"x\n1\n"),
            ("main/test-00000-of-00001.csv", b"x\n2\n"),
            ("socratic/train-00000-of-00001.csv", b"x\n3\n"),
        ],
    );
    let settings = place.settings(&hub);
    let rows = |subset, split| place.rows(&settings, "hf://datasets/openai/gsm8k", subset, split);
    assert_eq!(rows(Some("main"), "test").unwrap(), ["main/test-00000-of-00001.csv"]);
    assert_eq!(hub.fetched(), ["README.md", "main/test-00000-of-00001.csv"]);
    assert!(rows(None, "train").unwrap_err().contains("has several subsets"));
    assert!(rows(Some("x"), "train").unwrap_err().contains("has no subset `x`"));
    assert!(rows(Some("main"), "dev").unwrap_err().contains("has no split `dev`"));
    let direct =
        place.rows(&settings, "hf://datasets/openai/gsm8k/socratic/train-00000-of-00001.csv", None, "");
    assert_eq!(direct.unwrap(), ["socratic/train-00000-of-00001.csv"]);
    let folder = place.rows(&settings, "hf://datasets/openai/gsm8k/main", None, "test").unwrap();
    assert_eq!(folder, ["main/test-00000-of-00001.csv"]);
}

#[test]
fn subsets_are_never_mixed() {
    let (hub, place) = (Hub::start(), Place::new());
    let files = ["main/train-00000-of-00001.csv", "socratic/train-00000-of-00001.csv"];
    hub.repo("datasets/org/d", COMMIT, &files.map(|name| (name, b"x\n1\n".as_slice())));
    let settings = place.settings(&hub);
    let error = place.rows(&settings, "hf://datasets/org/d", None, "train").unwrap_err();
    assert!(error.contains("in several folders"), "{error}");
    let got = place.rows(&settings, "hf://datasets/org/d", Some("socratic"), "train").unwrap();
    assert_eq!(got, ["socratic/train-00000-of-00001.csv"]);
}

#[test]
fn web_files_are_kept_by_their_digest() {
    let (hub, place) = (Hub::start(), Place::new());
    let bytes = noise(30_000, 10);
    let body = bytes.clone();
    hub.twist(move |request, before| {
        let reply = ranged(request, &body);
        Some(if before == 0 { Reply { cut: Some(9_000), ..reply } } else { reply })
    });
    let settings = Settings {
        token: Token::new(TOKEN),
        endpoint: "https://hub.invalid".to_owned(),
        ..place.settings(&hub)
    };
    let folder = place.dir.path().join("web");
    let url = format!("{}/files/rows.json?x=1", hub.url);
    let fetch = |settings: &Settings, sha256: &str| {
        place.work(|work| hub::fetch_web(settings, &url, sha256, &folder, work))
    };
    let path = fetch(&settings, &sha256(&bytes)).unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    assert_eq!(path.file_name().unwrap(), "rows.json");
    let requests = hub.requests();
    assert_eq!(requests.iter().map(Request::start).collect::<Vec<_>>(), [None, Some(9_000)]);
    assert!(requests.iter().all(|request| request.header("authorization").is_none()));
    let offline = Settings { offline: true, ..settings.clone() };
    fetch(&offline, &sha256(&bytes)).unwrap();
    let error = known(&fetch(&offline, &sha256(b"other")).unwrap_err());
    assert!(error.contains("is not here"), "{error}");
    assert_eq!(hub.requests().len(), 2);
    let error = known(&fetch(&settings, &sha256(b"other")).unwrap_err());
    assert!(error.contains("do not have the SHA-256 digest"), "{error}");
    assert!(!folder.join(sha256(b"other")).join("rows.json").exists());
}

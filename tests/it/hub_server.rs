//! A hub on this machine: serves repositories, counts requests, and misbehaves on demand.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

pub(crate) const COMMIT: &str = "1111111111111111111111111111111111111111";
pub(crate) const NEWER: &str = "2222222222222222222222222222222222222222";

/// What somebody asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Path and query.
    pub(crate) path: String,
    /// Lower-case names.
    pub(crate) headers: HashMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The byte that a range begins with.
    pub(crate) fn start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What it gets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Say nothing more for a long time after so many bytes of the body.
    pub(crate) stall: Option<usize>,
    /// Announce this length instead of the right one.
    pub(crate) length: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self::new(200, value.to_string())
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn redirect(to: impl Into<String>) -> Self {
        Self::new(302, "").with("Location", to)
    }
}

type Twist = Arc<dyn Fn(&Request, usize) -> Option<Reply> + Send + Sync>;

/// A file of a repository.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    pub(crate) path: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) lfs: bool,
}

#[derive(Default)]
struct State {
    /// `models/org/name` or `datasets/org/name`, at a commit.
    repos: HashMap<(String, String), Vec<RemoteFile>>,
    /// What `main` is.
    head: String,
    requests: Vec<Request>,
}

/// A running server.
#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
    twist: Arc<Mutex<Option<Twist>>>,
}

impl Hub {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = State { head: COMMIT.to_owned(), ..State::default() };
        let hub = Self { url, state: Arc::new(Mutex::new(state)), twist: Arc::default() };
        let server = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = server.clone();
                std::thread::spawn(move || hub.serve(stream));
            }
        });
        hub
    }

    /// Adds a repository at a commit. Files above 10 kB, and weights, count as LFS.
    pub(crate) fn repo(&self, name: &str, commit: &str, files: &[(&str, &[u8])]) {
        let files = files.iter().map(|(path, bytes)| RemoteFile {
            path: (*path).to_owned(),
            bytes: bytes.to_vec(),
            lfs: bytes.len() > 10_000 || path.ends_with(".safetensors") || path.ends_with(".parquet"),
        });
        self.state.lock().unwrap().repos.insert((name.to_owned(), commit.to_owned()), files.collect());
    }

    /// Adds what lies in a folder as a model.
    pub(crate) fn folder(&self, name: &str, commit: &str, folder: &Path) {
        let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
            .unwrap()
            .flatten()
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect();
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        self.repo(name, commit, &files);
    }

    pub(crate) fn move_head(&self, commit: &str) {
        commit.clone_into(&mut self.state.lock().unwrap().head);
    }

    /// Misbehaves: gets each request and how many there were before for the same path.
    pub(crate) fn twist(&self, twist: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static) {
        *self.twist.lock().unwrap() = Some(Arc::new(twist));
    }

    pub(crate) fn behave(&self) {
        *self.twist.lock().unwrap() = None;
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The files that were asked for, without repetitions, sorted.
    pub(crate) fn fetched(&self) -> Vec<String> {
        let paths = self.requests().into_iter().filter_map(|request| {
            Some(request.path.split_once("/resolve/")?.1.split_once('/')?.1.to_owned())
        });
        let mut paths: Vec<String> = paths.collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// The normal answer.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        let state = self.state.lock().unwrap();
        if let Some(rest) = path.strip_prefix("/api/") {
            let parts: Vec<&str> = rest.splitn(5, '/').collect();
            let name = parts[..3].join("/");
            if parts[3] == "revision" {
                let known = state.repos.contains_key(&(name, state.head.clone()));
                return match known {
                    true => Reply::json(&json!({ "id": "x", "sha": state.head, "siblings": [] })),
                    false => Reply::new(404, "").with("X-Error-Code", "RepoNotFound"),
                };
            }
            let Some(files) = state.repos.get(&(name, parts[4].to_owned())) else {
                return Reply::new(404, "");
            };
            let deep = request.path.contains("recursive=true");
            let listed =
                files.iter().filter(|file| deep || !file.path.contains('/') || file.path.starts_with('.'));
            return Reply::json(&listed.map(entry).collect());
        }
        let Some((repo, rest)) = path[1..].split_once("/resolve/") else { return Reply::new(404, "") };
        let repo = if repo.starts_with("datasets/") { repo.to_owned() } else { format!("models/{repo}") };
        let (commit, file) = rest.split_once('/').unwrap();
        let files = state.repos.get(&(repo, commit.to_owned()));
        let Some(file) = files.and_then(|files| files.iter().find(|other| other.path == file)) else {
            return Reply::new(404, "").with("X-Error-Code", "EntryNotFound");
        };
        ranged(request, &file.bytes)
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = read_request(&mut reader) {
            let before = {
                let mut state = self.state.lock().unwrap();
                let before = state.requests.iter().filter(|other| other.path == request.path).count();
                state.requests.push(request.clone());
                before
            };
            let twist = self.twist.lock().unwrap().clone();
            let twisted = twist.and_then(|twist| twist(&request, before));
            let reply = twisted.unwrap_or_else(|| self.answer(&request));
            if !write_reply(&stream, &reply) {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }
}

/// The bytes from the wanted start on.
pub(crate) fn ranged(request: &Request, bytes: &[u8]) -> Reply {
    match request.start() {
        None => Reply::new(200, bytes),
        Some(start) if start >= bytes.len() => {
            Reply::new(416, "").with("Content-Range", format!("bytes */{}", bytes.len()))
        }
        Some(start) => Reply::new(206, &bytes[start..])
            .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

pub(crate) fn git_blob(bytes: &[u8]) -> String {
    let mut all = format!("blob {}\0", bytes.len()).into_bytes();
    all.extend(bytes);
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &all).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entry(file: &RemoteFile) -> Value {
    let mut entry = json!({
        "type": "file", "path": file.path, "size": file.bytes.len(), "oid": git_blob(&file.bytes),
    });
    if file.lfs {
        entry["lfs"] = json!({ "oid": sha256(&file.bytes), "size": file.bytes.len(), "pointerSize": 130 });
    }
    entry
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.by_ref().take(1 << 16).read_line(&mut line).ok().filter(|read| *read > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.by_ref().take(1 << 16).read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => return Some(Request { path, headers }),
        };
    }
}

/// Whether the connection can be used again.
fn write_reply(mut stream: &TcpStream, reply: &Reply) -> bool {
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.length.unwrap_or(reply.body.len())));
    let end = reply.cut.or(reply.stall).unwrap_or(reply.body.len()).min(reply.body.len());
    let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&reply.body[..end]));
    if reply.stall.is_some() {
        std::thread::sleep(Duration::from_secs(60));
    }
    written.is_ok() && reply.cut.is_none() && reply.length.is_none()
}

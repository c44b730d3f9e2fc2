//! Addresses of sources that lie elsewhere: `hf://...` and `https://...`. Only their text is read
//! here; nothing in this file asks a network.

use std::fmt;

/// What a repository of the Hugging Face Hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RepoKind {
    /// A model: `hf://org/name`.
    Model,
    /// A dataset: `hf://datasets/org/name`.
    Dataset,
}

impl RepoKind {
    /// What stands before the repository's name in addresses and links.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }

    /// The word that the hub's API and cache folders use.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// A repository on the hub, at a revision, or one file or folder of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubAddress {
    /// Model or dataset.
    pub kind: RepoKind,
    /// `org/name`.
    pub repo: String,
    /// Branch, tag, `refs/...` or commit; none means `main`.
    pub revision: Option<String>,
    /// A file or folder inside the repository.
    pub path: Option<String>,
}

/// A source that lies elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// `hf://...`
    Hub(HubAddress),
    /// `https://...`, or `http://` to this machine.
    Web(String),
}

/// Why a text is not an address, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub hint: String,
}

fn wrong<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, AddressError> {
    Err(AddressError { message: message.into(), hint: hint.into() })
}

impl Address {
    /// Reads an address; `None` for a text that is a path on this machine.
    ///
    /// # Errors
    /// When it looks like an address and is none that can be read.
    pub fn parse(text: &str) -> Option<Result<Self, AddressError>> {
        let (scheme, rest) = text.split_once("://")?;
        if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
            return None;
        }
        Some(match scheme {
            "hf" => HubAddress::parse(text, rest).map(Self::Hub),
            "https" | "http" => web(text, scheme, rest).map(Self::Web),
            _ => wrong(
                format!("`{scheme}://` addresses are not read"),
                "give a path, `hf://org/name` or an `https://` address",
            ),
        })
    }

    /// As [`Self::parse`], for a text that the planner accepted.
    pub fn accepted(text: &str) -> Option<Self> {
        Self::parse(text)?.ok()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(hub) => hub.fmt(f),
            Self::Web(url) => f.write_str(url),
        }
    }
}

impl HubAddress {
    /// The branch, tag or commit that it means.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The commit, when the revision is a whole one: it can never mean anything else.
    pub fn commit(&self) -> Option<&str> {
        self.revision.as_deref().filter(|revision| is_commit(revision))
    }

    /// The same place at another revision.
    #[must_use]
    pub fn at(&self, revision: &str) -> Self {
        Self { revision: Some(revision.to_owned()), ..self.clone() }
    }

    /// The repository at its revision, without a path inside: what a commit is pinned for.
    pub fn pin_name(&self) -> String {
        Self { path: None, ..self.at(self.revision()) }.to_string()
    }

    fn parse(text: &str, rest: &str) -> Result<Self, AddressError> {
        let (kind, rest, example) = match rest.strip_prefix("datasets/") {
            Some(rest) => (RepoKind::Dataset, rest, "hf://datasets/openai/gsm8k"),
            None => (RepoKind::Model, rest, "hf://Qwen/Qwen2.5-7B"),
        };
        let shape = || wrong(format!("`{text}` is not a hub address"), format!("write it as `{example}`"));
        let Some((owner, rest)) = rest.split_once('/') else {
            let hint = format!("name the owner too, as in `{example}`");
            return wrong(format!("`{text}` names no owner"), hint);
        };
        let end = rest.find(['@', '/']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        if !is_repo_name(owner) || !is_repo_name(name) {
            return shape();
        }
        let (revision, path) = match rest.strip_prefix('@') {
            None => (None, rest.strip_prefix('/')),
            Some(rest) => {
                let (revision, path) = split_revision(rest);
                (Some(revision.replace("%2F", "/").replace("%2f", "/")), path)
            }
        };
        if let Some(revision) = &revision
            && !is_revision(revision)
        {
            return wrong(
                format!("`{revision}` is not a revision"),
                "a revision is a branch, a tag or a commit, e.g. `main`",
            );
        }
        let path = path.map(|path| path.trim_end_matches('/')).filter(|path| !path.is_empty());
        if path.is_some_and(|path| !is_safe_path(path)) {
            return shape();
        }
        Ok(Self { kind, repo: format!("{owner}/{name}"), revision, path: path.map(str::to_owned) })
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}{}", self.kind.prefix(), self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{}", revision.replace('/', "%2F"))?;
        }
        if let Some(path) = &self.path {
            write!(f, "/{path}")?;
        }
        Ok(())
    }
}

/// The revision ends at the first `/`, but for the hub's own `refs/pr/1` and `refs/convert/parquet`.
fn split_revision(text: &str) -> (&str, Option<&str>) {
    let special = ["refs/pr/", "refs/convert/"].iter().find(|prefix| text.starts_with(**prefix));
    let from = special.map_or(0, |prefix| prefix.len());
    match text[from..].find('/') {
        Some(at) => (&text[..from + at], Some(&text[from + at + 1..])),
        None => (text, None),
    }
}

fn web(text: &str, scheme: &str, rest: &str) -> Result<String, AddressError> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if authority.is_empty() || authority.contains('@') || !plain || text.contains('#') {
        return wrong(
            format!("`{text}` is not an address that can be read"),
            "write it as `https://host/path/file`, without user name, password or `#`",
        );
    }
    if scheme == "http" && !is_loopback(host_of(authority)) {
        let hint = format!("write `https://{rest}`");
        return wrong("plain `http://` is only read from this machine", hint);
    }
    Ok(text.to_owned())
}

/// The host of `host:port` or `[v6]:port`.
pub fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

/// The last part of a link's path, safe as the name of a file.
pub fn file_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let name = path.splitn(4, '/').nth(3).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    if is_safe_path(name) { name } else { "download" }
}

/// Whether a host is this machine.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a text is a whole commit id.
pub fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// Whether a text is so many lower-case hex digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether a text can be a branch, tag, `refs/...` or commit. It goes into links and file names.
pub(super) fn is_revision(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-+/".contains(c);
    text.len() <= 200 && text.chars().all(fits) && is_safe_path(text) && !text.starts_with('-')
}

fn is_repo_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty()
        && text.len() <= 96
        && text.chars().all(fits)
        && !text.starts_with(['.', '-'])
        && !text.contains("--")
        && !text.contains("..")
}

/// Whether a path from elsewhere may be made below a folder: relative, without `..`, empty parts,
/// backslashes or control characters, so that it cannot leave the folder.
pub fn is_safe_path(path: &str) -> bool {
    path.len() <= 1024
        && !path.contains('\\')
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(text: &str) -> String {
        match Address::parse(text) {
            None => "path".to_owned(),
            Some(Ok(address)) => address.to_string(),
            Some(Err(error)) => format!("error: {}", error.message),
        }
    }

    #[test]
    fn addresses_read_back_as_written() {
        for text in [
            "hf://Qwen/Qwen2-7B",
            "hf://Qwen/Qwen2-7B@v1.0",
            "hf://datasets/openai/gsm8k@main/main/train.parquet",
            "hf://a/b/sub/model.gguf",
            "https://example.org/a.json?x=1",
            "http://127.0.0.1:8000/a.json",
            "http://[::1]:8000/a.json",
        ] {
            assert_eq!(excerpt(text), text);
        }
        assert_eq!(excerpt("hf://a/b@refs/pr/7/x.gguf"), "hf://a/b@refs%2Fpr%2F7/x.gguf");
        assert_eq!(excerpt("hf://a/b@refs%2Fpr%2F7"), "hf://a/b@refs%2Fpr%2F7");
        for path in ["models/old", "./a:b", "C:/x", "://x"] {
            assert_eq!(excerpt(path), "path", "{path}");
        }
    }

    #[test]
    fn tricks_are_refused() {
        for text in [
            "hf://gpt2",
            "hf://../x/y",
            "hf://a/..",
            "hf://a/b@../../x",
            "hf://a/b@",
            "hf://a/b@-x",
            "hf://a/b/../c",
            "hf://a/b/c\\d",
            "hf://a/b/c\0",
            "hf://a/b--c",
            "s3://bucket/key",
            "http://example.org/x",
            "https://user:pw@example.org/x",
            "https://",
            "https://example.org/a b",
        ] {
            assert!(excerpt(text).starts_with("error: "), "{text}: {}", excerpt(text));
        }
    }
}

//! [`Settings`]: where the hub is, where its files are kept, and how patient to be.

use std::{fmt, fs, io::Read as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};

use super::link::Origin;
use crate::{env, error::hinted};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// A token file is one short line.
const MAX_TOKEN: u64 = 4096;

/// Everything that does not depend on what is fetched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the hub, without a final `/`.
    pub endpoint: String,
    /// Folder of the hub's files, shared with other tools.
    pub cache: PathBuf,
    /// Sent to the endpoint alone.
    pub token: Option<Token>,
    /// Make no request at all.
    pub offline: bool,
    /// PEM file of the certificates to trust, instead of those built in.
    pub certificates: Option<PathBuf>,
    /// How to go on after a failed request.
    pub retry: Retry,
    /// Files at the same time.
    pub parallel: usize,
}

/// How to go on after a failed request.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Requests in a row without progress before giving up.
    pub attempts: u32,
    /// First pause; doubles each time.
    pub first: Duration,
    /// Longest pause that we choose.
    pub longest: Duration,
    /// Longest pause that a server may ask for.
    pub obey: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 6,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            obey: Duration::from_secs(300),
        }
    }
}

/// An access token. Neither `{:?}` nor anything else shows it.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token that can stand in a header.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self(text.to_owned()))
    }

    /// The value of the `Authorization` header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl Settings {
    /// From the environment variables that other tools of the hub use too.
    ///
    /// # Errors
    /// When one of them makes no sense.
    pub fn from_env() -> anyhow::Result<Self> {
        let endpoint = env::text(env::HF_ENDPOINT).unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Origin::of(&endpoint).map_err(|_| {
            hinted(
                format!("{} is `{endpoint}`, which is no web address", env::HF_ENDPOINT),
                format!("unset it, or write it like `{DEFAULT_ENDPOINT}`"),
            )
        })?;
        let cache = env::path(env::HF_HUB_CACHE)
            .or_else(|| env::hf_home().map(|home| home.join("hub")))
            .ok_or_else(|| {
                let hint = format!("set {} or {}", env::HF_HUB_CACHE, env::HF_HOME);
                hinted("there is no home folder to keep files of the hub in", hint)
            })?;
        Ok(Self {
            endpoint,
            cache: std::path::absolute(cache)?,
            token: token()?,
            offline: is_offline(),
            certificates: env::path(env::SSL_CERT_FILE),
            retry: Retry::default(),
            parallel: 8,
        })
    }
}

fn is_offline() -> bool {
    env::text(env::HF_HUB_OFFLINE)
        .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str()))
}

fn token() -> anyhow::Result<Option<Token>> {
    if let Some(text) = env::text(env::HF_TOKEN) {
        let token = Token::new(&text);
        // The message must not hold the value.
        ensure!(token.is_some(), "{} holds characters that no token has", env::HF_TOKEN);
        return Ok(token);
    }
    let file = env::path(env::HF_TOKEN_PATH).or_else(|| env::hf_home().map(|home| home.join("token")));
    let Some(file) = file.filter(|file| file.is_file()) else { return Ok(None) };
    let mut text = String::new();
    let cannot = || format!("cannot read the token in `{}`", file.display());
    let open = fs::File::open(&file).with_context(cannot)?;
    open.take(MAX_TOKEN).read_to_string(&mut text).with_context(cannot)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let token = Token::new(&text);
    ensure!(token.is_some(), "`{}` holds characters that no token has", file.display());
    Ok(token)
}

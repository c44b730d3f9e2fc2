//! [`Http`]: one GET with its redirects. It decides who sees the token, which answers are worth
//! another try, and says what a refusal means.

use std::{io::Read, path::Path, time::Duration};

use anyhow::{Context as _, anyhow};
use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, StatusCode, header},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    Settings,
    link::{Origin, join, shown},
    retry::Fault,
};
use crate::{env, error::hinted};

/// Redirects that are followed for one request.
const MAX_REDIRECTS: usize = 8;
/// A connection that says nothing for so long is cut.
const SILENCE: Duration = Duration::from_secs(30);

/// Makes requests. All of them end when its agent is shut down.
pub(super) struct Http<'s> {
    agent: Agent,
    settings: &'s Settings,
    endpoint: Origin,
}

/// A successful answer (or 416, which tells that there is nothing after the wanted start).
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Answer {
    /// A header as text.
    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A client that leaves redirects and refusals to its user.
pub(super) fn agent(certificates: Option<&Path>) -> anyhow::Result<Agent> {
    let roots = match certificates {
        None => RootCerts::WebPki,
        Some(file) => {
            let cannot = || format!("cannot read `{}` ({})", file.display(), env::SSL_CERT_FILE);
            let pem = std::fs::read(file).with_context(cannot)?;
            let certificates = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            RootCerts::from(certificates.collect::<Vec<_>>())
        }
    };
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // Followed here: the token must not go along.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("evergraft/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(SILENCE))
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(2 * SILENCE))
        .timeout_per_read(Some(SILENCE))
        .timeout_per_write(Some(SILENCE))
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .build();
    Ok(config.new_agent())
}

impl<'s> Http<'s> {
    /// # Errors
    /// When the certificates cannot be read.
    pub(super) fn new(settings: &'s Settings) -> anyhow::Result<Self> {
        let agent = agent(settings.certificates.as_deref())?;
        let endpoint = Origin::of(&settings.endpoint)?;
        Ok(Self { agent, settings, endpoint })
    }

    /// The agent, to be shut down from another thread.
    pub(super) fn agent(&self) -> Agent {
        self.agent.clone()
    }

    /// GET from byte `start` on, through redirects.
    pub(super) fn get(&self, link: &str, start: u64) -> Result<Answer, Fault> {
        let mut link = link.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let origin = Origin::of(&link)?;
            let response = self.once(&link, &origin, start).map_err(|error| self.broken(error, &link))?;
            if !response.status().is_redirection() {
                return self.judge(response, &link, &origin);
            }
            let target = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let target = target.with_context(|| format!("`{}` redirects to nowhere", shown(&link)))?;
            let next = join(&link, target)?;
            if !origin.may_lead_to(&Origin::of(&next)?, &self.endpoint) {
                let message = format!("`{}` redirects to `{}`", shown(&link), shown(&next));
                return Err(hinted(message, "plain http is refused there; is the address right?").into());
            }
            link = next;
        }
        Err(anyhow!("`{}` redirects more than {MAX_REDIRECTS} times", shown(&link)).into())
    }

    fn once(&self, link: &str, origin: &Origin, start: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(link).header(header::ACCEPT_ENCODING, "identity");
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        if let Some(token) = self.settings.token.as_ref().filter(|_| *origin == self.endpoint) {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        if origin.is_loopback() {
            request = request.config().proxy(None).build();
        }
        request.call()
    }

    fn judge(&self, response: Response<Body>, link: &str, origin: &Origin) -> Result<Answer, Fault> {
        let (parts, body) = response.into_parts();
        let status = parts.status;
        if matches!(status.as_u16(), 200 | 206 | 416) {
            return Ok(Answer { status, headers: parts.headers, body });
        }
        let error = anyhow!("`{}` answers {status}", shown(link));
        if matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504) {
            return Err(Fault::Again { error, wait: retry_after(&parts.headers), progress: false });
        }
        let code = parts.headers.get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        let hint = match (status.as_u16(), *origin == self.endpoint) {
            (_, true) if code == "GatedRepo" => {
                "the owner of the repository must let you in: ask on its page, then set HF_TOKEN".to_owned()
            }
            (_, true) if code == "RevisionNotFound" => "is the revision right?".to_owned(),
            (404, true) if code == "EntryNotFound" => "is the path right?".to_owned(),
            (401 | 403, true) if self.settings.token.is_none() => format!(
                "is the name right? A private or gated repository needs {} or `$HF_HOME/token`",
                env::HF_TOKEN
            ),
            (401 | 403, true) => "is the name right, and may your token read it?".to_owned(),
            (404, _) => "is the address right?".to_owned(),
            _ => "the server refuses; is the address right?".to_owned(),
        };
        Err(hinted(error.to_string(), hint).into())
    }

    /// A request that got no answer.
    fn broken(&self, error: ureq::Error, link: &str) -> Fault {
        use ureq::Error as E;
        let text = format!("cannot reach `{}`: {error}", shown(link));
        // An untrusted certificate comes as `InvalidData` from below; no retry makes it right.
        let untrusted = match &error {
            E::Io(io) => io.kind() == std::io::ErrorKind::InvalidData,
            E::Tls(_) | E::Rustls(_) | E::Pem(_) => true,
            _ => false,
        };
        match error {
            _ if untrusted => {
                let hint =
                    format!("{} names certificates to trust, e.g. those of a proxy", env::SSL_CERT_FILE);
                hinted(text, hint).into()
            }
            E::HostNotFound | E::ConnectionFailed | E::ConnectProxyFailed(_) => Fault::again(hinted(
                text,
                format!("without a network set {}=1 to use what is there already", env::HF_HUB_OFFLINE),
            )),
            E::BadUri(_) | E::Http(_) | E::InvalidProxyUrl => anyhow!(text).into(),
            _ => Fault::again(anyhow!(text)),
        }
    }
}

/// `Retry-After`, in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    (date.to_utc() - chrono::Utc::now()).to_std().ok()
}

/// A whole body of at most `limit` bytes.
pub(super) fn read_bounded(body: Body, limit: u64, link: &str) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let read = body.into_reader().take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|error| Fault::again(anyhow!("`{}` breaks off: {error}", shown(link))))?;
    if bytes.len() as u64 > limit {
        return Err(anyhow!("`{}` answers with more than {limit} bytes", shown(link)).into());
    }
    Ok(bytes)
}

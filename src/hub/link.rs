//! Links: where one points, whether it may be followed, and how it is shown.

use anyhow::{Context as _, bail, ensure};
use ureq::http::Uri;

use crate::params::is_loopback;

/// Longest link that is followed.
const MAX_LINK: usize = 16 << 10;

/// Scheme, host and port: what must be equal for a token to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// # Errors
    /// When the link is not `http://` or `https://` with a host.
    pub(super) fn of(link: &str) -> anyhow::Result<Self> {
        ensure!(link.len() <= MAX_LINK, "a link is longer than {MAX_LINK} bytes");
        let uri: Uri = link.parse().with_context(|| format!("`{}` is no link", shown(link)))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => bail!("`{}` is neither https:// nor http://", shown(link)),
        };
        let authority = uri.authority().with_context(|| format!("`{}` has no host", shown(link)))?;
        ensure!(!authority.as_str().contains('@'), "`{}` holds a user name", shown(link));
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        ensure!(!host.is_empty(), "`{}` has no host", shown(link));
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host, port })
    }

    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Whether a request here may be redirected there. Never from https to http; http only where
    /// the user chose it: on this machine, or when the endpoint itself is http.
    pub(super) fn may_lead_to(&self, next: &Self, endpoint: &Self) -> bool {
        next.secure || (!self.secure && (next.is_loopback() || !endpoint.secure))
    }
}

/// Where a `Location` or `Link` of the answer to `base` points.
///
/// # Errors
/// When it is not a link.
pub(super) fn join(base: &str, target: &str) -> anyhow::Result<String> {
    let target = target.trim();
    ensure!(target.len() <= MAX_LINK, "the server answers with a link longer than {MAX_LINK} bytes");
    ensure!(target.bytes().all(|byte| byte.is_ascii_graphic()), "the server answers with a damaged link");
    if target.contains("://") && !target.starts_with('/') {
        return Ok(target.to_owned());
    }
    let (scheme, rest) = base.split_once("://").context("a base link has a scheme")?;
    if let Some(rest) = target.strip_prefix("//") {
        return Ok(format!("{scheme}://{rest}"));
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if target.starts_with('/') {
        return Ok(format!("{scheme}://{host}{target}"));
    }
    let path = rest[host.len()..].split(['?', '#']).next().unwrap_or_default();
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    Ok(format!("{scheme}://{host}{folder}/{target}"))
}

/// A link for messages and logs: without its query, which may hold a signature.
pub(super) fn shown(link: &str) -> String {
    let plain = link.split(['?', '#']).next().unwrap_or_default();
    plain.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A text as one part of a link's path; `keep` are characters left as they are besides the plain ones.
pub(super) fn encode(text: &str, keep: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let c = byte as char;
        if byte.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) {
            out.push(c);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_tell_hosts_ports_and_schemes_apart() {
        let origin = |link: &str| Origin::of(link).unwrap();
        assert_eq!(origin("https://Hub.example/a"), origin("https://hub.example:443/b?c"));
        assert_ne!(origin("https://hub.example"), origin("http://hub.example"));
        assert_ne!(origin("http://127.0.0.1:1"), origin("http://127.0.0.1:2"));
        assert_ne!(origin("https://hub.example"), origin("https://hub.example.evil.org"));
        for bad in ["ftp://x", "https://", "/a", "https://a@b/"] {
            assert!(Origin::of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirects_never_lose_encryption() {
        let origin = |link: &str| Origin::of(link).unwrap();
        let (safe, plain, here) =
            (origin("https://a.org"), origin("http://b.org"), origin("http://127.0.0.1:9"));
        assert!(safe.may_lead_to(&origin("https://cdn.org"), &safe));
        assert!(!safe.may_lead_to(&plain, &safe));
        assert!(!safe.may_lead_to(&here, &safe));
        assert!(here.may_lead_to(&origin("http://127.0.0.1:10"), &safe));
        assert!(!here.may_lead_to(&plain, &safe));
        assert!(plain.may_lead_to(&origin("http://c.org"), &plain));
    }

    #[test]
    fn relative_targets() {
        let base = "https://hub.example/a/b?x=1";
        for (target, expected) in [
            ("https://cdn.example/x?sig=1", "https://cdn.example/x?sig=1"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/c", "https://hub.example/c"),
            ("c?d", "https://hub.example/a/c?d"),
        ] {
            assert_eq!(join(base, target).unwrap(), expected);
        }
        assert!(join(base, "/a\r\nX: y").is_err());
    }

    #[test]
    fn shown_links_hide_signatures() {
        assert_eq!(shown("https://cdn.example/x?Signature=secret"), "https://cdn.example/x");
        assert_eq!(encode("a b/ü", "/"), "a%20b/%C3%BC");
    }
}

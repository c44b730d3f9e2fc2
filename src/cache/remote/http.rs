//! How object stores are reached: with the same client and certificates as the hub.

use std::io::Read as _;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use object_store::{
    ClientConfigKey, ClientOptions, Error,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
        HttpService,
    },
};
use ureq::{
    Agent, AsSendBody, Body,
    http::{Request, Response},
};

use crate::hub;

/// The longest answer: a piece of a file, a listing, a token.
const MAX_ANSWER: u64 = 64 << 20;

/// Makes clients.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let agent = hub::agent().map_err(|error| Error::Generic { store: "http", source: error.into() })?;
        let plain =
            options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        Ok(HttpClient::new(Service { agent, plain }))
    }
}

#[derive(Debug, Clone)]
struct Service {
    agent: Agent,
    /// Whether requests may go unencrypted to other machines.
    plain: bool,
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let service = self.clone();
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, body.collect().await?.to_bytes());
        let sent = tokio::task::spawn_blocking(move || service.send(request)).await;
        sent.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?
    }
}

impl Service {
    fn send(&self, request: Request<Bytes>) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let host = parts.uri.host().unwrap_or_default();
        let loopback = host == "localhost" || host.starts_with("127.") || host == "[::1]";
        if parts.uri.scheme_str() != Some("https") && !self.plain && !loopback {
            let message = "plain http is refused; AWS_ALLOW_HTTP=true allows it";
            return Err(HttpError::new(HttpErrorKind::Unknown, std::io::Error::other(message)));
        }
        let is_plain = body.is_empty() && !matches!(parts.method.as_str(), "PUT" | "POST");
        let answer = if is_plain {
            self.run(Request::from_parts(parts, ()), loopback)
        } else {
            self.run(Request::from_parts(parts, &body[..]), loopback)
        };
        let (parts, body) = answer.map_err(http_error)?.into_parts();
        let mut bytes = Vec::new();
        let read = body.into_reader().take(MAX_ANSWER + 1).read_to_end(&mut bytes);
        read.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
        if bytes.len() as u64 > MAX_ANSWER {
            let message = "the answer is too long";
            return Err(HttpError::new(HttpErrorKind::Decode, std::io::Error::other(message)));
        }
        Ok(Response::from_parts(parts, HttpResponseBody::from(bytes)))
    }

    fn run(&self, request: Request<impl AsSendBody>, loopback: bool) -> Result<Response<Body>, ureq::Error> {
        match loopback {
            true => self.agent.run(self.agent.configure_request(request).proxy(None).build()),
            false => self.agent.run(request),
        }
    }
}

fn http_error(error: ureq::Error) -> HttpError {
    let kind = match &error {
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => HttpErrorKind::Connect,
        ureq::Error::Io(_) | ureq::Error::Protocol(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

//! JSON-RPC over HTTP to a node whose every answer may be nonsense.

use std::{fs::File, io::Read, path::Path, time::Duration};

use bytes::Bytes;
use reqwest::{StatusCode, Url, redirect};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Error, RpcConfig,
    config::{Credentials, Endpoint},
};

/// The most that is read of one answer. A full block in hex is 8 MB, with what else a template says below 20 MB.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Tells a dead peer from a quiet long poll.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Nodes close a connection that is idle for 30 s; one that is about to be closed must not be used.
const KEEP_IDLE: Duration = Duration::from_secs(10);
const MAX_COOKIE_BYTES: u64 = 4096;
/// Of a text from the node, in a log line or on a page.
const MAX_QUOTED_CHARS: usize = 300;

pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    timeout: Duration,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// No answer, or none of a node.
    #[error("the node at {url} cannot be reached: {problem}")]
    Unreachable { url: Url, problem: String },
    /// The operator has to correct the configuration.
    #[error("the node at {url} refuses these credentials (user and password, or the cookie file)")]
    Credentials { url: Url },
    /// The operator has to correct the configuration, or the node is not running.
    #[error("cookie file: {0}")]
    Cookie(String),
    /// An answer that is not one.
    #[error("the node answers nonsense: {0}")]
    Nonsense(String),
    /// A proper error.
    #[error("the node says: {message} ({code})")]
    Node { code: i64, message: String },
}

impl Client {
    pub(crate) fn new(config: &RpcConfig) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .tcp_keepalive(KEEPALIVE)
            .tcp_nodelay(true)
            .pool_idle_timeout(KEEP_IDLE)
            .build()
            .map_err(|error| Error::Config {
                key: "url",
                problem: error.to_string(),
            })?;
        Ok(Self {
            http,
            endpoint: config.endpoint()?,
            timeout: Duration::from_secs(config.timeout_seconds.into()),
        })
    }

    /// A call whose result is small and simple.
    pub(crate) async fn call<T>(&self, method: &str, params: &str) -> Result<T, CallError>
    where
        T: for<'de> Deserialize<'de>,
    {
        let answer = self.post(request(method, params), self.timeout).await?;
        parse(result_of(&answer)?)
    }

    /// Sends a whole request with the usual time limit.
    pub(crate) async fn send(&self, request: Bytes) -> Result<Vec<u8>, CallError> {
        self.post(request, self.timeout).await
    }

    /// Sends a whole request and gives the body of the answer, whatever it holds.
    pub(crate) async fn post(
        &self,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let mut post = self
            .http
            .post(self.endpoint.url.clone())
            .header("content-type", "application/json")
            .timeout(timeout)
            .body(request);
        post = match &self.endpoint.credentials {
            Credentials::None => post,
            Credentials::Password { user, password } => post.basic_auth(user, Some(password)),
            Credentials::Cookie(file) => {
                let (user, password) = read_cookie(file).map_err(CallError::Cookie)?;
                post.basic_auth(user, Some(password))
            }
        };
        let mut response = post
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(CallError::Credentials {
                url: self.endpoint.url.clone(),
            });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(CallError::Nonsense(format!(
                    "over {MAX_ANSWER_BYTES} bytes"
                )));
            }
            body.extend_from_slice(&chunk);
        }
        // A node sends its errors with 500, 404 or 400 and a JSON body; without one, the status is all there is.
        if !status.is_success() && !body.starts_with(b"{") {
            return Err(CallError::Unreachable {
                url: self.endpoint.url.clone(),
                problem: format!("HTTP {status}: {}", quoted(&String::from_utf8_lossy(&body))),
            });
        }
        Ok(body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> CallError {
        // The causes say more than the outermost text, which only repeats the URL.
        let mut problem = String::new();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            if !problem.is_empty() {
                problem.push_str(": ");
            }
            problem.push_str(&inner.to_string());
            cause = inner.source();
        }
        if error.is_timeout() {
            "no answer in time".clone_into(&mut problem);
        } else if problem.is_empty() {
            problem = error.to_string();
        }
        CallError::Unreachable {
            url: self.endpoint.url.clone(),
            problem: quoted(&problem),
        }
    }
}

/// A request as it is sent; `params` is a JSON array.
pub(crate) fn request(method: &str, params: &str) -> Bytes {
    format!(r#"{{"jsonrpc":"1.0","id":"hashpool","method":"{method}","params":{params}}}"#).into()
}

/// The `result` of an answer, as it stands there; `null` where there is none.
pub(crate) fn result_of(answer: &[u8]) -> Result<&str, CallError> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow, default)]
        result: Option<&'a RawValue>,
        #[serde(default)]
        error: Option<NodeError>,
    }
    #[derive(Deserialize)]
    struct NodeError {
        code: i64,
        message: String,
    }

    let text = std::str::from_utf8(answer)
        .map_err(|_| CallError::Nonsense("an answer that is not UTF-8".to_owned()))?;
    let envelope: Envelope<'_> = parse(text)?;
    if let Some(NodeError { code, message }) = envelope.error {
        return Err(CallError::Node {
            code,
            message: quoted(&message),
        });
    }
    Ok(envelope.result.map_or("null", RawValue::get))
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, CallError> {
    serde_json::from_str(text).map_err(|error| CallError::Nonsense(quoted(&error.to_string())))
}

/// A text of the node, short and without anything that could disturb a terminal or a log.
pub(crate) fn quoted(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX_QUOTED_CHARS).map(printable).collect()
}

fn read_cookie(path: &Path) -> Result<(String, String), String> {
    let at = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_COOKIE_BYTES).read_to_string(&mut text))
        .map_err(|error| at(&error))?;
    match text.trim().split_once(':') {
        Some((user, password)) => Ok((user.to_owned(), password.to_owned())),
        None => Err(at(&"holds no user:password")),
    }
}

//! What an operator, a load balancer and Prometheus ask a role: `/healthz`, `/readyz`, `/status` and `/metrics`.
//!
//! Answers are made on threads of their own, at most [`RENDERS`] at a time, so that no question takes a thread that mines.
//! A connection serves one request within [`EXCHANGE_TIMEOUT`] and is closed; what it can cost is bounded by that, by the
//! size of a request's head and by the number of connections. A role that has pages may answer for longer.

mod address;
mod metrics;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::address::Address;
pub use self::metrics::{Families, Histogram, register};
pub use prometheus;

use crate::listener::{self, Limits, Listener};

/// Connections at a time, and those of one address: a monitor, a few people and a load balancer.
const CONNECTIONS: usize = 64;

/// Connections at a time of a role with pages: each browser has some.
const PAGE_CONNECTIONS: usize = 256;

/// Time for a request to come and for its answer to be taken.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The same where there are pages, which may say that they have changed for as long as somebody looks. Browsers come again.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Bytes of a request's head. A larger one is answered with 431.
const MAX_HEAD: usize = 16 * 1024;

/// Bytes of a refused request that are read, so that its sender sees the answer and not a reset.
const MAX_DRAIN: u64 = 256 * 1024;

/// Answers that are made at the same time.
const RENDERS: usize = 2;

/// At shutdown, time for answers under way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);

/// What a role has to say. All of it is called from threads that may block, never from a task of the role.
pub struct Endpoints {
    ready: Box<dyn Fn() -> Result<(), Vec<String>> + Send + Sync>,
    status: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    registry: Registry,
}

impl Endpoints {
    /// `ready` says why the role cannot do its job, if it cannot; `status` is the role's snapshot as JSON; `registry` holds
    /// what was put into it with [`register`].
    pub fn new(
        ready: impl Fn() -> Result<(), Vec<String>> + Send + Sync + 'static,
        status: impl Fn() -> serde_json::Value + Send + Sync + 'static,
        registry: Registry,
    ) -> Self {
        Self {
            ready: Box::new(ready),
            status: Box::new(status),
            registry,
        }
    }

    /// Those of a role whose state is read through one handle. `collect` fills the families of `/metrics` when they are
    /// asked for.
    pub fn of<H, S>(
        handle: &H,
        ready: fn(&H) -> Result<(), Vec<String>>,
        snapshot: fn(&H) -> S,
        collect: fn(&H, &mut Families),
    ) -> Result<Self, prometheus::Error>
    where
        H: Clone + Send + Sync + 'static,
        S: Serialize + 'static,
    {
        let registry = Registry::new();
        let source = handle.clone();
        register(&registry, move |families| collect(&source, families))?;
        let (asked, told) = (handle.clone(), handle.clone());
        Ok(Self::new(
            move || ready(&asked),
            // Maps have text for keys and numbers are finite or become null, so nothing here fails.
            move || serde_json::to_value(snapshot(&told)).unwrap_or_default(),
            registry,
        ))
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").finish_non_exhaustive()
    }
}

/// A port for pages that is open, or none where it is switched off: for a role that has to know that it has its ports before it
/// does something else.
#[derive(Debug)]
pub struct Port(Option<Listener>);

impl Port {
    /// Opens the port, if there is to be one; nobody is answered yet.
    ///
    /// # Errors
    /// [`listener::Error`], naming the address.
    pub fn open(address: Address) -> Result<Self, listener::Error> {
        listen(address, PAGE_CONNECTIONS).map(Self)
    }
}

/// The HTTP server of a role whose port is open, or one that is switched off.
#[derive(Debug)]
pub struct Server {
    listener: Option<Listener>,
    service: Router,
    exchange_timeout: Duration,
}

impl Server {
    /// Opens the port, if there is to be one; nobody is answered yet.
    ///
    /// # Errors
    /// [`listener::Error`], naming the address.
    pub fn bind(address: Address, endpoints: Endpoints) -> Result<Self, listener::Error> {
        Ok(Self {
            listener: listen(address, CONNECTIONS)?,
            service: router(endpoints).fallback(|| async {
                let known = "There are /healthz, /readyz, /status and /metrics.\n";
                text(StatusCode::NOT_FOUND, known)
            }),
            exchange_timeout: EXCHANGE_TIMEOUT,
        })
    }

    /// The same for a role that also has pages; what is not of the operators' they answer.
    #[must_use]
    pub fn with_pages(port: Port, endpoints: Endpoints, pages: Router) -> Self {
        Self {
            listener: port.0,
            service: router(endpoints).merge(pages),
            exchange_timeout: PAGE_TIMEOUT,
        }
    }

    /// Where it listens; nowhere if it is switched off.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(Listener::local_addr)
    }

    /// Answers until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let Some(mut listener) = self.listener else {
            return shutdown.cancelled().await;
        };
        tracing::info!(address = %listener.local_addr(), "listening for HTTP");
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = shutdown.cancelled() => break,
            };
            let (service, patience) = (self.service.clone(), self.exchange_timeout);
            connections.spawn(async move {
                let _permit = accepted.permit;
                let exchange = Box::pin(serve(accepted.stream, service));
                if timeout(patience, exchange).await.is_err() {
                    tracing::debug!(peer = %accepted.peer, "HTTP request took too long");
                }
            });
        }
        drop(listener);
        let finish = async { while connections.join_next().await.is_some() {} };
        // What is not done by then ends with the set.
        let _ = timeout(SHUTDOWN_PATIENCE, finish).await;
    }
}

fn listen(address: Address, connections: usize) -> Result<Option<Listener>, listener::Error> {
    let limits = Limits {
        connections,
        connections_per_address: connections,
        new_connections_per_second: None,
    };
    match address {
        Address::Off => Ok(None),
        Address::At(address) => Listener::bind(address, &limits).map(Some),
    }
}

/// One request and its answer.
async fn serve(stream: TcpStream, service: Router) {
    let mut connection = http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(EXCHANGE_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    // An error is the peer's: hyper has answered what is not HTTP, and nobody waits for the rest.
    let _ = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let mut stream = connection.into_parts().io.into_inner();
    if stream.shutdown().await.is_ok() {
        let _ = tokio::io::copy(&mut stream.take(MAX_DRAIN), &mut tokio::io::sink()).await;
    }
}

fn router(endpoints: Endpoints) -> Router {
    let renderer = Renderer {
        endpoints: Arc::new(endpoints),
        places: Arc::new(Semaphore::new(RENDERS)),
    };
    let route = |render: fn(&Endpoints) -> Response| {
        let renderer = renderer.clone();
        get(move || renderer.render(render))
    };
    Router::new()
        .route("/healthz", get(|| async { text(StatusCode::OK, "ok\n") }))
        .route("/readyz", route(readyz))
        .route("/status", route(status))
        .route("/metrics", route(metrics))
}

/// Makes answers away from the threads that mine.
#[derive(Clone)]
struct Renderer {
    endpoints: Arc<Endpoints>,
    places: Arc<Semaphore>,
}

impl Renderer {
    async fn render(self, render: fn(&Endpoints) -> Response) -> Result<Response, Infallible> {
        let failed = || text(StatusCode::INTERNAL_SERVER_ERROR, "no answer\n");
        // The semaphore is never closed.
        let Ok(place) = self.places.acquire_owned().await else {
            return Ok(failed());
        };
        let endpoints = self.endpoints;
        let rendered = tokio::task::spawn_blocking(move || {
            let _place = place;
            render(&endpoints)
        });
        Ok(rendered.await.unwrap_or_else(|error| {
            tracing::error!(%error, "an HTTP answer could not be made");
            failed()
        }))
    }
}

fn readyz(endpoints: &Endpoints) -> Response {
    match (endpoints.ready)() {
        Ok(()) => json(StatusCode::OK, &json!({ "ready": true, "reasons": [] })),
        Err(reasons) => json(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "ready": false, "reasons": reasons }),
        ),
    }
}

fn status(endpoints: &Endpoints) -> Response {
    json(StatusCode::OK, &(endpoints.status)())
}

fn metrics(endpoints: &Endpoints) -> Response {
    let families = endpoints.registry.gather();
    match TextEncoder::new().encode_to_string(&families) {
        Ok(body) => answer(StatusCode::OK, TEXT_FORMAT, body),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "no metrics\n")
        }
    }
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    answer(status, "application/json", format!("{value}\n"))
}

fn text(status: StatusCode, body: &'static str) -> Response {
    answer(status, "text/plain; charset=utf-8", body.to_owned())
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, body).into_response()
}

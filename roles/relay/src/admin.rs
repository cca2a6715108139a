//! The admin API: what an operator may look at and change while the relay runs.
//!
//! It has a port of its own on the loopback interface, and each request a token. `docs/relay-admin.md` shows it, and
//! `/api/v1/openapi.json` describes it.

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Router, middleware};
use serde::{Deserialize, Serialize};
use service::http;
use service::listener::Limits;
use stats::Token;
use stats::auth::{self, Guard};
use utoipa::{OpenApi, ToSchema};

use crate::connections::ConnectionSnapshot;
use crate::{Error, Handle, Route};

/// Who may change the relay while it runs, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it is asked, on the loopback interface; "off" for nowhere.
    pub listen_address: http::Address,
    /// The secret that each request has to bring, for the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// File with that secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen_address: http::Address::Off,
            token: None,
            token_file: None,
        }
    }
}

impl Config {
    /// Checks what can be checked without files.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let Some(address) = self.address() else {
            return Ok(());
        };
        if !address.ip().is_loopback() {
            let problem =
                format!("{address} is not on the loopback interface; use 127.0.0.1 or [::1]");
            return Err(wrong("admin.listen_address", problem));
        }
        let missing = self
            .token
            .as_ref()
            .is_none_or(|token| token.reveal().is_empty());
        if missing && self.token_file.is_none() {
            let problem = "is needed, or admin.token, where admin.listen_address is not \"off\"";
            return Err(wrong("admin.token_file", problem.to_owned()));
        }
        Ok(())
    }

    fn address(&self) -> Option<SocketAddr> {
        match self.listen_address {
            http::Address::Off => None,
            http::Address::At(address) => Some(address),
        }
    }

    fn secret(&self) -> Result<Option<Token>, Error> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(file)) => Token::read(file)
                .map(Some)
                .map_err(|problem| wrong("admin.token_file", problem)),
            (None, None) => Ok(None),
        }
    }
}

fn wrong(key: &'static str, problem: String) -> Error {
    Error::Config { key, problem }
}

/// The routes of the API, if there is to be one. Nobody gets in without the token.
pub(crate) fn router(config: &Config, handle: Handle) -> Result<Option<Router>, Error> {
    config.validate()?;
    if config.address().is_none() {
        return Ok(None);
    }
    let Some(token) = config.secret()? else {
        return Ok(None);
    };
    let guard = Guard::new(Some(token));
    let router = Router::new()
        .route("/api/v1/connections", get(connections))
        .route("/api/v1/connections/{id}", delete(close))
        .route("/api/v1/routes", get(routes).put(set_routes))
        .route("/api/v1/limits", get(limits).put(set_limits))
        .route("/api/v1/drain", post(drain))
        .route("/api/v1/openapi.json", get(document))
        .fallback(nothing)
        .layer(middleware::from_fn_with_state(guard, auth::check))
        .with_state(handle);
    Ok(Some(router))
}

/// What the document describes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hashpool relay",
        description = "What an operator may look at and change while a relay runs. Each request brings the token: \
            `Authorization: Bearer TOKEN`. Times are milliseconds since 1970-01-01 UTC. Names that miners chose are as they were \
            said: escape them where they are shown."
    ),
    paths(connections, close, routes, set_routes, limits, set_limits, drain)
)]
struct Document;

/// Why nothing was done.
#[derive(Debug, Serialize, ToSchema)]
struct Problem {
    /// For people.
    error: String,
}

/// All connections, in the order in which they came.
#[utoipa::path(get, path = "/api/v1/connections", responses((status = 200, body = Vec<ConnectionSnapshot>)))]
async fn connections(State(handle): State<Handle>) -> Response {
    json(StatusCode::OK, &handle.connections())
}

/// Ends a connection. The miner may come again at once.
#[utoipa::path(
    delete,
    path = "/api/v1/connections/{id}",
    params(("id" = u64, Path, description = "The connection's id")),
    responses((status = 204), (status = 404, body = Problem))
)]
async fn close(State(handle): State<Handle>, Path(id): Path<String>) -> Response {
    if id.parse().is_ok_and(|id| handle.close(id)) {
        tracing::info!(connection = id, "closed by the admin API");
        return StatusCode::NO_CONTENT.into_response();
    }
    problem(
        StatusCode::NOT_FOUND,
        format!("there is no connection {id}"),
    )
}

/// The routes that new connections take.
#[utoipa::path(get, path = "/api/v1/routes", responses((status = 200, body = Vec<Route>)))]
async fn routes(State(handle): State<Handle>) -> Response {
    json(StatusCode::OK, &handle.routes())
}

/// Has new connections take these routes. Those that are there stay where they are. It is forgotten when the relay ends.
#[utoipa::path(
    put,
    path = "/api/v1/routes",
    request_body = Vec<Route>,
    responses((status = 204), (status = 422, body = Problem))
)]
async fn set_routes(State(handle): State<Handle>, body: Bytes) -> Response {
    let routes: Vec<Route> = match serde_json::from_slice(&body) {
        Ok(routes) => routes,
        Err(error) => return problem(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    };
    let count = routes.len();
    match handle.set_routes(routes) {
        Ok(()) => {
            tracing::info!(routes = count, "routes changed by the admin API");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => problem(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    }
}

/// How many connections are taken, as `[limits]` of the configuration has it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LimitsBody {
    /// At a time.
    connections: usize,
    /// At a time of one IPv4 address or one IPv6 /64 network.
    connections_per_address: usize,
    /// In a second; no limit if absent or null.
    new_connections_per_second: Option<u32>,
}

/// The limits of connections.
#[utoipa::path(get, path = "/api/v1/limits", responses((status = 200, body = LimitsBody)))]
async fn limits(State(handle): State<Handle>) -> Response {
    let limits = handle.limits();
    let body = LimitsBody {
        connections: limits.connections,
        connections_per_address: limits.connections_per_address,
        new_connections_per_second: limits.new_connections_per_second,
    };
    json(StatusCode::OK, &body)
}

/// Has these limits hold for new connections. Those that are there stay. It is forgotten when the relay ends.
#[utoipa::path(
    put,
    path = "/api/v1/limits",
    request_body = LimitsBody,
    responses((status = 204), (status = 422, body = Problem))
)]
async fn set_limits(State(handle): State<Handle>, body: Bytes) -> Response {
    let wanted: LimitsBody = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => return problem(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    };
    let limits = Limits {
        connections: wanted.connections,
        connections_per_address: wanted.connections_per_address,
        new_connections_per_second: wanted.new_connections_per_second,
    };
    match handle.set_limits(&limits) {
        Ok(()) => {
            tracing::info!(?limits, "limits changed by the admin API");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => problem(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    }
}

/// Takes no new connections any more, as at a stop. The relay ends when those that are there have, or `drain_seconds` are over.
#[utoipa::path(post, path = "/api/v1/drain", responses((status = 202)))]
async fn drain(State(handle): State<Handle>) -> StatusCode {
    tracing::info!("draining, as the admin API was asked to");
    handle.drain();
    StatusCode::ACCEPTED
}

async fn document() -> Response {
    json(StatusCode::OK, &Document::openapi())
}

async fn nothing() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "there is no such thing here".to_owned(),
    )
}

fn problem(status: StatusCode, error: String) -> Response {
    json(status, &Problem { error })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    // Maps have text for keys and numbers are finite or become null, so nothing here fails.
    let text = serde_json::to_string(body).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(address: &str, token: Option<&str>) -> Config {
        Config {
            listen_address: address.parse().unwrap(),
            token: token.map(Token::from),
            token_file: None,
        }
    }

    #[test]
    fn without_a_token_or_beyond_the_loopback_interface_there_is_no_admin_api() {
        for (address, token, key) in [
            ("127.0.0.1:9091", None, "admin.token_file"),
            ("127.0.0.1:9091", Some(""), "admin.token_file"),
            ("0.0.0.0:9091", Some("secret"), "admin.listen_address"),
            ("192.0.2.1:9091", Some("secret"), "admin.listen_address"),
        ] {
            let error = config(address, token).validate().unwrap_err();
            assert!(
                matches!(error, Error::Config { key: named, .. } if named == key),
                "{address}: {error}"
            );
        }
        assert!(config("127.0.0.1:9091", Some("secret")).validate().is_ok());
        assert!(config("[::1]:9091", Some("secret")).validate().is_ok());
        assert!(config("off", None).validate().is_ok());
    }

    #[test]
    fn the_document_describes_each_path() {
        let document = serde_json::to_value(Document::openapi()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(
            paths.keys().collect::<Vec<_>>(),
            [
                "/api/v1/connections",
                "/api/v1/connections/{id}",
                "/api/v1/drain",
                "/api/v1/limits",
                "/api/v1/routes"
            ]
        );
        assert!(paths["/api/v1/routes"]["put"]["requestBody"].is_object());
    }
}

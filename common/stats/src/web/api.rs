//! The same data as JSON, under `/api/v1`, and its description.

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use utoipa::openapi::PathItem;
use utoipa::{OpenApi, ToSchema};

use super::chart::Range;
use super::history::{self, Whose};
use super::model::{
    self, AccountRow, Block, Channel, Overview, Page, Peer, Service, Shares, Upstream, WorkerRow,
};
use super::pages::Asked;
use super::site::Site;
use crate::state::{SenderKey, WorkerKey};

/// Blocks of an answer.
const BLOCKS: usize = 100;

/// What the document describes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hashpool stats",
        description = "What a pool, translator or relay and everything that is connected to it do. Times are milliseconds \
            since 1970-01-01 UTC; hashrates are in H/s. Texts that miners chose are as they were said: escape them where they \
            are shown."
    ),
    paths(
        overview,
        services,
        peers,
        peer,
        workers,
        accounts,
        upstreams,
        blocks,
        hashrate,
        peer_hashrate,
        worker_hashrate
    )
)]
struct Document;

/// Why there is no answer.
#[derive(Debug, Serialize, ToSchema)]
struct Problem {
    /// For people.
    error: String,
}

/// One peer with all its sessions.
#[derive(Debug, Serialize, ToSchema)]
struct OnePeer {
    #[serde(flatten)]
    peer: Peer,
    /// Of all sessions of the same name: protocol, host, and device or software.
    lifetime: Shares,
    /// Its first 100 channels, if it has some.
    open_channels: Vec<Channel>,
}

/// Blocks, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct Blocks {
    /// At most 100.
    rows: Vec<Block>,
    /// Blocks in all.
    total: usize,
    /// From 1.
    page: usize,
    /// Pages in all.
    pages: usize,
}

/// Work over time.
#[derive(Debug, Serialize, ToSchema)]
struct History {
    /// `1h`, `24h`, `7d` or `30d`.
    range: &'static str,
    /// When it was asked for.
    at_ms: u64,
    /// The oldest first. A time without work may be missing.
    samples: Vec<Sample>,
}

/// Work in some time.
#[derive(Debug, Serialize, ToSchema)]
struct Sample {
    /// When it began.
    start_ms: u64,
    /// How long it was. The last one may not be over.
    length_ms: u64,
    /// The mean over it, in H/s.
    hashrate: f64,
}

/// One thing that can be asked, for the page that shows them.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) path: String,
    pub(super) summary: String,
    pub(super) parameters: Vec<(String, String)>,
    /// Without parameters in its path, so that it can be asked as it is.
    pub(super) is_plain: bool,
}

pub(super) fn router() -> Router<Site> {
    Router::new()
        .route("/overview", get(overview))
        .route("/services", get(services))
        .route("/peers", get(peers))
        .route("/peers/{role}/{service}/{id}", get(peer))
        .route("/peers/{role}/{service}/{id}/hashrate", get(peer_hashrate))
        .route("/workers", get(workers))
        .route("/accounts", get(accounts))
        .route("/workers/hashrate", get(worker_hashrate))
        .route("/upstreams", get(upstreams))
        .route("/blocks", get(blocks))
        .route("/hashrate", get(hashrate))
        .route("/openapi.json", get(document))
        .fallback(async || {
            problem(
                StatusCode::NOT_FOUND,
                "there is no such path; see openapi.json",
            )
        })
}

/// The document as a list.
pub(super) fn operations() -> Vec<Operation> {
    let paths = Document::openapi().paths.paths;
    let operation = |(path, item): (String, PathItem)| {
        let get = item.get?;
        let parameters = get.parameters.unwrap_or_default().into_iter();
        Some(Operation {
            is_plain: !path.contains('{') && path != "/api/v1/workers/hashrate",
            path,
            summary: get.summary.unwrap_or_default(),
            parameters: parameters
                .map(|parameter| (parameter.name, parameter.description.unwrap_or_default()))
                .collect(),
        })
    };
    paths.into_iter().filter_map(operation).collect()
}

async fn document() -> Response {
    let mut document = Document::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    json(StatusCode::OK, &document)
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(body) => (status, [(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn problem(status: StatusCode, error: impl Into<String>) -> Response {
    let error = error.into();
    json(status, &Problem { error })
}

fn answer(value: Option<impl Serialize>) -> Response {
    match value {
        Some(value) => json(StatusCode::OK, &value),
        None => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the answer could not be made",
        ),
    }
}

/// Totals, template and latest blocks
#[utoipa::path(get, path = "/api/v1/overview", responses((status = 200, body = Overview)))]
async fn overview(State(site): State<Site>) -> Response {
    let kind = site.kind;
    let copy = move |board: &_, now| model::overview(board, now, kind.counted());
    let mut overview = site.look(copy).await;
    if let Some(overview) = &mut overview {
        site.link(&mut overview.blocks);
    }
    answer(overview)
}

/// Services that tell what they see, and how they are
#[utoipa::path(get, path = "/api/v1/services", responses((status = 200, body = Vec<Service>)))]
async fn services(State(site): State<Site>) -> Response {
    answer(site.look(model::services).await)
}

/// Connected peers
#[utoipa::path(
    get,
    path = "/api/v1/peers",
    params(
        ("q" = Option<String>, Query, description = "Text in address, software, account or worker"),
        ("sort" = Option<String>, Query, description = "name, hashrate, accepted, rejected, last-share or uptime; with a minus before it for the largest first"),
        ("page" = Option<u32>, Query, description = "From 1; a page has 100 rows"),
    ),
    responses((status = 200, body = Page<Peer>), (status = 400, body = Problem))
)]
async fn peers(State(site): State<Site>, Query(asked): Query<Asked>) -> Response {
    let list = match asked.list() {
        Ok(list) => list,
        Err(wrong) => return problem(StatusCode::BAD_REQUEST, wrong),
    };
    let Some(order) = site.peers(list.sort).await else {
        return answer(None::<()>);
    };
    let copy = move |board: &_, now| model::peers(board, now, &order, &list);
    answer(site.look(copy).await)
}

/// One peer
#[utoipa::path(
    get,
    path = "/api/v1/peers/{role}/{service}/{id}",
    params(
        ("role" = String, Path, description = "Of its service"),
        ("service" = String, Path, description = "The service's name"),
        ("id" = u64, Path, description = "As in the list"),
    ),
    responses((status = 200, body = OnePeer), (status = 404, body = Problem))
)]
async fn peer(
    State(site): State<Site>,
    Path((role, name, id)): Path<(String, String, String)>,
) -> Response {
    let copy = move |board: &_, now| {
        let found = model::peer(board, now, &SenderKey { role, name }, id.parse().ok()?);
        found.map(|found| OnePeer {
            peer: found.peer,
            lifetime: found.lifetime,
            open_channels: found.channels,
        })
    };
    match site.look(copy).await {
        Some(None) => problem(StatusCode::NOT_FOUND, "there is no such peer"),
        found => answer(found),
    }
}

/// Workers
#[utoipa::path(
    get,
    path = "/api/v1/workers",
    params(
        ("q" = Option<String>, Query, description = "Text in account or worker"),
        ("account" = Option<String>, Query, description = "Workers of this account alone, as it is written"),
        ("sort" = Option<String>, Query, description = "name, hashrate, accepted, rejected, last-share or uptime; with a minus before it for the largest first"),
        ("page" = Option<u32>, Query, description = "From 1; a page has 100 rows"),
    ),
    responses((status = 200, body = Page<WorkerRow>), (status = 400, body = Problem))
)]
async fn workers(State(site): State<Site>, Query(asked): Query<Asked>) -> Response {
    let list = match asked.workers() {
        Ok(list) => list,
        Err(wrong) => return problem(StatusCode::BAD_REQUEST, wrong),
    };
    let Some(order) = site.workers(&list).await else {
        return answer(None::<()>);
    };
    let copy = move |board: &_, now| model::workers(board, now, &order, &list);
    answer(site.look(copy).await)
}

/// Accounts, each with the sums of its workers
#[utoipa::path(
    get,
    path = "/api/v1/accounts",
    params(
        ("q" = Option<String>, Query, description = "Text in the name"),
        ("sort" = Option<String>, Query, description = "name, hashrate, accepted, rejected or last-share; with a minus before it for the largest first"),
        ("page" = Option<u32>, Query, description = "From 1; a page has 100 rows"),
    ),
    responses((status = 200, body = Page<AccountRow>), (status = 400, body = Problem))
)]
async fn accounts(State(site): State<Site>, Query(asked): Query<Asked>) -> Response {
    let list = match asked.list() {
        Ok(list) => list,
        Err(wrong) => return problem(StatusCode::BAD_REQUEST, wrong),
    };
    answer(site.accounts(&list).await)
}

/// Where translators and relays get their work
#[utoipa::path(get, path = "/api/v1/upstreams", responses((status = 200, body = Vec<Upstream>)))]
async fn upstreams(State(site): State<Site>) -> Response {
    answer(site.look(model::upstreams).await)
}

/// Blocks that were found
#[utoipa::path(
    get,
    path = "/api/v1/blocks",
    params(("page" = Option<u32>, Query, description = "From 1; a page has 100 rows")),
    responses((status = 200, body = Blocks), (status = 400, body = Problem))
)]
async fn blocks(State(site): State<Site>, Query(asked): Query<Asked>) -> Response {
    let page = match asked.list() {
        Ok(list) => list.page,
        Err(wrong) => return problem(StatusCode::BAD_REQUEST, wrong),
    };
    let skip = (page - 1).saturating_mul(BLOCKS);
    let copied = site.look(move |board, _| model::blocks(board, skip, BLOCKS));
    let blocks = copied.await.map(|(total, mut rows)| {
        site.link(&mut rows);
        Blocks {
            rows,
            total,
            page,
            pages: total.div_ceil(BLOCKS).max(1),
        }
    });
    answer(blocks)
}

/// Hashrate of all together over time
#[utoipa::path(
    get,
    path = "/api/v1/hashrate",
    params(("range" = Option<String>, Query, description = "1h, 24h (if absent), 7d or 30d")),
    responses((status = 200, body = History), (status = 400, body = Problem))
)]
async fn hashrate(State(site): State<Site>, Query(asked): Query<Asked>) -> Response {
    let whose = Whose::Total(site.kind);
    past(&site, whose, &asked).await
}

/// Hashrate of a peer over time
#[utoipa::path(
    get,
    path = "/api/v1/peers/{role}/{service}/{id}/hashrate",
    params(
        ("role" = String, Path, description = "Of its service"),
        ("service" = String, Path, description = "The service's name"),
        ("id" = u64, Path, description = "As in the list"),
        ("range" = Option<String>, Query, description = "1h, 24h (if absent), 7d or 30d"),
    ),
    responses((status = 200, body = History), (status = 404, body = Problem))
)]
async fn peer_hashrate(
    State(site): State<Site>,
    Path((role, name, id)): Path<(String, String, String)>,
    Query(asked): Query<Asked>,
) -> Response {
    let key = SenderKey { role, name };
    let sender = key.clone();
    let copy = move |board: &_, now| model::peer(board, now, &sender, id.parse().ok()?)?.subjects;
    match site.look(copy).await.flatten() {
        Some(subjects) => past(&site, Whose::Peer(key, subjects), &asked).await,
        None => {
            let why = "there is no such peer, or others cannot be told from it";
            problem(StatusCode::NOT_FOUND, why)
        }
    }
}

/// What tells which worker.
#[derive(Debug, serde::Deserialize)]
struct WhichWorker {
    role: String,
    service: String,
    account: String,
    #[serde(default)]
    worker: String,
}

/// Hashrate of a worker over time
#[utoipa::path(
    get,
    path = "/api/v1/workers/hashrate",
    params(
        ("role" = String, Query, description = "Of its service"),
        ("service" = String, Query, description = "The service's name"),
        ("account" = String, Query, description = "Who is paid"),
        ("worker" = Option<String>, Query, description = "Who works"),
        ("range" = Option<String>, Query, description = "1h, 24h (if absent), 7d or 30d"),
    ),
    responses((status = 200, body = History), (status = 400, body = Problem))
)]
async fn worker_hashrate(
    State(site): State<Site>,
    Query(which): Query<WhichWorker>,
    Query(asked): Query<Asked>,
) -> Response {
    let sender = SenderKey {
        role: which.role,
        name: which.service,
    };
    let key = WorkerKey {
        account: which.account,
        worker: which.worker,
    };
    past(&site, Whose::Worker(sender, key), &asked).await
}

async fn past(site: &Site, whose: Whose, asked: &Asked) -> Response {
    let named = asked.range.as_deref().unwrap_or(Range::Day.name());
    let Some(range) = Range::named(named) else {
        let possible = "range: one of 1h, 24h, 7d, 30d is possible";
        return problem(StatusCode::BAD_REQUEST, possible);
    };
    match history::samples(site, whose, range).await {
        Ok((at_ms, samples)) => {
            let history = History {
                range: range.name(),
                at_ms,
                samples: summed(range, at_ms, &samples),
            };
            json(StatusCode::OK, &history)
        }
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

/// Samples of the range, those of the same time together.
#[allow(clippy::cast_precision_loss)]
fn summed(range: Range, now_ms: u64, samples: &[crate::series::Sample]) -> Vec<Sample> {
    let length_ms = range.period().ms();
    let oldest = now_ms.saturating_sub(range.ms());
    let mut sums = std::collections::BTreeMap::<u64, f64>::new();
    for sample in samples.iter().filter(|s| s.start_ms + length_ms > oldest) {
        *sums.entry(sample.start_ms).or_default() += sample.hashes;
    }
    let sample = |(start_ms, hashes): (u64, f64)| {
        let end = (start_ms + length_ms).min(now_ms).max(start_ms + 1);
        Sample {
            start_ms,
            length_ms,
            hashrate: hashes / ((end - start_ms) as f64 / 1000.0),
        }
    };
    sums.into_iter().map(sample).collect()
}

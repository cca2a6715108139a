//! The pages themselves: what each copies, and the template that shows it.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::chart::{Chart, Range};
use super::connect::{self, Way};
use super::history::{self, Whose};
use super::model::{
    self, AccountRow, Block, Channel, List, Overview, Page, Peer, Service, Shares, Sort, Status,
    Upstream, WorkerRow,
};
use super::show;
use super::site::{Kind, Site};
use crate::Now;
use crate::board::Board;
use crate::state::SenderKey;

/// Blocks of a page.
const BLOCKS: usize = 100;

/// What a URL may ask for. What cannot be understood is as if it were not there.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Asked {
    pub(super) q: Option<String>,
    /// Of the list of workers.
    pub(super) account: Option<String>,
    pub(super) sort: Option<String>,
    pub(super) page: Option<String>,
    pub(super) range: Option<String>,
}

impl Asked {
    pub(super) fn list(&self) -> Result<List, String> {
        List::parse(
            self.q.as_deref(),
            self.sort.as_deref(),
            self.page.as_deref(),
        )
    }

    pub(super) fn workers(&self) -> Result<List, String> {
        Ok(List {
            account: self.account.clone(),
            ..self.list()?
        })
    }

    fn range(&self) -> Option<Range> {
        self.range.as_deref().and_then(Range::named)
    }
}

/// What is around every page.
#[derive(Debug)]
struct Shell {
    kind: Kind,
    name: &'static str,
    /// Where in the menu.
    current: &'static str,
    now_ms: u64,
    /// Nobody of those whose totals are shown has ever come.
    is_empty: bool,
    alarms: Vec<Alarm>,
}

/// Something that is wrong.
#[derive(Debug)]
struct Alarm {
    /// What, in a word or two, for those who do not see its colour.
    word: &'static str,
    /// `bad` or `warn`.
    class: &'static str,
    text: String,
}

impl Shell {
    fn of(site: &Site, current: &'static str, board: &Board, now: Now) -> Self {
        let services = model::services(board, now);
        let counted = |service: &&Service| site.kind.counted().contains(&&*service.role);
        let is_empty = services
            .iter()
            .filter(counted)
            .all(|service| service.last_seen_ms.is_none());
        let problems = site.view.ready().err().unwrap_or_default();
        let own = |text| Alarm {
            word: "not ready",
            class: "bad",
            text,
        };
        let mut alarms: Vec<Alarm> = problems.into_iter().map(own).collect();
        alarms.extend(services.iter().filter_map(|service| alarm(service, now)));
        Self {
            kind: site.kind,
            name: site.name,
            current,
            now_ms: now.unix_ms,
            is_empty,
            alarms,
        }
    }
}

/// What is wrong with a service, if something is. One that is down and that nobody expects may have been taken away: after a
/// day that is no news.
fn alarm(service: &Service, now: Now) -> Option<Alarm> {
    const NEWS_MS: u64 = 24 * 3_600_000;
    let who = format!("{} {}", service.role, service.name);
    let seen = show::maybe_ago(&service.last_seen_ms, &now.unix_ms);
    let silent_ms = now
        .unix_ms
        .saturating_sub(service.last_seen_ms.unwrap_or(0));
    let text = match service.status {
        Status::Ready => return None,
        Status::Down if !service.expected && silent_ms > NEWS_MS => return None,
        Status::NotReady if service.problems.is_empty() => format!("{who} is not ready."),
        Status::NotReady => format!("{who} is not ready: {}", service.problems.join("; ")),
        Status::Stale => {
            format!("{who} is silent; it was last heard {seen}, and its numbers are of then.")
        }
        Status::Down => {
            format!("{who} is down; it was last heard {seen}, and its numbers are of then.")
        }
        Status::NeverSeen => format!("{who} is expected and has never connected."),
    };
    let (word, class) = show::status(&service.status);
    Some(Alarm { word, class, text })
}

/// A chart with the buttons above it.
struct Drawn {
    chart: Chart,
    /// The page that it is on, for the buttons.
    path: String,
    /// Why it cannot be drawn.
    problem: Option<String>,
}

impl Drawn {
    /// Of a range, or of the day; of the hour if there is not more to see.
    async fn of(site: &Site, whose: Whose, range: Option<Range>, path: String) -> Self {
        /// Steps of ten minutes.
        const ENOUGH: usize = 12;
        if let Some(range) = range {
            return Self::range(site, whose, range, path).await;
        }
        let day = Self::range(site, whose.clone(), Range::Day, path.clone()).await;
        let known = day.chart.steps.iter().filter(|step| step.at.is_some());
        if known.count() >= ENOUGH {
            return day;
        }
        Self::range(site, whose, Range::Hour, path).await
    }

    async fn range(site: &Site, whose: Whose, range: Range, path: String) -> Self {
        let (chart, problem) = match history::samples(site, whose, range).await {
            Ok((now_ms, samples)) => (Chart::draw(range, now_ms, &samples), None),
            Err(problem) => (Chart::draw(range, 0, &[]), Some(problem)),
        };
        Self {
            chart,
            path,
            problem,
        }
    }
}

#[derive(Template)]
#[template(path = "pool.html")]
struct PoolPage {
    shell: Shell,
    overview: Overview,
    drawn: Drawn,
}

#[derive(Template)]
#[template(path = "proxy.html")]
struct ProxyPage {
    shell: Shell,
    overview: Overview,
    upstreams: Vec<Upstream>,
    drawn: Drawn,
}

#[derive(Template)]
#[template(path = "peers.html")]
struct PeersPage {
    shell: Shell,
    list: List,
    page: Page<Peer>,
}

#[derive(Template)]
#[template(path = "peer.html")]
struct PeerPage {
    shell: Shell,
    peer: Peer,
    lifetime: Shares,
    channels: Vec<Channel>,
    drawn: Option<Drawn>,
}

#[derive(Template)]
#[template(path = "workers.html")]
struct WorkersPage {
    shell: Shell,
    list: List,
    page: Page<WorkerRow>,
}

#[derive(Template)]
#[template(path = "accounts.html")]
struct AccountsPage {
    shell: Shell,
    list: List,
    page: Page<AccountRow>,
}

#[derive(Template)]
#[template(path = "blocks.html")]
struct BlocksPage {
    shell: Shell,
    blocks: Vec<Block>,
    total: usize,
    page: usize,
    pages: usize,
}

#[derive(Template)]
#[template(path = "services.html")]
struct ServicesPage {
    shell: Shell,
    services: Vec<Service>,
}

#[derive(Template)]
#[template(path = "upstreams.html")]
struct UpstreamsPage {
    shell: Shell,
    upstreams: Vec<Upstream>,
}

#[derive(Template)]
#[template(path = "connect.html")]
struct ConnectPage {
    shell: Shell,
    ways: Vec<Way>,
}

#[derive(Template)]
#[template(path = "api.html")]
struct ApiPage {
    shell: Shell,
    operations: Vec<super::api::Operation>,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    shell: Shell,
    title: &'static str,
    text: String,
}

/// Copies what a page shows together with what is around it.
async fn look<T: Send + 'static>(
    site: &Site,
    current: &'static str,
    copy: impl FnOnce(&Board, Now) -> T + Send + 'static,
) -> Result<(Shell, T), Response> {
    let shown = site.clone();
    let both = site.look(move |board, now| {
        let copied = copy(board, now);
        (Shell::of(&shown, current, board, now), copied)
    });
    both.await.ok_or_else(failed)
}

fn failed() -> Response {
    let failed = "This page could not be made; the log says why.\n";
    (StatusCode::INTERNAL_SERVER_ERROR, failed).into_response()
}

fn html(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(body) => (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

type Answer = Result<Response, Response>;

pub(super) async fn pool(State(site): State<Site>, Query(asked): Query<Asked>) -> Answer {
    let kind = site.kind;
    let copy = move |board: &Board, now| model::overview(board, now, kind.counted());
    let (shell, mut overview) = look(&site, "/", copy).await?;
    site.link(&mut overview.blocks);
    let page = PoolPage {
        shell,
        overview,
        drawn: Drawn::of(&site, Whose::Total(kind), asked.range(), "/".into()).await,
    };
    Ok(html(StatusCode::OK, &page))
}

pub(super) async fn proxy(State(site): State<Site>, Query(asked): Query<Asked>) -> Answer {
    let kind = site.kind;
    let copy = move |board: &Board, now| {
        let overview = model::overview(board, now, kind.counted());
        (overview, model::upstreams(board, now))
    };
    let (shell, (overview, upstreams)) = look(&site, "/", copy).await?;
    let page = ProxyPage {
        shell,
        overview,
        upstreams,
        drawn: Drawn::of(&site, Whose::Total(kind), asked.range(), "/".into()).await,
    };
    Ok(html(StatusCode::OK, &page))
}

pub(super) async fn peers(State(site): State<Site>, Query(asked): Query<Asked>) -> Answer {
    let list = asked.list().unwrap_or_default();
    let order = site.peers(list.sort).await.ok_or_else(failed)?;
    let wanted = list.clone();
    let copy = move |board: &Board, now| model::peers(board, now, &order, &wanted);
    let (shell, page) = look(&site, site.kind.peers(), copy).await?;
    Ok(html(StatusCode::OK, &PeersPage { shell, list, page }))
}

pub(super) async fn peer(
    State(site): State<Site>,
    Path((role, name, id)): Path<(String, String, String)>,
    Query(asked): Query<Asked>,
) -> Answer {
    let key = SenderKey { role, name };
    let (sender, current) = (key.clone(), site.kind.peers());
    let copy = move |board: &Board, now| {
        let id = id.parse().ok()?;
        model::peer(board, now, &sender, id)
    };
    let (shell, found) = look(&site, current, copy).await?;
    let Some(found) = found else {
        let page = ProblemPage {
            shell,
            title: "Not connected",
            text: "It has gone, or was never here. When it comes again it has another number."
                .into(),
        };
        return Ok(html(StatusCode::NOT_FOUND, &page));
    };
    let path = show::peer(&site.kind, &found.peer);
    let drawn = match found.subjects {
        Some(subjects) => {
            let whose = Whose::Peer(key, subjects);
            Some(Drawn::of(&site, whose, asked.range(), path).await)
        }
        None => None,
    };
    let page = PeerPage {
        shell,
        peer: found.peer,
        lifetime: found.lifetime,
        channels: found.channels,
        drawn,
    };
    Ok(html(StatusCode::OK, &page))
}

pub(super) async fn workers(State(site): State<Site>, Query(asked): Query<Asked>) -> Answer {
    let list = asked.workers().unwrap_or_default();
    let order = site.workers(&list).await.ok_or_else(failed)?;
    let wanted = list.clone();
    let copy = move |board: &Board, now| model::workers(board, now, &order, &wanted);
    let (shell, page) = look(&site, "/workers", copy).await?;
    Ok(html(StatusCode::OK, &WorkersPage { shell, list, page }))
}

pub(super) async fn accounts(State(site): State<Site>, Query(asked): Query<Asked>) -> Answer {
    let list = asked.list().unwrap_or_default();
    let page = site.accounts(&list).await.ok_or_else(failed)?;
    let (shell, ()) = look(&site, "/accounts", |_, _| ()).await?;
    Ok(html(StatusCode::OK, &AccountsPage { shell, list, page }))
}

pub(super) async fn blocks(State(site): State<Site>, Query(asked): Query<Asked>) -> Answer {
    let page = asked.list().map_or(1, |list| list.page);
    let skip = (page - 1).saturating_mul(BLOCKS);
    let copy = move |board: &Board, _| model::blocks(board, skip, BLOCKS);
    let (shell, (total, mut blocks)) = look(&site, "/blocks", copy).await?;
    site.link(&mut blocks);
    let page = BlocksPage {
        shell,
        blocks,
        total,
        page,
        pages: total.div_ceil(BLOCKS).max(1),
    };
    Ok(html(StatusCode::OK, &page))
}

pub(super) async fn services(State(site): State<Site>) -> Answer {
    let (shell, services) = look(&site, "/services", model::services).await?;
    Ok(html(StatusCode::OK, &ServicesPage { shell, services }))
}

pub(super) async fn upstreams(State(site): State<Site>) -> Answer {
    let (shell, upstreams) = look(&site, "/upstreams", model::upstreams).await?;
    Ok(html(StatusCode::OK, &UpstreamsPage { shell, upstreams }))
}

pub(super) async fn connect(State(site): State<Site>, headers: HeaderMap) -> Answer {
    let kind = site.kind;
    let (shell, mut services) = look(&site, "/connect", model::services).await?;
    services.retain(|service| kind.counted().contains(&&*service.role));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let ways = connect::ways(&services, host, site.miner_host());
    Ok(html(StatusCode::OK, &ConnectPage { shell, ways }))
}

pub(super) async fn api(State(site): State<Site>) -> Answer {
    let (shell, ()) = look(&site, "/api", |_, _| ()).await?;
    let operations = super::api::operations();
    Ok(html(StatusCode::OK, &ApiPage { shell, operations }))
}

pub(super) async fn not_found(State(site): State<Site>, uri: Uri) -> Answer {
    let (shell, ()) = look(&site, "", |_, _| ()).await?;
    let page = ProblemPage {
        shell,
        title: "Nothing here",
        text: format!("There is no page at {}.", uri.path()),
    };
    Ok(html(StatusCode::NOT_FOUND, &page))
}

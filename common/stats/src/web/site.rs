//! What all pages have in common, and where each of them is.

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use tokio::sync::Semaphore;

use super::config::WebConfig;
use super::model::{
    self, Account, AccountRow, Block, List, Page, PeerId, Ranking, Shared, Sort, WorkerId,
};
use super::{api, assets, live, pages};
use crate::Now;
use crate::auth::{self, Guard};
use crate::board::Board;
use crate::receiver::View;

/// Answers that are made at the same time; further ones wait.
const RENDERS: usize = 4;

/// Which pages there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Those of a pool and everything that is connected to it.
    Pool,
    /// Those of a translator or relay.
    Proxy,
}

impl Kind {
    /// Roles whose sums are the totals.
    pub(super) const fn counted(self) -> &'static [&'static str] {
        match self {
            Self::Pool => &["pool"],
            Self::Proxy => &["translator", "relay"],
        }
    }

    /// Whether the sums of such a role are part of the totals.
    pub(crate) fn counts(self, role: &str) -> bool {
        self.counted().contains(&role)
    }

    /// In the names of metrics of what is known.
    pub(crate) const fn metrics(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Proxy => "proxy",
        }
    }

    /// Where the peers are shown.
    pub(super) const fn peers(self) -> &'static str {
        match self {
            Self::Pool => "/peers",
            Self::Proxy => "/miners",
        }
    }

    /// The pages in the order of the menu.
    pub(super) const fn menu(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Pool => &[
                ("/", "Overview"),
                ("/peers", "Peers"),
                ("/workers", "Workers"),
                ("/accounts", "Accounts"),
                ("/blocks", "Blocks"),
                ("/services", "Services"),
                ("/api", "API"),
            ],
            Self::Proxy => &[
                ("/", "Overview"),
                ("/miners", "Miners"),
                ("/upstreams", "Upstreams"),
                ("/connect", "Connect"),
                ("/services", "Services"),
                ("/api", "API"),
            ],
        }
    }
}

/// What every answer is made from.
#[derive(Clone)]
pub(crate) struct Site {
    pub(super) kind: Kind,
    /// The service's name.
    pub(super) name: &'static str,
    pub(super) view: View,
    pub(super) listeners: Arc<Semaphore>,
    config: Arc<WebConfig>,
    renders: Arc<Semaphore>,
    peers: Arc<Ranking<PeerId>>,
    workers: Arc<Ranking<WorkerId>>,
    accounts: Arc<Shared<Arc<[Account]>>>,
}

impl Site {
    pub(super) fn new(kind: Kind, name: &'static str, view: View, config: WebConfig) -> Self {
        Self {
            kind,
            name,
            view,
            listeners: Arc::new(Semaphore::new(live::LISTENERS)),
            config: Arc::new(config),
            renders: Arc::new(Semaphore::new(RENDERS)),
            peers: Arc::default(),
            workers: Arc::default(),
            accounts: Arc::default(),
        }
    }

    /// Copies from the board, on a thread that may block; nothing if that went wrong.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Board, Now) -> T + Send + 'static,
    ) -> Option<T> {
        self.blocking(|view| view.read(look)).await
    }

    /// All peers in an order, the smallest first.
    pub(super) async fn peers(&self, sort: Sort) -> Option<Arc<[PeerId]>> {
        let (ranking, roles) = (Arc::clone(&self.peers), self.kind.counted());
        let copy = move |board: &Board, now| model::all_peers(board, now, roles, sort);
        self.blocking(move |view| ranking.get(view, sort, copy))
            .await
    }

    /// Those of all workers that are looked for, in an order, the smallest first.
    pub(super) async fn workers(&self, list: &List) -> Option<Arc<[WorkerId]>> {
        let (ranking, roles) = (Arc::clone(&self.workers), self.kind.counted());
        let (list, sort) = (list.clone(), list.sort);
        let copy = move |board: &Board, now| model::all_workers(board, now, roles, sort);
        self.blocking(move |view| list.found(&ranking.get(view, sort, copy)))
            .await
    }

    /// A page of the accounts.
    pub(super) async fn accounts(&self, list: &List) -> Option<Page<AccountRow>> {
        let (sums, roles) = (Arc::clone(&self.accounts), self.kind.counted());
        let list = list.clone();
        let copy = move |board: &Board, now| model::all_accounts(board, now, roles);
        self.blocking(move |view| model::accounts(&sums.get(|| view.read(copy).into()), &list))
            .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&View) -> T + Send + 'static,
    ) -> Option<T> {
        let place = Arc::clone(&self.renders).acquire_owned().await.ok()?;
        let view = self.view.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&view)
        });
        done.await.ok()
    }

    /// Where miners reach this machine, as the operator said.
    pub(super) fn miner_host(&self) -> Option<&str> {
        self.config.miner_host.as_deref()
    }

    /// Fills in where explorers show the blocks.
    pub(super) fn link(&self, blocks: &mut [Block]) {
        for block in blocks {
            block.url = self.block_url(block);
        }
    }

    fn block_url(&self, block: &Block) -> Option<String> {
        let is_hash = block.hash.len() == 64 && block.hash.bytes().all(|c| c.is_ascii_hexdigit());
        if !is_hash {
            return None;
        }
        let pattern = match (&self.config.block_url, block.network.as_deref()) {
            (Some(pattern), _) => pattern,
            (None, Some("mainnet")) => "https://mempool.space/block/{hash}",
            (None, Some("testnet4")) => "https://mempool.space/testnet4/block/{hash}",
            (None, Some("signet")) => "https://mempool.space/signet/block/{hash}",
            (None, _) => return None,
        };
        (!pattern.is_empty()).then(|| pattern.replace("{hash}", &block.hash))
    }
}

/// Everything that browsers and programs ask for, but what operators do.
pub(crate) fn router(
    kind: Kind,
    name: &'static str,
    view: View,
    guard: Guard,
    config: WebConfig,
) -> Router {
    let site = Site::new(kind, name, view, config);
    let router = match kind {
        Kind::Pool => Router::new()
            .route("/", get(pages::pool))
            .route("/peers", get(pages::peers))
            .route("/peers/{role}/{service}/{id}", get(pages::peer))
            .route("/workers", get(pages::workers))
            .route("/accounts", get(pages::accounts))
            .route("/blocks", get(pages::blocks)),
        Kind::Proxy => Router::new()
            .route("/", get(pages::proxy))
            .route("/miners", get(pages::peers))
            .route("/miners/{role}/{service}/{id}", get(pages::peer))
            .route("/upstreams", get(pages::upstreams))
            .route("/connect", get(pages::connect)),
    };
    router
        .route("/services", get(pages::services))
        .route("/api", get(pages::api))
        .route("/events", get(live::events))
        .route("/style.css", get(assets::style))
        .route("/script.js", get(assets::script))
        .route("/icon.svg", get(assets::icon))
        .nest("/api/v1", api::router())
        .fallback(pages::not_found)
        .layer(middleware::from_fn_with_state(guard, auth::check))
        .layer(middleware::from_fn(assets::headers))
        .with_state(site)
}

//! The roles as tasks of one process: started from the chain outwards, stopped from the miner inwards.

use std::fmt::Display;
use std::net::SocketAddr;

use service::config;
use stats::receiver::{self, Receiver};

use super::configs::{Configs, here, local};
use super::keys::Keys;
use super::report::{Block, Blocks, Figures, Place, Places};
use super::roles::Roles;
use crate::cli::UpArgs;
use crate::failure::Failure;
use crate::role::NAMES;

/// The roles that run.
pub(super) struct Stack {
    roles: Roles,
    pool: SocketAddr,
    pool_status: pool::StatusHandle,
    translator: SocketAddr,
    translator_tls: Option<SocketAddr>,
    /// Where roles answer over HTTP.
    http: Vec<(&'static str, SocketAddr)>,
    pages: [Pages; 2],
    translator_status: translator::StatusHandle,
    miner_status: Option<miner::StatusHandle>,
}

/// A stats service.
struct Pages {
    name: &'static str,
    /// What its pages show.
    of: &'static str,
    /// Where browsers find them, if they are not switched off.
    at: Option<SocketAddr>,
    /// Where it is told what happens.
    told_at: SocketAddr,
}

/// How it ended.
pub(super) struct Stopped {
    pub(super) figures: Figures,
    pub(super) result: Result<(), Failure>,
}

impl Stack {
    /// Starts everything; each role dials where the one before it really listens.
    pub(super) async fn start(args: &UpArgs, keys: &Keys) -> Result<Self, Failure> {
        config::check_environment(&NAMES, std::env::vars_os()).map_err(Failure::configuration)?;
        let configs = Configs::new(args, keys)?;

        let pool_stats = stats_service(|| configs.pool_stats()).await?;
        let proxy_stats = stats_service(|| configs.proxy_stats()).await?;
        let pages = [
            pages("pool, workers, blocks", &pool_stats),
            pages("miners, how to connect one", &proxy_stats),
        ];

        let pool = pool::Pool::bind(configs.pool(pool_stats.local_addr())?)
            .await
            .map_err(|error| cannot_start("pool", error))?;
        let pool_address = pool.local_addr();

        let translator = translator::Translator::bind(
            configs.translator(pool_address, proxy_stats.local_addr())?,
        )
        .await
        .map_err(|error| cannot_start("translator", error))?;
        let translator_address = translator.local_addr();

        let miner = match args.threads {
            Some(0) => None,
            _ => Some(
                miner::Miner::new(configs.miner(translator_address)?)
                    .map_err(|error| cannot_start("miner", error))?,
            ),
        };

        let http = [
            ("pool", pool.http_addr()),
            ("translator", translator.http_addr()),
        ];
        let http = http
            .into_iter()
            .filter_map(|(role, address)| Some((role, address?)))
            .collect();
        let mut stack = Self {
            roles: Roles::default(),
            pool: pool_address,
            pool_status: pool.status(),
            translator: translator_address,
            translator_tls: translator.tls_addr(),
            http,
            pages,
            translator_status: translator.status(),
            miner_status: miner.as_ref().map(miner::Miner::status),
        };
        if let Some(miner) = miner {
            stack.roles.spawn("miner", |stop| miner.run(stop));
        }
        stack.roles.spawn("translator", |stop| translator.run(stop));
        stack.roles.spawn("pool", |stop| pool.run(stop));
        // Last, so that they hear how the others end.
        stack
            .roles
            .spawn("proxy-stats", |stop| proxy_stats.run(stop));
        stack.roles.spawn("pool-stats", |stop| pool_stats.run(stop));
        Ok(stack)
    }

    /// Waits for a role to end, which none does by itself unless it failed. Cancel-safe.
    pub(super) async fn failure(&mut self) -> Failure {
        self.roles.failure().await
    }

    /// Stops role after role, each when the one that depends on it is done.
    pub(super) async fn stop(mut self) -> Stopped {
        let result = self.roles.stop().await;
        Stopped {
            figures: self.figures(),
            result,
        }
    }

    /// How things are now.
    pub(super) fn figures(&self) -> Figures {
        let chain = self.pool_status.snapshot().templates;
        let translator = self.translator_status.snapshot();
        let own = self
            .miner_status
            .as_ref()
            .map(miner::StatusHandle::snapshot);
        let upstream = || {
            let away = |upstream: &&translator::UpstreamSnapshot| upstream.connected == 0;
            translator.upstreams.iter().find(away)?.last_error.clone()
        };
        Figures {
            hashrate: match &own {
                // What it counts is better than what its shares show.
                Some(own) if translator.connected <= 1 => own.hashrate,
                _ => translator.hashrate,
            },
            difficulty: own.and_then(|own| own.difficulty),
            miners: translator.connected,
            accepted: translator.shares.accepted,
            rejected: translator.shares.rejected.values().sum(),
            lost: translator.shares.lost.values().sum(),
            blocks: self.blocks(),
            height: chain.height,
            fault: chain.error.or_else(upstream),
        }
    }

    /// The blocks found so far.
    pub(super) fn blocks(&self) -> Blocks {
        let pool = self.pool_status.snapshot();
        Blocks {
            accepted: pool.blocks_accepted,
            failed: pool.blocks_failed,
            last: pool.last_block.map(|block| Block {
                height: block.height,
                hash: block.hash,
                identity: block.identity,
                outcome: block.outcome,
            }),
        }
    }

    /// Where everything is, for people.
    pub(super) fn places(&self, args: &UpArgs, keys: &Keys) -> Places {
        let place = |what, at: String, note: String| Place { what, at, note };
        let mut rows = vec![
            match &args.node {
                None => place(
                    "chain",
                    "in this process".into(),
                    "embedded; forgotten at the end".into(),
                ),
                Some(url) => place("node", config::without_password(url), "Bitcoin RPC".into()),
            },
            place(
                "pool",
                self.pool.to_string(),
                format!("SV2 over Noise, authority key {}", keys.authority),
            ),
            place("translator", self.translator.to_string(), "SV1".into()),
        ];
        if let Some(tls) = self.translator_tls {
            rows.push(place("translator", tls.to_string(), "SV1 over TLS".into()));
        }
        if self.miner_status.is_some() {
            rows.push(place(
                "miner",
                "in this process".into(),
                "SV1 CPU miner".into(),
            ));
        }
        for pages in &self.pages {
            let at = pages
                .at
                .map_or("no pages".into(), |at| format!("http://{}", local(at)));
            let note = format!("{}; is told at {}", pages.of, pages.told_at);
            rows.push(place(pages.name, at, note));
        }
        for (role, address) in &self.http {
            rows.push(place(
                "http",
                format!("http://{}", local(*address)),
                format!("of the {role}: /healthz /readyz /status /metrics"),
            ));
        }
        rows.push(match &args.payout {
            Some(payout) => place("blocks pay", payout.clone(), String::new()),
            None => place(
                "blocks pay",
                keys.payout_file.display().to_string(),
                "a development key".into(),
            ),
        });
        Places {
            rows,
            miner_url: format!("stratum+tcp://{}", reachable(self.translator)),
        }
    }
}

/// Opens a stats service, at other ports than the usual ones if those are taken. Another stack that starts at the same moment can
/// take one between the look at it and its opening: then it is looked at again.
async fn stats_service<R: receiver::Role>(
    config: impl Fn() -> Result<receiver::Config<R>, Failure>,
) -> Result<Receiver<R>, Failure> {
    /// One for each port, and one that finds both chosen by the system.
    const TRIES: usize = 3;
    let mut tries = 1;
    loop {
        match Receiver::bind(config()?).await {
            Err(receiver::Error::Listen(_)) if tries < TRIES => tries += 1,
            bound => return bound.map_err(|error| cannot_start(R::NAME, error)),
        }
    }
}

fn pages<R: receiver::Role>(of: &'static str, service: &Receiver<R>) -> Pages {
    Pages {
        name: R::NAME,
        of,
        at: service.http_addr(),
        told_at: service.local_addr(),
    }
}

fn cannot_start(role: &str, error: impl Display) -> Failure {
    let error = error.to_string();
    let hint = if error.contains("in use") {
        format!(
            "; another port: --set {role}.listen_address=127.0.0.1:PORT (or {role}.http_address)"
        )
    } else {
        String::new()
    };
    Failure::running(format!("{role}: {error}{hint}"))
}

/// Where other machines reach a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    match here() {
        Some(here) => SocketAddr::from((here, address.port())),
        None => local(address),
    }
}

//! The task that follows the node's tip and mempool.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bitcoin::{BlockHash, Network, hashes::Hash};
use bytes::Bytes;
use serde::Deserialize;
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    client::{CallError, Client, quoted, request, result_of},
    template::{self, Checked, Invalid, Known},
};
use crate::{Error, Template, backoff::Backoff, health::Board};

/// A quiet chain may keep a long poll waiting for ever; TCP keep-alive finds out about a node that is gone.
const LONG_POLL_TIMEOUT: Duration = Duration::from_secs(3600);
/// Between long polls that bring no new tip, so that a node that does not wait is not asked in a circle.
const LONG_POLL_SPACING: Duration = Duration::from_secs(1);
/// A node that served for so long is asked again at once when it fails.
const STEADY: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The challenge of a signet on which every block counts as signed (BIP 325).
const OP_TRUE: [u8; 1] = [0x51];

pub(crate) struct Source {
    client: Arc<Client>,
    board: Arc<Board>,
    /// Somebody knows that there is something new.
    refresh: Arc<Notify>,
    refresh_interval: Duration,
    /// Moved into the checking thread and back.
    known: Known,
    last_id: u64,
    tip: Option<[u8; 32]>,
}

/// Why a session with the node ended; each is tried again.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the node answers nonsense: {0}")]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Unsupported(Error),
    #[error("the node is on {now} now, but was on {before}: restart to change the chain")]
    OtherChain { before: Network, now: Network },
    #[error("the check of a template failed: {0}")]
    Internal(#[from] tokio::task::JoinError),
}

impl Source {
    pub(crate) fn new(
        client: Arc<Client>,
        board: Arc<Board>,
        refresh: Arc<Notify>,
        refresh_interval: Duration,
    ) -> Self {
        Self {
            client,
            board,
            refresh,
            refresh_interval,
            known: Known::new(),
            last_id: 0,
            tip: None,
        }
    }

    /// Follows the node for ever; whatever goes wrong is told and tried again.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut last = String::new();
        loop {
            let began = Instant::now();
            let Err(problem) = self.session().await;
            // A node that answers one call and fails the next is as bad as one that is away.
            if began.elapsed() > STEADY {
                backoff.reset();
                last.clear();
            }
            let text = problem.to_string();
            // A node that stays away is one line, not thousands.
            if text == last {
                debug!(problem = %text, "still no template from the node");
            } else {
                warn!(problem = %text, "no template from the node, trying again");
            }
            match problem {
                Problem::Unsupported(reason) => self.board.fail_for_good(reason),
                _ => self.board.fail(text.clone()),
            }
            last = text;
            sleep(backoff.next()).await;
        }
    }

    async fn session(&mut self) -> Result<Infallible, Problem> {
        let network = self.identify().await?;
        let mut longpollid = self.fetch(network).await?;
        let mut refresh = interval_at(
            Instant::now() + self.refresh_interval,
            self.refresh_interval,
        );
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut poll_from = Instant::now();
        loop {
            let tip = self.tip;
            let began = poll_from.max(Instant::now());
            longpollid = self
                .long_poll(network, &longpollid, poll_from, &mut refresh)
                .await?;
            // Only polls that are answered at once are spaced; while none is under way, a new tip is not seen.
            poll_from = if self.tip == tip {
                began + LONG_POLL_SPACING
            } else {
                Instant::now()
            };
        }
    }

    /// Waits for the node to have something new, and takes a template now and then meanwhile.
    async fn long_poll(
        &mut self,
        network: Network,
        longpollid: &str,
        from: Instant,
        refresh: &mut Interval,
    ) -> Result<String, Problem> {
        let client = Arc::clone(&self.client);
        let request = template_request(network, Some(longpollid));
        let mut poll = pin!(async {
            sleep_until(from).await;
            client.post(request, LONG_POLL_TIMEOUT).await
        });
        let tip = self.tip;
        loop {
            tokio::select! {
                answer = &mut poll => return self.take(network, answer?).await,
                _ = refresh.tick() => {}
                () = self.refresh.notified() => {}
            }
            let longpollid = self.fetch(network).await?;
            if self.tip != tip {
                // The long poll's answer may be older than this one, so it is not waited for; the node ends the poll by
                // itself at a new tip.
                return Ok(longpollid);
            }
        }
    }

    /// Asks which chain the node is on.
    async fn identify(&self) -> Result<Network, Problem> {
        #[derive(Deserialize)]
        struct Info {
            chain: String,
        }
        let Info { chain } = self.client.call("getblockchaininfo", "[]").await?;
        let network = match chain.as_str() {
            "main" => Network::Bitcoin,
            "test" => Network::Testnet,
            "testnet4" => Network::Testnet4,
            "signet" => Network::Signet,
            "regtest" => Network::Regtest,
            other => {
                let problem = format!("{} is no chain that is known here", quoted(other));
                return Err(Problem::Unsupported(Error::Unsupported(problem)));
            }
        };
        match self.board.network() {
            Some(before) if before != network => Err(Problem::OtherChain {
                before,
                now: network,
            }),
            _ => {
                self.board.set_network(network);
                Ok(network)
            }
        }
    }

    /// Asks for a template now; gives what to long-poll with.
    async fn fetch(&mut self, network: Network) -> Result<String, Problem> {
        let answer = self.client.send(template_request(network, None)).await?;
        self.take(network, answer).await
    }

    /// Checks an answer and publishes its template.
    async fn take(&mut self, network: Network, answer: Vec<u8>) -> Result<String, Problem> {
        let known = std::mem::take(&mut self.known);
        // Thousands of transactions take milliseconds, for which no connection of this thread should wait.
        let checked = spawn_blocking(move || {
            let result = result_of(&answer)?;
            Ok::<_, Problem>(template::check(result, &known)?)
        });
        let Checked {
            template,
            longpollid,
            signet_challenge,
            known,
        } = checked.await??;
        if network == Network::Signet && signet_challenge.as_deref() != Some(&OP_TRUE) {
            return Err(Problem::Unsupported(Error::Unsupported(format!(
                "blocks of the signet with the challenge {} have to be signed; only signets with the challenge 51 \
                 (OP_TRUE) are supported",
                signet_challenge.map_or_else(
                    || "(none)".to_owned(),
                    |script| quoted(&hex::encode(script))
                ),
            ))));
        }
        self.known = known;
        self.publish(template);
        Ok(longpollid)
    }

    fn publish(&mut self, template: Template) {
        self.last_id += 1;
        let template = Template {
            id: self.last_id,
            ..template
        };
        let transactions = template.body.transaction_count();
        if self.tip.replace(template.prev_hash) == Some(template.prev_hash) {
            debug!(id = template.id, transactions, "template refreshed");
        } else {
            let tip = BlockHash::from_byte_array(template.prev_hash);
            info!(id = template.id, height = template.height(), %tip, transactions, "template on a new tip");
        }
        self.board.publish(template);
    }
}

fn template_request(network: Network, longpollid: Option<&str>) -> Bytes {
    let mut rules = vec!["segwit"];
    if network == Network::Signet {
        rules.push("signet");
    }
    let params = match longpollid {
        Some(id) => serde_json::json!([{ "rules": rules, "longpollid": id }]),
        None => serde_json::json!([{ "rules": rules }]),
    };
    request("getblocktemplate", &params.to_string())
}

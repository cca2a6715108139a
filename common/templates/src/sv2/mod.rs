//! The `sv2` source: a template provider over Noise (SV2 7), ours or anybody's.

mod conversation;
mod link;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bitcoin::{BlockHash, hashes::Hash};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    Error, Solution, Submission, Sv2Config, Template,
    health::Board,
    running::{Running, Sink},
};
use conversation::Received;

/// Templates whose solutions can be handed over. A provider forgets earlier.
const REMEMBERED: usize = 256;

/// Solutions that wait to be written.
const OUTBOX: usize = 64;

/// Tips that a solution's hash is looked for among; on a test network they can follow one another fast.
const TIPS: usize = 64;

pub(crate) fn start(config: &Sv2Config, shutdown: CancellationToken) -> Result<Running, Error> {
    let seconds = |value: u32| Duration::from_secs(value.into());
    let board = Arc::new(Board::new(
        "sv2",
        config.address.clone(),
        seconds(config.stale_after_seconds),
    ));
    board.set_network(config.network()?);
    let source = Arc::new(Source {
        board: Arc::clone(&board),
        state: Mutex::default(),
        tip_changed: watch::Sender::new(()),
        confirm: seconds(config.confirm_seconds),
    });
    let task = link::run(config.clone(), Arc::clone(&source));
    tokio::spawn(async move { shutdown.run_until_cancelled(task).await });
    Ok(Running {
        board,
        sink: Sink::Sv2(source),
    })
}

/// What the connection's task and those who submit share. Its lock is taken per template and per block.
pub(crate) struct Source {
    board: Arc<Board>,
    state: Mutex<State>,
    tip_changed: watch::Sender<()>,
    /// How long to wait for a solved block to become the tip.
    confirm: Duration,
}

#[derive(Default)]
struct State {
    last_id: u64,
    tips: VecDeque<[u8; 32]>,
    /// Where solutions go; `None` while there is no connection.
    outbox: Option<mpsc::Sender<Delivery>>,
    /// Our id and the provider's, of the templates of this connection: its ids mean nothing on another.
    ids: VecDeque<(u64, u64)>,
}

/// A solution on its way to the provider.
struct Delivery {
    remote_id: u64,
    solution: Solution,
    /// Told when it is written.
    written: oneshot::Sender<()>,
}

impl Source {
    /// The protocol has no answer to a solution, so that the only sign is the tip: [`Submission::Accepted`] is said when
    /// the block has become it, never because nothing was heard.
    pub(crate) async fn submit(&self, solution: Solution) -> Submission {
        let Some(hash) = solution.hash() else {
            return Submission::Rejected("the coinbase does not decode".to_owned());
        };
        let mut tip_changed = self.tip_changed.subscribe();
        let Some((remote_id, outbox)) = self.state().destination(solution.template.id) else {
            return Submission::Unreachable(
                "the connection to the template provider that this template came over has ended, and no other knows it"
                    .to_owned(),
            );
        };
        let (written, is_written) = oneshot::channel();
        let delivery = Delivery {
            remote_id,
            solution,
            written,
        };
        if outbox.send(delivery).await.is_err() || is_written.await.is_err() {
            return Submission::Unreachable(
                "the connection to the template provider ended before the block was handed over"
                    .to_owned(),
            );
        }
        let becomes_tip = async {
            while !self.state().tips.contains(&hash) {
                if tip_changed.changed().await.is_err() {
                    break;
                }
            }
        };
        match timeout(self.confirm, becomes_tip).await {
            Ok(()) => Submission::Accepted,
            Err(_) => Submission::Unknown(format!(
                "the template provider has the block, but it did not become the tip within {} s; the protocol tells no \
                 more",
                self.confirm.as_secs()
            )),
        }
    }

    /// A connection is there.
    fn connected(&self) -> mpsc::Receiver<Delivery> {
        let (outbox, deliveries) = mpsc::channel(OUTBOX);
        let mut state = self.state();
        state.outbox = Some(outbox);
        state.ids.clear();
        deliveries
    }

    /// It has ended, for this reason.
    fn disconnected(&self, problem: String) {
        {
            let mut state = self.state();
            state.outbox = None;
            state.ids.clear();
        }
        self.board.fail(problem);
    }

    fn publish(&self, received: Received) {
        let Received {
            remote_id,
            template,
        } = received;
        let new_tip = {
            let mut state = self.state();
            state.last_id += 1;
            let id = state.last_id;
            if state.ids.len() == REMEMBERED {
                state.ids.pop_front();
            }
            state.ids.push_back((id, remote_id));
            let template = Template { id, ..template };
            let tip = template.prev_hash;
            let new_tip = state.tips.back() != Some(&tip);
            if new_tip {
                if state.tips.len() == TIPS {
                    state.tips.pop_front();
                }
                state.tips.push_back(tip);
                info!(id, height = template.height(), tip = %BlockHash::from_byte_array(tip), "template on a new tip");
            }
            self.board.publish(template);
            new_tip
        };
        if new_tip {
            self.tip_changed.send_replace(());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn destination(&self, id: u64) -> Option<(u64, mpsc::Sender<Delivery>)> {
        let (_, remote_id) = self.ids.iter().rev().find(|(ours, _)| *ours == id)?;
        Some((*remote_id, self.outbox.clone()?))
    }
}

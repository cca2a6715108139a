//! What a stats service is told of the pool itself; of its peers, see [`peers`](crate::peers).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use stats::sender::{Source, clip};
use stats_events::{Block, BlockState, Counters, Endpoint, Event, ServiceState, Template, Work};
use templates::Templates;

use crate::{
    blocks::shown,
    peers::{Peers, now_ms},
    status::StatusHandle,
};

/// Looks at the pool for the sender.
pub(crate) struct Telling {
    pub status: StatusHandle,
    pub templates: Templates,
    pub peers: Arc<Peers>,
    pub listens: SocketAddr,
    pub endpoints: Vec<Endpoint>,
    pub last_template: Mutex<Option<Seen>>,
}

/// A template, and when it and the first one on its tip were seen first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    id: u64,
    prev_hash: [u8; 32],
    at_ms: u64,
    tip_at_ms: u64,
}

impl Source for Telling {
    fn present(&self, show: &mut dyn FnMut(Event)) {
        show(Event::Service(self.service()));
        if let Some(template) = self.template() {
            show(Event::Template(template));
        }
        self.peers.present(self.listens.port(), show);
    }

    fn happened(&self, most: usize) -> Vec<Event> {
        self.peers.happened(most)
    }

    fn network(&self) -> Option<String> {
        let name = self.templates.network()?.to_string();
        Some(if name == "bitcoin" {
            "mainnet".to_owned()
        } else {
            name
        })
    }
}

impl Telling {
    fn service(&self) -> ServiceState {
        let problems = self.status.ready().err().unwrap_or_default();
        let status = self.status.snapshot();
        let rejected: u64 = status.shares_rejected.values().sum();
        let reasons = status.shares_rejected.into_iter();
        ServiceState {
            ready: problems.is_empty(),
            problems: problems.into_iter().map(clip).collect(),
            endpoints: self.endpoints.clone(),
            counters: Counters {
                submitted: status.shares_accepted + rejected,
                accepted: status.shares_accepted,
                rejected: reasons
                    .filter(|(_, count)| *count > 0)
                    .map(|(reason, count)| (reason.to_owned(), count))
                    .collect(),
                work: Work(status.work),
                last_share_ms: self.peers.last_share_ms(),
                ..Counters::default()
            },
            dropped_events: self.peers.dropped(),
        }
    }

    fn template(&self) -> Option<Template> {
        let template = self.templates.subscribe().borrow().clone()?;
        let mut last = self
            .last_template
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = now_ms();
        let seen = match *last {
            Some(seen) if (seen.id, seen.prev_hash) == (template.id, template.prev_hash) => seen,
            before => Seen {
                id: template.id,
                prev_hash: template.prev_hash,
                at_ms: now,
                tip_at_ms: before
                    .filter(|before| before.prev_hash == template.prev_hash)
                    .map_or(now, |before| before.tip_at_ms),
            },
        };
        *last = Some(seen);
        let transactions = template.body.transaction_count();
        Some(Template {
            height: template.height().unwrap_or_default().into(),
            previous_block: shown(template.prev_hash),
            received_at_ms: seen.at_ms,
            tip_at_ms: seen.tip_at_ms,
            transactions: transactions.and_then(|count| u32::try_from(count).ok()),
            reward: Some(template.coinbase.value_remaining),
            nbits: template.nbits,
            source: self.templates.status().source.to_owned(),
        })
    }
}

/// A block, and what has become of it now.
pub(crate) fn block(block: &ledger::Block, state: &ledger::BlockState) -> Event {
    use ledger::BlockState as In;
    let (state, confirmations) = match state {
        In::Submitted => (BlockState::Found, 0),
        In::Accepted(confirmations) => (BlockState::Accepted, *confirmations),
        In::Confirmed(confirmations) => (BlockState::Confirmed, *confirmations),
        In::Rejected(_) => (BlockState::Refused, 0),
        In::Orphaned => (BlockState::Orphaned, 0),
    };
    Event::Block(Block {
        hash: shown(block.hash),
        height: block.height.unwrap_or_default().into(),
        found_at_ms: u64::try_from(block.found_ms).unwrap_or_default(),
        account: block.account.to_string(),
        worker: block.worker.to_string(),
        reward: Some(block.reward_sats),
        state,
        confirmations,
    })
}

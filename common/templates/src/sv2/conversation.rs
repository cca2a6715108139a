//! The client's part of template distribution (SV2 7), without I/O: messages and time go in, templates come out.

use std::{collections::VecDeque, time::Instant};

use bitcoin::{TxOut, consensus::encode::deserialize_partial};
use stratum_core::{
    parsers_sv2::TemplateDistribution,
    template_distribution_sv2::{NewTemplate, SetNewPrevHash},
};
use sv2_connection::{Frame, MalformedMessage};
use work::Target;

use crate::{Body, CoinbaseTemplate, MAX_MONEY, Template};

/// Future templates that are kept; the oldest goes first.
const FUTURES: usize = 16;

/// What SV2 7.2 allows at the start of the coinbase's script.
const LONGEST_PREFIX: usize = 8;

/// More branches than this have more leaves than a block has bytes.
const LONGEST_PATH: usize = 32;

/// What the provider has said so far.
#[derive(Default)]
pub(crate) struct Conversation {
    futures: VecDeque<Offer>,
    tip: Option<Tip>,
}

/// A template that can be worked on now.
#[derive(Debug)]
pub(crate) struct Received {
    /// The provider's id.
    pub(crate) remote_id: u64,
    /// Its own id is still to be given.
    pub(crate) template: Template,
}

/// Why the connection has to end. The provider's fault, all of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Connection(#[from] sv2_connection::Error),
    #[error("malformed message: {0}")]
    Malformed(#[from] MalformedMessage),
    #[error(
        "message type {message_type:#04x} (extension {extension_type:#06x}) is not expected from a template provider"
    )]
    Unexpected {
        extension_type: u16,
        message_type: u8,
    },
    #[error("{0}")]
    Nonsense(&'static str),
}

/// A template without its tip.
struct Offer {
    remote_id: u64,
    version: u32,
    coinbase: CoinbaseTemplate,
    merkle_path: Vec<[u8; 32]>,
}

struct Tip {
    prev_hash: [u8; 32],
    /// Work starts with this time (SV2 7.3), and a solution may have none before it (SV2 7.7).
    ntime: u32,
    nbits: u32,
    since: Instant,
}

impl Conversation {
    /// Takes one message of the provider.
    pub(crate) fn handle(
        &mut self,
        frame: Frame<'_>,
        now: Instant,
    ) -> Result<Option<Received>, Fault> {
        let unexpected = Fault::Unexpected {
            extension_type: frame.extension_type,
            message_type: frame.message_type,
        };
        if frame.extension_type != 0 {
            return Err(unexpected);
        }
        match frame.template_distribution()? {
            TemplateDistribution::NewTemplate(message) => self.new_template(&message, now),
            TemplateDistribution::SetNewPrevHash(message) => {
                self.set_new_prev_hash(&message, now).map(Some)
            }
            _ => Err(unexpected),
        }
    }

    fn new_template(
        &mut self,
        message: &NewTemplate<'_>,
        now: Instant,
    ) -> Result<Option<Received>, Fault> {
        let offer = Offer::check(message)?;
        if message.future_template {
            if self.futures.len() == FUTURES {
                self.futures.pop_front();
            }
            self.futures.push_back(offer);
            return Ok(None);
        }
        let tip = self.tip.as_ref().ok_or(Fault::Nonsense(
            "a template for the current tip came before any tip",
        ))?;
        Ok(Some(offer.on(tip, now)))
    }

    fn set_new_prev_hash(
        &mut self,
        message: &SetNewPrevHash<'_>,
        now: Instant,
    ) -> Result<Received, Fault> {
        if Target::from_compact(message.n_bits).is_err() {
            return Err(Fault::Nonsense("the tip's n_bits are no target"));
        }
        let mut futures = std::mem::take(&mut self.futures).into_iter().rev();
        let offer = futures
            .find(|offer| offer.remote_id == message.template_id)
            .ok_or(Fault::Nonsense(
                "a tip names a template that was not sent before it",
            ))?;
        let tip = self.tip.insert(Tip {
            prev_hash: bytes32(message.prev_hash.as_ref())?,
            ntime: message.header_timestamp,
            nbits: message.n_bits,
            since: now,
        });
        Ok(offer.on(tip, now))
    }
}

impl Offer {
    fn check(message: &NewTemplate<'_>) -> Result<Self, Fault> {
        let prefix: &[u8] = message.coinbase_prefix.as_ref();
        if prefix.len() > LONGEST_PREFIX {
            return Err(Fault::Nonsense("a coinbase prefix has more than 8 bytes"));
        }
        if message.coinbase_tx_value_remaining > MAX_MONEY {
            return Err(Fault::Nonsense("a coinbase has more than all coins"));
        }
        let outputs: &[u8] = message.coinbase_tx_outputs.as_ref();
        if !are_outputs(outputs, message.coinbase_tx_outputs_count) {
            return Err(Fault::Nonsense(
                "the coinbase outputs are not as many as announced, or none",
            ));
        }
        let path = message.merkle_path.as_slice();
        if path.len() > LONGEST_PATH {
            return Err(Fault::Nonsense(
                "a merkle path is longer than a block can have",
            ));
        }
        Ok(Self {
            remote_id: message.template_id,
            version: message.version,
            coinbase: CoinbaseTemplate {
                version: message.coinbase_tx_version,
                script_prefix: prefix.to_vec(),
                sequence: message.coinbase_tx_input_sequence,
                value_remaining: message.coinbase_tx_value_remaining,
                outputs: outputs.to_vec(),
                outputs_count: message.coinbase_tx_outputs_count,
                locktime: message.coinbase_tx_locktime,
            },
            merkle_path: path
                .iter()
                .map(|hash| bytes32(hash.as_ref()))
                .collect::<Result<_, _>>()?,
        })
    }

    fn on(self, tip: &Tip, now: Instant) -> Received {
        let elapsed = now.saturating_duration_since(tip.since).as_secs();
        let elapsed = u32::try_from(elapsed).unwrap_or(u32::MAX);
        Received {
            remote_id: self.remote_id,
            template: Template {
                id: 0,
                prev_hash: tip.prev_hash,
                min_ntime: tip.ntime,
                ntime: tip.ntime.saturating_add(elapsed),
                nbits: tip.nbits,
                version: self.version,
                coinbase: self.coinbase,
                merkle_path: self.merkle_path,
                body: Body::Remote,
            },
        }
    }
}

fn are_outputs(mut bytes: &[u8], count: u32) -> bool {
    for _ in 0..count {
        match deserialize_partial::<TxOut>(bytes) {
            Ok((_, size)) => bytes = &bytes[size..],
            Err(_) => return false,
        }
    }
    bytes.is_empty()
}

fn bytes32(bytes: &[u8]) -> Result<[u8; 32], Fault> {
    bytes
        .try_into()
        .map_err(|_| Fault::Nonsense("a hash has not 32 bytes"))
}

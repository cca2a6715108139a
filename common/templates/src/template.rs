//! A block that waits for a coinbase and a proof of work. Hashes are in internal (wire) byte order.

use std::{fmt, sync::Arc};

use bitcoin::{
    Transaction,
    consensus::encode::{deserialize, serialize},
    hashes::Hash,
    script::{Instruction, Script},
};

use bytes::Bytes;
use work::{Header, header};

use crate::block::{self, WITNESS_RESERVED};

/// Everything that jobs are made of. The template and the tip it builds on are one value, swapped whole, so that there
/// is no moment when one is known and the other is not.
#[derive(Debug, Clone)]
pub struct Template {
    /// Unique in the source's life, and growing. A refresh on the same tip has another id.
    pub id: u64,
    /// Hash of the tip.
    pub prev_hash: [u8; 32],
    /// The earliest time that a header may have: one second after the tip's median time.
    pub min_ntime: u32,
    /// The time that work should start with, by the source's clock; never before `min_ntime`.
    pub ntime: u32,
    /// The network's target in compact form.
    pub nbits: u32,
    /// Header version, before miners roll any of its bits.
    pub version: u32,
    /// What the coinbase has to hold.
    pub coinbase: CoinbaseTemplate,
    /// Siblings from the coinbase up to the merkle root.
    pub merkle_path: Vec<[u8; 32]>,
    /// What the source needs to make the block.
    pub body: Body,
}

impl Template {
    /// Height of the block to be found, read from the BIP 34 prefix.
    pub fn height(&self) -> Option<u32> {
        let script = Script::from_bytes(&self.coinbase.script_prefix);
        match script.instructions_minimal().next()?.ok()? {
            Instruction::Op(op) => {
                let value = op.to_u8();
                (0x51..=0x60)
                    .contains(&value)
                    .then(|| u32::from(value - 0x50))
            }
            Instruction::PushBytes(bytes) if bytes.len() <= 4 => {
                let mut value = [0; 4];
                value[..bytes.len()].copy_from_slice(bytes.as_bytes());
                Some(u32::from_le_bytes(value))
            }
            Instruction::PushBytes(_) => None,
        }
    }
}

/// The parts of the coinbase that the chain prescribes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoinbaseTemplate {
    /// Transaction version.
    pub version: u32,
    /// Start of the input's script: the height (BIP 34).
    pub script_prefix: Vec<u8>,
    /// The input's sequence.
    pub sequence: u32,
    /// Satoshis for the outputs in front of `outputs`: subsidy and fees.
    pub value_remaining: u64,
    /// Consensus-serialised outputs that come last: the witness commitment (BIP 141).
    pub outputs: Vec<u8>,
    /// How many those are.
    pub outputs_count: u32,
    /// Transaction lock time.
    pub locktime: u32,
}

/// The rest of the block. It lives as long as somebody holds the template; transactions are shared between templates.
#[derive(Clone)]
pub enum Body {
    /// In the block's order, without the coinbase.
    Transactions(Arc<[Arc<BlockTransaction>]>),
    /// The source has them itself.
    Remote,
}

/// A transaction of a template, with what its place in a block depends on.
#[derive(Clone, PartialEq, Eq)]
pub struct BlockTransaction {
    /// Serialised with its witness.
    pub bytes: Box<[u8]>,
    /// Its txid.
    pub id: [u8; 32],
    /// Its wtxid.
    pub witness_id: [u8; 32],
    /// In weight units (BIP 141).
    pub weight: u64,
    /// Satoshis, where the node says it.
    pub fee: Option<u64>,
    /// Signature operations as they count against a block's limit (BIP 141).
    pub sigops: u64,
}

impl Body {
    /// How many transactions come with the coinbase, where that is known.
    pub fn transaction_count(&self) -> Option<usize> {
        match self {
            Self::Transactions(transactions) => Some(transactions.len()),
            Self::Remote => None,
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transactions(transactions) => {
                write!(f, "Transactions({} of them)", transactions.len())
            }
            Self::Remote => f.write_str("Remote"),
        }
    }
}

/// A share that meets the network's target.
#[derive(Debug, Clone)]
pub struct Solution {
    /// The template that was solved.
    pub template: Arc<Template>,
    /// Header version with the rolled bits.
    pub version: u32,
    /// Header time.
    pub ntime: u32,
    /// Header nonce.
    pub nonce: u32,
    /// The whole coinbase, serialised with its witness: 32 zero bytes where the template has a witness commitment.
    pub coinbase: Vec<u8>,
}

impl Solution {
    /// The block's hash; `None` if the coinbase does not decode.
    pub fn hash(&self) -> Option<[u8; 32]> {
        Some(self.header()?.hash())
    }

    /// The whole block as the network has it, to be kept and offered again ([`Templates::submit_block`]); `None` if
    /// the coinbase does not decode, or the transactions are only where the template came from ([`Body::Remote`]).
    ///
    /// [`Templates::submit_block`]: crate::Templates::submit_block
    pub fn block(&self) -> Option<Bytes> {
        block::assemble(&self.header()?, &self.coinbase, &self.template)
    }

    /// `None` if the coinbase does not decode.
    pub(crate) fn header(&self) -> Option<Header> {
        let coinbase: Transaction = deserialize(&self.coinbase).ok()?;
        let id = coinbase.compute_txid().to_byte_array();
        Some(Header {
            version: self.version,
            prev_hash: self.template.prev_hash,
            merkle_root: header::merkle_root(id, &self.template.merkle_path),
            ntime: self.ntime,
            nbits: self.template.nbits,
            nonce: self.nonce,
        })
    }

    /// Adds to the coinbase the witness that the template's commitment asks for, where the finder left it out.
    #[must_use]
    pub fn with_witness(mut self) -> Self {
        if let Ok(mut coinbase) = deserialize::<Transaction>(&self.coinbase)
            && self.template.coinbase.outputs_count > 0
            && let Some(input) = coinbase.input.first_mut()
            && input.witness.is_empty()
        {
            input.witness.push(WITNESS_RESERVED);
            self.coinbase = serialize(&coinbase);
        }
        self
    }
}

/// What became of a solution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submission {
    /// The chain's tip is this block, or was.
    Accepted,
    /// The node does not want it, in the node's words.
    Rejected(String),
    /// Whoever makes the chain has the block but has not said what becomes of it, which the chain tells in time.
    Unknown(String),
    /// No answer in the configured time; the block may or may not have arrived.
    Unreachable(String),
}

#[cfg(test)]
mod tests {
    use crate::testing;

    #[test]
    fn the_height_is_read_back_from_every_length_of_prefix() {
        for height in [
            1,
            16,
            17,
            127,
            128,
            255,
            256,
            32_767,
            32_768,
            900_000,
            8_388_608,
            0x7fff_ffff,
        ] {
            let template = testing::template(1, height);
            assert_eq!(template.height(), Some(height));
        }
    }
}

//! A pool and a miner in miniature, for this crate's tests.

use std::sync::Arc;

use bitcoin::{
    Amount, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness,
    absolute::LockTime,
    consensus::encode::{deserialize, serialize},
    transaction,
};
use work::Target;

use crate::{Body, CoinbaseTemplate, Solution, Template, block};

/// A template that half of all headers solve, on a tip of its height's own.
pub(crate) fn template(id: u64, height: u32) -> Template {
    Template {
        id,
        prev_hash: [u8::try_from(height % 251).unwrap(); 32],
        min_ntime: 1_700_000_001,
        ntime: 1_700_000_100,
        nbits: 0x207f_ffff,
        version: 0x2000_0000,
        coinbase: CoinbaseTemplate {
            version: 2,
            script_prefix: block::height_prefix(height),
            sequence: u32::MAX,
            value_remaining: 5_000_000_000,
            outputs: Vec::new(),
            outputs_count: 0,
            locktime: 0,
        },
        merkle_path: Vec::new(),
        body: Body::Transactions(Arc::new([])),
    }
}

/// A block on the template that pays everything to `OP_TRUE`, without any work.
pub(crate) fn unsolved(template: &Arc<Template>) -> Solution {
    let rules = &template.coinbase;
    let commitment = (!rules.outputs.is_empty()).then(|| deserialize(&rules.outputs).unwrap());
    let payout = TxOut {
        value: Amount::from_sat(rules.value_remaining),
        script_pubkey: ScriptBuf::from_bytes(vec![0x51]),
    };
    let coinbase = Transaction {
        version: transaction::Version(rules.version.cast_signed()),
        lock_time: LockTime::from_consensus(rules.locktime),
        input: vec![TxIn {
            script_sig: ScriptBuf::from_bytes([&rules.script_prefix[..], b"\x04test"].concat()),
            sequence: Sequence(rules.sequence),
            witness: Witness::from_slice(&[[0; 32]]),
            ..TxIn::default()
        }],
        output: std::iter::once(payout).chain(commitment).collect(),
    };
    Solution {
        template: Arc::clone(template),
        version: template.version,
        ntime: template.ntime,
        nonce: 0,
        coinbase: serialize(&coinbase),
    }
}

/// A changed block on the template, with its proof of work.
pub(crate) fn solve(template: &Arc<Template>, change: impl FnOnce(&mut Solution)) -> Solution {
    let mut solution = unsolved(template);
    change(&mut solution);
    let target = Target::from_compact(template.nbits).unwrap();
    let mut header = solution.header().unwrap();
    while !target.is_met_by(&header.hash()) {
        header.nonce += 1;
    }
    solution.nonce = header.nonce;
    solution
}

pub(crate) fn hash(solution: &Solution) -> [u8; 32] {
    solution.hash().unwrap()
}

//! A mining job as miners see it: made once when it becomes active, then shared by every channel that it is for.

use stratum_v1::{ExtranonceBytes, Notification, NotifyTemplate};
use work::{Header, Target, header};

/// The two bytes after a transaction's version that say that it carries witness data (BIP 144).
const WITNESS_MARKER_AND_FLAG: [u8; 2] = [0, 1];

/// Where they stand: after the four bytes of the version.
const MARKER_AT: usize = 4;

/// A coinbase's witness in front of the locktime: one item of 32 bytes (BIP 141, "commitment structure").
const COINBASE_WITNESS_SIZE: usize = 34;
const LOCKTIME_SIZE: usize = 4;

/// An active job. Immutable.
#[derive(Debug)]
pub struct Job {
    /// Our own number, never used twice by a process: an upstream's ids repeat on its next connection.
    pub id: u64,
    /// The upstream's id.
    pub upstream_id: u32,
    /// The block to build on, in internal byte order.
    pub prev_hash: [u8; 32],
    /// The earliest time that a header may carry.
    pub min_ntime: u32,
    /// The network's target in compact form.
    pub nbits: u32,
    /// The header's version without rolled bits.
    pub version: u32,
    /// Whether the bits of BIP 320 may be rolled.
    pub version_rolling: bool,
    /// What `nbits` stands for; none if that is no target, which no header meets.
    network_target: Option<Target>,
    coinbase_prefix: Box<[u8]>,
    coinbase_suffix: Box<[u8]>,
    merkle_path: Box<[[u8; 32]]>,
    notify: NotifyTemplate,
}

/// What a job is made of, as the upstream sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobParts {
    /// The upstream's id.
    pub upstream_id: u32,
    /// The header's version without rolled bits.
    pub version: u32,
    /// Whether the bits of BIP 320 may be rolled.
    pub version_rolling: bool,
    /// The coinbase up to the extranonce prefix, with witness data or without.
    pub coinbase_prefix: Vec<u8>,
    /// The coinbase after the extranonce, with witness data if the prefix says so.
    pub coinbase_suffix: Vec<u8>,
    /// From the coinbase upwards, in internal byte order.
    pub merkle_path: Vec<[u8; 32]>,
}

/// The chain that a job builds on (SV2 `SetNewPrevHash`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// In internal byte order.
    pub prev_hash: [u8; 32],
    /// The earliest time that a header may carry.
    pub min_ntime: u32,
    /// The network's target in compact form.
    pub nbits: u32,
}

/// The upstream's fault: a coinbase whose witness cannot be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the job's coinbase is marked as carrying witness data but does not end as a coinbase with witness does"
)]
pub struct UnusualCoinbase;

impl Job {
    /// What makes work before it worthless when it changes. Where `nbits` can change without a block (testnet4), pools void
    /// the jobs before as well.
    pub(crate) fn tip(&self) -> ([u8; 32], u32) {
        (self.prev_hash, self.nbits)
    }

    /// Makes the job and renders its `mining.notify`.
    ///
    /// # Errors
    /// [`UnusualCoinbase`]
    pub fn new(id: u64, parts: &JobParts, tip: &Tip) -> Result<Self, UnusualCoinbase> {
        let [coinbase_prefix, coinbase_suffix] =
            without_witness(&parts.coinbase_prefix, &parts.coinbase_suffix)?;
        let notify = NotifyTemplate::new(&Notification {
            job_id: &format!("{id:x}"),
            prev_hash: &tip.prev_hash,
            coinbase_prefix: &coinbase_prefix,
            coinbase_suffix: &coinbase_suffix,
            merkle_path: &parts.merkle_path,
            version: parts.version,
            nbits: tip.nbits,
            ntime: tip.min_ntime,
        });
        Ok(Self {
            id,
            upstream_id: parts.upstream_id,
            prev_hash: tip.prev_hash,
            min_ntime: tip.min_ntime,
            nbits: tip.nbits,
            version: parts.version,
            version_rolling: parts.version_rolling,
            network_target: Target::from_compact(tip.nbits).ok(),
            coinbase_prefix,
            coinbase_suffix,
            merkle_path: parts.merkle_path.as_slice().into(),
            notify,
        })
    }

    /// Whether a header with this hash is a block.
    pub fn is_solved_by(&self, hash: &[u8; 32]) -> bool {
        self.network_target
            .is_some_and(|target| target.is_met_by(hash))
    }

    /// Appends the `mining.notify`; `hole` is what stands between the coinbase and the miner's extranonce1.
    pub fn write_notify(&self, out: &mut Vec<u8>, hole: &[u8], clean_jobs: bool) {
        self.notify.write(out, hole, clean_jobs);
    }

    /// As [`Job::write_notify`], under another id where the same work is sent again, for another target or channel.
    pub fn write_notify_as(&self, out: &mut Vec<u8>, id: u64, hole: &[u8], clean_jobs: bool) {
        if id == self.id {
            return self.write_notify(out, hole, clean_jobs);
        }
        self.notify
            .write_as(out, &format!("{id:x}"), hole, clean_jobs);
    }

    /// The header that a miner hashed; `extranonce` in the pieces that the coinbase holds one after the other.
    pub fn header(&self, extranonce: [&[u8]; 3], version: u32, ntime: u32, nonce: u32) -> Header {
        let [hole, extranonce1, extranonce2] = extranonce;
        let parts = [
            &self.coinbase_prefix,
            hole,
            extranonce1,
            extranonce2,
            &self.coinbase_suffix,
        ];
        Header {
            version,
            prev_hash: self.prev_hash,
            merkle_root: header::merkle_root(header::coinbase_txid(&parts), &self.merkle_path),
            ntime,
            nbits: self.nbits,
            nonce,
        }
    }
}

/// A job for one channel, with what was in force there when it became active.
#[derive(Debug, Clone)]
pub struct Work {
    /// The job.
    pub job: std::sync::Arc<Job>,
    /// What its shares must meet (SV2 5.3.21: a later `SetTarget` does not change it).
    pub target: Target,
    /// The upstream's part of the extranonce.
    pub extranonce_prefix: ExtranonceBytes,
}

/// SV1 miners hash the coinbase as they get it, so it must come without marker, flag and witness (the txid, not the wtxid).
fn without_witness(prefix: &[u8], suffix: &[u8]) -> Result<[Box<[u8]>; 2], UnusualCoinbase> {
    let marked = prefix.get(MARKER_AT..MARKER_AT + 2) == Some(&WITNESS_MARKER_AND_FLAG);
    if !marked {
        return Ok([prefix.into(), suffix.into()]);
    }
    let at = suffix
        .len()
        .checked_sub(COINBASE_WITNESS_SIZE + LOCKTIME_SIZE)
        .ok_or(UnusualCoinbase)?;
    let (outputs, end) = suffix.split_at(at);
    let (witness, locktime) = end.split_at(COINBASE_WITNESS_SIZE);
    if !witness.starts_with(&[1, 32]) {
        return Err(UnusualCoinbase);
    }
    let prefix = [&prefix[..MARKER_AT], &prefix[MARKER_AT + 2..]].concat();
    Ok([prefix.into(), [outputs, locktime].concat().into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use stratum_core::bitcoin::{Transaction, consensus};

    /// The coinbase of regtest's block 1 in a form with witness, cut around an extranonce of eight bytes.
    fn coinbase() -> (Vec<u8>, [u8; 8], Vec<u8>) {
        let prefix = hex::decode(concat!(
            "02000000",
            "0001",
            "01",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "ffffffff",
            "0a",
            "5100"
        ));
        let suffix = hex::decode(concat!(
            "ffffffff",
            "01",
            "00f2052a01000000",
            "0151",
            "01",
            "20",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "00000000"
        ));
        (prefix.unwrap(), [7; 8], suffix.unwrap())
    }

    #[test]
    fn a_coinbase_with_witness_reaches_the_miner_without() {
        let (prefix, extranonce, suffix) = coinbase();
        let whole = [&prefix[..], &extranonce, &suffix].concat();
        let transaction: Transaction = consensus::deserialize(&whole).unwrap();
        let [prefix, suffix] = without_witness(&prefix, &suffix).unwrap();
        let txid = header::coinbase_txid(&[&prefix, &extranonce, &suffix]);
        assert_eq!(
            txid,
            *AsRef::<[u8; 32]>::as_ref(&transaction.compute_txid())
        );
    }

    #[test]
    fn a_coinbase_without_witness_stays_as_it_is() {
        let (mut prefix, _, suffix) = coinbase();
        prefix.drain(MARKER_AT..MARKER_AT + 2);
        let [stripped_prefix, stripped_suffix] = without_witness(&prefix, &suffix).unwrap();
        assert_eq!(
            (&*stripped_prefix, &*stripped_suffix),
            (&prefix[..], &suffix[..])
        );
    }

    #[test]
    fn a_coinbase_with_an_unusual_witness_is_refused() {
        let (prefix, _, mut suffix) = coinbase();
        let at = suffix.len() - LOCKTIME_SIZE - COINBASE_WITNESS_SIZE;
        suffix[at] = 2;
        assert_eq!(without_witness(&prefix, &suffix), Err(UnusualCoinbase));
        assert_eq!(without_witness(&prefix, &[]), Err(UnusualCoinbase));
    }
}

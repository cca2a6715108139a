//! Real shares, found and written down before the clock starts.

use bench_pool::Result;
use stratum_v1::{ServerMessage, parse_server_message};
use work::{Difficulty, Header, Target, header};

use crate::miner::Handshake;

/// Lines of `mining.submit`, all of one length, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    lines: Vec<u8>,
    length: usize,
    /// Bytes of them that were written.
    written: usize,
}

impl Shares {
    /// The id of the first one; the later ones count up from there.
    pub(crate) const FIRST_ID: u64 = 1_000_000;

    /// Lines that were written at least in part.
    pub(crate) fn begun(&self) -> u64 {
        self.written.div_ceil(self.length.max(1)) as u64
    }

    /// Whether the last line that was begun is not written to its end.
    pub(crate) fn is_within_a_line(&self) -> bool {
        self.length > 0 && !self.written.is_multiple_of(self.length)
    }

    /// The bytes of so many lines, beginning with what is left of one that was begun; fewer where there are no more.
    pub(crate) fn next(&self, count: u64) -> &[u8] {
        let rest = &self.lines[self.written..];
        let within = self.written % self.length.max(1);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let wanted = count.saturating_mul(self.length).saturating_sub(within);
        &rest[..wanted.min(rest.len())]
    }

    pub(crate) fn advance(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// Hashes until there are so many shares for the miner's job. Each has an extranonce2 of its own, so that no part of
    /// the check can be remembered from the share before.
    pub(crate) fn find(handshake: &Handshake, worker: &str, count: usize) -> Result<Self> {
        let Ok(ServerMessage::Notify(notify)) = parse_server_message(&handshake.notify) else {
            return Err("there is no job".into());
        };
        let difficulty = handshake.difficulty.ok_or("there is no difficulty")?;
        let target = Difficulty::new(difficulty)?.target();
        let (mut coinb1, mut coinb2) = (Vec::new(), Vec::new());
        let decoded = notify.coinb1.decode_hex(&mut coinb1);
        decoded
            .and(notify.coinb2.decode_hex(&mut coinb2))
            .ok_or("a coinbase that is not in hexadecimal")?;
        let job_id = notify.job_id.decode();
        let path: Vec<[u8; 32]> = notify.merkle_path().collect();
        let mut shares = Self::default();
        for (number, id) in (0..count as u64).zip(Self::FIRST_ID..) {
            let mut extranonce2 = number.to_be_bytes().to_vec();
            extranonce2.drain(..8_usize.saturating_sub(handshake.extranonce2_size));
            let parts = [&coinb1, &handshake.extranonce1, &extranonce2, &coinb2];
            let coinbase = header::coinbase_txid(&parts.map(Vec::as_slice));
            let nonce = nonce(
                Header {
                    version: notify.version,
                    prev_hash: notify.prev_hash,
                    merkle_root: header::merkle_root(coinbase, &path),
                    ntime: notify.ntime,
                    nbits: notify.nbits,
                    nonce: 0,
                },
                target,
            );
            let share = stratum_v1::Share {
                worker,
                job_id: &job_id,
                extranonce2: &extranonce2,
                ntime: notify.ntime,
                nonce: nonce.ok_or("no nonce makes a share")?,
                version_bits: None,
            };
            stratum_v1::write_submit(&mut shares.lines, id, &share);
            shares.length = shares.lines.len() / (usize::try_from(number)? + 1);
        }
        Ok(shares)
    }
}

fn nonce(mut header: Header, target: Target) -> Option<u32> {
    (0..=u32::MAX).find(|nonce| {
        header.nonce = *nonce;
        target.is_met_by(&header.hash())
    })
}

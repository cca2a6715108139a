//! Makes a share of the kind that is asked for, a batch of hashes at a time.

use std::sync::Arc;

use rand::Rng;
use work::difficulty::HASHES_PER_DIFFICULTY;

use super::options::Kind;
use crate::{
    job::{Claim, NONCES_PER_CLAIM, Share, Work},
    pacing::BATCH,
    search::Search,
};

/// A share in the making.
pub(super) struct Making {
    kind: Kind,
    work: Arc<Work>,
    claim: Claim,
    search: Search,
    /// Nonces of the claim that have been tried.
    tried: u32,
}

impl Making {
    /// Begins a share for this work; none where all its headers are used up. One that is to be good and takes too many
    /// hashes becomes an unworked one.
    pub(super) fn begin(kind: Kind, work: Arc<Work>, most_hashes: f64) -> Option<Self> {
        let too_hard = work.difficulty.value() * HASHES_PER_DIFFICULTY > most_hashes;
        let kind = match kind {
            Kind::Good if too_hard => Kind::Unworked,
            kind => kind,
        };
        let claim = work.claim()?;
        Some(Self {
            kind,
            search: Search::new(&claim.header, work.target),
            claim,
            work,
            tried: 0,
        })
    }

    /// A batch of hashes at most; the share when it is made. Only a good one takes more than one batch.
    pub(super) fn step(&mut self, random: &mut impl Rng) -> Option<(Kind, Share)> {
        let first = self.claim.header.nonce.wrapping_add(self.tried);
        match self.kind {
            Kind::Good => match self.search.find(first, BATCH) {
                Some(nonce) => Some((Kind::Good, self.share(nonce))),
                None => {
                    self.go_on();
                    None
                }
            },
            Kind::Low => Some(match self.search.find_miss(first, BATCH) {
                Some(nonce) => (Kind::Low, self.share(nonce)),
                // Where every hash meets the target, none can miss it.
                None => (Kind::Good, self.share(first)),
            }),
            kind => {
                let nonce = first.wrapping_add(random.random_range(0..NONCES_PER_CLAIM));
                Some((kind, self.share(nonce)))
            }
        }
    }

    fn go_on(&mut self) {
        self.tried += BATCH;
        if self.tried < NONCES_PER_CLAIM {
            return;
        }
        match self.work.claim() {
            Some(claim) => {
                self.search = Search::new(&claim.header, self.work.target);
                self.claim = claim;
                self.tried = 0;
            }
            // All headers are used up.
            None => self.kind = Kind::Unworked,
        }
    }

    fn share(&self, nonce: u32) -> Share {
        Share {
            work: self.work.clone(),
            extranonce2: self.claim.extranonce2.clone(),
            version_bits: self.claim.version_bits,
            nonce,
        }
    }
}

//! The search of a range of nonces for a hash that meets a target.

use work::{Header, Target};

use crate::hash::Midstate;

/// One header's search: its midstate and the target, ready for batches of nonces.
pub(crate) struct Search {
    midstate: Midstate,
    target: Target,
    /// The target's most significant 32 bits: a hash above them cannot meet it.
    top: u32,
}

impl Search {
    /// Prepares the header, whose own nonce is ignored.
    pub(crate) fn new(header: &Header, target: Target) -> Self {
        let bytes = target.to_le_bytes();
        Self {
            midstate: Midstate::new(header),
            target,
            top: u32::from_le_bytes([bytes[28], bytes[29], bytes[30], bytes[31]]),
        }
    }

    /// The first of `count` nonces, from `first` on, that meets the target. To go on, call again with what follows.
    pub(crate) fn find(&self, first: u32, count: u32) -> Option<u32> {
        self.midstate
            .find(first, count, self.top, |hash| self.target.is_met_by(hash))
            .map(|(nonce, _)| nonce)
    }

    /// The first of `count` nonces that does not meet the target.
    pub(crate) fn find_miss(&self, first: u32, count: u32) -> Option<u32> {
        self.midstate
            .find(first, count, u32::MAX, |hash| !self.target.is_met_by(hash))
            .map(|(nonce, _)| nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(reversed_hex: &str) -> [u8; 32] {
        let mut bytes: [u8; 32] = hex::decode(reversed_hex).unwrap().try_into().unwrap();
        bytes.reverse();
        bytes
    }

    fn first_share_after(header: Header, skipped: u32) -> Option<u32> {
        let target = Target::from_compact(header.nbits).unwrap();
        Search::new(&header, target).find(header.nonce - skipped, 2 * skipped)
    }

    #[test]
    fn the_search_finds_the_genesis_block() {
        let genesis = Header {
            version: 1,
            prev_hash: [0; 32],
            merkle_root: bytes("4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"),
            ntime: 1_231_006_505,
            nbits: 0x1d00_ffff,
            nonce: 2_083_236_893,
        };
        assert_eq!(first_share_after(genesis, 50_000), Some(genesis.nonce));
    }

    #[test]
    fn the_search_finds_block_1() {
        let block = Header {
            version: 1,
            prev_hash: bytes("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
            merkle_root: bytes("0e3e2357e806b6cdb1f70b54c3a3a17b6714ee1f0e68bebb44a74b1efd512098"),
            ntime: 1_231_469_665,
            nbits: 0x1d00_ffff,
            nonce: 2_573_394_689,
        };
        assert_eq!(first_share_after(block, 50_000), Some(block.nonce));
    }

    #[test]
    fn a_hash_with_a_good_top_word_but_above_the_target_is_no_share() {
        let header = Header {
            version: 1,
            prev_hash: [0; 32],
            merkle_root: [1; 32],
            ntime: 0,
            nbits: 0,
            nonce: 5,
        };
        let hash = header.hash();
        let exactly = Target::from_le_bytes(hash).unwrap();
        let mut below = hash;
        below[0] -= 1;
        let below = Target::from_le_bytes(below).unwrap();
        assert_eq!(Search::new(&header, exactly).find(5, 1), Some(5));
        assert_eq!(Search::new(&header, below).find(5, 1), None);
    }

    #[test]
    fn the_easiest_target_makes_every_nonce_a_share() {
        let header = Header {
            version: 0,
            prev_hash: [0; 32],
            merkle_root: [0; 32],
            ntime: 0,
            nbits: 0,
            nonce: 0,
        };
        let search = Search::new(&header, Target::MAX);
        assert_eq!(search.find(u32::MAX, 1), Some(u32::MAX));
        assert_eq!(search.find(7, 0), None);
    }
}

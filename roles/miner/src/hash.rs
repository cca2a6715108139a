//! Double SHA-256 of one header with many nonces: the first 64 of its 80 bytes are hashed once.
//!
//! The compression function is that of `sha2`, which uses the SHA extensions where the processor has them.

use sha2::{
    compress256,
    digest::generic_array::{GenericArray, typenum::U64},
};
use work::Header;

type Block = GenericArray<u8, U64>;

/// A header with everything but its nonce hashed as far as that goes.
#[derive(Clone)]
pub(crate) struct Midstate {
    /// State after the first block of the header.
    state: [u32; 8],
    /// The second block: the last 16 bytes of the header, the nonce among them, and the padding of 80 bytes.
    tail: Block,
}

impl Midstate {
    /// Hashes what does not depend on the nonce; the header's own nonce is ignored.
    pub(crate) fn new(header: &Header) -> Self {
        let bytes = header.to_bytes();
        let mut state = INITIAL_STATE;
        compress256(&mut state, &[Block::clone_from_slice(&bytes[..64])]);
        let mut tail = Block::default();
        tail[..12].copy_from_slice(&bytes[64..76]);
        tail[16] = END_OF_MESSAGE;
        tail[62..].copy_from_slice(&HEADER_BITS.to_be_bytes());
        Self { state, tail }
    }

    /// The first of `count` nonces, from `first` on, whose hash passes `is_good`, and that hash in wire order.
    ///
    /// `is_good` is asked only where the hash's most significant 32 bits are at most `top`, which for a target worth
    /// mining is one hash in billions.
    pub(crate) fn find(
        &self,
        first: u32,
        count: u32,
        top: u32,
        is_good: impl Fn(&[u8; 32]) -> bool,
    ) -> Option<(u32, [u8; 32])> {
        let mut inner = self.tail;
        let mut outer = Block::default();
        outer[32] = END_OF_MESSAGE;
        outer[62..].copy_from_slice(&HASH_BITS.to_be_bytes());
        for offset in 0..count {
            let nonce = first.wrapping_add(offset);
            inner[12..16].copy_from_slice(&nonce.to_le_bytes());
            let mut state = self.state;
            compress256(&mut state, std::slice::from_ref(&inner));
            put_state(&mut outer[..32], &state);
            let mut hash = INITIAL_STATE;
            compress256(&mut hash, std::slice::from_ref(&outer));
            // A hash is a little-endian number, so the last word's bytes are the most significant ones.
            if hash[7].swap_bytes() <= top {
                let mut bytes = [0; 32];
                put_state(&mut bytes, &hash);
                if is_good(&bytes) {
                    return Some((nonce, bytes));
                }
            }
        }
        None
    }
}

fn put_state(bytes: &mut [u8], state: &[u32; 8]) {
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(state) {
        chunk.copy_from_slice(&word.to_be_bytes());
    }
}

/// FIPS 180-4, section 5.3.3.
const INITIAL_STATE: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The bit that starts the padding (FIPS 180-4, section 5.1.1).
const END_OF_MESSAGE: u8 = 0x80;
const HEADER_BITS: u16 = 80 * 8;
const HASH_BITS: u16 = 32 * 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_midstate_hashes_like_the_whole_header(
            version: u32, prev_hash: [u8; 32], merkle_root: [u8; 32], ntime: u32, nbits: u32, nonce: u32,
        ) {
            let header = Header { version, prev_hash, merkle_root, ntime, nbits, nonce };
            let found = Midstate::new(&header).find(nonce, 1, u32::MAX, |_| true);
            prop_assert_eq!(found, Some((nonce, header.hash())));
        }

        #[test]
        fn the_early_out_loses_no_hash(seed: u32, top: u32) {
            let header = Header {
                version: 1, prev_hash: [0; 32], merkle_root: [7; 32], ntime: seed, nbits: 0x207f_ffff, nonce: 0,
            };
            let found = Midstate::new(&header).find(0, 64, top, |_| true).map(|(nonce, _)| nonce);
            let expected = (0..64u32).find(|&nonce| {
                let hash = Header { nonce, ..header }.hash();
                u32::from_le_bytes([hash[28], hash[29], hash[30], hash[31]]) <= top
            });
            prop_assert_eq!(found, expected);
        }
    }
}

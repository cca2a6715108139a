//! Block headers and the hashes that a share is made of. Hashes are in internal (wire) byte order.

use sha2::{
    Digest, Sha256, compress256,
    digest::generic_array::{GenericArray, typenum::U64},
};

/// A block header before its proof of work is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Version with the rolled bits of BIP 320.
    pub version: u32,
    /// Hash of the block before.
    pub prev_hash: [u8; 32],
    /// Root over the coinbase and the template's other transactions.
    pub merkle_root: [u8; 32],
    /// Seconds since the Unix epoch.
    pub ntime: u32,
    /// The network's target in compact form.
    pub nbits: u32,
    /// What the miner searched.
    pub nonce: u32,
}

impl Header {
    /// The 80 bytes that are hashed.
    pub fn to_bytes(&self) -> [u8; 80] {
        let mut bytes = [0; 80];
        bytes[..4].copy_from_slice(&self.version.to_le_bytes());
        bytes[4..36].copy_from_slice(&self.prev_hash);
        bytes[36..68].copy_from_slice(&self.merkle_root);
        bytes[68..72].copy_from_slice(&self.ntime.to_le_bytes());
        bytes[72..76].copy_from_slice(&self.nbits.to_le_bytes());
        bytes[76..].copy_from_slice(&self.nonce.to_le_bytes());
        bytes
    }

    /// The block hash.
    pub fn hash(&self) -> [u8; 32] {
        sha256d(&self.to_bytes())
    }
}

/// SHA-256 applied twice.
pub fn sha256d(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(Sha256::digest(bytes)).into()
}

/// The hash of a coinbase transaction given in parts: its id, when the parts are the serialisation without witness.
pub fn coinbase_txid(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    second_hash(hasher.finalize().into())
}

/// Folds a transaction id up a merkle path whose siblings are all on the right, as they are for a coinbase.
pub fn merkle_root(coinbase_txid: [u8; 32], path: &[[u8; 32]]) -> [u8; 32] {
    path.iter()
        .fold(coinbase_txid, |left, right| merkle_node(&left, right))
}

/// The parent of two nodes of a merkle tree.
pub fn merkle_node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..32].copy_from_slice(left);
    block[32..].copy_from_slice(right);
    let mut state = INITIAL_STATE;
    compress256(
        &mut state,
        &[
            GenericArray::<u8, U64>::from(block),
            PADDING_AFTER_64.into(),
        ],
    );
    second_hash(state_bytes(state))
}

/// The outer SHA-256 of a double hash: one compression, since 32 bytes and their padding fit one block.
fn second_hash(first: [u8; 32]) -> [u8; 32] {
    let mut block = PADDING_AFTER_32;
    block[..32].copy_from_slice(&first);
    let mut state = INITIAL_STATE;
    compress256(&mut state, &[GenericArray::<u8, U64>::from(block)]);
    state_bytes(state)
}

fn state_bytes(state: [u32; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(state) {
        chunk.copy_from_slice(&word.to_be_bytes());
    }
    bytes
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

/// The padding block of a 64-byte message (FIPS 180-4, section 5.1.1).
const PADDING_AFTER_64: [u8; 64] = padding(0, 512);

/// The padding of a 32-byte message, in the second half of its only block.
const PADDING_AFTER_32: [u8; 64] = padding(32, 256);

const fn padding(at: usize, message_bits: u16) -> [u8; 64] {
    let mut block = [0; 64];
    block[at] = 0x80;
    let length = message_bits.to_be_bytes();
    block[62] = length[0];
    block[63] = length[1];
    block
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Block 1 of the main chain.
    #[test]
    fn a_header_hashes_as_the_chain_knows_it() {
        let mut prev_hash = [0; 32];
        prev_hash.copy_from_slice(&[
            0x6f, 0xe2, 0x8c, 0x0a, 0xb6, 0xf1, 0xb3, 0x72, 0xc1, 0xa6, 0xa2, 0x46, 0xae, 0x63,
            0xf7, 0x4f, 0x93, 0x1e, 0x83, 0x65, 0xe1, 0x5a, 0x08, 0x9c, 0x68, 0xd6, 0x19, 0x00, 0,
            0, 0, 0,
        ]);
        let merkle_root = [
            0x98, 0x20, 0x51, 0xfd, 0x1e, 0x4b, 0xa7, 0x44, 0xbb, 0xbe, 0x68, 0x0e, 0x1f, 0xee,
            0x14, 0x67, 0x7b, 0xa1, 0xa3, 0xc3, 0x54, 0x0b, 0xf7, 0xb1, 0xcd, 0xb6, 0x06, 0xe8,
            0x57, 0x23, 0x3e, 0x0e,
        ];
        let header = Header {
            version: 1,
            prev_hash,
            merkle_root,
            ntime: 1_231_469_665,
            nbits: 0x1d00_ffff,
            nonce: 2_573_394_689,
        };
        let hash = header.hash();
        assert!(crate::Target::DIFFICULTY_1.is_met_by(&hash));
        assert_eq!(hash[..4], [0x48, 0x60, 0xeb, 0x18]);
    }

    proptest! {
        #[test]
        fn the_short_cuts_hash_like_the_long_way(left: [u8; 32], right: [u8; 32], cut in 0usize..=32) {
            let both = [left, right].concat();
            prop_assert_eq!(merkle_node(&left, &right), sha256d(&both));
            prop_assert_eq!(coinbase_txid(&[&both[..cut], &both[cut..]]), sha256d(&both));
        }
    }
}

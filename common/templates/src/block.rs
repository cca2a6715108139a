//! Putting a block together: the height prefix, the merkle path, the witness commitment, and the whole of it.

use std::sync::Arc;

use bitcoin::{
    Transaction, VarInt,
    consensus::encode::{Error as DecodeError, deserialize, serialize},
    hashes::Hash,
    script::Builder,
};
use work::{Header, header};

use crate::{Body, Solution, Template};

/// The first bytes of a witness commitment's script: `OP_RETURN`, a push of 36 bytes, and the marker (BIP 141).
pub(crate) const COMMITMENT_MARKER: [u8; 6] = [0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];

/// The coinbase's witness reserved value as everybody has it (BIP 141).
pub(crate) const WITNESS_RESERVED: [u8; 32] = [0; 32];

/// The height as BIP 34 wants it: the shortest push.
pub(crate) fn height_prefix(height: u32) -> Vec<u8> {
    Builder::new().push_int(height.into()).into_bytes()
}

/// The siblings on the way from the coinbase to the merkle root, given the other transactions' ids.
pub(crate) fn merkle_path(ids: &[[u8; 32]]) -> Vec<[u8; 32]> {
    let mut path = Vec::new();
    // The leftmost node of each level depends on the coinbase, and is left out.
    let mut level = ids.to_vec();
    while let Some((sibling, rest)) = level.split_first() {
        path.push(*sibling);
        level = rest
            .chunks(2)
            .map(|pair| header::merkle_node(&pair[0], pair.last().unwrap_or(&pair[0])))
            .collect();
    }
    path
}

/// The commitment to all witnesses (BIP 141), given the other transactions' witness ids.
pub(crate) fn witness_commitment(witness_ids: &[[u8; 32]]) -> [u8; 32] {
    // The coinbase's own witness id counts as zero.
    let root = header::merkle_root([0; 32], &merkle_path(witness_ids));
    header::merkle_node(&root, &WITNESS_RESERVED)
}

/// The output that carries a script and no value, serialised.
pub(crate) fn valueless_output(script: &[u8]) -> Vec<u8> {
    let mut output = vec![0; 8];
    output.extend(serialize(&VarInt(script.len() as u64)));
    output.extend_from_slice(script);
    output
}

/// A solution as a header and a decoded coinbase.
pub(crate) struct Solved {
    pub(crate) header: Header,
    pub(crate) coinbase: Transaction,
}

impl Solved {
    pub(crate) fn new(solution: &Solution) -> Result<Self, DecodeError> {
        let Solution {
            template,
            version,
            ntime,
            nonce,
            coinbase,
        } = solution;
        let coinbase: Transaction = deserialize(coinbase)?;
        let id = coinbase.compute_txid().to_byte_array();
        let header = Header {
            version: *version,
            prev_hash: template.prev_hash,
            merkle_root: header::merkle_root(id, &template.merkle_path),
            ntime: *ntime,
            nbits: template.nbits,
            nonce: *nonce,
        };
        Ok(Self { header, coinbase })
    }
}

/// The whole block in hex; `None` where the template's source has the transactions.
pub(crate) fn to_hex(header: &Header, coinbase: &[u8], template: &Template) -> Option<String> {
    let Body::Transactions(transactions) = &template.body else {
        return None;
    };
    let count = serialize(&VarInt(transactions.len() as u64 + 1));
    let bytes: usize = transactions
        .iter()
        .map(|transaction| transaction.bytes.len())
        .sum();
    let mut block = String::with_capacity(2 * (80 + count.len() + coinbase.len() + bytes));
    push_hex(&mut block, &header.to_bytes());
    push_hex(&mut block, &count);
    push_hex(&mut block, coinbase);
    for transaction in transactions.iter().map(Arc::as_ref) {
        push_hex(&mut block, &transaction.bytes);
    }
    Some(block)
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::{Txid, WitnessMerkleNode, hashes::sha256d, merkle_tree};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heights_are_pushed_as_the_chain_wants_them() {
        assert_eq!(height_prefix(1), [0x51]);
        assert_eq!(height_prefix(16), [0x60]);
        assert_eq!(height_prefix(17), [1, 17]);
        assert_eq!(height_prefix(128), [2, 128, 0]);
        assert_eq!(height_prefix(900_000), [3, 0xa0, 0xbb, 0x0d]);
    }

    #[test]
    fn an_empty_block_commits_to_the_well_known_value() {
        assert_eq!(
            hex::encode(witness_commitment(&[])),
            "e2f61c3f71d1defd3fa999dfa36953755c690689799962b48bebd836974e8cf9"
        );
    }

    proptest! {
        #[test]
        fn the_path_leads_to_the_root_that_the_chain_computes(
            coinbase: [u8; 32], ids in proptest::collection::vec(any::<[u8; 32]>(), 0..40)
        ) {
            let all = std::iter::once(coinbase).chain(ids.iter().copied()).map(Txid::from_byte_array);
            let expected = merkle_tree::calculate_root(all).unwrap().to_byte_array();
            prop_assert_eq!(header::merkle_root(coinbase, &merkle_path(&ids)), expected);

            let all = std::iter::once([0; 32]).chain(ids.iter().copied()).map(WitnessMerkleNode::from_byte_array);
            let root = merkle_tree::calculate_root(all).unwrap().to_byte_array();
            let expected = sha256d::Hash::hash(&[root, [0; 32]].concat()).to_byte_array();
            prop_assert_eq!(witness_commitment(&ids), expected);
        }
    }
}

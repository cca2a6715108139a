//! Putting a block together: the height prefix, the merkle path, the witness commitment, and the whole of it.

use bitcoin::{VarInt, consensus::encode::serialize, script::Builder};
use bytes::Bytes;
use work::{Header, header};

use crate::{Body, Template};

/// The first bytes of a witness commitment's script: `OP_RETURN`, a push of 36 bytes, and the marker (BIP 141).
pub(crate) const COMMITMENT_MARKER: [u8; 6] = [0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];

const HEADER_SIZE: usize = 80;

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

/// The whole block; `None` where the template's source has the transactions.
pub(crate) fn assemble(header: &Header, coinbase: &[u8], template: &Template) -> Option<Bytes> {
    let Body::Transactions(transactions) = &template.body else {
        return None;
    };
    let count = serialize(&VarInt(transactions.len() as u64 + 1));
    let bytes: usize = transactions
        .iter()
        .map(|transaction| transaction.bytes.len())
        .sum();
    let mut block = Vec::with_capacity(HEADER_SIZE + count.len() + coinbase.len() + bytes);
    block.extend_from_slice(&header.to_bytes());
    block.extend_from_slice(&count);
    block.extend_from_slice(coinbase);
    for transaction in transactions.iter() {
        block.extend_from_slice(&transaction.bytes);
    }
    Some(block.into())
}

/// The hash of a serialised block; `None` if there is no whole header.
pub(crate) fn hash(block: &[u8]) -> Option<[u8; 32]> {
    Some(header::sha256d(block.get(..HEADER_SIZE)?))
}

#[cfg(test)]
mod tests {
    use bitcoin::{
        Txid, WitnessMerkleNode,
        hashes::{Hash, sha256d},
        merkle_tree,
    };
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

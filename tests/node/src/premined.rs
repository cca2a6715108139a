//! The first blocks of a signet with the challenge `51`, so that a test has coins to spend without minutes of mining.
//!
//! Everything in them follows from the height but the nonce, so the nonces are all that is kept.

use bitcoin::{
    Amount, Block, CompressedPublicKey, Network, NetworkKind, PrivateKey, ScriptBuf, Sequence,
    Transaction, TxIn, TxOut, Witness,
    absolute::LockTime,
    block::{Header, Version},
    consensus::encode::serialize_hex,
    constants::genesis_block,
    hashes::{Hash, HashEngine, sha256d},
    key::Secp256k1,
    script::Builder,
    secp256k1::SecretKey,
    transaction,
};

/// In front of an empty block's commitment: `OP_RETURN`, a push of 36 bytes, and the marker (BIP 141).
const COMMITMENT_MARKER: [u8; 6] = [0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];

/// Where the coins are, with the private key that everybody knows.
pub(crate) fn descriptor() -> String {
    format!("wpkh({})", key().to_wif())
}

/// The blocks from height 1 on, in hex.
pub(crate) fn blocks() -> impl Iterator<Item = String> {
    let mut previous = genesis_block(Network::Signet).header;
    (1..).zip(NONCES).map(move |(height, nonce)| {
        let mut block = block(height, &previous);
        block.header.nonce = nonce;
        previous = block.header;
        serialize_hex(&block)
    })
}

fn block(height: u32, previous: &Header) -> Block {
    let payout = ScriptBuf::new_p2wpkh(
        &CompressedPublicKey::from_private_key(&Secp256k1::new(), &key())
            .expect("compressed")
            .wpubkey_hash(),
    );
    let mut engine = sha256d::Hash::engine();
    engine.input(&[0; 64]);
    let commitment = sha256d::Hash::from_engine(engine).to_byte_array();
    let output = |value, script_pubkey| TxOut {
        value: Amount::from_int_btc(value),
        script_pubkey,
    };
    let coinbase = Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            script_sig: Builder::new()
                .push_int(height.into())
                .push_int(0)
                .into_script(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[[0; 32]]),
            ..TxIn::default()
        }],
        output: vec![
            output(50, payout),
            output(
                0,
                ScriptBuf::from_bytes([&COMMITMENT_MARKER[..], &commitment].concat()),
            ),
        ],
    };
    Block {
        header: Header {
            version: Version::from_consensus(0x2000_0000),
            prev_blockhash: previous.block_hash(),
            merkle_root: coinbase.compute_txid().to_raw_hash().into(),
            time: previous.time + 600,
            bits: previous.bits,
            nonce: 0,
        },
        txdata: vec![coinbase],
    }
}

fn key() -> PrivateKey {
    let secret = SecretKey::from_slice(&[1; 32]).expect("in range");
    PrivateKey {
        compressed: true,
        network: NetworkKind::Test,
        inner: secret,
    }
}

#[rustfmt::skip]
const NONCES: [u32; 101] = [
    5231410, 4822280, 13003115, 1288374, 820884, 860941, 5353430, 6408994, 1641661, 78905,
    9620200, 4034676, 3052612, 3900522, 2761514, 1987645, 595946, 2504916, 5436565, 10653883,
    7464416, 2885407, 729543, 925719, 73671, 64927, 82525, 3614980, 2726111, 1760089,
    3763676, 8564534, 1715621, 7331946, 102221, 432928, 7406794, 6108199, 6814300, 186620,
    15015279, 9635937, 6854212, 2398564, 3372608, 3973083, 1360556, 335238, 7046405, 13088057,
    7958835, 10794401, 5800358, 18352987, 2787493, 707579, 6167321, 2601480, 3860791, 1695803,
    3375813, 2252921, 1804790, 1094544, 2384140, 27172, 3649824, 2955499, 11549938, 5367618,
    3800274, 12404625, 2197322, 5293759, 2306879, 2566414, 1607571, 2663360, 6423862, 5752658,
    15197045, 9612797, 2387948, 322588, 4893255, 637686, 13229458, 1394526, 1987339, 2896827,
    3430337, 898738, 1096676, 4052269, 10758200, 1016319, 4726886, 9186594, 7091989, 5486757,
    26614686,
];

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use work::Target;

    use super::*;

    #[test]
    fn every_block_has_its_proof_of_work() {
        let mut previous = genesis_block(Network::Signet).header;
        for (height, nonce) in (1..).zip(NONCES) {
            let mut header = block(height, &previous).header;
            header.nonce = nonce;
            header.validate_pow(header.target()).unwrap();
            previous = header;
        }
        assert_eq!(NONCES.len(), 101);
    }

    #[test]
    #[ignore = "prints NONCES anew; takes minutes"]
    fn mine_the_blocks_again() {
        let mut previous = genesis_block(Network::Signet).header;
        for height in 1..=101 {
            let mut header = block(height, &previous).header;
            header.nonce = solve(&header);
            print!("{}, ", header.nonce);
            previous = header;
        }
    }

    fn solve(header: &Header) -> u32 {
        const THREADS: u32 = 2;
        let target = Target::from_compact(header.bits.to_consensus()).unwrap();
        let found = AtomicU32::new(u32::MAX);
        let search = |first: u32| {
            let mut header = work::Header {
                version: header.version.to_consensus().cast_unsigned(),
                prev_hash: header.prev_blockhash.to_byte_array(),
                merkle_root: header.merkle_root.to_byte_array(),
                ntime: header.time,
                nbits: header.bits.to_consensus(),
                nonce: first,
            };
            while header.nonce < found.load(Ordering::Relaxed) {
                if target.is_met_by(&header.hash()) {
                    found.fetch_min(header.nonce, Ordering::Relaxed);
                }
                header.nonce += THREADS;
            }
        };
        thread::scope(|scope| {
            for first in 0..THREADS {
                scope.spawn({
                    let search = &search;
                    move || search(first)
                });
            }
        });
        found.into_inner()
    }
}

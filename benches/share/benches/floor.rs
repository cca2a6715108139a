//! The floor of a share's cost: parsing the message, the coinbase's hash, twelve merkle branches, the header's hash and the
//! comparison with the target; ours beside what `channels_sv2` does for the same.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a measurement that cannot be made should stop"
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use stratum_core::{
    bitcoin::{
        CompactTarget, Target as BitcoinTarget,
        block::{Header as BitcoinHeader, Version},
        hashes::Hash,
    },
    channels_sv2::merkle_root::merkle_root_from_path,
    mining_sv2::{MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED, SubmitSharesExtended},
    parsers_sv2::Mining,
};
use work::{Header, Target, header};

const EXTRANONCE: [u8; 16] = [2; 16];
const BRANCHES: [[u8; 32]; 12] = [[4; 32]; 12];
const NBITS: u32 = 0x1702_5ced;

/// A coinbase around its extranonce, without witness: one output to a key and the witness commitment.
fn coinbase() -> [Vec<u8>; 2] {
    let script = [4; 16];
    let script_size = u8::try_from(script.len() + EXTRANONCE.len()).unwrap();
    let prefix = [
        &[2, 0, 0, 0, 1][..],
        &[0; 32],
        &[0xff; 4],
        &[script_size],
        &script,
    ];
    let suffix = [
        &[0xff; 4][..],
        &[2],
        &[9; 8],
        &[22],
        &[0; 22],
        &[0; 8],
        &[38],
        &[0x6a; 38],
        &[0; 4],
    ];
    [prefix.concat(), suffix.concat()]
}

fn ours([prefix, suffix]: &[Vec<u8>; 2], nonce: u32) -> bool {
    let coinbase = header::coinbase_txid(&[prefix, &EXTRANONCE[..8], &EXTRANONCE[8..], suffix]);
    let header = Header {
        version: 0x2000_0000,
        prev_hash: [5; 32],
        merkle_root: header::merkle_root(coinbase, &BRANCHES),
        ntime: 1_700_000_000,
        nbits: NBITS,
        nonce,
    };
    let hash = header.hash();
    Target::DIFFICULTY_1.is_met_by(&hash)
}

fn theirs([prefix, suffix]: &[Vec<u8>; 2], nonce: u32) -> bool {
    let root = merkle_root_from_path(prefix, suffix, &EXTRANONCE, &BRANCHES).unwrap();
    let header = BitcoinHeader {
        version: Version::from_consensus(0x2000_0000),
        prev_blockhash: Hash::from_byte_array([5; 32]),
        merkle_root: Hash::from_byte_array(root.as_slice().try_into().unwrap()),
        time: 1_700_000_000,
        bits: CompactTarget::from_consensus(NBITS),
        nonce,
    };
    BitcoinTarget::MAX_ATTAINABLE_MAINNET.is_met_by(header.block_hash())
}

fn message() -> Vec<u8> {
    let message = SubmitSharesExtended {
        channel_id: 64,
        sequence_number: 1,
        job_id: 2,
        nonce: 3,
        ntime: 4,
        version: 5,
        extranonce: EXTRANONCE[..8].try_into().unwrap(),
    };
    stratum_core::binary_sv2::to_bytes(message).unwrap()
}

fn floor(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("share");
    let mut nonce = 0u32;
    let coinbase = coinbase();
    group.bench_function("hashing, 12 branches, ours", |bencher| {
        bencher.iter(|| {
            nonce = nonce.wrapping_add(1);
            ours(&coinbase, black_box(nonce))
        });
    });
    group.bench_function("hashing, 12 branches, channels_sv2", |bencher| {
        bencher.iter(|| {
            nonce = nonce.wrapping_add(1);
            theirs(&coinbase, black_box(nonce))
        });
    });
    let mut payload = message();
    group.bench_function("parsing SubmitSharesExtended", |bencher| {
        bencher.iter(|| {
            let parsed = (MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED, payload.as_mut_slice()).try_into();
            let parsed: Mining<'_> = parsed.unwrap();
            matches!(black_box(parsed), Mining::SubmitSharesExtended(_))
        });
    });
    group.finish();
}

criterion_group!(benches, floor);
criterion_main!(benches);

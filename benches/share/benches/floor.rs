//! The floor of a share's cost: opening the Noise frame, parsing the message, the coinbase's hash, twelve merkle branches,
//! the header's hash and the comparison with the target, and sealing the acknowledgement; ours beside what `channels_sv2`
//! does for the hashing.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a measurement that cannot be made should stop"
)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use stratum_core::{
    bitcoin::{
        CompactTarget, Target as BitcoinTarget,
        block::{Header as BitcoinHeader, Version},
        hashes::Hash,
    },
    channels_sv2::merkle_root::merkle_root_from_path,
    mining_sv2::{MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED, SubmitSharesExtended, SubmitSharesSuccess},
    parsers_sv2::Mining,
};
use sv2_connection::{
    Authority, AuthoritySecretKey, Connection, FrameBuffer, Opener, Options, Sealer, accept,
    connect,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Builder,
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

fn share() -> SubmitSharesExtended<'static> {
    SubmitSharesExtended {
        channel_id: 64,
        sequence_number: 1,
        job_id: 2,
        nonce: 3,
        ntime: 4,
        version: 5,
        extranonce: EXTRANONCE[..8].try_into().unwrap(),
    }
}

fn acknowledgement() -> SubmitSharesSuccess {
    SubmitSharesSuccess {
        channel_id: 64,
        last_sequence_number: 10,
        new_submits_accepted_count: 10,
        new_shares_sum: 10,
    }
}

/// A client's and a server's end of a connection, without the sockets that they were made over.
struct Ends {
    client: Sealer,
    server: (Opener, Sealer),
}

impl Ends {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (client, server) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
            let (accepted, _) = listener.accept().await.unwrap();
            let authority = Authority::new(AuthoritySecretKey::generate()).unwrap();
            let options = Options::default();
            tokio::join!(
                connect(stream.unwrap(), Some(authority.public()), options),
                accept(accepted, &authority, options),
            )
        });
        let Connection { reader, writer } = server.unwrap();
        Self {
            client: client.unwrap().writer.into_parts().1,
            server: (reader.into_parts().1, writer.into_parts().1),
        }
    }
}

/// So many shares as the client sends them.
fn sealed_shares(client: &mut Sealer, count: u32) -> Vec<u8> {
    let mut frames = FrameBuffer::new();
    for _ in 0..count {
        frames.push(Mining::SubmitSharesExtended(share())).unwrap();
    }
    let mut sealed = Vec::new();
    client.seal(&frames, &mut sealed).unwrap();
    sealed
}

fn hashing(criterion: &mut Criterion) {
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
    group.finish();
}

fn message(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("share");
    let mut payload = stratum_core::binary_sv2::to_bytes(share()).unwrap();
    group.bench_function("parsing SubmitSharesExtended", |bencher| {
        bencher.iter(|| {
            let parsed = (MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED, payload.as_mut_slice()).try_into();
            let parsed: Mining<'_> = parsed.unwrap();
            matches!(black_box(parsed), Mining::SubmitSharesExtended(_))
        });
    });
    let Ends {
        mut client,
        server: (mut opener, mut sealer),
    } = Ends::new();
    group.bench_function("Noise open, one share", |bencher| {
        bencher.iter_batched_ref(
            || sealed_shares(&mut client, 1),
            |sealed| {
                let mut rest = sealed.as_mut_slice();
                opener.open(&mut rest).unwrap().unwrap().message_type
            },
            BatchSize::SmallInput,
        );
    });
    let mut sealed = Vec::new();
    group.bench_function("Noise seal, one acknowledgement", |bencher| {
        bencher.iter(|| {
            sealed.clear();
            seal_acknowledgement(&mut sealer, &mut sealed);
            black_box(&sealed).len()
        });
    });
    group.finish();
}

fn seal_acknowledgement(sealer: &mut Sealer, sealed: &mut Vec<u8>) {
    let mut frames = FrameBuffer::new();
    let message = Mining::SubmitSharesSuccess(acknowledgement());
    frames.push(message).unwrap();
    sealer.seal(&frames, sealed).unwrap();
}

/// All of it, for ten shares that came together and are acknowledged together.
fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ten shares");
    let coinbase = coinbase();
    let Ends {
        mut client,
        server: (mut opener, mut sealer),
    } = Ends::new();
    let mut sealed = Vec::new();
    group.bench_function("open, parse, hash, compare, acknowledge", |bencher| {
        bencher.iter_batched_ref(
            || sealed_shares(&mut client, 10),
            |received| {
                let mut rest = received.as_mut_slice();
                let mut met = 0;
                while let Some(frame) = opener.open(&mut rest).unwrap() {
                    let Mining::SubmitSharesExtended(share) = frame.mining().unwrap() else {
                        continue;
                    };
                    met += u32::from(ours(&coinbase, share.nonce));
                }
                sealed.clear();
                seal_acknowledgement(&mut sealer, &mut sealed);
                met
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, hashing, message, whole);
criterion_main!(benches);

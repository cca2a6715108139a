use std::collections::VecDeque;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::yield_now;

use super::*;
use crate::guard::AllowList;
use crate::pattern::Pattern;
use crate::totals::Totals;
use crate::watcher::LineLimits;

const LIMITS: LineLimits = LineLimits {
    miner: 1024,
    pool: 1024,
};

/// A pump with its two peers, behind pipes that hold so many bytes.
fn between(capacity: usize) -> (DuplexStream, Pump<DuplexStream, DuplexStream>, DuplexStream) {
    let (miner, miner_side) = duplex(capacity);
    let (pool, pool_side) = duplex(capacity);
    let pump = Pump::new(1, miner_side, pool_side, Watcher::new(LIMITS), None);
    (miner, pump, pool)
}

/// Runs until the end, and gives the sums.
async fn run(mut pump: Pump<DuplexStream, DuplexStream>) -> (Totals, End) {
    let mut totals = Totals::default();
    loop {
        let turn = pump.turn().await;
        for flow in [&pump.up, &pump.down] {
            assert!(flow.kept.capacity() <= READ_SIZE);
        }
        totals.add(&turn.seen.totals);
        if let Some(end) = turn.end {
            return (totals, end);
        }
    }
}

/// How one side of a conversation behaves: sizes of what it writes and reads, and for how many turns it does nothing between.
#[derive(Debug, Clone)]
struct Manners {
    says: Vec<u8>,
    sizes: Vec<(usize, usize)>,
}

fn manners() -> impl Strategy<Value = Manners> {
    let line = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..3_000),
        Just(b"{\"id\":1,\"method\":\"mining.submit\",\"params\":[\"a\",\"b\",\"00\",\"00\",\"00\"]}\n".to_vec()),
        Just(b"{\"id\":1,\"result\":true,\"error\":null}\n".to_vec()),
        Just(b"\r\n\0\xff\n".to_vec()),
    ];
    let says = prop::collection::vec(line, 0..30).prop_map(|lines| lines.concat());
    let sizes = prop::collection::vec((1usize..2_000, 0usize..20), 1..20);
    (says, sizes).prop_map(|(says, sizes)| Manners { says, sizes })
}

/// Says all it has to say and says that this was all, while it reads to the end of what the other says.
async fn converse(stream: DuplexStream, manners: Manners) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let Manners { says, sizes } = manners;
    let backwards: VecDeque<_> = sizes.iter().rev().copied().collect();
    let saying = async {
        let mut rest = &says[..];
        for (size, pause) in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min(*size));
            writer.write_all(now).await.unwrap();
            rest = later;
            for _ in 0..*pause {
                yield_now().await;
            }
        }
        writer.shutdown().await.unwrap();
    };
    let hearing = async {
        let mut heard = Vec::new();
        for (size, pause) in backwards.iter().cycle() {
            let mut buffer = vec![0; *size];
            match reader.read(&mut buffer).await.unwrap() {
                0 => break,
                read => heard.extend_from_slice(&buffer[..read]),
            }
            for _ in 0..*pause {
                yield_now().await;
            }
        }
        heard
    };
    tokio::join!(saying, hearing).1
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #[test]
    fn every_byte_arrives_as_it_was_sent_whatever_it_is_and_however_both_sides_stall(
        miner in manners(),
        pool in manners(),
        capacity in 1usize..5_000,
    ) {
        let (to_pool, to_miner) = (miner.says.clone(), pool.says.clone());
        let (miner_end, pump, pool_end) = between(capacity);
        let (heard_by_miner, heard_by_pool, (totals, end)) = block_on(async {
            tokio::join!(converse(miner_end, miner), converse(pool_end, pool), run(pump))
        });
        prop_assert_eq!(totals.bytes_sent, to_pool.len() as u64);
        prop_assert_eq!(totals.bytes_received, to_miner.len() as u64);
        prop_assert_eq!(totals.pauses, totals.resumes);
        prop_assert!(matches!(end, End::Closed(_)));
        prop_assert!(heard_by_pool == to_pool);
        prop_assert!(heard_by_miner == to_miner);
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_is_not_read_while_the_other_takes_no_more() {
    let (mut miner, mut pump, mut pool) = between(100);
    let reading = tokio::spawn(async move {
        let mut totals = Totals::default();
        loop {
            let turn = pump.turn().await;
            totals.add(&turn.seen.totals);
            if turn.end.is_some() {
                return totals;
            }
        }
    });
    // The pool takes nothing. What fits is in the two pipes and in what is kept of one read; the miner can say no more.
    let mut said = 0;
    // The clock stands still while anybody can go on.
    let patience = std::time::Duration::from_secs(1);
    while let Ok(written) = tokio::time::timeout(patience, miner.write(b"0123456789")).await {
        said += written.unwrap();
    }
    assert!(said <= 3 * 100, "{said}");
    let mut heard = vec![0; said];
    pool.read_exact(&mut heard).await.unwrap();
    drop((miner, pool));
    let totals = reading.await.unwrap();
    assert!(totals.pauses >= 1 && totals.pauses == totals.resumes);
    assert_eq!(totals.bytes_sent, said as u64);
}

#[tokio::test]
async fn a_side_that_has_said_all_still_hears_the_other() {
    let (mut miner, pump, mut pool) = between(100);
    let running = tokio::spawn(run(pump));
    miner.write_all(b"bye").await.unwrap();
    miner.shutdown().await.unwrap();
    let mut heard = Vec::new();
    pool.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"bye");
    pool.write_all(b"so long").await.unwrap();
    drop(pool);
    let mut heard = Vec::new();
    miner.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"so long");
    let (_, end) = running.await.unwrap();
    assert_eq!(end, End::Closed(Side::Miner));
}

#[tokio::test]
async fn lines_before_a_refused_one_still_reach_the_pool() {
    let (mut miner, miner_side) = duplex(10_000);
    let (mut pool, pool_side) = duplex(10);
    let allowed = AllowList::new(&[Pattern::new("me")]).unwrap();
    let guard = Box::new(Guard::new(allowed, 1024));
    let watcher = Watcher::new(LIMITS);
    let running = tokio::spawn(run(Pump::new(
        1,
        miner_side,
        pool_side,
        watcher,
        Some(guard),
    )));
    let good = "{\"id\":1,\"method\":\"mining.authorize\",\"params\":[\"me\"]}\n";
    let bad = "{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"you\"]}\n";
    let all = [good, good, bad, good].concat();
    miner.write_all(all.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    pool.read_to_end(&mut heard).await.unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), [good, good].concat());
    let (_, end) = running.await.unwrap();
    assert!(matches!(end, End::Refused(Refusal::Unlisted { .. })));
}

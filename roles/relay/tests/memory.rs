//! What hostile bytes cost: in a process of its own, because memory is one of the process.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Peer, first_share, in_time, peak, relayed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LINE: usize = 100 << 20;
const CHUNK: usize = 64 * 1024;

/// Says one line of 100 MB, while the other side reads it.
async fn say_much(from: &mut Peer, to: &mut Peer) {
    let chunk = vec![b'x'; CHUNK];
    let mut buffer = vec![0; CHUNK];
    let saying = async {
        for _ in 0..LINE / CHUNK {
            from.stream.write_all(&chunk).await.unwrap();
        }
        from.stream.write_all(b"\n").await.unwrap();
    };
    let hearing = async {
        let mut heard = 0;
        while heard <= LINE {
            heard += to.stream.read(&mut buffer).await.unwrap();
        }
        assert_eq!(heard, LINE + 1);
    };
    in_time("a long line", async { tokio::join!(saying, hearing) }).await;
}

#[tokio::test]
async fn a_line_of_100_mb_passes_and_costs_no_memory() {
    let (relay, _pools, mut miner, mut pool) = relayed().await;
    first_share(&mut miner, &mut pool, "a").await;
    let before = peak();
    say_much(&mut miner, &mut pool).await;
    say_much(&mut pool, &mut miner).await;
    let grown = peak() - before;
    assert!(grown < 4 * 1024, "{grown} kB");
    // What comes behind it is understood.
    first_share(&mut miner, &mut pool, "a").await;
    let totals = relay.handle.totals()["unknown"].clone();
    assert_eq!(totals.noticed.oversized_lines, 2);
    assert_eq!((totals.submits, totals.accepted), (2, 2));
    assert!(totals.bytes_sent > LINE as u64 && totals.bytes_received > LINE as u64);
}

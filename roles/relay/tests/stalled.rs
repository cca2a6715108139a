//! What a pool costs that reads nothing: in a process of its own, because memory is one of the process.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{Pools, config, first_share, in_time, peak, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const MINERS: usize = 8;

#[tokio::test]
async fn a_pool_that_reads_nothing_costs_no_memory_and_gets_every_share_in_the_end() {
    let pools = Pools::new().await;
    let relay = start(config(&[pools.address()])).await;
    let mut pairs = Vec::new();
    for _ in 0..MINERS {
        let (mut miner, mut pool) = (relay.connect().await, pools.accept().await);
        first_share(&mut miner, &mut pool, "a").await;
        pairs.push((miner, pool));
    }
    let share =
        r#"{"id":4,"method":"mining.submit","params":["a","j","00000000","00000000","00000000"]}"#;
    let share = format!("{share}\n");
    let shares = share.repeat(1_000).into_bytes();
    let before = peak();
    let mut said = Vec::new();
    for (miner, _) in &mut pairs {
        let mut bytes = 0;
        // Until the systems' buffers are full and the relay does not read either.
        let soon = Duration::from_millis(200);
        while let Ok(written) =
            timeout(soon, miner.stream.write(&shares[bytes % shares.len()..])).await
        {
            bytes += written.unwrap();
        }
        said.push(bytes);
    }
    let totals = relay.handle.totals()["unknown"].clone();
    assert!(totals.pauses >= MINERS as u64);
    // One read of each is kept, and shares that are not answered.
    let grown = peak() - before;
    let all: usize = said.iter().sum();
    assert!(grown < MINERS * 256, "{grown} kB for {all} bytes");
    for ((mut miner, mut pool), bytes) in pairs.into_iter().zip(said) {
        let saying = async {
            let rest = bytes.next_multiple_of(share.len()) - bytes;
            let rest = &share.as_bytes()[share.len() - rest..];
            miner.stream.write_all(rest).await.unwrap();
            miner.stream.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let hearing = pool.stream.read_to_end(&mut heard);
        let (_, read) = in_time("all shares", async { tokio::join!(saying, hearing) }).await;
        assert_eq!(read.unwrap(), bytes.next_multiple_of(share.len()));
        let mut lines = heard.chunks(share.len());
        assert!(lines.all(|line| line == share.as_bytes()));
    }
}

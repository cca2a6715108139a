//! Many connections that send nothing: what each costs, and how soon all know of a new block.

use std::time::{Duration, Instant};

use stratum_core::parsers_sv2::Mining;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use bench_pool::{Result, client::Client, process::Memory, subject::Pool};

/// How long a new block may take to the last connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two blocks, and before the memory is looked at.
const REST: Duration = Duration::from_millis(500);

/// Connections that are made at the same time.
const AT_ONCE: usize = 50;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Crowd {
    pub(crate) connections: usize,
    pub(crate) before: Memory,
    pub(crate) with: Memory,
    /// After the new blocks.
    pub(crate) after: Memory,
    /// From the provider's write to the first and to the last connection's receipt, for each block.
    pub(crate) blocks: Vec<(Duration, Duration)>,
}

pub(crate) async fn measure(pool: &Pool, connections: usize, blocks: usize) -> Result<Crowd> {
    let before = pool.process.memory()?;
    let mut clients = Vec::new();
    while clients.len() < connections {
        // Several at a time, because there are pools that keep each waiting for the kernel's delayed acknowledgements.
        let more = AT_ONCE.min(connections - clients.len());
        let mut opening = JoinSet::new();
        for _ in 0..more {
            let connecting = Client::connect(pool.address, pool.authority_public_key);
            opening.spawn(async {
                let mut client = connecting.await?;
                client.open_channel().await?;
                Ok::<_, bench_pool::Error>(client)
            });
        }
        while let Some(client) = opening.join_next().await {
            clients.push(client??);
        }
    }
    sleep(REST).await;
    let with = pool.process.memory()?;
    let mut times = Vec::new();
    for _ in 0..blocks {
        times.push(block(pool, &mut clients).await?);
        sleep(REST).await;
    }
    Ok(Crowd {
        connections,
        before,
        with,
        after: pool.process.memory()?,
        blocks: times,
    })
}

async fn block(pool: &Pool, clients: &mut Vec<Client>) -> Result<(Duration, Duration)> {
    let mut waiting = JoinSet::new();
    for client in clients.drain(..) {
        waiting.spawn(new_tip(client));
    }
    let announced = pool.provider.announce().await?;
    let mut received = Vec::new();
    let all = async {
        while let Some(one) = waiting.join_next().await {
            let (client, prev_hash, at) = one??;
            if prev_hash != announced.prev_hash {
                return Err("a connection was told of another block".into());
            }
            received.push(at.duration_since(announced.at));
            clients.push(client);
        }
        Ok::<_, bench_pool::Error>(())
    };
    timeout(PATIENCE, all)
        .await
        .map_err(|_| "not all connections were told of a block")??;
    let first = received.iter().min().copied().unwrap_or_default();
    let last = received.iter().max().copied().unwrap_or_default();
    Ok((first, last))
}

/// Waits until the client knows a new tip, and has its job for it (SV2 5.3.18).
async fn new_tip(mut client: Client) -> Result<(Client, [u8; 32], Instant)> {
    let mut tip = None;
    loop {
        let read = client.reader.read(|frame| {
            if let Mining::SetNewPrevHash(message) = frame.mining()? {
                tip = Some((message.prev_hash.to_array(), Instant::now()));
            }
            Ok::<_, sv2_connection::Error>(())
        });
        read.await?;
        if let Some((prev_hash, at)) = tip {
            return Ok((client, prev_hash, at));
        }
    }
}

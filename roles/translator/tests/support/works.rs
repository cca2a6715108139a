//! A pool that works by itself, and miners that do: for tests of what happens between them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use stratum_core::mining_sv2::{
    OpenExtendedMiningChannelSuccess, SubmitSharesError, SubmitSharesSuccess,
};
use stratum_core::parsers_sv2::Mining;
use tokio_util::sync::CancellationToken;

use super::{Heard, Miner, Pool, PoolHouse, Running};

/// Above all channels.
const GROUP: u32 = 1 << 30;

/// What the pool has counted, over all its connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    pub(crate) connections: u64,
    pub(crate) received: u64,
    /// Answers that were written, whether or not they arrived.
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    /// Channels that were opened.
    pub(crate) channels: u64,
}

/// The books of a pool that takes all connections, opens all channels and answers all shares: it refuses each one whose
/// sequence number `refuses` divides.
pub(crate) fn open(house: PoolHouse, refuses: u32) -> Arc<Mutex<Books>> {
    let books = Arc::new(Mutex::new(Books::default()));
    let kept = Arc::clone(&books);
    tokio::spawn(async move {
        loop {
            let Some(pool) = house.accept_patiently().await else {
                continue;
            };
            kept.lock().unwrap().connections += 1;
            tokio::spawn(pool.work_by_itself(Arc::clone(&kept), refuses));
        }
    });
    books
}

impl Pool {
    async fn work_by_itself(mut self, books: Arc<Mutex<Books>>, refuses: u32) {
        let mut accepted = BTreeMap::new();
        while let Some(heard) = self.next().await {
            match heard {
                // It knows of none.
                Heard::Extensions => return,
                Heard::Open {
                    request_id,
                    min_extranonce_size,
                    ..
                } => {
                    let channel_id = self.next_channel;
                    self.next_channel += 1;
                    let prefix = channel_id.to_be_bytes();
                    let success = OpenExtendedMiningChannelSuccess {
                        request_id,
                        channel_id,
                        target: (&[0xff; 32]).into(),
                        extranonce_size: min_extranonce_size,
                        extranonce_prefix: prefix.as_slice().try_into().unwrap(),
                        group_channel_id: GROUP,
                    };
                    self.push(Mining::OpenExtendedMiningChannelSuccess(success));
                    self.work(channel_id, 1, 9);
                    books.lock().unwrap().channels += 1;
                }
                Heard::Share(share) if share.sequence_number.is_multiple_of(refuses) => {
                    let mut books = books.lock().unwrap();
                    books.received += 1;
                    books.refused += 1;
                    self.push(Mining::SubmitSharesError(SubmitSharesError {
                        channel_id: share.channel_id,
                        sequence_number: share.sequence_number,
                        error_code: "stale-share".try_into().unwrap(),
                    }));
                }
                Heard::Share(share) => {
                    books.lock().unwrap().received += 1;
                    let batch: &mut (u32, u32) = accepted.entry(share.channel_id).or_default();
                    *batch = (share.sequence_number, batch.1 + 1);
                }
                _ => {}
            }
            // Answers go out when everything that has come is heard.
            if self.heard.is_empty() {
                for (channel_id, (last, count)) in std::mem::take(&mut accepted) {
                    books.lock().unwrap().accepted += u64::from(count);
                    self.push(Mining::SubmitSharesSuccess(SubmitSharesSuccess {
                        channel_id,
                        last_sequence_number: last,
                        new_submits_accepted_count: count,
                        new_shares_sum: count.into(),
                    }));
                }
                if self
                    .connection
                    .writer
                    .write(&mut self.frames)
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    }

    fn push(&mut self, message: Mining<'_>) {
        self.frames.push(message).unwrap();
    }
}

/// What a miner has seen of its own shares.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mined {
    pub(crate) submitted: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
}

/// Mines, a few shares at a time, until it is told to stop. Each share is answered once, or this fails.
pub(crate) async fn mine(translator: &Running, user: &str, stop: CancellationToken) -> Mined {
    const AT_A_TIME: u64 = 4;
    let mut miner = translator.miner().await;
    miner.log_in(user).await;
    let mut mined = Mined::default();
    let mut job = None;
    loop {
        let Some(known) = &job else {
            tokio::select! {
                line = miner.read() => job = new_job(&line.expect("the translator hung up")),
                () = stop.cancelled() => return mined,
            }
            continue;
        };
        if stop.is_cancelled() {
            return mined;
        }
        let lines: Vec<String> = (mined.submitted..mined.submitted + AT_A_TIME)
            .map(|number| submit(user, known, number))
            .collect();
        miner.write(&lines.join("\n")).await;
        let mut open: Vec<u64> = (mined.submitted..mined.submitted + AT_A_TIME).collect();
        mined.submitted += AT_A_TIME;
        while !open.is_empty() {
            let line = miner.read().await.expect("the translator hung up");
            if let Some(newer) = new_job(&line) {
                job = Some(newer);
            } else if let Some(number) = line["id"].as_u64().map(|id| id - FIRST_ID) {
                let at = open.iter().position(|open| *open == number);
                open.remove(at.unwrap_or_else(|| panic!("answered twice: {line}")));
                if line["result"] == true {
                    mined.accepted += 1;
                } else {
                    mined.refused += 1;
                }
                // Its pool is away: it waits for other work.
                if line["error"][1]
                    .as_str()
                    .is_some_and(|why| why.contains("connection was lost"))
                {
                    job = None;
                }
            }
        }
    }
}

/// Ids before are those of the log-in.
const FIRST_ID: u64 = 100;

/// The share of this number: no two of a miner are the same.
pub(crate) fn submit(user: &str, job: &str, number: u64) -> String {
    let id = FIRST_ID + number;
    format!(
        r#"{{"id":{id},"method":"mining.submit","params":["{user}","{job}","00000000","6553f101","{number:08x}"]}}"#
    )
}

pub(crate) fn new_job(line: &serde_json::Value) -> Option<String> {
    let is_job = line["method"] == "mining.notify";
    is_job.then(|| line["params"][0].as_str().unwrap().to_owned())
}

/// Sends so many shares at once, and takes the answers only then. Gives those that were accepted.
pub(crate) async fn mine_at_once(
    mut miner: Miner,
    user: &str,
    shares: u64,
    signal: impl Future,
) -> (Miner, u64) {
    miner.log_in(user).await;
    let job = miner.notify().await.job_id;
    signal.await;
    let lines: Vec<String> = (0..shares)
        .map(|number| submit(user, &job, number))
        .collect();
    miner.write(&lines.join("\n")).await;
    let (mut answered, mut accepted) = (0, 0);
    while answered < shares {
        let line = miner.read().await.expect("the translator hung up");
        if line["id"].is_u64() {
            answered += 1;
            accepted += u64::from(line["result"] == true);
        }
    }
    (miner, accepted)
}

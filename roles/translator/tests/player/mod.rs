//! Plays a recorded conversation: a miner that says what the script says, on a real socket, and a pool above that checks
//! every share by itself.
// Who reads a failure wants to know how far the script came.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod script;

use std::collections::HashMap;

use serde_json::Value;
use stratum_core::{
    binary_sv2::{Seq0255, Sv2Option},
    mining_sv2::{
        NewExtendedMiningJob, OpenExtendedMiningChannelSuccess, SetExtranoncePrefix, SetNewPrevHash,
    },
    parsers_sv2::Mining,
};
use translator::UserAgent;
use work::{Difficulty, Header, Target, header};

use crate::support::{Heard, Miner, Pool, PoolHouse, Running};
use script::{Event, Step};

/// The difficulty that the pool asks where the miner does not ask for more: some thousand hashes.
const EASY: f64 = 1.0 / (1 << 20) as f64;

const COINBASE: [&[u8]; 2] = [&[1, 0, 0, 0, 1], &[2, 3]];
const PREV_HASH: [u8; 32] = [9; 32];
const NBITS: u32 = 0x1703_4219;
const NTIME: u32 = 1_700_000_000;
const VERSION: u32 = 0x2000_0000;
const ROLLED: u32 = 0x1fff_e000;

/// What the player and the script know at a moment.
pub(crate) struct Player {
    house: PoolHouse,
    translator: Running,
    pool: Option<Pool>,
    miner: Miner,
    /// What stands for each placeholder.
    words: HashMap<String, String>,
    notify: Value,
    channel: Channel,
    found: u32,
    taken: u64,
}

/// The pool's view of the miner's channel.
#[derive(Default)]
struct Channel {
    id: u32,
    prefix: Vec<u8>,
    target: Option<Target>,
    next_job: u32,
    /// The prefix that each job was sent with.
    jobs: HashMap<u32, Vec<u8>>,
    hashrate: f64,
    max_target: Option<Target>,
    shares: u32,
}

/// Plays a whole script.
pub(crate) async fn play(text: &str) {
    let steps = script::parse(text);
    let mut player = Player::start(&steps).await;
    for (line, step) in &steps {
        println!("{line}: {step:?}");
        match step {
            Step::Say(said) => {
                let said = player.filled(said);
                player.miner.write(&said).await;
            }
            Step::Hear(expected) => player.hear(expected).await,
            Step::Event(event) => player.event(event).await,
        }
    }
    let taken = player.taken;
    let end = player
        .translator
        .until("every share to be counted", |status| {
            status.shares.accepted == taken
        })
        .await;
    assert_eq!(end.shares.rejected.values().sum::<u64>(), 0, "{end:?}");
}

impl Player {
    async fn start(steps: &[(usize, Step)]) -> Self {
        let house = PoolHouse::new().await;
        let user_agents: Vec<UserAgent> = steps
            .iter()
            .filter_map(|(_, step)| match step {
                Step::Event(Event::Needs(user_agent)) => Some(user_agent.clone()),
                _ => None,
            })
            .collect();
        let translator = Running::start(vec![house.upstream()], |config| {
            if !user_agents.is_empty() {
                config.user_agents = user_agents;
            }
        })
        .await;
        let pool = Some(house.accept().await);
        let miner = translator.miner().await;
        Self {
            house,
            translator,
            pool,
            miner,
            words: HashMap::new(),
            notify: Value::Null,
            channel: Channel::default(),
            found: 0,
            taken: 0,
        }
    }

    async fn hear(&mut self, expected: &Value) {
        let heard = self.miner.read().await.expect("the translator hung up");
        assert!(
            matches(expected, &heard, &mut self.words),
            "expected {expected}, heard {heard}"
        );
        if heard["method"] == "mining.notify" {
            self.notify = heard["params"].clone();
        }
    }

    /// A line of the script with what its placeholders stand for.
    fn filled(&self, line: &str) -> String {
        let mut names: Vec<_> = self.words.keys().collect();
        // A name may begin with another.
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        names.into_iter().fold(line.to_owned(), |line, name| {
            line.replace(name.as_str(), &self.words[name])
        })
    }

    async fn event(&mut self, event: &Event) {
        match event {
            Event::Needs(_) => {}
            Event::Opens(user) => self.open(user).await,
            Event::ToldHashrate(expected) => {
                let told = self.channel.hashrate;
                assert!((told / expected - 1.0).abs() < 1e-6, "{told}");
            }
            Event::ToldMinimum(expected) => {
                let target = Difficulty::new(*expected).unwrap().target();
                assert_eq!(self.channel.max_target, Some(target));
            }
            Event::Updates => self.hear_update().await,
            Event::Prefix(prefix) => self.change_prefix(prefix).await,
            Event::Work { rolling } => self.send_work(*rolling).await,
            Event::Restarts => {
                self.pool = None;
                self.pool = Some(self.house.accept().await);
            }
            Event::Finds(bits) => self.mine(*bits),
            Event::Takes => self.take().await,
            Event::Reconnects => self.miner = self.translator.miner().await,
            Event::AtLeast(least) => {
                let difficulty: f64 = self.words["$DIFFICULTY"].parse().unwrap();
                assert!(difficulty >= *least, "{difficulty}");
            }
        }
    }

    fn pool(&mut self) -> &mut Pool {
        self.pool.as_mut().unwrap()
    }

    /// Opens the channel that is asked for, with work. What is left of the channel before may come first.
    async fn open(&mut self, expected: &str) {
        let (request_id, user, extranonce_size, hashrate, max_target) = loop {
            match self.pool().next().await {
                Some(Heard::Open {
                    request_id,
                    user,
                    min_extranonce_size,
                    hashrate,
                    max_target,
                }) => {
                    break (
                        request_id,
                        user,
                        min_extranonce_size,
                        hashrate,
                        Target::from_le_bytes(max_target).unwrap(),
                    );
                }
                Some(Heard::Close { .. } | Heard::Update { .. }) => {}
                other => panic!("a channel was expected: {other:?}"),
            }
        };
        assert_eq!(user, expected);
        let id = self.channel.id + 1;
        let target = Difficulty::new(EASY).unwrap().target().min(max_target);
        self.channel = Channel {
            id,
            prefix: vec![0xa0, u8::try_from(id).unwrap()],
            target: Some(target),
            next_job: 1,
            jobs: HashMap::new(),
            hashrate: hashrate.into(),
            max_target: Some(max_target),
            shares: 0,
        };
        let target_bytes = target.to_le_bytes();
        let opened = OpenExtendedMiningChannelSuccess {
            request_id,
            channel_id: id,
            target: (&target_bytes).into(),
            extranonce_size,
            extranonce_prefix: self.channel.prefix.as_slice().try_into().unwrap(),
            group_channel_id: 1000,
        };
        self.pool
            .as_mut()
            .unwrap()
            .frames
            .push(Mining::OpenExtendedMiningChannelSuccess(opened))
            .unwrap();
        self.send_work(true).await;
    }

    async fn hear_update(&mut self) {
        match self.pool().next().await {
            Some(Heard::Update {
                channel_id,
                hashrate,
                max_target,
            }) => {
                assert_eq!(channel_id, self.channel.id);
                self.channel.hashrate = hashrate.into();
                self.channel.max_target = Some(Target::from_le_bytes(max_target).unwrap());
            }
            other => panic!("an update was expected: {other:?}"),
        }
    }

    async fn change_prefix(&mut self, prefix: &[u8]) {
        self.channel.prefix = prefix.to_vec();
        let message = SetExtranoncePrefix {
            channel_id: self.channel.id,
            extranonce_prefix: prefix.try_into().unwrap(),
        };
        let pool = self.pool.as_mut().unwrap();
        pool.frames
            .push(Mining::SetExtranoncePrefix(message))
            .unwrap();
        self.send_work(true).await;
    }

    async fn send_work(&mut self, rolling: bool) {
        let (channel_id, job_id) = (self.channel.id, self.channel.next_job);
        self.channel.next_job += 1;
        self.channel
            .jobs
            .insert(job_id, self.channel.prefix.clone());
        let job = NewExtendedMiningJob {
            channel_id,
            job_id,
            min_ntime: Sv2Option::new(None),
            version: VERSION,
            version_rolling_allowed: rolling,
            merkle_path: Seq0255::new(Vec::new()).unwrap(),
            coinbase_tx_prefix: COINBASE[0].try_into().unwrap(),
            coinbase_tx_suffix: COINBASE[1].try_into().unwrap(),
        };
        let tip = SetNewPrevHash {
            channel_id,
            job_id,
            prev_hash: (&PREV_HASH).into(),
            min_ntime: NTIME,
            nbits: NBITS,
        };
        let pool = self.pool();
        pool.frames.push(Mining::NewExtendedMiningJob(job)).unwrap();
        pool.frames.push(Mining::SetNewPrevHash(tip)).unwrap();
        pool.flush().await;
    }

    /// The share must be worth what the pool asked, counted from what the pool itself knows.
    async fn take(&mut self) {
        let share = self.pool().share().await;
        let prefix = &self.channel.jobs[&share.job_id];
        let coinbase =
            header::coinbase_txid(&[COINBASE[0], prefix, &share.extranonce, COINBASE[1]]);
        assert_eq!(share.version & !ROLLED, VERSION);
        let header = Header {
            version: share.version,
            prev_hash: PREV_HASH,
            merkle_root: header::merkle_root(coinbase, &[]),
            ntime: share.ntime,
            nbits: NBITS,
            nonce: share.nonce,
        };
        assert!(self.channel.target.unwrap().is_met_by(&header.hash()));
        self.channel.shares += 1;
        self.taken += 1;
        let (channel, number) = (self.channel.id, self.channel.shares);
        assert_eq!((share.channel_id, share.sequence_number), (channel, number));
        self.pool().acknowledge(channel, number, 1).await;
    }

    /// Mines as the miner does: with nothing but what it was told.
    fn mine(&mut self, bits: Option<u32>) {
        let text = |index: usize| self.notify[index].as_str().unwrap();
        let bytes = |index: usize| hex::decode(text(index)).unwrap();
        let word = |index: usize| u32::from_str_radix(text(index), 16).unwrap();
        assert!(self.notify[4].as_array().unwrap().is_empty());
        self.found += 1;
        let extranonce1 = hex::decode(&self.words["$EXTRANONCE1"]).unwrap();
        let extranonce2 = self.found.to_le_bytes();
        let coinbase = header::coinbase_txid(&[&bytes(2), &extranonce1, &extranonce2, &bytes(3)]);
        // SV1 turns every four bytes of the previous block's hash round.
        let mut prev_hash = bytes(1);
        prev_hash.chunks_exact_mut(4).for_each(<[u8]>::reverse);
        let difficulty: f64 = self.words["$DIFFICULTY"].parse().unwrap();
        let target = Difficulty::new(difficulty).unwrap().target();
        let mut header = Header {
            version: word(5) | bits.unwrap_or(0),
            prev_hash: prev_hash.try_into().unwrap(),
            merkle_root: header::merkle_root(coinbase, &[]),
            ntime: word(7),
            nbits: word(6),
            nonce: 0,
        };
        while !target.is_met_by(&header.hash()) {
            header.nonce += 1;
        }
        for (name, value) in [
            ("$EXTRANONCE2", hex::encode(extranonce2)),
            ("$NTIME", format!("{:08x}", header.ntime)),
            ("$NONCE", format!("{:08x}", header.nonce)),
            ("$SHORT_NONCE", format!("{:x}", header.nonce)),
            ("$BITS", format!("{:08x}", bits.unwrap_or(0))),
        ] {
            self.words.insert(name.into(), value);
        }
    }
}

/// Whether what was heard is what was expected; placeholders take what stands in their place.
fn matches(expected: &Value, heard: &Value, words: &mut HashMap<String, String>) -> bool {
    match (expected, heard) {
        (Value::String(name), _) if name.starts_with('$') => {
            let value = heard
                .as_str()
                .map_or_else(|| heard.to_string(), str::to_owned);
            words.insert(name.clone(), value);
            true
        }
        (Value::Array(expected), Value::Array(heard)) => {
            expected.len() == heard.len()
                && expected
                    .iter()
                    .zip(heard)
                    .all(|(expected, heard)| matches(expected, heard, words))
        }
        (Value::Object(expected), Value::Object(heard)) => {
            expected.len() == heard.len()
                && expected.iter().all(|(name, expected)| {
                    heard
                        .get(name)
                        .is_some_and(|heard| matches(expected, heard, words))
                })
        }
        _ => expected == heard,
    }
}

//! Whole conversations, with simulated time.

mod any_conversation;
mod channels;
mod difficulty;
mod field;
mod hashrate;
mod moving;
mod outage;
mod requests;
mod shares;
mod silence;
mod wishes;

use stratum_v1::{ServerMessage, SubscribeResult, parse_server_message};
use work::Difficulty;

use super::*;
use crate::job::{Job, JobParts, Tip};

const PREFIX: [u8; 3] = [0xaa, 0xbb, 0xcc];
const CHANNEL: u32 = 7;

/// A miner's side of the conversation, with a clock that only moves when told to.
struct Conversation {
    session: Session,
    now: Now,
    out: Output,
    next_job: u64,
    nbits: u32,
}

impl Conversation {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            extranonce2_size: 4,
            version_mask: 0x1fff_e000,
            nominal_hashrate: Hashrate::ZERO,
            max_target: Target::MAX,
            hardest_target: Target::MIN,
            aggregate: None,
            user_identity: Identity::default(),
            user_agents: crate::UserAgents::default(),
            acknowledge: Acknowledge::Local,
            max_in_flight: 4,
            max_malformed_lines: 2,
            setup_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(900),
            outage_message: None,
        };
        change(&mut settings);
        let now = Now {
            instant: Instant::now(),
        };
        Self {
            session: Session::new(now, [1, 2, 3, 4], Arc::new(settings)),
            now,
            out: Output::default(),
            next_job: 1,
            nbits: 0x207f_ffff,
        }
    }

    /// A miner that has authorised and has a channel with work.
    fn mining(change: impl FnOnce(&mut Settings)) -> Self {
        let mut miner = Self::new(change);
        miner.event(ChannelEvent::UpstreamUp);
        miner.say(r#"{"id":1,"method":"mining.subscribe","params":["test"]}"#);
        miner.say(r#"{"id":2,"method":"mining.authorize","params":["account.worker","x"]}"#);
        assert!(matches!(miner.requests()[..], [Request::Open(_)]));
        miner.open();
        miner.work([9; 32], Target::MAX);
        miner
    }

    fn say(&mut self, line: &str) -> Vec<String> {
        self.session
            .handle_line(self.now, line.as_bytes(), &mut self.out);
        self.heard()
    }

    fn event(&mut self, event: ChannelEvent) -> Vec<String> {
        self.session
            .on_channel_event(self.now, event, &mut self.out);
        self.heard()
    }

    fn open(&mut self) {
        self.event(ChannelEvent::Opened {
            channel_id: CHANNEL,
            extranonce_size: 10,
        });
    }

    fn wait(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        if self.now.instant >= self.session.next_deadline() {
            self.session.on_deadline(self.now, &mut self.out);
        }
    }

    fn work(&mut self, prev_hash: [u8; 32], target: Target) -> Vec<String> {
        self.work_with(prev_hash, target, &PREFIX, true)
    }

    fn work_with(
        &mut self,
        prev_hash: [u8; 32],
        target: Target,
        prefix: &[u8],
        rolling: bool,
    ) -> Vec<String> {
        let work = self.next_work_with(prev_hash, target, prefix, rolling);
        self.event(ChannelEvent::Work(work))
    }

    fn next_work(&mut self, prev_hash: [u8; 32], target: Target) -> Work {
        self.next_work_with(prev_hash, target, &PREFIX, true)
    }

    fn next_work_with(
        &mut self,
        prev_hash: [u8; 32],
        target: Target,
        prefix: &[u8],
        rolling: bool,
    ) -> Work {
        let parts = JobParts {
            upstream_id: 40 + u32::try_from(self.next_job).unwrap(),
            version: 0x2000_0000,
            version_rolling: rolling,
            coinbase_prefix: vec![1, 0, 0, 0, 1, 2],
            coinbase_suffix: vec![3, 4],
            merkle_path: vec![[5; 32]],
        };
        let tip = Tip {
            prev_hash,
            min_ntime: 1_700_000_000,
            nbits: self.nbits,
        };
        let job = Arc::new(Job::new(self.next_job, &parts, &tip).unwrap());
        self.next_job += 1;
        Work {
            job,
            target,
            extranonce_prefix: ExtranonceBytes::new(prefix).unwrap(),
        }
    }

    fn submit(&mut self, job: &str, extranonce2: &str, nonce: u32) -> String {
        self.submit_full(
            "account.worker",
            job,
            extranonce2,
            1_700_000_001,
            nonce,
            None,
        )
    }

    fn submit_full(
        &mut self,
        worker: &str,
        job: &str,
        extranonce2: &str,
        ntime: u32,
        nonce: u32,
        bits: Option<u32>,
    ) -> String {
        let bits = bits
            .map(|bits| format!(r#","{bits:08x}""#))
            .unwrap_or_default();
        let line = format!(
            r#"{{"id":9,"method":"mining.submit","params":["{worker}","{job}","{extranonce2}","{ntime:08x}","{nonce:08x}"{bits}]}}"#
        );
        self.say(&line).join("")
    }

    fn heard(&mut self) -> Vec<String> {
        assert!(self.tally_adds_up(), "{:?}", self.session.tally());
        String::from_utf8(std::mem::take(&mut self.out.bytes))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn requests(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.out.requests)
    }

    /// The hashrates that the upstream was told.
    fn updates(&mut self) -> Vec<Hashrate> {
        let update = |request| {
            if let Request::Update { hashrate, .. } = request {
                Some(hashrate)
            } else {
                None
            }
        };
        self.requests().into_iter().filter_map(update).collect()
    }

    fn shares(&mut self) -> Vec<ShareSubmission> {
        let share = |request| {
            if let Request::Submit(share) = request {
                Some(share)
            } else {
                None
            }
        };
        self.requests().into_iter().filter_map(share).collect()
    }

    fn tally_adds_up(&self) -> bool {
        let tally = self.session.tally();
        tally.in_flight == self.session.in_flight() as u64
            && tally.submitted == tally.accepted + tally.rejected() + tally.lost() + tally.in_flight
    }

    fn rejected(&self, reason: &str) -> u64 {
        self.session
            .tally()
            .rejected_by_reason()
            .find(|(name, _)| *name == reason)
            .map_or(0, |(_, count)| count)
    }
}

fn is_clean(notify: &str) -> bool {
    let Ok(ServerMessage::Notify(notify)) = parse_server_message(notify.as_bytes()) else {
        panic!("{notify}")
    };
    notify.clean_jobs
}

//! A miner's whole session at a translator: lines, what the pool says, and time, in any order.
//!
//! The input is a script of lines, so that the recorded conversations (`roles/translator/tests/conversations`) are inputs
//! too, and one that fails can be read:
//!
//! | line | what happens |
//! |---|---|
//! | `> …` | the miner says the rest, with `$JOB` and the like filled in |
//! | `= …` | what a recorded conversation has the pool do, by its verb |
//! | `!X9` | an event, see [`Conversation::command`] |
//! | `< …`, `# …` | nothing |
//! | anything else | the miner says it |
//!
//! A first line `!S9` chooses the settings.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;
use stratum_v1::{ExtranonceBytes, MAX_LINE};
use translator::identity::Identity;
use translator::job::{Job, JobParts, Tip, Work};
use translator::session::{
    Acknowledge, ChannelEvent, Now, Output, RejectReason, Request, Session, Settings,
};
use translator::{UserAgent, UserAgents};
use work::{Difficulty, Hashrate, Target};

/// Deadlines within one wait; more would be a session that never rests.
const MOST_DEADLINES: usize = 100_000;

/// Plays a script. After every step each share is counted once, and what the session says makes sense.
pub fn session(script: &[u8]) {
    let (settings, script) = match script.strip_prefix(b"!S") {
        Some(rest) => (number(rest), rest),
        None => (0, script),
    };
    let mut conversation = Conversation::new(settings);
    for line in script.split(|byte| *byte == b'\n') {
        conversation.step(line);
        if conversation.out.end.is_some() {
            break;
        }
    }
    conversation.end();
}

struct Conversation {
    session: Session,
    now: Now,
    out: Output,
    /// Ids of all channels that were opened.
    channels: HashSet<u32>,
    /// The last sequence number on each.
    sequences: HashMap<u32, u32>,
    jobs: u64,
    /// The id in the last `mining.notify`.
    job: String,
    extranonce2_size: u8,
    nonce: u32,
    lines: usize,
    answers: usize,
    before: [u64; 4],
}

impl Conversation {
    fn new(bits: u32) -> Self {
        let bit = |number: u32| bits >> number & 1 == 1;
        let extranonce2_size = if bit(3) { 8 } else { 4 };
        let settings = Settings {
            extranonce2_size,
            version_mask: 0x1fff_e000,
            nominal_hashrate: Hashrate::new(1e12).unwrap(),
            max_target: if bit(4) {
                Target::DIFFICULTY_1
            } else {
                Target::MAX
            },
            hardest_target: Target::MIN,
            aggregate: bit(0).then_some(6.0),
            user_identity: if bit(2) {
                Identity::parse("farm.{worker}").unwrap()
            } else {
                Identity::default()
            },
            user_agents: UserAgents::new(&[UserAgent {
                pattern: "NiceHash/".into(),
                minimum_difficulty: 500_000.0,
            }]),
            acknowledge: if bit(1) {
                Acknowledge::Upstream
            } else {
                Acknowledge::Local
            },
            max_in_flight: if bit(5) { 4 } else { 1024 },
            max_malformed_lines: 10,
            setup_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(900),
            outage_message: bit(6).then_some(Duration::from_secs(30)),
        };
        let now = Now {
            instant: Instant::now(),
        };
        Self {
            session: Session::new(now, [1, 2, 3, 4], Arc::new(settings)),
            now,
            out: Output::default(),
            channels: HashSet::new(),
            sequences: HashMap::new(),
            jobs: 0,
            job: "1".to_owned(),
            extranonce2_size,
            nonce: 0,
            lines: 0,
            answers: 0,
            before: [0; 4],
        }
    }

    fn step(&mut self, line: &[u8]) {
        match line {
            [] | [b'<' | b'#', ..] => {}
            [b'>', rest @ ..] => {
                let line = self.fill_in(&String::from_utf8_lossy(rest));
                self.say(line.trim_start().as_bytes());
            }
            [b'=', rest @ ..] => self.recorded(&String::from_utf8_lossy(rest)),
            [b'!', command, rest @ ..] => self.command(*command, number(rest)),
            line => self.say(line),
        }
        self.check();
    }

    fn fill_in(&mut self, line: &str) -> String {
        if line.contains("$NONCE") {
            self.nonce += 1;
        }
        line.replace("$JOB", &self.job)
            .replace("$EXTRANONCE2", &"00".repeat(self.extranonce2_size.into()))
            .replace("$NTIME", "6553f101")
            .replace("$NONCE", &format!("{:08x}", self.nonce))
            .replace("$BITS", "00002000")
    }

    fn say(&mut self, line: &[u8]) {
        // As whoever drives it does.
        if !self.session.wants_lines() {
            return;
        }
        self.lines += 1;
        if line.len() > MAX_LINE {
            self.session.handle_oversized_line(self.now, &mut self.out);
        } else {
            self.session.handle_line(self.now, line, &mut self.out);
        }
    }

    fn recorded(&mut self, words: &str) {
        for (verb, command) in [
            ("opens", b'U'),
            ("opens", b'O'),
            ("opens", b'W'),
            ("takes", b'A'),
            ("refuses", b'J'),
            ("prefix", b'W'),
            ("block", b'W'),
            ("closes", b'C'),
            ("leaves", b'D'),
        ] {
            if words.contains(verb) {
                self.jobs += 1;
                self.command(command, u32::try_from(self.jobs % 30).unwrap());
            }
        }
    }

    /// Lower case is for the channel that the miner is moved away from.
    fn command(&mut self, command: u8, number: u32) {
        let event = match command.to_ascii_uppercase() {
            b'U' => ChannelEvent::UpstreamUp,
            b'M' => {
                self.session.move_upstream(self.now, &mut self.out);
                return;
            }
            b'S' => return self.session.left_connection_is_stuck(),
            b'D' => ChannelEvent::UpstreamDown,
            b'O' => {
                let channel_id = number;
                self.channels.insert(channel_id);
                // A channel of this id begins to count anew.
                self.sequences.remove(&channel_id);
                ChannelEvent::Opened {
                    channel_id,
                    extranonce_size: u16::try_from(number % 33).unwrap(),
                }
            }
            b'R' => ChannelEvent::Refused("unknown-user".to_owned()),
            b'C' => ChannelEvent::Closed("\"gone\"\n".to_owned()),
            b'W' => match self.work(number) {
                Some(work) => ChannelEvent::Work(work),
                None => return,
            },
            b'A' => ChannelEvent::Accepted {
                last_sequence_number: number,
                count: u64::from(number % 7),
            },
            b'J' => ChannelEvent::Rejected {
                sequence_number: number,
                reason: RejectReason::from_upstream("stale-share"),
            },
            b'T' => return self.wait(number),
            b'N' => return self.session.not_listening(self.now),
            _ => return,
        };
        if command.is_ascii_uppercase() {
            self.session
                .on_channel_event(self.now, event, &mut self.out);
        } else {
            self.session
                .on_leaving_event(self.now, event, &mut self.out);
        }
    }

    fn work(&mut self, number: u32) -> Option<Work> {
        self.jobs += 1;
        let parts = JobParts {
            upstream_id: number,
            version: 0x2000_0000,
            version_rolling: number % 5 != 4,
            coinbase_prefix: vec![1, 0, 0, 0, 1, 2],
            coinbase_suffix: vec![3, 4],
            merkle_path: vec![[5; 32]; usize::try_from(number % 4).unwrap()],
        };
        let tip = Tip {
            prev_hash: [u8::try_from(number % 3).unwrap(); 32],
            min_ntime: 1_700_000_000,
            nbits: 0x207f_ffff,
        };
        let target = match number / 3 % 4 {
            0 | 1 => Target::MAX,
            2 => Difficulty::new(1e-9).unwrap().target(),
            _ => Target::MIN,
        };
        let prefix = vec![0xaa; usize::try_from(number % 16).unwrap()];
        Some(Work {
            job: Arc::new(Job::new(self.jobs, &parts, &tip).ok()?),
            target,
            extranonce_prefix: ExtranonceBytes::new(&prefix)?,
        })
    }

    /// Lets time pass, and the session do what is due meanwhile.
    fn wait(&mut self, seconds: u32) {
        let until = self.now.instant + Duration::from_secs(u64::from(seconds % 100_000));
        for _ in 0..MOST_DEADLINES {
            let deadline = self.session.next_deadline();
            if deadline > until || self.out.end.is_some() {
                self.now.instant = until;
                return;
            }
            self.now.instant = self.now.instant.max(deadline);
            self.session.on_deadline(self.now, &mut self.out);
            self.check();
            assert!(
                self.out.end.is_some() || self.session.next_deadline() > self.now.instant,
                "what was due is still due"
            );
        }
        panic!("the session does not rest");
    }

    fn check(&mut self) {
        let said = std::mem::take(&mut self.out.bytes);
        assert!(said.is_empty() || said.ends_with(b"\n"));
        for line in said
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            self.heard(std::str::from_utf8(line).expect("text"));
        }
        assert!(self.answers <= self.lines, "an answer to nothing");
        self.out.answered.clear();
        let requests = std::mem::take(&mut self.out.requests);
        let farewells = std::mem::take(&mut self.out.farewells);
        for request in requests.into_iter().chain(farewells) {
            self.asked(request);
        }
        self.count();
    }

    fn heard(&mut self, line: &str) {
        // Raw, because an id comes back as it was, and 1e400 is no number of ours.
        let message: BTreeMap<&str, &RawValue> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let value = |key: &str| {
            let raw = message.get(key)?;
            serde_json::from_str::<Value>(raw.get()).ok()
        };
        let Some(method) = value("method") else {
            assert!(message.contains_key("id"), "{line}");
            assert!(message.contains_key("result"), "{line}");
            self.answers += 1;
            return;
        };
        let params = value("params").expect(line);
        match method.as_str().expect(line) {
            "mining.notify" => {
                self.job = params[0].as_str().expect(line).to_owned();
                assert!(!self.channels.is_empty(), "work without a channel: {line}");
            }
            "mining.set_difficulty" => {
                let difficulty = params[0].as_f64().expect(line);
                assert!(difficulty > 0.0 && difficulty.is_finite(), "{line}");
            }
            _ => {}
        }
    }

    fn asked(&mut self, request: Request) {
        match request {
            Request::Open(open) => {
                assert!(open.user_identity.len() <= 255 && !open.user_identity.is_empty());
                assert!(open.hashrate.value().is_finite());
            }
            Request::Submit(share) => {
                assert!(self.channels.contains(&share.channel_id), "{share:?}");
                let last = self
                    .sequences
                    .insert(share.channel_id, share.sequence_number);
                let expected = last.map_or(share.sequence_number, |last| last.wrapping_add(1));
                assert_eq!(share.sequence_number, expected, "{share:?}");
            }
            Request::Update {
                channel_id,
                hashrate,
                ..
            } => {
                assert!(self.channels.contains(&channel_id));
                assert!(hashrate.value().is_finite());
            }
            Request::Close { channel_id } => assert!(self.channels.contains(&channel_id)),
        }
    }

    /// Every share is counted once, and no count goes back.
    fn count(&mut self) {
        let tally = self.session.tally();
        let ended = tally.accepted + tally.rejected() + tally.lost();
        assert_eq!(tally.submitted, ended + tally.in_flight, "{tally:?}");
        assert_eq!(
            tally.in_flight,
            self.session.in_flight() as u64,
            "{tally:?}"
        );
        assert!(tally.accepted <= tally.forwarded + tally.kept, "{tally:?}");
        assert!(tally.submitted <= self.lines as u64, "{tally:?}");
        let now = [
            tally.submitted,
            tally.accepted,
            tally.rejected(),
            tally.lost(),
        ];
        assert!(
            now.iter()
                .zip(self.before)
                .all(|(now, before)| *now >= before),
            "{tally:?}"
        );
        self.before = now;
    }

    /// The miner is gone: nothing is left open.
    fn end(&mut self) {
        self.session.abandon(&mut self.out);
        self.check();
        assert_eq!(self.session.tally().in_flight, 0);
    }
}

/// The digits at the beginning.
fn number(text: &[u8]) -> u32 {
    text.iter()
        .map_while(|byte| char::from(*byte).to_digit(10))
        .fold(0, |number: u32, digit| {
            number.wrapping_mul(10).wrapping_add(digit)
        })
}

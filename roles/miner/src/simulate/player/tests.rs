//! Whole conversations of a simulated miner with a simulated time.

use std::{collections::BTreeMap, time::Duration};

use rand::SeedableRng;
use serde_json::{Value, json};
use work::Difficulty;

use super::*;
use crate::{
    job::Claims,
    session::Settings,
    simulate::{Arrivals, Quality, Rate},
};

struct Talk {
    player: Player,
    options: Options,
    now: Instant,
}

impl Talk {
    /// A miner that has subscribed and is authorized, with ten shares a second.
    fn new(quality: &str) -> Self {
        let options = Options {
            rate: Rate::per_second(10.0).unwrap(),
            arrivals: Arrivals::Even,
            quality: quality.parse::<Quality>().unwrap(),
            ..Options::default()
        };
        let settings = Settings {
            user: "farm.sim-1".to_owned(),
            password: "x".to_owned(),
            version_rolling: false,
            suggest_difficulty: None,
        };
        let now = Instant::now();
        let session = Session::new(settings, Claims::default());
        let player = Player::new(session, &options, SmallRng::seed_from_u64(1), now);
        let mut talk = Self {
            player,
            options,
            now,
        };
        let mut out = Vec::new();
        talk.player.start(now, &mut out);
        talk.say(&json!({"id": 1, "error": null, "result": [[], "deadbeef", 4]}));
        talk.say(&json!({"id": 2, "error": null, "result": true}));
        talk
    }

    fn say(&mut self, message: &Value) -> Option<Event> {
        let line = message.to_string();
        let mut out = Vec::new();
        self.player
            .handle_line(line.as_bytes(), self.now, &mut out)
            .unwrap()
    }

    fn job(&mut self, id: &str, difficulty: f64) {
        self.say(&json!({"id": null, "method": "mining.set_difficulty", "params": [difficulty]}));
        self.say(&json!({"id": null, "method": "mining.notify", "params": [
            id, "00".repeat(32), "01", "02", [], "20000000", "1d00ffff", "65000000", true,
        ]}));
    }

    /// The next share, with what it was made to be; answered at once if `answer` says so.
    fn share(&mut self) -> (Kind, Value) {
        let mut out = Vec::new();
        loop {
            let kind = match self.player.step(&self.options, self.now, &mut out) {
                Step::Wait(until) => {
                    assert!(until > self.now);
                    self.now = until;
                    None
                }
                Step::Hash => self.player.hash(self.now, &mut out),
                Step::Sent(kind) => Some(kind),
                Step::Listen => panic!("the miner has nothing to do"),
            };
            if let Some(kind) = kind {
                let submit: Value = serde_json::from_slice(&out).unwrap();
                let answer = json!({"id": submit["id"], "result": true, "error": null});
                let event = self.say(&answer);
                assert!(matches!(event, Some(Event::Accepted(answered)) if answered.kind == kind));
                return (kind, submit);
            }
        }
    }
}

const EASY: f64 = 1.0 / 1_048_576.0;

/// A submit's header hash, by nothing but the job's own parts.
fn hash(submit: &Value) -> [u8; 32] {
    let text = |at: usize| submit["params"][at].as_str().unwrap();
    let word = |at: usize| u32::from_str_radix(text(at), 16).unwrap();
    let coinbase = hex::decode(format!("01deadbeef{}02", text(2))).unwrap();
    work::Header {
        version: 0x2000_0000,
        prev_hash: [0; 32],
        merkle_root: work::header::coinbase_txid(&[&coinbase]),
        ntime: word(3),
        nbits: 0x1d00_ffff,
        nonce: word(4),
    }
    .hash()
}

#[test]
fn each_kind_of_share_is_what_it_claims_to_be() {
    let mut talk = Talk::new("low=0.2,stale=0.2,duplicate=0.2,malformed=0.2");
    let target = Difficulty::new(EASY).unwrap().target();
    talk.job("old", EASY);
    talk.share();
    talk.job("new", EASY);
    let mut seen = BTreeMap::<&str, u32>::new();
    let mut sent = Vec::new();
    for _ in 0..200 {
        let (kind, submit) = talk.share();
        *seen.entry(kind.name()).or_default() += 1;
        let params = &submit["params"];
        let first = !sent.contains(params);
        match kind {
            Kind::Good => {
                assert_eq!(params[1], "new");
                assert!(first && target.is_met_by(&hash(&submit)));
            }
            Kind::Low => {
                assert_eq!(params[1], "new");
                assert!(first && !target.is_met_by(&hash(&submit)));
            }
            Kind::Stale => assert_eq!(params[1], "old"),
            Kind::Duplicate => assert!(!first && target.is_met_by(&hash(&submit))),
            Kind::Malformed => assert_eq!(params, &json!([])),
            Kind::Unworked => panic!("it is easy enough"),
        }
        sent.push(params.clone());
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(seen.values().all(|count| *count >= 20), "{seen:?}");
}

#[test]
fn shares_come_at_the_rate_that_was_asked_for() {
    let mut talk = Talk::new("");
    talk.job("a", EASY);
    talk.share();
    let began = talk.now;
    for _ in 0..100 {
        talk.share();
    }
    assert_eq!(talk.now - began, Duration::from_secs(10));
}

#[test]
fn a_difficulty_beyond_what_is_hashed_gives_unworked_shares() {
    let mut talk = Talk::new("");
    talk.job("a", 1_000.0);
    let (kind, submit) = talk.share();
    assert_eq!(kind, Kind::Unworked);
    assert_eq!(submit["params"][1], "a");
    talk.job("b", EASY);
    assert_eq!(talk.share().0, Kind::Good);
}

#[test]
fn a_server_that_does_not_answer_is_not_buried_in_shares() {
    let mut talk = Talk::new("");
    talk.job("a", EASY);
    let mut out = Vec::new();
    let mut sent = 0;
    loop {
        match talk.player.step(&talk.options, talk.now, &mut out) {
            Step::Wait(until) => talk.now = until,
            Step::Hash => {
                sent += usize::from(talk.player.hash(talk.now, &mut out).is_some());
            }
            Step::Sent(_) => panic!("a good share takes hashes"),
            Step::Listen => break,
        }
    }
    assert_eq!(sent, crate::session::MAX_UNANSWERED);
}

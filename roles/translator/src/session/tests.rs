//! Whole conversations, with simulated time.

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
            user_identity: None,
            acknowledge: Acknowledge::Local,
            max_in_flight: 4,
            max_malformed_lines: 2,
            setup_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(900),
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
        self.event(ChannelEvent::Work(Work {
            job,
            target,
            extranonce_prefix: ExtranonceBytes::new(prefix).unwrap(),
        }))
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

#[test]
fn subscribe_is_answered_at_once_even_without_an_upstream() {
    let mut miner = Conversation::new(|_| ());
    let heard = miner.say(r#"{"id":"s","method":"mining.subscribe","params":[]}"#);
    let ServerMessage::Response {
        id,
        outcome: Ok(result),
    } = parse_server_message(heard[0].as_bytes()).unwrap()
    else {
        panic!("{heard:?}");
    };
    let result = SubscribeResult::parse(result).unwrap();
    assert_eq!(
        (id.json(), &*result.extranonce1, result.extranonce2_size),
        (r#""s""#, &[1, 2, 3, 4][..], 4)
    );
    assert!(
        miner.say(r#"{"id":2,"method":"mining.authorize","params":["w"]}"#)[0].contains("true")
    );
    assert!(miner.requests().is_empty());
    miner.event(ChannelEvent::UpstreamUp);
    assert!(matches!(&miner.requests()[..], [Request::Open(open)] if &*open.user_identity == "w"));
}

#[test]
fn the_channel_opens_in_whatever_order_the_miner_asks() {
    let lines = [
        r#"{"id":1,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"ffffffff"}]}"#,
        r#"{"id":2,"method":"mining.subscribe"}"#,
        r#"{"id":3,"method":"mining.suggest_difficulty","params":[1000]}"#,
        r#"{"id":4,"method":"mining.auth","params":["w","x"]}"#,
    ];
    for order in [[0, 1, 2, 3], [1, 0, 2, 3], [2, 3, 0, 1], [3, 2, 1, 0]] {
        let mut miner = Conversation::new(|_| ());
        miner.event(ChannelEvent::UpstreamUp);
        for index in order {
            assert_eq!(miner.say(lines[index]).len(), 1);
        }
        assert!(
            matches!(&miner.requests()[..], [Request::Open(_)]),
            "{order:?}"
        );
    }
}

#[test]
fn a_suggested_difficulty_shapes_the_channel() {
    let mut miner = Conversation::new(|_| ());
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.configure","params":[["minimum-difficulty"],{"minimum-difficulty.value":256}]}"#);
    miner.say(r#"{"id":2,"method":"mining.suggest_difficulty","params":["1000"]}"#);
    miner.say(r#"{"id":3,"method":"mining.subscribe"}"#);
    miner.say(r#"{"id":4,"method":"mining.authorize","params":["w"]}"#);
    let [Request::Open(open)] = &miner.requests()[..] else {
        panic!("no channel")
    };
    assert_eq!(open.hashrate.value(), 1000.0 * 4_294_967_296.0 / 10.0);
    assert_eq!(open.max_target, Difficulty::new(256.0).unwrap().target());
    assert_eq!(open.min_extranonce_size, 8);
}

#[test]
fn difficulty_is_told_before_the_job_that_it_applies_to() {
    let mut miner = Conversation::mining(|_| ());
    let target = Difficulty::new(3.0).unwrap().target();
    let heard = miner.work([9; 32], target);
    let Ok(ServerMessage::SetDifficulty(difficulty)) = parse_server_message(heard[0].as_bytes())
    else {
        panic!("{heard:?}")
    };
    assert!(
        Difficulty::new(difficulty).unwrap().target() <= target,
        "never easier than the channel"
    );
    assert!(!is_clean(&heard[1]));
    // The same difficulty is not told twice.
    assert_eq!(miner.work([9; 32], target).len(), 1);
    // Each job keeps its own target.
    assert!(miner.submit("1", "00000000", 1).contains("true"));
    assert!(miner.submit("2", "00000000", 1).contains("[23,"));
    assert_eq!(miner.rejected("low-difficulty"), 1);
}

#[test]
fn a_share_goes_upstream_exactly_as_the_miner_hashed_it() {
    let mut miner = Conversation::mining(|_| ());
    let answer = miner.submit_full(
        "account.worker",
        "1",
        "0a0b0c0d",
        1_700_000_005,
        77,
        Some(0x0000_2000),
    );
    assert!(answer.contains(r#""result":true"#), "{answer}");
    let expected = ShareSubmission {
        channel_id: CHANNEL,
        sequence_number: 1,
        job_id: 41,
        nonce: 77,
        ntime: 1_700_000_005,
        version: 0x2000_2000,
        // Two bytes of padding, our extranonce1, and the miner's own: the ten bytes of the channel.
        extranonce: ExtranonceBytes::new(&[0, 0, 1, 2, 3, 4, 0x0a, 0x0b, 0x0c, 0x0d]).unwrap(),
    };
    assert_eq!(miner.shares(), [expected]);
}

#[test]
fn each_mistake_of_a_miner_has_its_code_and_costs_the_upstream_nothing() {
    let mut miner = Conversation::mining(|_| ());
    let now = 1_700_000_000;
    let cases = [
        (
            "stranger",
            "1",
            "00000000",
            now,
            None,
            "[24,",
            "unauthorized",
        ),
        (
            "account.worker",
            "99",
            "00000000",
            now,
            None,
            "[21,",
            "job-not-found",
        ),
        (
            "account.worker",
            "xyz",
            "00000000",
            now,
            None,
            "[21,",
            "job-not-found",
        ),
        (
            "account.worker",
            "",
            "00000000",
            now,
            None,
            "[21,",
            "job-not-found",
        ),
        (
            "account.worker",
            "1",
            "000000",
            now,
            None,
            "[20,",
            "bad-extranonce",
        ),
        (
            "account.worker",
            "1",
            "",
            now,
            None,
            "[20,",
            "bad-extranonce",
        ),
        (
            "account.worker",
            "1",
            "00000000",
            now - 1,
            None,
            "[20,",
            "bad-time",
        ),
        (
            "account.worker",
            "1",
            "00000000",
            now + 7201,
            None,
            "[20,",
            "bad-time",
        ),
        (
            "account.worker",
            "1",
            "00000000",
            now,
            Some(0x8000_0000),
            "[20,",
            "bad-version",
        ),
        (
            "account.worker",
            "1",
            "0000000",
            now,
            None,
            "[20,",
            "malformed",
        ),
    ];
    for (worker, job, extranonce2, ntime, bits, code, reason) in cases {
        let before = miner.rejected(reason);
        let answer = miner.submit_full(worker, job, extranonce2, ntime, 1, bits);
        assert!(answer.contains(code), "{reason}: {answer}");
        assert_eq!(miner.rejected(reason), before + 1, "{reason}");
    }
    assert!(miner.submit("1", "00000000", 1).contains("true"));
    assert!(miner.submit("1", "00000000", 1).contains("[22,"));
    assert_eq!(miner.shares().len(), 1);
    assert_eq!(miner.out.end, None);
}

#[test]
fn a_share_before_subscribe_or_authorize_is_refused_with_its_code() {
    let mut miner = Conversation::new(|_| ());
    assert!(miner.submit("1", "00000000", 1).contains("[25,"));
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    assert!(miner.submit("1", "00000000", 1).contains("[24,"));
}

#[test]
fn a_new_block_makes_earlier_jobs_stale() {
    let mut miner = Conversation::mining(|_| ());
    let heard = miner.work([8; 32], Target::MAX);
    assert!(is_clean(&heard[0]), "{heard:?}");
    assert!(miner.submit("1", "00000000", 1).contains("[21,"));
    assert!(miner.submit("2", "00000000", 1).contains("true"));
}

#[test]
fn a_new_network_target_on_the_same_block_makes_earlier_jobs_stale_too() {
    let mut miner = Conversation::mining(|_| ());
    miner.nbits = 0x1d00_ffff;
    let heard = miner.work([9; 32], Target::MAX);
    assert!(is_clean(&heard[0]), "{heard:?}");
    assert!(miner.submit("1", "00000000", 1).contains("[21,"));
}

#[test]
fn a_share_with_an_id_too_long_to_keep_is_refused() {
    let mut miner = Conversation::mining(|_| ());
    for (length, result) in [(62, r#""result":true"#), (63, "[20,")] {
        let id = "i".repeat(length);
        let line = format!(
            r#"{{"id":"{id}","method":"mining.submit","params":["account.worker","1","00000000","6553f101","00000001"]}}"#
        );
        let heard = miner.say(&line);
        assert!(heard[0].contains(result), "{heard:?}");
    }
    assert_eq!(miner.shares().len(), 1);
}

#[test]
fn while_it_is_not_read_a_miner_is_not_silent() {
    let mut miner = Conversation::mining(|_| ());
    for _ in 0..3 {
        miner.now.instant += Duration::from_secs(800);
        miner.session.not_listening(miner.now);
        miner.wait(100);
    }
    assert_eq!(miner.out.end, None);
}

#[test]
fn a_new_extranonce_prefix_is_a_clean_notify_and_nothing_else() {
    let mut miner = Conversation::mining(|_| ());
    let heard = miner.work_with([9; 32], Target::MAX, &[0xdd; 5], true);
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(is_clean(&heard[0]) && heard[0].contains("ddddddddd"));
    // Work under way on the same tip is still worth something: that job has its own prefix.
    assert!(miner.submit("1", "00000000", 1).contains("true"));
}

#[test]
fn a_lost_upstream_costs_the_miner_a_clean_notify_and_counts_what_was_in_flight_as_lost() {
    let mut miner = Conversation::mining(|_| ());
    miner.submit("1", "00000000", 1);
    miner.submit("1", "00000000", 2);
    miner.event(ChannelEvent::Accepted {
        last_sequence_number: 1,
        count: 1,
    });
    assert!(miner.event(ChannelEvent::UpstreamDown).is_empty());
    assert_eq!(
        miner.session.tally().lost_by_reason().collect::<Vec<_>>(),
        [("upstream-disconnected", 1)]
    );
    miner.requests();
    // The old job is nobody's: it is refused, and never goes to another upstream.
    assert!(miner.submit("1", "00000000", 3).contains("[21,"));
    miner.event(ChannelEvent::UpstreamUp);
    miner.open();
    assert!(miner.submit("1", "00000000", 4).contains("[21,"));
    assert_eq!(miner.rejected("upstream-gone"), 2);
    assert!(miner.shares().is_empty());
    let heard = miner.work([9; 32], Target::MAX);
    assert!(heard.len() == 1 && is_clean(&heard[0]), "{heard:?}");
    assert!(miner.submit("2", "00000000", 5).contains("true"));
    assert_eq!(miner.shares()[0].sequence_number, 1);
}

#[test]
fn with_upstream_acknowledgement_the_miner_hears_what_the_upstream_says() {
    let mut miner = Conversation::mining(|settings| settings.acknowledge = Acknowledge::Upstream);
    for nonce in 1..=4 {
        assert_eq!(miner.submit("1", "00000000", nonce), "");
    }
    let refusal = ChannelEvent::Rejected {
        sequence_number: 2,
        reason: RejectReason::from_upstream("stale-share"),
    };
    assert!(miner.event(refusal)[0].contains("[21,"));
    assert_eq!(
        miner
            .event(ChannelEvent::Accepted {
                last_sequence_number: 3,
                count: 2
            })
            .len(),
        2
    );
    assert!(miner.event(ChannelEvent::UpstreamDown)[0].contains("[21,"));
    let tally = miner.session.tally();
    assert_eq!(
        (
            tally.accepted,
            tally.told_accepted,
            tally.rejected(),
            tally.lost()
        ),
        (2, 2, 1, 1)
    );
}

#[test]
fn answers_about_shares_that_were_never_sent_change_nothing() {
    let mut miner = Conversation::mining(|_| ());
    miner.submit("1", "00000000", 1);
    miner.event(ChannelEvent::Accepted {
        last_sequence_number: 0,
        count: 5,
    });
    miner.event(ChannelEvent::Rejected {
        sequence_number: 9,
        reason: RejectReason::UpstreamOther,
    });
    assert_eq!(miner.session.in_flight(), 1);
    miner.event(ChannelEvent::Accepted {
        last_sequence_number: 1,
        count: u64::MAX,
    });
    assert_eq!(miner.session.tally().accepted, 1);
}

#[test]
fn at_the_bound_of_unanswered_shares_the_miner_has_to_wait() {
    let mut miner = Conversation::mining(|_| ());
    for nonce in 0..4 {
        assert!(miner.session.wants_lines());
        miner.submit("1", "00000000", nonce);
    }
    assert!(!miner.session.wants_lines());
    miner.event(ChannelEvent::Accepted {
        last_sequence_number: 1,
        count: 1,
    });
    assert!(miner.session.wants_lines());
}

#[test]
fn an_unknown_method_gets_an_error_and_never_a_disconnect() {
    let mut miner = Conversation::mining(|_| ());
    for method in [
        "mining.unheard_of",
        "client.weird",
        "",
        "eth_submitWork",
        "mining.set_goal",
    ] {
        for _ in 0..20 {
            let heard = miner.say(&format!(r#"{{"id":5,"method":"{method}","params":[]}}"#));
            assert!(heard.len() == 1 && heard[0].contains("[20,"), "{heard:?}");
        }
    }
    for (method, params, result) in [
        ("mining.ping", "[]", "\"pong\""),
        (
            "mining.suggest_target",
            r#"["00000000ffff0000000000000000000000000000000000000000000000000000"]"#,
            "true",
        ),
        ("mining.extranonce.subscribe", "[]", "true"),
        ("mining.multi_version", "[1]", "true"),
        ("mining.get_transactions", "[\"1\"]", "[]"),
        ("client.get_version", "[]", "\"hashpool-translator"),
    ] {
        let heard = miner.say(&format!(
            r#"{{"id":5,"method":"{method}","params":{params}}}"#
        ));
        assert!(
            heard[0].contains(&format!(r#""result":{result}"#)),
            "{heard:?}"
        );
    }
    assert_eq!(miner.out.end, None);
}

#[test]
fn malformed_lines_are_answered_where_there_is_an_id_and_end_the_connection_after_a_few() {
    let mut miner = Conversation::mining(|_| ());
    assert!(miner.say(r#"{"id":5,"method":"mining.submit""#)[0].contains(r#""id":5"#));
    assert!(miner.say("nonsense").is_empty());
    assert_eq!(miner.out.end, None);
    miner.say("\u{0}");
    assert_eq!(miner.out.end, Some(EndReason::MalformedLines));
}

#[test]
fn impossible_suggestions_are_refused_and_change_nothing() {
    let mut miner = Conversation::new(|_| ());
    for params in ["[0]", "[-1]", "[\"nan\"]", "[1e999]", "[]", "[null]"] {
        let heard = miner.say(&format!(
            r#"{{"id":5,"method":"mining.suggest_difficulty","params":{params}}}"#
        ));
        assert!(heard[0].contains("[20,"), "{params}: {heard:?}");
    }
    let zero = format!(
        r#"{{"id":5,"method":"mining.suggest_target","params":["{}"]}}"#,
        "0".repeat(64)
    );
    assert!(miner.say(&zero)[0].contains("[20,"));
    assert_eq!(miner.session.suggested, None);
}

#[test]
fn version_rolling_is_negotiated_and_follows_what_a_job_allows() {
    let mut miner = Conversation::mining(|_| ());
    let heard = miner.say(
        r#"{"id":1,"method":"mining.configure","params":[["version-rolling","other"],{"version-rolling.mask":"00ffff00","version-rolling.min-bit-count":2}]}"#,
    );
    assert!(
        heard[0].contains(r#""version-rolling.mask":"00ffe000""#)
            && heard[0].contains(r#""other":false"#),
        "{heard:?}"
    );
    let heard = miner.work_with([9; 32], Target::MAX, &PREFIX, false);
    assert!(
        heard[0].contains("set_version_mask") && heard[0].contains("00000000"),
        "{heard:?}"
    );
    assert!(
        miner
            .submit_full(
                "account.worker",
                "2",
                "00000000",
                1_700_000_000,
                1,
                Some(0x2000)
            )
            .contains("[20,")
    );
    let heard = miner.work([9; 32], Target::MAX);
    assert!(heard[0].contains("00ffe000"), "{heard:?}");
    assert!(
        miner
            .submit_full(
                "account.worker",
                "3",
                "00000000",
                1_700_000_000,
                1,
                Some(0x2000)
            )
            .contains("true")
    );
    // More bits than are there: refused, as BIP 310 lets a server do.
    let heard = miner.say(
        r#"{"id":1,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.min-bit-count":30}]}"#,
    );
    assert!(heard[0].contains(r#""version-rolling":false"#), "{heard:?}");
}

#[test]
fn a_silent_miner_is_let_go() {
    let mut miner = Conversation::new(|_| ());
    miner.wait(59);
    assert_eq!(miner.out.end, None);
    miner.wait(1);
    assert_eq!(miner.out.end, Some(EndReason::SetupTimeout));

    let mut miner = Conversation::mining(|_| ());
    miner.wait(899);
    assert_eq!(miner.out.end, None);
    miner.submit("1", "00000000", 1);
    miner.wait(899);
    assert_eq!(miner.out.end, None);
    miner.wait(1);
    assert_eq!(miner.out.end, Some(EndReason::Idle));
}

#[test]
fn a_refused_channel_is_asked_for_again_ever_more_rarely_and_the_miner_stays() {
    let mut miner =
        Conversation::new(|settings| settings.idle_timeout = Duration::from_secs(1_000_000));
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    miner.say(r#"{"id":2,"method":"mining.authorize","params":["w"]}"#);
    miner.requests();
    let mut asked = 0;
    for _ in 0..3600 {
        if miner.session.channel_deadline().is_none() {
            let heard = miner.event(ChannelEvent::Refused("unknown-user".into()));
            assert!(heard[0].contains("client.show_message"), "{heard:?}");
        }
        miner.wait(1);
        asked += miner.requests().len();
    }
    assert!((10..30).contains(&asked), "{asked}");
    assert_eq!(miner.out.end, None);
}

#[test]
fn a_channel_with_too_little_extranonce_is_given_back() {
    let mut miner = Conversation::new(|_| ());
    miner.event(ChannelEvent::UpstreamUp);
    miner.say(r#"{"id":1,"method":"mining.subscribe"}"#);
    miner.say(r#"{"id":2,"method":"mining.authorize","params":["w"]}"#);
    miner.requests();
    miner.event(ChannelEvent::Opened {
        channel_id: CHANNEL,
        extranonce_size: 7,
    });
    assert_eq!(
        miner.requests(),
        [Request::Close {
            channel_id: CHANNEL
        }]
    );
    assert!(!miner.session.is_open());
}

#[test]
fn a_closed_channel_is_opened_again() {
    let mut miner = Conversation::mining(|_| ());
    miner.submit("1", "00000000", 1);
    miner.requests();
    miner.event(ChannelEvent::Closed("drain".into()));
    assert_eq!(
        miner.session.tally().lost_by_reason().collect::<Vec<_>>(),
        [("channel-closed", 1)]
    );
    // A channel that lived so short counts as one that could not be opened.
    miner.wait(1);
    assert!(miner.requests().is_empty());
    miner.wait(1);
    assert!(matches!(miner.requests()[..], [Request::Open(_)]));
}

#[test]
fn a_pool_that_does_not_answer_is_asked_again() {
    let mut miner = Conversation::mining(|_| ());
    miner.event(ChannelEvent::UpstreamUp);
    assert!(matches!(miner.requests()[..], [Request::Open(_)]));
    miner.wait(15);
    assert!(miner.requests().is_empty());
    miner.wait(2);
    assert!(matches!(miner.requests()[..], [Request::Open(_)]));
    // What comes of both requests is one channel.
    let opened = |channel_id| ChannelEvent::Opened {
        channel_id,
        extranonce_size: 8,
    };
    miner.event(opened(CHANNEL));
    miner.event(opened(CHANNEL + 1));
    assert_eq!(
        miner.requests(),
        [Request::Close {
            channel_id: CHANNEL + 1
        }]
    );
    assert!(miner.session.is_open());
}

#[test]
fn a_pause_is_no_lower_hashrate() {
    for pace in [1, 3, 10] {
        let mut miner = Conversation::mining(|settings| settings.max_in_flight = 100_000);
        let mine = |miner: &mut Conversation, nonces: std::ops::Range<u32>| {
            for nonce in nonces {
                miner.submit("1", "00000000", nonce);
                miner.wait(pace);
            }
        };
        mine(&mut miner, 0..600);
        assert_eq!(miner.updates().len(), 1);
        for _ in 0..60 {
            miner.wait(10);
        }
        mine(&mut miner, 600..1200);
        let told = miner.updates();
        assert!(told.is_empty(), "{pace}: {told:?}");
        // It can be told all the same when it has really become less.
        for nonce in 1200..1300 {
            miner.submit("1", "00000000", nonce);
            miner.wait(pace * 4);
        }
        assert_eq!(!miner.updates().is_empty(), pace < 10, "{pace}");
    }
}

#[test]
fn a_hashrate_far_from_the_nominal_one_is_told_within_seconds_and_again_after_a_loss() {
    let mut miner = Conversation::mining(|settings| settings.max_in_flight = 100_000);
    for nonce in 0..3000 {
        miner.submit("1", "00000000", nonce);
        miner.now.instant += Duration::from_millis(1);
    }
    let [seen] = miner.updates()[..] else {
        panic!("one report is expected")
    };
    // Targets are met by every hash here.
    assert!((500.0..2000.0).contains(&seen.value()), "{seen}");
    miner.event(ChannelEvent::UpstreamDown);
    miner.event(ChannelEvent::UpstreamUp);
    let [Request::Open(open)] = &miner.requests()[..] else {
        panic!("no channel is asked for")
    };
    assert!((500.0..2000.0).contains(&open.hashrate.value()));
}

#[test]
fn the_upstream_is_told_the_hashrate_when_it_has_changed_and_only_then() {
    let mut miner = Conversation::mining(|settings| settings.max_in_flight = 100_000);
    let mut updates = 0;
    for second in 0..600 {
        miner.submit("1", "00000000", second);
        miner.wait(1);
        updates += miner
            .requests()
            .iter()
            .filter(|request| matches!(request, Request::Update { .. }))
            .count();
    }
    // Once the rate is known it does not change.
    assert_eq!(updates, 1);
}

#[test]
fn a_name_too_long_or_empty_is_refused_and_another_may_be_tried() {
    let mut miner = Conversation::new(|_| ());
    for name in [String::new(), "x".repeat(128)] {
        let heard = miner.say(&format!(
            r#"{{"id":1,"method":"mining.authorize","params":["{name}"]}}"#
        ));
        assert!(
            heard[0].contains("[24,") && heard[0].len() < 127,
            "{heard:?}"
        );
    }
    let heard = miner.say(&format!(
        r#"{{"id":1,"method":"mining.authorize","params":["{}"]}}"#,
        "x".repeat(127)
    ));
    assert!(heard[0].contains("true"));
}

#[test]
fn what_comes_without_an_id_is_done_and_not_answered() {
    let mut miner = Conversation::mining(|_| ());
    let line = r#"{"method":"mining.submit","params":["account.worker","1","00000000","6553f101","00000001"]}"#;
    assert!(miner.say(line).is_empty());
    assert_eq!(miner.shares().len(), 1);
    assert!(miner.say(r#"{"method":"mining.ping"}"#).is_empty());
}

mod any_conversation {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Line(String),
        Bytes(Vec<u8>),
        Event(u8, u32),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let methods = "mining\\.(submit|subscribe|authorize|configure|suggest_difficulty|ping)";
        let params = r#"\[("account\.worker"|"[0-9a-f]{8}"|"[1-9]"|[0-9]{1,4}|null|\["version-rolling"\]|,){0,9}\]"#;
        prop_oneof![
            4 => (0u32..50, 1u64..4).prop_map(|(nonce, job)| Step::Line(format!(
                r#"{{"id":1,"method":"mining.submit","params":["account.worker","{job}","00000000","6553f101","{nonce:08x}"]}}"#
            ))),
            2 => (methods, params).prop_map(|(method, params)| Step::Line(format!(
                r#"{{"id":1,"method":"{method}","params":{params}}}"#
            ))),
            1 => any::<Vec<u8>>().prop_map(Step::Bytes),
            4 => (0u8..8, 0u32..20).prop_map(|(event, number)| Step::Event(event, number)),
            1 => (0u64..400).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn every_share_is_counted_once_whatever_happens(
            steps in prop::collection::vec(step(), 0..120), upstream_acknowledges: bool,
        ) {
            let mut miner = Conversation::mining(|settings| {
                settings.max_malformed_lines = u32::MAX;
                settings.max_in_flight = usize::MAX;
                if upstream_acknowledges {
                    settings.acknowledge = Acknowledge::Upstream;
                }
            });
            for step in steps {
                match step {
                    Step::Line(line) => drop(miner.say(&line)),
                    Step::Bytes(bytes) => {
                        miner.session.handle_line(miner.now, &bytes, &mut miner.out);
                        miner.heard();
                    }
                    Step::Wait(seconds) => miner.wait(seconds),
                    Step::Event(0, _) => drop(miner.event(ChannelEvent::UpstreamUp)),
                    Step::Event(1, _) => drop(miner.event(ChannelEvent::UpstreamDown)),
                    Step::Event(2, _) => miner.open(),
                    Step::Event(3, number) => drop(miner.work([u8::try_from(number % 3).unwrap(); 32], Target::MAX)),
                    Step::Event(4, number) => drop(miner.event(ChannelEvent::Accepted {
                        last_sequence_number: number,
                        count: u64::from(number % 5),
                    })),
                    Step::Event(5, number) => drop(miner.event(ChannelEvent::Rejected {
                        sequence_number: number,
                        reason: RejectReason::UpstreamOther,
                    })),
                    Step::Event(6, _) => drop(miner.event(ChannelEvent::Closed(String::new()))),
                    Step::Event(_, _) => drop(miner.event(ChannelEvent::Refused(String::new()))),
                }
                prop_assert!(miner.tally_adds_up());
                let forwarded = miner.session.tally().forwarded;
                prop_assert!(miner.session.tally().accepted <= forwarded);
            }
            miner.session.abandon(&mut miner.out);
            prop_assert_eq!(miner.session.tally().in_flight, 0);
            prop_assert!(miner.tally_adds_up());
        }
    }
}

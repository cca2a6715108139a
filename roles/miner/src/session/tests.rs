//! Whole conversations, without a socket or a clock.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::job::NONCES_PER_CLAIM;

const NOTIFY: &str = r#"{"id":null,"method":"mining.notify","params":["a","0000000000000000000000000000000000000000000000000000000000000000","0102","0304",[],"20000000","207fffff","65000000",true]}"#;

struct Conversation {
    session: Session,
    now: Instant,
}

impl Conversation {
    fn new(version_rolling: bool) -> Self {
        let settings = Settings {
            user: "alice.rig".to_owned(),
            password: "secret".to_owned(),
            version_rolling,
            suggest_difficulty: Difficulty::new(0.5).ok(),
        };
        Self {
            session: Session::new(settings, Claims::default()),
            now: Instant::now(),
        }
    }

    /// A session that is authorized, with 4 bytes of extranonce2 and, where it is asked for, version rolling.
    fn mining(version_rolling: bool) -> Self {
        let mut talk = Self::new(version_rolling);
        let asked = talk.start();
        for request in &asked {
            match request["method"].as_str() {
                Some("mining.configure") => talk.hear_nothing(&json!({
                    "id": request["id"], "error": null,
                    "result": {"version-rolling": true, "version-rolling.mask": "1fffe000"},
                })),
                _ => {
                    let (said, _) = talk.say(&json!({
                        "id": request["id"], "error": null, "result": [[], "deadbeef", 4],
                    }));
                    assert_eq!(said[0]["method"], "mining.authorize");
                    assert_eq!(said[0]["params"], json!(["alice.rig", "secret"]));
                    let (said, event) =
                        talk.say(&json!({"id": said[0]["id"], "result": true, "error": null}));
                    assert_eq!(said[0]["method"], "mining.suggest_difficulty");
                    assert_eq!(said[0]["params"], json!([0.5]));
                    assert!(event.is_none());
                }
            }
        }
        talk
    }

    fn start(&mut self) -> Vec<Value> {
        let mut out = Vec::new();
        self.session.start(self.now, &mut out);
        lines(&out)
    }

    fn try_say(&mut self, line: &[u8]) -> Result<(Vec<Value>, Option<Event>), SessionError> {
        let mut out = Vec::new();
        let event = self.session.handle_line(line, self.now, &mut out)?;
        Ok((lines(&out), event))
    }

    fn say(&mut self, message: &Value) -> (Vec<Value>, Option<Event>) {
        self.try_say(message.to_string().as_bytes()).unwrap()
    }

    fn hear_nothing(&mut self, message: &Value) {
        let (said, event) = self.say(message);
        assert!(said.is_empty() && event.is_none(), "{said:?} {event:?}");
    }

    fn notify(&mut self, job: &str, clean: bool) -> Arc<Work> {
        let mut notify: Value = serde_json::from_str(NOTIFY).unwrap();
        notify["params"][0] = json!(job);
        notify["params"][8] = json!(clean);
        match self.say(&notify).1 {
            Some(Event::Work(work)) => work,
            other => panic!("no work: {other:?}"),
        }
    }

    fn submit(&mut self, share: &Share) -> Option<Value> {
        let mut out = Vec::new();
        match self.session.submit(share, self.now, &mut out) {
            Submission::Sent => lines(&out).pop(),
            Submission::Stale => {
                assert!(out.is_empty());
                None
            }
        }
    }
}

fn lines(out: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(out).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn share(work: &Arc<Work>) -> Share {
    let claim = work.claim().unwrap();
    Share {
        work: work.clone(),
        nonce: claim.header.nonce + NONCES_PER_CLAIM / 2,
        extranonce2: claim.extranonce2,
        version_bits: claim.version_bits,
    }
}

#[test]
fn a_share_says_what_was_hashed() {
    let mut talk = Conversation::mining(true);
    let work = talk.notify("job 1", true);
    assert_eq!(
        work.template().coinbase_start,
        [1, 2, 0xde, 0xad, 0xbe, 0xef]
    );
    assert_eq!(work.template().coinbase_end, [3, 4]);
    share(&work);
    let share = share(&work);
    assert_ne!(share.version_bits, 0);
    let sent = talk.submit(&share).unwrap();
    assert_eq!(sent["method"], "mining.submit");
    assert_eq!(
        sent["params"],
        json!([
            "alice.rig",
            "job 1",
            hex::encode(&share.extranonce2),
            "65000000",
            format!("{:08x}", share.nonce),
            format!("{:08x}", share.version_bits),
        ])
    );
}

#[test]
fn without_version_rolling_nothing_is_asked_and_nothing_rolled() {
    let mut talk = Conversation::mining(false);
    talk.hear_nothing(
        &json!({"id": null, "method": "mining.set_version_mask", "params": ["1fffe000"]}),
    );
    let work = talk.notify("a", true);
    let share = share(&work);
    assert_eq!(share.version_bits, 0);
    let sent = talk.submit(&share).unwrap();
    assert_eq!(sent["params"].as_array().unwrap().len(), 5);
}

#[test]
fn a_server_that_never_answers_configure_gives_work_all_the_same() {
    let mut talk = Conversation::new(true);
    let asked = talk.start();
    assert_eq!(asked[0]["method"], "mining.configure");
    let (said, _) =
        talk.say(&json!({"id": asked[1]["id"], "result": [[], "00", 8], "error": null}));
    talk.say(&json!({"id": said[0]["id"], "result": true, "error": null}));
    assert_eq!(talk.session.waiting_since(), None);
    let work = talk.notify("a", true);
    let sent = talk.submit(&share(&work)).unwrap();
    assert_eq!(sent["params"].as_array().unwrap().len(), 5);
}

#[test]
fn work_that_came_before_the_authorization_is_hashed_after_it() {
    let mut talk = Conversation::new(false);
    let asked = talk.start();
    talk.hear_nothing(&serde_json::from_str(NOTIFY).unwrap());
    let (said, _) =
        talk.say(&json!({"id": asked[0]["id"], "result": [[], "00", 8], "error": null}));
    talk.hear_nothing(&serde_json::from_str(NOTIFY).unwrap());
    let (_, event) = talk.say(&json!({"id": said[0]["id"], "result": true, "error": null}));
    assert!(matches!(event, Some(Event::Work(_))), "{event:?}");
}

#[test]
fn a_difficulty_is_in_force_from_the_next_notify() {
    let mut talk = Conversation::mining(true);
    let first = talk.notify("a", true);
    assert_eq!(first.difficulty, Difficulty::ONE);
    talk.hear_nothing(&json!({"id": null, "method": "mining.set_difficulty", "params": [0.25]}));
    // A mask renews the current job, which keeps its difficulty.
    let (_, event) =
        talk.say(&json!({"id": null, "method": "mining.set_version_mask", "params": ["00002000"]}));
    match event {
        Some(Event::Work(work)) => assert_eq!(work.difficulty, Difficulty::ONE),
        other => panic!("{other:?}"),
    }
    let second = talk.notify("b", false);
    assert_eq!(second.difficulty.value(), 0.25);
    assert_eq!(second.target, Difficulty::new(0.25).unwrap().target());
}

#[test]
fn a_clean_job_makes_older_work_stale_and_another_does_not() {
    let mut talk = Conversation::mining(true);
    let first = talk.notify("a", true);
    let second = talk.notify("b", false);
    assert!(talk.submit(&share(&first)).is_some());
    assert!(talk.submit(&share(&second)).is_some());
    let third = talk.notify("c", true);
    assert!(talk.submit(&share(&first)).is_none());
    assert!(talk.submit(&share(&second)).is_none());
    assert!(talk.submit(&share(&third)).is_some());
}

#[test]
fn a_share_of_an_earlier_connection_is_stale() {
    let work = Conversation::mining(true).notify("a", true);
    let mut talk = Conversation::mining(true);
    talk.notify("a", false);
    assert!(talk.submit(&share(&work)).is_none());
}

#[test]
fn an_extranonce_is_in_force_from_the_next_notify() {
    let mut talk = Conversation::mining(true);
    let first = talk.notify("a", true);
    talk.hear_nothing(
        &json!({"id": null, "method": "mining.set_extranonce", "params": ["cafe", 2]}),
    );
    assert!(talk.submit(&share(&first)).is_some());
    let second = talk.notify("b", false);
    assert_eq!(second.template().coinbase_start, [1, 2, 0xca, 0xfe]);
    assert_eq!(share(&second).extranonce2.len(), 2);
    assert!(talk.submit(&share(&first)).is_none());
}

#[test]
fn a_mask_is_in_force_at_once_and_never_leaves_the_general_purpose_bits() {
    let mut talk = Conversation::mining(true);
    let first = talk.notify("a", true);
    share(&first);
    let rolled = share(&first);
    let (_, event) =
        talk.say(&json!({"id": null, "method": "mining.set_version_mask", "params": ["e0000000"]}));
    match event {
        Some(Event::Work(work)) => {
            assert_eq!(work.template().version_mask, 0);
            assert_eq!(work.job_id, "a");
            let sent = talk.submit(&share(&work)).unwrap();
            assert_eq!(sent["params"][5], "00000000");
        }
        other => panic!("{other:?}"),
    }
    assert!(talk.submit(&rolled).is_none());
}

#[test]
fn answers_are_matched_by_id_in_any_order() {
    let mut talk = Conversation::mining(true);
    let work = talk.notify("a", true);
    let sent: Vec<Value> = (0..3)
        .map(|_| talk.submit(&share(&work)).unwrap())
        .collect();
    assert_eq!(talk.session.unanswered_shares(), 3);
    let (_, event) = talk
        .say(&json!({"id": sent[2]["id"], "result": null, "error": [22, "Duplicate\u{1b}", null]}));
    match event {
        Some(Event::Rejected(_, Reason::Duplicate, words)) => assert_eq!(words, "Duplicate "),
        other => panic!("{other:?}"),
    }
    let (_, event) = talk.say(&json!({"id": sent[0]["id"], "result": true, "error": null}));
    assert!(matches!(event, Some(Event::Accepted(_))), "{event:?}");
    let (_, event) = talk.say(&json!({"id": sent[1]["id"], "result": false, "error": null}));
    assert!(
        matches!(event, Some(Event::Rejected(_, Reason::Other, _))),
        "{event:?}"
    );
    assert_eq!(talk.session.unanswered_shares(), 0);
    assert_eq!(talk.session.waiting_since(), None);
    // A second answer to the same share counts nothing.
    talk.hear_nothing(&json!({"id": sent[0]["id"], "result": true, "error": null}));
}

#[test]
fn the_usual_codes_are_told_apart() {
    let reasons = [
        (20, Reason::Other),
        (21, Reason::JobNotFound),
        (22, Reason::Duplicate),
        (23, Reason::LowDifficulty),
        (24, Reason::Unauthorized),
        (25, Reason::NotSubscribed),
        (-3, Reason::Other),
    ];
    for (code, reason) in reasons {
        assert_eq!(Reason::from_code(code), reason);
    }
}

#[test]
fn a_server_that_does_not_answer_gets_no_more_shares() {
    let mut talk = Conversation::mining(true);
    let work = talk.notify("a", true);
    let mut sent = 0;
    while talk.session.can_submit() {
        talk.submit(&share(&work)).unwrap();
        sent += 1;
        assert!(sent <= MAX_UNANSWERED);
    }
    assert!(talk.session.waiting_since().is_some());
}

#[test]
fn a_refusal_ends_the_session_with_the_servers_words() {
    let mut talk = Conversation::new(false);
    let asked = talk.start();
    let refusal = |id: &Value| json!({"id": id, "result": null, "error": [20, "no", null]});
    let error = talk.try_say(refusal(&asked[0]["id"]).to_string().as_bytes());
    assert_eq!(error.unwrap_err(), SessionError::Subscribe("no".to_owned()));

    let mut talk = Conversation::new(false);
    let asked = talk.start();
    let (said, _) =
        talk.say(&json!({"id": asked[0]["id"], "result": [[], "00", 8], "error": null}));
    let error = talk.try_say(refusal(&said[0]["id"]).to_string().as_bytes());
    assert_eq!(error.unwrap_err(), SessionError::Authorize("no".to_owned()));
}

#[test]
fn a_servers_requests_are_answered() {
    let mut talk = Conversation::mining(true);
    let (said, _) = talk.say(&json!({"id": 7, "method": "client.get_version", "params": []}));
    assert_eq!(said[0]["id"], 7);
    assert_eq!(said[0]["result"], USER_AGENT);
    let (said, _) = talk.say(&json!({"id": 8, "method": "client.dance", "params": []}));
    assert_eq!(said[0]["id"], 8);
    assert_eq!(said[0]["error"][0], 20);
    talk.hear_nothing(&json!({"id": null, "method": "client.dance", "params": []}));
    let (_, event) =
        talk.say(&json!({"id": null, "method": "client.reconnect", "params": ["evil", 1, 5]}));
    assert!(matches!(event, Some(Event::Reconnect(5))), "{event:?}");
}

#[test]
fn a_few_lines_of_nonsense_are_borne_and_many_are_not() {
    let mut talk = Conversation::mining(true);
    for _ in 0..MAX_MALFORMED {
        let (_, event) = talk.try_say(b"<html>").unwrap();
        assert!(matches!(event, Some(Event::Malformed(_))), "{event:?}");
    }
    talk.notify("a", true);
    assert!(matches!(
        talk.try_say(b"<html>"),
        Err(SessionError::Malformed(_))
    ));
}

/// Lines that a broken or hostile server might send, in a session that has asked for everything.
fn hostile_line() -> impl Strategy<Value = Vec<u8>> {
    let scalar = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!(u32::MAX)),
        "[0-9a-f]{0,80}".prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!([[], "00", u64::MAX])),
        Just(json!([[], "00112233", 0])),
        Just(json!([21, "stale", null])),
        Just(json!({"version-rolling": true, "version-rolling.mask": "ffffffff"})),
    ];
    let method = prop::sample::select(vec![
        "mining.notify",
        "mining.set_difficulty",
        "mining.set_extranonce",
        "mining.set_version_mask",
        "client.show_message",
        "client.get_version",
        "client.unheard_of",
    ]);
    let answer = (0u64..12, scalar.clone(), scalar.clone())
        .prop_map(|(id, result, error)| json!({"id": id, "result": result, "error": error}));
    let call = (scalar.clone(), method, prop::collection::vec(scalar, 0..10))
        .prop_map(|(id, method, params)| json!({"id": id, "method": method, "params": params}));
    let good_answer = (0u64..12, any::<bool>())
        .prop_map(|(id, ok)| json!({"id": id, "result": ok, "error": null}));
    prop_oneof![
        3 => answer.prop_map(|line| line.to_string().into_bytes()),
        3 => good_answer.prop_map(|line| line.to_string().into_bytes()),
        3 => call.prop_map(|line| line.to_string().into_bytes()),
        2 => Just(NOTIFY.as_bytes().to_vec()),
        2 => (0..NOTIFY.len()).prop_map(|cut| NOTIFY.as_bytes()[..cut].to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..100),
    ]
}

#[test]
fn an_extranonce_beyond_all_bounds_is_refused() {
    for size in [33, u64::from(u32::MAX), u64::MAX] {
        let mut talk = Conversation::mining(true);
        let (_, event) = talk
            .say(&json!({"id": null, "method": "mining.set_extranonce", "params": ["cafe", size]}));
        assert!(matches!(event, Some(Event::Malformed(_))), "{event:?}");

        let mut talk = Conversation::new(false);
        let asked = talk.start();
        let answer = json!({"id": asked[0]["id"], "result": [[], "00", size], "error": null});
        let refused = talk.try_say(answer.to_string().as_bytes());
        assert!(
            matches!(refused, Err(SessionError::Subscribe(_))),
            "{refused:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_server_makes_a_session_panic_or_grow(
        mining: bool, lines in prop::collection::vec(hostile_line(), 1..80),
    ) {
        let mut talk = if mining { Conversation::mining(true) } else { Conversation::new(true) };
        if !mining {
            talk.start();
        }
        for line in lines {
            let Ok((said, event)) = talk.try_say(&line) else { break };
            prop_assert!(said.len() <= 1, "one line begets one answer: {said:?}");
            if let Some(Event::Work(work)) = event && talk.session.can_submit() {
                let share = share(&work);
                talk.submit(&share);
            }
            prop_assert!(talk.session.unanswered.len() <= MAX_UNANSWERED);
        }
    }
}

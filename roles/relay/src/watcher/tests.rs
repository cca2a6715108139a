use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const LIMITS: LineLimits = LineLimits {
    miner: 1024,
    pool: 2048,
};

fn watcher() -> Watcher {
    Watcher::new(LIMITS)
}

fn submit(id: u32, job: &str) -> String {
    format!(
        r#"{{"id":{id},"method":"mining.submit","params":["a.b","{job}","00000000","00000000","00000000"]}}"#
    ) + "\n"
}

fn notify(job: &str, clean: bool) -> String {
    let zeros = "0".repeat(64);
    format!(
        r#"{{"id":null,"method":"mining.notify","params":["{job}","{zeros}","00","00",[],"20000000","1d00ffff","00000000",{clean}]}}"#
    ) + "\n"
}

fn difficulty(value: f64) -> String {
    format!(r#"{{"id":null,"method":"mining.set_difficulty","params":[{value}]}}"#) + "\n"
}

fn accept(id: u32) -> String {
    format!(r#"{{"id":{id},"result":true,"error":null}}"#) + "\n"
}

fn refuse(id: u32, code: u32) -> String {
    format!(r#"{{"id":{id},"result":null,"error":[{code},"no",null]}}"#) + "\n"
}

fn authorize(id: u32, user: &str) -> String {
    format!(r#"{{"id":{id},"method":"mining.authorize","params":["{user}","x"]}}"#) + "\n"
}

/// Shows lines of both, told apart by who says them.
fn show(watcher: &mut Watcher, lines: &[(Side, String)]) -> Totals {
    let now = Instant::now();
    for (side, line) in lines {
        match side {
            Side::Miner => watcher.miner_said(line.as_bytes(), now),
            Side::Pool => watcher.pool_said(line.as_bytes(), now),
        }
    }
    watcher.take().totals
}

use crate::pump::Side::{self, Miner, Pool};

fn work(difficulty: f64) -> u128 {
    Difficulty::new(difficulty).unwrap().target().work()
}

#[test]
fn a_share_is_worth_what_its_job_asked_when_it_was_sent() {
    let totals = show(
        &mut watcher(),
        &[
            (Pool, notify("before", false)),
            (Pool, difficulty(1000.0)),
            (Pool, notify("hard", false)),
            (Pool, difficulty(10.0)),
            (Miner, submit(1, "hard")),
            (Pool, accept(1)),
            (Pool, notify("easy", false)),
            (Miner, submit(2, "easy")),
            // The answer comes after another change.
            (Pool, difficulty(5.0)),
            (Pool, accept(2)),
            (Miner, submit(3, "before")),
            (Pool, accept(3)),
        ],
    );
    assert_eq!(totals.accepted, 3);
    assert_eq!(totals.noticed.difficulty_changes, 3);
    assert_eq!(totals.work, work(1000.0) + work(10.0) + work(1.0));
}

#[test]
fn a_job_that_is_not_known_is_worth_the_least_that_it_can_be() {
    let mut watcher = watcher();
    let mut lines = vec![(Pool, difficulty(7.0))];
    for job in 0..200 {
        lines.push((Pool, notify(&job.to_string(), false)));
    }
    lines.extend([
        (Pool, difficulty(9.0)),
        (Pool, notify("now", false)),
        (Miner, submit(1, "0")),
        (Pool, accept(1)),
        // From before the last clean job, but not before the one before that.
        (Pool, notify("clean", true)),
        (Miner, submit(2, "now")),
        (Pool, accept(2)),
        (Pool, notify("cleaner", true)),
        (Pool, notify("cleanest", true)),
        (Miner, submit(3, "199")),
        (Pool, accept(3)),
    ]);
    let totals = show(&mut watcher, &lines);
    assert_eq!(totals.work, work(7.0) + work(9.0) + work(9.0));
}

#[test]
fn refusals_are_told_apart_by_the_codes_of_sv1() {
    let mut lines = Vec::new();
    for (id, code) in [20, 21, 22, 23, 24, 25, 999].into_iter().enumerate() {
        let id = u32::try_from(id).unwrap();
        lines.push((Miner, submit(id, "j")));
        lines.push((Pool, refuse(id, code)));
    }
    lines.push((Miner, submit(50, "j")));
    lines.push((
        Pool,
        "{\"id\":50,\"result\":false,\"error\":null}\n".to_owned(),
    ));
    let totals = show(&mut watcher(), &lines);
    assert_eq!((totals.submits, totals.accepted, totals.work), (8, 0, 0));
    assert_eq!(totals.rejected, [3, 1, 1, 1, 1, 1]);
}

#[test]
fn answers_belong_to_the_requests_of_their_ids() {
    let totals = show(
        &mut watcher(),
        &[
            (Miner, authorize(7, "a.b")),
            (Miner, submit(8, "j")),
            (Miner, submit(9, "j")),
            (Pool, refuse(9, 23)),
            (Pool, accept(7)),
            (Pool, accept(8)),
            // Nobody asked.
            (Pool, accept(8)),
            // Ids as text, and the same id twice.
            (Miner, submit(8, "j").replacen(":8", ":\"8\"", 1)),
            (Miner, submit(8, "j")),
            (Miner, submit(8, "j")),
            (Pool, accept(8)),
            (Pool, accept(8).replacen(":8", ":\"8\"", 1)),
            (Pool, refuse(8, 22)),
        ],
    );
    assert_eq!((totals.submits, totals.accepted), (5, 3));
    assert_eq!(totals.rejected, [0, 0, 1, 1, 0, 0]);
    assert_eq!(totals.noticed.unmatched, 1);
}

#[test]
fn an_answer_takes_as_long_as_from_its_request() {
    let (mut watcher, start) = (watcher(), Instant::now());
    watcher.miner_said(submit(1, "j").as_bytes(), start);
    let later = start + Duration::from_millis(30);
    watcher.pool_said(accept(1).as_bytes(), later);
    let answers = watcher.take().answers;
    assert_eq!(answers, [(Kind::Submit, Duration::from_millis(30))]);
}

#[test]
fn a_name_is_the_miners_when_the_pool_has_accepted_it() {
    let mut watcher = watcher();
    let subscribe = r#"{"id":0,"method":"mining.subscribe","params":["firmware/1.2"]}"#;
    let mut turn = |side, line: &str| {
        show(&mut watcher, &[(side, line.to_owned())]);
        watcher.user().map(str::to_owned)
    };
    turn(Miner, &(subscribe.to_owned() + "\n"));
    assert_eq!(turn(Miner, &authorize(1, "somebody.else")), None);
    assert_eq!(turn(Pool, &refuse(1, 24)), None);
    assert_eq!(turn(Miner, &authorize(2, "me.1")), None);
    assert_eq!(turn(Miner, &authorize(3, "me.2")), None);
    assert_eq!(turn(Pool, &accept(2)), Some("me.1".into()));
    assert_eq!(turn(Pool, &accept(3)), Some("me.1".into()));
    assert_eq!(watcher.user_agent(), Some("firmware/1.2"));
}

#[test]
fn a_long_name_is_kept_with_both_its_ends() {
    let mut watcher = Watcher::new(LineLimits {
        miner: 16 * 1024,
        pool: 2048,
    });
    let name = format!("acme.{}.site", "ü".repeat(4_000));
    show(
        &mut watcher,
        &[(Miner, authorize(1, &name)), (Pool, accept(1))],
    );
    let kept = watcher.user().unwrap();
    assert!(kept.len() <= 2 * NAME_ENDS);
    assert!(kept.starts_with("acme.ü") && kept.ends_with("ü.site"));
}

#[test]
fn a_name_is_the_miners_however_the_pool_says_yes() {
    for (yes, user) in [
        ("true", Some("me.1")),
        (r#"{"status":"OK"}"#, Some("me.1")),
        ("false", None),
        ("null", None),
    ] {
        let mut watcher = watcher();
        let answer = accept(1).replace("true", yes);
        show(
            &mut watcher,
            &[(Miner, authorize(1, "me.1")), (Pool, answer)],
        );
        assert_eq!(watcher.user(), user, "{yes}");
    }
}

#[test]
fn no_name_is_the_miners_by_the_answer_to_something_else() {
    let mut watcher = watcher();
    let ping = authorize(1, "x").replace("mining.authorize", "mining.ping");
    show(
        &mut watcher,
        &[
            (Miner, authorize(1, "victim.1")),
            (Miner, ping),
            (Pool, accept(1)),
            (Pool, refuse(1, 24)),
        ],
    );
    assert_eq!(watcher.user(), None);
}

#[test]
fn requests_without_an_answer_are_bounded_and_hide_no_share() {
    let (mut watcher, start) = (watcher(), Instant::now());
    for id in 0..5_000 {
        watcher.miner_said(submit(id, "j").as_bytes(), start);
    }
    let totals = watcher.take().totals;
    assert_eq!((totals.submits, totals.noticed.unmatched), (5_000, 3_976));
    // Those that are not followed any more are accepted all the same.
    for id in 0..5_000 {
        watcher.pool_said(accept(id).as_bytes(), start);
    }
    assert_eq!(watcher.take().totals.accepted, 5_000);
    watcher.pool_said(accept(5_001).as_bytes(), start);
    assert_eq!(watcher.take().totals.accepted, 0);
}

#[test]
fn a_request_that_is_never_answered_shifts_no_later_answer_for_good() {
    let (mut watcher, start) = (watcher(), Instant::now());
    watcher.miner_said(submit(4, "j").as_bytes(), start);
    let later = start + Duration::from_secs(301);
    watcher.miner_said(submit(4, "j").as_bytes(), later);
    watcher.pool_said(accept(4).as_bytes(), later);
    let seen = watcher.take();
    assert_eq!(seen.answers, [(Kind::Submit, Duration::ZERO)]);
    assert_eq!(seen.totals.accepted, 1);
}

#[test]
fn nothing_that_a_miner_says_beside_its_shares_hides_one() {
    let other = |method: &str| authorize(7, "x").replace("mining.authorize", method);
    let as_id = |id: &str| submit(7, "j").replace(":7", id);
    let says = |id: &str| accept(7).replace(":7", id);
    for (what, lines) in [
        (
            "a method that pools ignore",
            vec![(Miner, other("x")), (Miner, submit(7, "j"))],
        ),
        (
            "a name that is refused",
            vec![
                (Miner, authorize(7, "victim.1")),
                (Miner, submit(7, "j")),
                (Pool, refuse(7, 24)),
            ],
        ),
        (
            "a flood of what pools ignore",
            (0..5_000)
                .map(|id| (Miner, other("x").replace(":7", &format!(":{id}"))))
                .chain([(Miner, submit(7, "j"))])
                .collect(),
        ),
        (
            "a key that is escaped",
            vec![(Miner, submit(7, "j").replace("method", "m\\u0065thod"))],
        ),
        (
            "the same behind a method that pools ignore",
            vec![
                (Miner, other("x")),
                (Miner, submit(7, "j").replace("method", "m\\u0065thod")),
            ],
        ),
        (
            "a method in another case",
            vec![(Miner, other("Mining.submit"))],
        ),
        (
            "a method that begins as the right one",
            vec![(Miner, other("mining.submitted"))],
        ),
        (
            "a line that is too long to be looked at",
            vec![(
                Miner,
                submit(7, "j").replace('{', &format!("{{{}", " ".repeat(2_000))),
            )],
        ),
        (
            "lines that nobody reads",
            vec![
                (Miner, as_id(":null")),
                (Miner, "}\n".into()),
                (Pool, refuse(7, 20).replace(":7", ":null")),
                (Pool, accept(7).replace(":7", ":null")),
                // Of the first; the other one is for all cases.
                (Miner, submit(7, "j")),
            ],
        ),
    ] {
        let mut watcher = watcher();
        show(&mut watcher, &lines);
        let mut totals = show(&mut watcher, &[]);
        totals.add(&show(&mut watcher, &[(Pool, accept(7))]));
        assert_eq!(totals.accepted, 1, "{what}");
        assert!(totals.work > 0, "{what}");
    }
    for (id, answered) in [
        (":null", ":null"),
        (":1.0", ":1"),
        (":\"\\u0061\"", ":\"a\""),
        (":\"x\"", ":0"),
        (":4294967297", ":1"),
    ] {
        let lines = [(Miner, as_id(id)), (Pool, says(answered))];
        assert_eq!(show(&mut watcher(), &lines).accepted, 1, "{id}");
    }
}

#[test]
fn shares_that_no_line_end_parts_are_billed_each() {
    let all = |shares: std::ops::Range<u32>| {
        let lines = shares.map(|id| submit(id, "j").trim_end().to_owned());
        lines.collect::<String>()
    };
    // In one line, and in one that never ends.
    for (shares, end) in [(5, "\n"), (200, "")] {
        let mut watcher = watcher();
        show(&mut watcher, &[(Miner, all(0..shares) + end)]);
        let answers: Vec<_> = (0..shares).map(|id| (Pool, accept(id))).collect();
        let totals = show(&mut watcher, &answers);
        let counted = (totals.submits, totals.accepted);
        assert_eq!(counted, (shares.into(), shares.into()));
        assert_eq!(totals.work, u128::from(shares) * work(1.0));
    }
}

#[test]
fn what_was_never_asked_is_no_share() {
    let mut watcher = watcher();
    let lines: Vec<_> = (0..10).map(|id| (Pool, accept(id))).collect();
    assert_eq!(show(&mut watcher, &lines).accepted, 0);
    let lines = [
        (Miner, submit(1, "j")),
        (Pool, accept(2)),
        (Pool, refuse(1, 23)),
        (Pool, accept(1)),
    ];
    let totals = show(&mut watcher, &lines);
    assert_eq!((totals.accepted, totals.rejected[3]), (0, 1));
}

#[test]
fn what_cannot_be_read_is_counted_and_changes_nothing_else() {
    let totals = show(
        &mut watcher(),
        &[
            (Miner, "\u{0}\u{1}not json\n[1]\n\n".into()),
            (Miner, submit(1, "j").replace("\"00000000\"", "7")),
            (Miner, format!("{}\n", "x".repeat(LIMITS.miner + 1))),
            (Pool, "}\n".into()),
            (Pool, difficulty(-1.0)),
            (Pool, difficulty(1e300).replace("[1", "[1e9")),
            (Pool, format!("{}\n", "x".repeat(LIMITS.pool + 1))),
            // A share that only the pool could read.
            (Pool, accept(1)),
        ],
    );
    assert_eq!((totals.submits, totals.accepted), (1, 1));
    assert_eq!(totals.noticed.oversized_lines, 2);
    assert_eq!(totals.noticed.malformed_lines, 2 + 1 + 3);
}

#[test]
fn a_share_that_nobody_has_the_hashes_for_is_counted_and_makes_no_sum_wrong() {
    let mut watcher = watcher();
    for (value, is_billed) in [
        (f64::MAX, false),
        (4e21, false),
        (2.8e14, true),
        (1.0, true),
    ] {
        let totals = show(
            &mut watcher,
            &[
                (Pool, difficulty(value)),
                (Pool, notify("j", true)),
                (Miner, submit(1, "j")),
                (Pool, accept(1)),
            ],
        );
        let expected = if is_billed { work(value) } else { 0 };
        assert_eq!((totals.accepted, totals.work), (1, expected), "{value}");
        assert_eq!(totals.noticed.implausible_shares, u64::from(!is_billed));
    }
}

fn any_line() -> impl Strategy<Value = (Side, String)> {
    let job = prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        (0u32..4, job.clone()).prop_map(|(id, job)| (Miner, submit(id, job))),
        (0u32..4).prop_map(|id| (Miner, authorize(id, "a.b"))),
        (0u32..4).prop_map(|id| (Pool, accept(id))),
        (0u32..4).prop_map(|id| (Pool, refuse(id, 21))),
        (job, any::<bool>()).prop_map(|(job, clean)| (Pool, notify(job, clean))),
        (0.001f64..1e6).prop_map(|value| (Pool, difficulty(value))),
        Just((Miner, "x".repeat(2_000) + "\n")),
        Just((Pool, "\r\n".to_owned())),
        "[ -~]{0,20}\n".prop_map(|line| (Miner, line)),
    ]
}

proptest! {
    #[test]
    fn counts_are_the_same_however_the_bytes_are_cut(
        lines in prop::collection::vec(any_line(), 0..40),
        cuts in prop::collection::vec(1usize..50, 1..50),
    ) {
        let (mut whole, mut cut) = (watcher(), watcher());
        let expected = show(&mut whole, &lines);
        let mut sizes = cuts.iter().cycle();
        let mut pieces = Vec::new();
        for (side, line) in &lines {
            let mut rest = line.as_str();
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                pieces.push((*side, piece.to_owned()));
                rest = more;
            }
        }
        prop_assert_eq!(show(&mut cut, &pieces), expected);
        prop_assert_eq!(cut.user(), whole.user());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let mut watcher = watcher();
        watcher.miner_said(&bytes, Instant::now());
        watcher.pool_said(&bytes, Instant::now());
    }
}

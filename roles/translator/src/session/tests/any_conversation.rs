//! Whatever comes, in whatever order, the counts add up.

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
        2 => wish(),
        1 => any::<Vec<u8>>().prop_map(Step::Bytes),
        4 => (0u8..13, 0u32..20).prop_map(|(event, number)| Step::Event(event, number)),
        1 => (0u64..400).prop_map(Step::Wait),
    ]
}

/// Something about difficulty or versions, with whatever number.
fn wish() -> impl Strategy<Value = Step> {
    let number = prop_oneof![
        any::<f64>().prop_map(|number| number.to_string()),
        (-40..40).prop_map(|exponent| format!("1e{exponent}")),
        Just("null".to_owned()),
    ];
    (0..6, number).prop_map(|(kind, number)| {
        let (method, params) = match kind {
            0 => ("suggest_difficulty", format!("[{number}]")),
            1 => ("authorize", format!(r#"["account.worker","d={number},x"]"#)),
            2 => (
                "authorize",
                format!(r#"["account.worker","fd={number};th={number}"]"#),
            ),
            3 => (
                "configure",
                format!(r#"[["minimum-difficulty"],{{"minimum-difficulty.value":{number}}}]"#),
            ),
            4 => (
                "configure",
                r#"[["version-rolling"],{"version-rolling.mask":"00ffe000"}]"#.to_owned(),
            ),
            _ => ("multi_version", "[4]".to_owned()),
        };
        Step::Line(format!(
            r#"{{"id":1,"method":"mining.{method}","params":{params}}}"#
        ))
    })
}

proptest! {
    #[test]
    fn every_share_is_counted_once_whatever_happens(
        steps in prop::collection::vec(step(), 0..120), upstream_acknowledges: bool, aggregate: bool,
    ) {
        let mut miner = Conversation::mining(|settings| {
            settings.max_malformed_lines = u32::MAX;
            settings.max_in_flight = usize::MAX;
            settings.aggregate = aggregate.then_some(6.0);
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
                Step::Event(7, _) => drop(miner.event(ChannelEvent::Refused(String::new()))),
                Step::Event(8, _) => drop(miner.move_upstream()),
                Step::Event(9, _) => drop(miner.leaving_event(ChannelEvent::UpstreamDown)),
                Step::Event(10, number) => drop(miner.leaving_event(ChannelEvent::Accepted {
                    last_sequence_number: number,
                    count: u64::from(number % 5),
                })),
                Step::Event(11, number) => drop(miner.leaving_event(ChannelEvent::Rejected {
                    sequence_number: number,
                    reason: RejectReason::UpstreamOther,
                })),
                Step::Event(_, number) => {
                    let target = if number % 2 == 0 { Target::MAX } else { Difficulty::new(1e-9).unwrap().target() };
                    let work = miner.next_work([u8::try_from(number % 3).unwrap(); 32], target);
                    miner.leaving_event(ChannelEvent::Work(work));
                }
            }
            for request in miner.requests() {
                let (Request::Open(OpenChannel { hashrate, .. }) | Request::Update { hashrate, .. }) = request else {
                    continue;
                };
                // SV2 carries it as a 32-bit float.
                #[allow(clippy::cast_possible_truncation)]
                let on_the_wire = hashrate.value() as f32;
                prop_assert!(on_the_wire.is_finite());
            }
            prop_assert!(miner.tally_adds_up());
            let forwarded = miner.session.tally().forwarded;
            prop_assert!(miner.session.tally().accepted <= forwarded + miner.session.tally().kept);
        }
        miner.session.abandon(&mut miner.out);
        prop_assert_eq!(miner.session.tally().in_flight, 0);
        prop_assert!(miner.tally_adds_up());
    }
}

//! No target is easier than the client allows, whatever happens.

use super::*;

/// Something that happens to a channel.
#[derive(Debug, Clone)]
enum Event {
    Update { hashrate: f32, limit: i32 },
    Shares { count: u32 },
    Tip { nbits: u32 },
    Wait { seconds: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (-5.0f32..25.0, -8i32..60).prop_map(|(power, limit)| Event::Update {
            hashrate: 10f32.powf(power),
            limit
        }),
        (1u32..200).prop_map(|count| Event::Shares { count }),
        prop_oneof![
            Just(0x207f_ffff),
            Just(0x1e0f_ffff),
            Just(0x1d00_ffff),
            Just(0x1702_5ced)
        ]
        .prop_map(|nbits| Event::Tip { nbits }),
        (1u64..4000).prop_map(|seconds| Event::Wait { seconds }),
    ]
}

proptest! {
    /// The code of 2025 asked a channel for a target above its `max_target` and lost every miner over it.
    #[test]
    fn vardiff_asking_above_max_target_never_happens(
        hashrate in -5.0f32..25.0,
        limit in -8i32..60,
        minimum in -10i32..40,
        events in prop::collection::vec(event(), 1..40),
    ) {
        let target = |power: i32| Difficulty::new(2f64.powi(power)).unwrap().target();
        let mut client = Client::set_up(target(minimum), 0);
        client.publish(1, MAIN_NBITS);
        let mut max_target = target(limit);
        let opened = client.open(10f32.powf(hashrate), max_target.to_le_bytes(), 8);
        let mut job = job_of(&opened);
        let mut nonce = 0;
        let mut tip = 1;
        let mut network = Target::from_compact(MAIN_NBITS).unwrap();
        let mut present = match &opened[0] {
            MiningOwned::OpenExtendedMiningChannelSuccess(m) => {
                Target::from_le_bytes(m.target.as_bytes().try_into().unwrap()).unwrap()
            }
            other => panic!("{other}"),
        };
        for event in events {
            let sent = match event {
                Event::Update { hashrate, limit } => {
                    max_target = target(limit);
                    client.ask(Message::UpdateChannel(UpdateChannel {
                        channel_id: CHANNEL,
                        nominal_hash_rate: hashrate,
                        maximum_target: (&max_target.to_le_bytes()).into(),
                    }))
                }
                Event::Shares { count } => (0..count)
                    .flat_map(|_| {
                        nonce += 1;
                        client.submit(CHANNEL, &job, nonce)
                    })
                    .collect(),
                Event::Tip { nbits } => {
                    tip += 1;
                    network = Target::from_compact(nbits).unwrap();
                    let sent = client.publish(tip, nbits);
                    job = job_of(&sent);
                    sent
                }
                Event::Wait { seconds } => client.tick(seconds),
            };
            for message in &sent {
                if let MiningOwned::SetTarget(m) = message {
                    present = Target::from_le_bytes(m.maximum_target.as_bytes().try_into().unwrap()).unwrap();
                }
            }
            prop_assert!(present <= max_target, "{} is easier than {}", present, max_target);
            prop_assert!(present <= target(minimum), "{} is easier than the pool's minimum", present);
            if network <= target(minimum) {
                let hardest = network.min(max_target);
                prop_assert!(present >= hardest, "{} is harder than any block has to be", present);
            }
            prop_assert_eq!(client.session.channel_count(), 1, "the channel is still there");
        }
    }
}

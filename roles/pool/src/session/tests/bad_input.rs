//! What hostile messages do: an answer, nothing, or the end of the session that they came on.

use stratum_core::{
    binary_sv2::{Encodable, GetSize, Seq064K},
    extensions_sv2::{RequestExtensions, RequestExtensionsSuccess},
    mining_sv2::{OpenStandardMiningChannel, SetCustomMiningJob, SetTarget},
    parsers_sv2::{Extensions, ExtensionsNegotiation, IsSv2Message},
};

use super::*;

/// One frame, of which nothing has to be right.
#[derive(Debug, Clone)]
struct Raw {
    extension_type: u16,
    channel_bit: bool,
    message_type: u8,
    payload: Vec<u8>,
}

fn raw<M: IsSv2Message + GetSize + Encodable>(message: M) -> Raw {
    let mut frames = FrameBuffer::new();
    frames.push(message).unwrap();
    let frame = frames.frames().next().unwrap();
    Raw {
        extension_type: frame.extension_type,
        channel_bit: frame.channel_bit,
        message_type: frame.message_type,
        payload: frame.payload.to_vec(),
    }
}

/// Every message that a client may send, and a few that it may not.
fn well_formed() -> Vec<Raw> {
    let custom = SetCustomMiningJob {
        channel_id: CHANNEL,
        request_id: 1,
        token: [1][..].try_into().unwrap(),
        version: 0x2000_0000,
        prev_hash: (&[1; 32]).into(),
        min_ntime: 0,
        nbits: MAIN_NBITS,
        coinbase_tx_version: 2,
        coinbase_prefix: [1][..].try_into().unwrap(),
        coinbase_tx_input_n_sequence: 0,
        coinbase_tx_outputs: [1][..].try_into().unwrap(),
        coinbase_tx_locktime: 0,
        merkle_path: Vec::new().try_into().unwrap(),
    };
    let negotiation = |message| Extensions::ExtensionsNegotiation(message);
    vec![
        raw(CommonMessages::SetupConnection(setup_request(0))),
        raw(Message::OpenStandardMiningChannel(
            OpenStandardMiningChannel {
                request_id: 1,
                user_identity: "bob".try_into().unwrap(),
                nominal_hash_rate: 1.0,
                max_target: (&EASY).into(),
            },
        )),
        raw(Message::OpenExtendedMiningChannel(
            OpenExtendedMiningChannel {
                request_id: 1,
                user_identity: "bob.rig".try_into().unwrap(),
                nominal_hash_rate: 1.0,
                max_target: (&EASY).into(),
                min_extranonce_size: 8,
            },
        )),
        raw(Message::UpdateChannel(UpdateChannel {
            channel_id: CHANNEL,
            nominal_hash_rate: 1.0,
            maximum_target: (&EASY).into(),
        })),
        raw(Message::CloseChannel(CloseChannel {
            channel_id: CHANNEL,
            reason_code: "".try_into().unwrap(),
        })),
        raw(Message::SubmitSharesStandard(SubmitSharesStandard {
            channel_id: CHANNEL,
            sequence_number: 1,
            job_id: 1,
            nonce: 1,
            ntime: 1_700_000_000,
            version: 0x2000_0000,
        })),
        raw(Message::SubmitSharesExtended(SubmitSharesExtended {
            channel_id: CHANNEL,
            sequence_number: 1,
            job_id: 1,
            nonce: 1,
            ntime: 1_700_000_000,
            version: 0x2000_0000,
            extranonce: [0u8; 8][..].try_into().unwrap(),
        })),
        raw(Message::SetCustomMiningJob(custom)),
        raw(Message::SetTarget(SetTarget {
            channel_id: CHANNEL,
            maximum_target: (&EASY).into(),
        })),
        raw(negotiation(ExtensionsNegotiation::RequestExtensions(
            RequestExtensions {
                request_id: 1,
                requested_extensions: Seq064K::new(vec![1, 2, 3]).unwrap(),
            },
        ))),
        raw(negotiation(
            ExtensionsNegotiation::RequestExtensionsSuccess(RequestExtensionsSuccess {
                request_id: 1,
                supported_extensions: Seq064K::new(vec![1, 2, 3]).unwrap(),
            }),
        )),
    ]
}

fn anything() -> impl Strategy<Value = Raw> {
    let message_type = prop_oneof![any::<u8>(), 0x10u8..0x30, Just(0u8)];
    let extension_type = prop_oneof![4 => Just(0u16), 1 => 0u16..4, 1 => 0u16..0x8000];
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    (extension_type, any::<bool>(), message_type, payload).prop_map(
        |(extension_type, channel_bit, message_type, payload)| Raw {
            extension_type,
            channel_bit,
            message_type,
            payload,
        },
    )
}

/// A message that was good before bytes of it were changed, cut off or added.
fn nearly_good() -> impl Strategy<Value = Raw> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let more = prop::collection::vec(any::<u8>(), 0..40);
    let cut = prop::option::of(any::<prop::sample::Index>());
    (prop::sample::select(well_formed()), changes, cut, more).prop_map(
        |(mut raw, changes, cut, more)| {
            for (at, byte) in changes {
                let at = at.index(raw.payload.len());
                raw.payload[at] = byte;
            }
            match cut {
                Some(at) => raw.payload.truncate(at.index(raw.payload.len())),
                None => raw.payload.extend(more),
            }
            raw
        },
    )
}

impl Client {
    /// Hands over a frame and ends the turn; what was said back has to be what a client can read.
    fn suffer(&mut self, raw: &mut Raw, turn: u64) -> Result<(), Fault> {
        let mut out = FrameBuffer::new();
        let frame = Frame {
            extension_type: raw.extension_type,
            channel_bit: raw.channel_bit,
            message_type: raw.message_type,
            payload: &mut raw.payload,
        };
        let result = self.session.handle(frame, self.now, &mut out);
        self.session.end_turn(turn, self.now, &mut out)?;
        self.session.durable(turn, &mut out)?;
        for frame in out.frames() {
            match (frame.extension_type, frame.message_type) {
                (0, 0..0x10) => drop(frame.common().unwrap()),
                (0, _) => drop(frame.mining().unwrap()),
                (extension, kind) => {
                    drop(Extensions::try_from((extension, kind, frame.payload)).unwrap());
                }
            }
        }
        result
    }
}

proptest! {
    #[test]
    fn no_message_of_one_client_makes_the_pool_panic_or_troubles_another(
        messages in prop::collection::vec(prop_oneof![anything(), nearly_good()], 1..40),
        set_up in any::<bool>(),
        flags in prop_oneof![Just(0), Just(REQUIRES_STANDARD_JOBS)],
    ) {
        let mut honest = Client::set_up(Target::MAX, 0);
        honest.publish(1, MAIN_NBITS);
        let job = job_of(&honest.open(0.0, EASY, 8));
        let mut hostile = Client::connect(Target::MAX);
        hostile.session = honest.beside();
        if set_up {
            hostile = hostile.introduced(flags);
            hostile.publish(1, MAIN_NBITS);
            hostile.open(0.0, EASY, 8);
        }
        for (turn, mut message) in (0..).zip(messages) {
            if hostile.suffer(&mut message, turn).is_err() {
                break;
            }
            hostile.now += Duration::from_secs(1);
            let tick = hostile.session.tick(hostile.now, &mut FrameBuffer::new());
            if tick.is_err() {
                break;
            }
        }
        hostile.publish(2, MAIN_NBITS);
        hostile.session.take_found();
        prop_assert_eq!(accepted(&honest.submit(CHANNEL, &job, 1)), 1);
    }
}

#[test]
fn every_message_type_without_a_payload_is_answered_ignored_or_the_end() {
    for message_type in 0..=u8::MAX {
        for extension_type in [0, 1, 2, 0x7fff] {
            let mut client = Client::set_up(Target::MAX, 0);
            client.publish(1, MAIN_NBITS);
            client.open(0.0, EASY, 8);
            let mut raw = Raw {
                extension_type,
                channel_bit: false,
                message_type,
                payload: Vec::new(),
            };
            let result = client.suffer(&mut raw, 0);
            let ignored = extension_type > 1;
            assert_eq!(result.is_ok(), ignored, "{raw:?}: {result:?}");
        }
    }
}

/// Whether a payload begins with a channel id is known from its type; the bit is for those that only pass it on.
#[test]
fn the_channel_bit_decides_nothing() {
    for channel_bit in [false, true] {
        let mut client = Client::set_up(Target::MAX, 0);
        client.publish(1, MAIN_NBITS);
        let job = job_of(&client.open(0.0, EASY, 8));
        let mut share = raw(Message::SubmitSharesExtended(SubmitSharesExtended {
            channel_id: CHANNEL,
            sequence_number: 1,
            job_id: job.job_id,
            nonce: 1,
            ntime: job.ntime,
            version: job.version,
            extranonce: [0u8; 8][..].try_into().unwrap(),
        }));
        share.channel_bit = channel_bit;
        client.suffer(&mut share, 0).unwrap();
        assert_eq!(client.session.take_tally().accepted, 1);
    }
}

#[test]
fn channels_that_do_not_exist_are_answered_and_nothing_else_changes() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let job = job_of(&client.open(0.0, EASY, 8));
    for channel_id in [0, CHANNEL - 1, CHANNEL + 1, u32::MAX] {
        let update = client.ask(Message::UpdateChannel(UpdateChannel {
            channel_id,
            nominal_hash_rate: 1.0,
            maximum_target: (&EASY).into(),
        }));
        assert_eq!(errors(&update), ["invalid-channel-id"]);
        let share = client.submit(channel_id, &job, 1);
        assert_eq!(errors(&share), ["invalid-channel-id"]);
        // SV2 has no answer to it.
        let close = client.ask(Message::CloseChannel(CloseChannel {
            channel_id,
            reason_code: "".try_into().unwrap(),
        }));
        assert!(close.is_empty(), "{close:?}");
    }
    assert_eq!(client.session.channel_count(), 1);
    assert_eq!(accepted(&client.submit(CHANNEL, &job, 1)), 1);
}

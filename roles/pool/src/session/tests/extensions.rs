//! Conversations that use extensions 0x0001 and 0x0002.

use stratum_core::{
    binary_sv2::{Seq064K, to_bytes},
    extensions_sv2::RequestExtensions,
    mining_sv2::{CHANNEL_BIT_SUBMIT_SHARES_EXTENDED, MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED},
    parsers_sv2::{Extensions, ExtensionsNegotiation, Tlv},
};

use super::*;
use ledger::Entry;

impl Client {
    /// Asks for extensions: those that are supported, or those that are not.
    fn negotiate(&mut self, extensions: &[u16]) -> Result<Vec<u16>, Vec<u16>> {
        let request = ExtensionsNegotiation::RequestExtensions(RequestExtensions {
            request_id: 5,
            requested_extensions: Seq064K::new(extensions.to_vec()).unwrap(),
        });
        let mut sent = self
            .send(Extensions::ExtensionsNegotiation(request))
            .unwrap();
        let frame = sent.frames().next().unwrap();
        let answer = (frame.extension_type, frame.message_type, frame.payload);
        match Extensions::try_from(answer).unwrap() {
            Extensions::ExtensionsNegotiation(ExtensionsNegotiation::RequestExtensionsSuccess(
                m,
            )) => {
                assert_eq!(m.request_id, 5);
                Ok(m.supported_extensions.into_inner())
            }
            Extensions::ExtensionsNegotiation(ExtensionsNegotiation::RequestExtensionsError(m)) => {
                assert_eq!(m.request_id, 5);
                assert!(m.required_extensions.into_inner().is_empty());
                Err(m.unsupported_extensions.into_inner())
            }
            other => panic!("{other}"),
        }
    }

    fn named_workers(&self) -> usize {
        match &self.session {
            Session::Mining(mining) => mining.named_workers,
            Session::Setup(_) => 0,
        }
    }

    /// Submits a share that names its worker, and gives what is booked for it.
    fn submit_named(&mut self, job: &Job, nonce: u32, name: &[u8]) -> Vec<Entry> {
        let share = SubmitSharesExtended {
            channel_id: CHANNEL,
            sequence_number: nonce,
            job_id: job.job_id,
            nonce,
            ntime: job.ntime,
            version: job.version,
            extranonce: [0u8; 8][..].try_into().unwrap(),
        };
        let mut payload = to_bytes(share).unwrap();
        payload.extend(Tlv::new(2, 1, name.to_vec()).encode().unwrap());
        let frame = Frame {
            extension_type: 0,
            channel_bit: CHANNEL_BIT_SUBMIT_SHARES_EXTENDED,
            message_type: MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED,
            payload: &mut payload,
        };
        let mut out = FrameBuffer::new();
        self.session.handle(frame, self.now, &mut out).unwrap();
        self.session.end_turn(1, self.now, &mut out).unwrap()
    }
}

fn names(bookings: &[Entry]) -> Vec<(&str, &str, u64)> {
    bookings
        .iter()
        .map(|booking| (&*booking.account, &*booking.worker, booking.shares))
        .collect()
}

#[test]
fn a_client_gets_the_extensions_that_are_spoken_and_hears_of_the_rest() {
    let mut client = Client::set_up(Target::MAX, 0);
    assert_eq!(client.negotiate(&[2]), Ok(vec![2]));
    assert_eq!(client.negotiate(&[1, 2]), Ok(vec![1, 2]));
    assert_eq!(client.negotiate(&[9, 2, 2, 7]), Ok(vec![2]));
    assert_eq!(client.negotiate(&[3, 9]), Err(vec![3, 9]));
    assert_eq!(client.negotiate(&[]), Err(vec![]));
}

#[test]
fn shares_are_booked_for_the_workers_that_they_name_once_that_is_agreed() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let job = job_of(&client.open(0.0, EASY, 8));
    let unasked = client.submit_named(&job, 1, b"one");
    assert_eq!(names(&unasked), [("alice", "rig", 1)]);

    assert_eq!(client.negotiate(&[2]), Ok(vec![2]));
    for (nonce, name, worker) in [
        (2, &b"one"[..], "one"),
        (3, b"alice.two", "two"),
        (4, b"\xff", "rig"),
        (5, b"one", "one"),
    ] {
        let booked = client.submit_named(&job, nonce, name);
        assert_eq!(names(&booked), [("alice", worker, 1)]);
    }
    // A share without a name is the channel's.
    client.submit(CHANNEL, &job, 6);
    assert_eq!(client.session.take_tally().accepted, 6);
    // A refused share makes no name known.
    assert!(client.submit_named(&job, 6, b"three").is_empty());
    assert_eq!(client.named_workers(), 2);
    client.ask(Message::CloseChannel(CloseChannel {
        channel_id: CHANNEL,
        reason_code: "".try_into().unwrap(),
    }));
    assert_eq!(client.named_workers(), 0, "their places are free again");
}

#[test]
fn workers_of_one_channel_are_acknowledged_together_and_booked_apart() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    client.negotiate(&[2]).unwrap();
    let job = job_of(&client.open(0.0, EASY, 8));
    let mut out = FrameBuffer::new();
    let mut booked = Vec::new();
    for (nonce, name) in [(1, b"a"), (2, b"b"), (3, b"a")] {
        booked.extend(client.submit_named(&job, nonce, name));
    }
    assert_eq!(
        names(&booked),
        [("alice", "a", 1), ("alice", "b", 1), ("alice", "a", 1)]
    );
    client.session.durable(1, &mut out).unwrap();
    let acknowledged = parse(out);
    assert_eq!(acknowledged.len(), 1, "{acknowledged:?}");
    assert_eq!(accepted(&acknowledged), 3);
}

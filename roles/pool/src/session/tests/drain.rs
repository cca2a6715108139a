//! How a client hears that the pool stops.

use super::*;

/// What the test's settings have.
const DRAIN: Duration = Duration::from_secs(7);

fn asks_to_reconnect(out: &mut FrameBuffer) -> bool {
    out.frames()
        .filter_map(|frame| frame.common().ok())
        .any(|message| match message {
            CommonMessages::Reconnect(m) => {
                assert!(m.new_host.as_bytes().is_empty(), "to the same host");
                assert_eq!(m.new_port, 0, "and port");
                true
            }
            _ => false,
        })
}

#[test]
fn a_client_is_asked_to_reconnect_and_has_a_moment_for_it() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let job = job_of(&client.open(0.0, EASY, 8));
    let mut out = FrameBuffer::new();
    client.session.drain(client.now, &mut out).unwrap();
    assert!(asks_to_reconnect(&mut out));
    let end = client.now + DRAIN;
    client.tick(5);
    let late = client.submit(CHANNEL, &job, 1);
    assert_eq!(accepted(&late), 1, "what was under way still counts");
    assert_eq!(client.session.deadline(), end);
    let mut out = FrameBuffer::new();
    let fault = client.session.tick(end, &mut out);
    assert!(matches!(fault, Err(Fault::Stopping)), "{fault:?}");
    assert!(!asks_to_reconnect(&mut out), "once is enough");
}

#[test]
fn shares_from_before_are_acknowledged_before_a_client_is_asked_to_leave() {
    for ledger_is_in_time in [true, false] {
        let mut client = Client::set_up(Target::MAX, 0);
        client.publish(1, MAIN_NBITS);
        let job = job_of(&client.open(0.0, EASY, 8));
        let mut out = FrameBuffer::new();
        for turn in 8..10 {
            client.hand_in(CHANNEL, &job, u32::try_from(turn).unwrap());
            client.session.end_turn(turn, client.now, &mut out).unwrap();
        }
        client.session.drain(client.now, &mut out).unwrap();
        client.session.durable(8, &mut out).unwrap();
        assert!(!asks_to_reconnect(&mut out));
        out.clear();
        if ledger_is_in_time {
            client.session.durable(9, &mut out).unwrap();
            assert_eq!(
                out.frames().count(),
                2,
                "an acknowledgement, then the request"
            );
        } else {
            let fault = client.session.tick(client.now + DRAIN, &mut out);
            assert!(matches!(fault, Err(Fault::Stopping)), "{fault:?}");
        }
        assert!(asks_to_reconnect(&mut out));
    }
}

#[test]
fn whoever_has_set_up_nothing_just_goes() {
    let mut stranger = Client::connect(Target::MAX);
    let fault = stranger
        .session
        .drain(stranger.now, &mut FrameBuffer::new());
    assert!(matches!(fault, Err(Fault::Stopping)), "{fault:?}");
}

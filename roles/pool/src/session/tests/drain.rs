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
    client
        .session
        .drain(Farewell::Stopping, client.now, &mut out)
        .unwrap();
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
        client
            .session
            .drain(Farewell::Stopping, client.now, &mut out)
            .unwrap();
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
        .drain(Farewell::Stopping, stranger.now, &mut FrameBuffer::new());
    assert!(matches!(fault, Err(Fault::Stopping)), "{fault:?}");
}

#[test]
fn clients_leave_a_pool_that_has_had_no_templates_for_too_long() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let job = job_of(&client.open(0.0, EASY, 8));
    let mut out = FrameBuffer::new();
    client.session.outage(false, client.now, &mut out).unwrap();
    assert!(out.is_empty());
    client.session.outage(true, client.now, &mut out).unwrap();
    assert!(asks_to_reconnect(&mut out));
    assert_eq!(accepted(&client.submit(CHANNEL, &job, 1)), 1);
    let end = client.now + DRAIN;
    let fault = client.session.tick(end, &mut FrameBuffer::new());
    assert!(matches!(fault, Err(Fault::NoTemplates)), "{fault:?}");
}

#[test]
fn a_client_that_comes_while_there_are_no_templates_is_told_why_it_is_not_taken() {
    for is_over in [false, true] {
        let mut client = Client::connect(Target::MAX);
        let mut out = FrameBuffer::new();
        client.session.outage(true, client.now, &mut out).unwrap();
        client
            .session
            .outage(!is_over, client.now, &mut out)
            .unwrap();
        let mut input = FrameBuffer::new();
        input
            .push(CommonMessages::SetupConnection(setup_request(0)))
            .unwrap();
        let frame = input.frames().next().unwrap();
        let result = client.session.handle(frame, client.now, &mut out);
        let answer = out.frames().next().unwrap();
        match answer.common().unwrap() {
            CommonMessages::SetupConnectionSuccess(_) if is_over => result.unwrap(),
            CommonMessages::SetupConnectionError(m) if !is_over => {
                assert_eq!(m.error_code.as_utf8_or_hex(), "no-templates");
                assert!(matches!(result, Err(Fault::NoTemplates)), "{result:?}");
            }
            other => panic!("{other}"),
        }
    }
}

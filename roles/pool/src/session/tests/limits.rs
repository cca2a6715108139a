//! How long a client may be of no use.

use super::*;

const CHANNEL_SECONDS: u64 = 100;
const IDLE_SECONDS: u64 = 1800;

fn client() -> Client {
    let allowance = Allowance {
        no_channel: Some(Duration::from_secs(CHANNEL_SECONDS)),
        idle: Some(Duration::from_secs(IDLE_SECONDS)),
    };
    client_with(allowance)
}

fn client_with(allowance: Allowance) -> Client {
    let accounts = AccountsConfig::default();
    Client::connect_for(Difficulty::ONE.target(), &accounts, allowance).introduced(0)
}

/// Lets time pass as the driver does: it calls at each deadline. Gives what ended the session, and after how long.
fn wait(client: &mut Client, seconds: u64) -> Option<(Fault, Duration)> {
    let start = client.now;
    let end = start + Duration::from_secs(seconds);
    loop {
        client.now = client.session.deadline().min(end);
        let tick = client.session.tick(client.now, &mut FrameBuffer::new());
        if let Err(fault) = tick {
            return Some((fault, client.now - start));
        }
        if client.now == end {
            return None;
        }
    }
}

fn close(client: &mut Client) {
    client.ask(Message::CloseChannel(CloseChannel {
        channel_id: CHANNEL,
        reason_code: "gone".try_into().unwrap(),
    }));
}

#[test]
fn a_client_that_opens_no_channel_has_to_go_when_its_time_is_up() {
    let mut client = client();
    // What it says meanwhile does not help.
    assert!(wait(&mut client, CHANNEL_SECONDS - 10).is_none());
    close(&mut client);
    let end = wait(&mut client, 100);
    assert!(
        matches!(end, Some((Fault::NoChannel, after)) if after == Duration::from_secs(10)),
        "{end:?}"
    );
}

#[test]
fn a_client_that_closed_its_last_channel_has_the_same_time_again() {
    let mut client = client();
    client.publish(1, MAIN_NBITS);
    client.open(1e12, [0xff; 32], 8);
    assert!(wait(&mut client, IDLE_SECONDS - 1).is_none());
    close(&mut client);
    assert!(wait(&mut client, CHANNEL_SECONDS - 1).is_none());
    let end = wait(&mut client, 1);
    assert!(matches!(end, Some((Fault::NoChannel, _))), "{end:?}");
}

#[test]
fn a_client_that_is_silent_with_a_channel_has_to_go() {
    let mut client = client();
    let tip = client.publish(1, MAIN_NBITS);
    assert!(tip.is_empty());
    let job = job_of(&client.open(1e12, [0xff; 32], 8));
    // Any word will do, a bad share too; what the pool says will not.
    assert!(wait(&mut client, IDLE_SECONDS - 1).is_none());
    client.submit(CHANNEL, &job, 0);
    assert!(wait(&mut client, IDLE_SECONDS - 1).is_none());
    client.publish(2, MAIN_NBITS);
    let end = wait(&mut client, 1);
    assert!(matches!(end, Some((Fault::Idle, _))), "{end:?}");
}

#[test]
fn a_client_that_waits_for_work_is_not_silent() {
    let mut client = client();
    client.open(1e12, [0xff; 32], 8);
    assert!(wait(&mut client, 10 * IDLE_SECONDS).is_none());
    client.publish(1, MAIN_NBITS);
    assert!(wait(&mut client, IDLE_SECONDS - 1).is_none());
    assert!(matches!(wait(&mut client, 1), Some((Fault::Idle, _))));
}

#[test]
fn a_client_that_is_not_read_is_not_blamed() {
    let mut client = client();
    client.publish(1, MAIN_NBITS);
    client.open(1e12, [0xff; 32], 8);
    assert!(wait(&mut client, IDLE_SECONDS - 1).is_none());
    client.session.not_listening(client.now);
    assert!(wait(&mut client, IDLE_SECONDS - 1).is_none());
    assert!(matches!(wait(&mut client, 1), Some((Fault::Idle, _))));
}

#[test]
fn a_proxy_without_miners_stays_unless_configured_otherwise() {
    let settings = crate::Config::default().session_settings();
    let mut client = client_with(settings.allowance);
    client.publish(1, MAIN_NBITS);
    assert!(wait(&mut client, 7 * 24 * 3600).is_none());
}

#[test]
fn a_client_whose_shares_are_rare_by_its_own_limit_is_not_silent() {
    // It finds a share in 600 seconds, and asks for none that are easier.
    let hard = Difficulty::new(600.0 * 1e12 / 4_294_967_296.0).unwrap();
    let mut client = client();
    client.publish(1, MAIN_NBITS);
    client.open(1e12, hard.target().to_le_bytes(), 8);
    assert!(wait(&mut client, 11_999).is_none());
    let end = wait(&mut client, 2);
    assert!(matches!(end, Some((Fault::Idle, _))), "{end:?}");

    // What it says of itself is believed for a day.
    let mut client = self::client();
    client.publish(1, MAIN_NBITS);
    client.open(1.0, hard.target().to_le_bytes(), 8);
    assert!(wait(&mut client, 24 * 3600 - 1).is_none());
    assert!(matches!(wait(&mut client, 1), Some((Fault::Idle, _))));
}

#[test]
fn where_few_shares_are_asked_for_a_long_silence_is_fine() {
    let config = crate::Config {
        shares_per_minute: 0.1,
        ..crate::Config::default()
    };
    let idle = config.session_settings().allowance.idle;
    assert_eq!(idle, Some(Duration::from_secs(12_000)));
    let idle = crate::Config::default().session_settings().allowance.idle;
    assert_eq!(idle, Some(Duration::from_secs(1800)));
}

//! How many channels there may be.

use super::{accounts::solo_client, *};

const FULL: &str = "channel-capacity-exhausted";

fn open(client: &mut Client) -> Vec<MiningOwned> {
    client.open(1e12, EASY, 8)
}

/// A client of the same pool.
fn another(client: &Client) -> Client {
    let other = Client {
        session: client.beside(),
        now: client.now,
        work_id: 0,
    };
    other.introduced(0)
}

#[test]
fn the_channels_of_all_connections_are_bounded_together() {
    let mut first = Client::set_up(Target::MAX, 0);
    let mut second = another(&first);
    first.publish(1, MAIN_NBITS);
    // This one waits for the network, and has a place meanwhile.
    assert!(
        second
            .open_as("bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", 8)
            .is_empty()
    );
    for _ in 0..5 {
        assert_eq!(errors(&open(&mut first)), [""; 0]);
    }
    assert_eq!(errors(&open(&mut second)), [FULL]);
    let tally = second.session.take_tally();
    assert_eq!(tally.channels_refused.get(FULL), Some(&1));

    first.close_channel(CHANNEL);
    assert_eq!(errors(&open(&mut second)), [""; 0]);
    assert_eq!(errors(&open(&mut second)), [FULL]);
    // With the connection all its places go.
    drop(first);
    assert_eq!(errors(&second.publish(1, MAIN_NBITS)), [""; 0]);
    for _ in 0..3 {
        assert_eq!(errors(&open(&mut second)), [""; 0]);
    }
    assert_eq!(second.session.channel_count(), 5);
}

#[test]
fn a_refused_request_takes_no_place() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    for _ in 0..10 {
        assert_eq!(errors(&client.open(1e12, EASY, 33)).len(), 1);
        assert_eq!(errors(&client.open_as("", 8)).len(), 1);
    }
    assert_eq!(errors(&open(&mut client)), [""; 0]);
}

#[test]
fn one_connection_cannot_have_all_payees() {
    let mut client = solo_client();
    let Session::Mining(mining) = &mut client.session else {
        panic!("it is set up");
    };
    let resources = Arc::get_mut(&mut mining.resources).unwrap();
    resources.settings.groups_per_connection = 4;
    resources.settings.channels_per_connection = 100;
    client.publish(1, MAIN_NBITS);
    let address = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";
    for size in 8..12 {
        assert_eq!(errors(&client.open_as(address, size)), [""; 0]);
    }
    let other = "mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn";
    assert_eq!(errors(&client.open_as(other, 8)), [FULL]);
    assert_eq!(
        client.resources().payees.in_use(),
        1,
        "nothing is left of it"
    );
    assert_eq!(errors(&client.open_as(address, 8)), [""; 0], "no new group");
    client.close_channel(CHANNEL + 1);
    assert_eq!(errors(&client.open_as(other, 8)), [""; 0]);
}

#[test]
fn a_group_is_closed_with_its_channels_and_an_id_of_nobody_closes_nothing() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    for size in [8, 9, 8, 10, 8] {
        client.open(1e12, EASY, size);
    }
    let usual = u32::try_from(USUAL_EXTRANONCE).unwrap();
    for nobody in [0, usual + 3, CHANNEL - 1, CHANNEL + 5, 1 << 31, u32::MAX] {
        client.close_channel(nobody);
    }
    assert_eq!(client.session.channel_count(), 5);
    client.close_channel(CHANNEL + 2);
    client.close_channel(CHANNEL + 2);
    client.close_channel(usual);
    assert_eq!(client.session.channel_count(), 2);
    client.close_channel(usual);
    client.close_channel(usual + 2);
    client.close_channel(CHANNEL + 1);
    assert_eq!(client.session.take_tally().channels_closed, 5);
    assert_eq!(errors(&client.open(1e12, EASY, 8)), [""; 0]);
}

#[test]
fn a_client_of_standard_jobs_closes_channels_and_not_groups() {
    let mut client = Client::set_up(Target::MAX, REQUIRES_STANDARD_JOBS);
    client.publish(1, MAIN_NBITS);
    client.ask(Message::OpenStandardMiningChannel(
        OpenStandardMiningChannel {
            request_id: 1,
            user_identity: "alice.rig".try_into().unwrap(),
            nominal_hash_rate: 1e12,
            max_target: (&EASY).into(),
        },
    ));
    client.close_channel(u32::try_from(USUAL_EXTRANONCE).unwrap());
    assert_eq!(client.session.channel_count(), 1);
    client.close_channel(CHANNEL);
    assert_eq!(client.session.channel_count(), 0);
}

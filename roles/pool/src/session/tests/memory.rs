//! What a client costs the pool in memory.

use super::*;

const CHANNELS: u32 = 1000;

/// Bytes that stay allocated for each channel.
fn bytes_per_channel(act: impl FnOnce()) -> i64 {
    allocation_counter::measure(act).bytes_current / i64::from(CHANNELS)
}

/// A client that opens a channel costs the pool this and no more, however often templates come. What honest shares add is
/// bounded by [`Seen::CAPACITY`].
#[test]
fn a_channel_costs_little_until_it_has_shares() {
    let mut client = Client::connect(Target::MAX);
    client.session = {
        let Session::Setup(setup) = &client.session else {
            panic!("it has just connected");
        };
        let mut settings = setup.resources.settings.clone();
        settings.channels_per_connection = CHANNELS as usize;
        let resources = Resources {
            settings,
            prefixes: Prefixes::new(3, 1),
            accounts: AccountsConfig::default().rules().unwrap(),
            payees: Payees::new("test"),
            places: Places::new(CHANNELS as usize),
        };
        Session::new(Arc::new(resources), client.now)
    };
    let mut client = client.introduced(0);
    client.publish(1, MAIN_NBITS);
    let opened = bytes_per_channel(|| {
        for _ in 0..CHANNELS {
            assert_eq!(errors(&client.open(1e12, EASY, 8)), [""; 0]);
        }
    });
    let worked = bytes_per_channel(|| {
        for tip in 1..4 {
            for _ in 0..100 {
                client.publish(tip, MAIN_NBITS);
            }
        }
    });
    println!("{opened} bytes when opened, {worked} more after templates");
    assert!(opened <= 848, "{opened}");
    assert!(worked <= 4096, "{worked}");
}

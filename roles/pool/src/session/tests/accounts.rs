//! Conversations in which it matters who somebody is, and whom blocks pay.

use bitcoin::{Address, address::NetworkUnchecked};

use super::*;
use crate::{acknowledge::Owner, payee::SOLO_GROUP_BIT};

const ADDRESS: &str = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";
const OTHER: &str = "mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn";
const MAIN: &str = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4";

/// A client where accounts may be paid by their own blocks.
pub(super) fn solo_client() -> Client {
    let accounts = AccountsConfig {
        solo: true,
        ..AccountsConfig::default()
    };
    Client::connect_with(Target::MAX, &accounts).introduced(0)
}

impl Client {
    pub(super) fn open_as(
        &mut self,
        user_identity: &str,
        min_extranonce_size: u16,
    ) -> Vec<MiningOwned> {
        self.ask(Message::OpenExtendedMiningChannel(
            OpenExtendedMiningChannel {
                request_id: 77,
                user_identity: user_identity.try_into().unwrap(),
                nominal_hash_rate: 0.0,
                max_target: (&EASY).into(),
                min_extranonce_size,
            },
        ))
    }

    pub(super) fn close_channel(&mut self, channel_id: u32) {
        let sent = self.ask(Message::CloseChannel(CloseChannel {
            channel_id,
            reason_code: "".try_into().unwrap(),
        }));
        assert!(sent.is_empty(), "{sent:?}");
    }

    pub(super) fn resources(&self) -> &Resources {
        match &self.session {
            Session::Mining(mining) => &mining.resources,
            Session::Setup(setup) => &setup.resources,
        }
    }
}

fn script(address: &str) -> Vec<u8> {
    let address: Address<NetworkUnchecked> = address.parse().unwrap();
    address.assume_checked().script_pubkey().to_bytes()
}

/// The script that the first output of these jobs pays, with the channel or group that each is for.
fn paid(messages: &[MiningOwned]) -> Vec<(u32, Vec<u8>)> {
    messages
        .iter()
        .filter_map(|message| match message {
            MiningOwned::NewExtendedMiningJob(m) => {
                // Sequence, number of outputs, value, length of the script.
                let suffix = m.coinbase_tx_suffix.as_bytes();
                let length = usize::from(suffix[4 + 1 + 8]);
                Some((m.channel_id, suffix[14..14 + length].to_vec()))
            }
            _ => None,
        })
        .collect()
}

fn group_of(opened: &[MiningOwned]) -> u32 {
    match &opened[0] {
        MiningOwned::OpenExtendedMiningChannelSuccess(m) => m.group_channel_id,
        MiningOwned::OpenStandardMiningChannelSuccess(m) => m.group_channel_id,
        other => panic!("{other}"),
    }
}

#[test]
fn each_channel_of_a_connection_pays_its_own_account() {
    let mut client = solo_client();
    client.publish(1, MAIN_NBITS);
    let pool = client.open_as("alice.rig", 8);
    let first = client.open_as(&format!("{ADDRESS}.rig.1"), 8);
    let second = client.open_as(&format!("solo/{ADDRESS}.rig.2"), 8);
    let longer = client.open_as(ADDRESS, 16);
    let other = client.open_as(OTHER, 8);
    for (opened, expected) in [
        (&pool, vec![0x51]),
        (&first, script(ADDRESS)),
        (&second, script(ADDRESS)),
        (&longer, script(ADDRESS)),
        (&other, script(OTHER)),
    ] {
        assert_eq!(paid(opened)[0].1, expected);
    }
    let groups = [&pool, &first, &longer, &other].map(|opened| group_of(opened));
    assert_eq!(group_of(&second), groups[1], "same payout, same size");
    assert!(groups[1] >= SOLO_GROUP_BIT && groups[3] >= SOLO_GROUP_BIT);

    for new_tip in [false, true] {
        let sent = client.publish(if new_tip { 2 } else { 1 }, MAIN_NBITS);
        let expected = [
            (groups[0], vec![0x51]),
            (groups[1], script(ADDRESS)),
            (groups[2], script(ADDRESS)),
            (groups[3], script(OTHER)),
        ];
        assert_eq!(paid(&sent), expected, "a job for each group");
        let tips = |m: &&MiningOwned| matches!(m, MiningOwned::SetNewPrevHash(_));
        assert_eq!(
            sent.iter().filter(tips).count(),
            if new_tip { 4 } else { 0 }
        );
    }

    client.close_channel(groups[1]);
    assert_eq!(client.session.channel_count(), 3, "both of that group");
    client.close_channel(groups[2]);
    client.close_channel(groups[3]);
    assert_eq!(client.session.channel_count(), 1, "the pool's is left");
    assert_eq!(client.resources().payees.in_use(), 0);
}

#[test]
fn a_block_pays_whom_its_channel_pays() {
    let mut client = solo_client();
    // Half of all hashes are blocks.
    client.publish(1, 0x207f_ffff);
    let mut pay = |user: &str, channel_id: u32| {
        let job = job_of(&client.open_as(user, 8));
        for nonce in 0..64 {
            client.submit(channel_id, &job, nonce);
        }
        let found = client.session.take_found();
        assert!(!found.is_empty());
        let coinbases: Vec<bitcoin::Transaction> = found
            .iter()
            .map(|found| bitcoin::consensus::deserialize(&found.solved.solution.coinbase).unwrap())
            .collect();
        let outputs = coinbases[0].output.clone();
        assert!(coinbases.iter().all(|coinbase| coinbase.output == outputs));
        assert_eq!(outputs[0].value.to_sat(), 5_000_000_001, "the whole reward");
        (outputs[0].script_pubkey.to_bytes(), found[0].owner.clone())
    };
    let owner = |solo, name| Owner {
        solo,
        ..Owner::new(name)
    };
    assert_eq!(
        pay("alice.rig", CHANNEL),
        (vec![0x51], owner(false, "alice.rig"))
    );
    let user = format!("{ADDRESS}.rig");
    assert_eq!(
        pay(&user, CHANNEL + 1),
        (script(ADDRESS), owner(true, &user))
    );
    assert_eq!(pay(OTHER, CHANNEL + 2), (script(OTHER), owner(true, OTHER)));
}

#[test]
fn connections_with_the_same_payee_share_its_group() {
    let mut first = solo_client();
    let Session::Mining(mining) = &first.session else {
        panic!("it is set up");
    };
    let mut second = Client {
        session: Session::new(Arc::clone(&mining.resources), first.now),
        ..Client::connect(Target::MAX)
    }
    .introduced(0);
    for client in [&mut first, &mut second] {
        client.publish(1, MAIN_NBITS);
    }
    let groups = [&mut first, &mut second].map(|client| group_of(&client.open_as(ADDRESS, 8)));
    assert_eq!(groups[0], groups[1]);
    assert_eq!(first.resources().payees.in_use(), 1);
    drop(first);
    assert_eq!(second.resources().payees.in_use(), 1);
}

#[test]
fn an_account_that_depends_on_the_network_waits_for_it() {
    let mut client = solo_client();
    assert!(client.open_as(ADDRESS, 8).is_empty(), "not answered yet");
    assert!(client.open_as(MAIN, 8).is_empty(), "not answered yet");
    let alice = client.open_as("alice", 8);
    assert_eq!(alice.len(), 1, "a name depends on nothing: {alice:?}");
    for _ in 0..2 {
        assert!(client.open_as(ADDRESS, 8).is_empty());
    }
    // The limit of the test's settings counts those that wait.
    assert_eq!(
        errors(&client.open_as("bob", 8)),
        ["channel-capacity-exhausted"]
    );
    let sent = client.publish(1, MAIN_NBITS);
    assert_eq!(errors(&sent), ["address-of-another-network"]);
    assert_eq!(client.session.channel_count(), 4);
    let scripts: Vec<_> = paid(&sent).into_iter().map(|(_, script)| script).collect();
    assert_eq!(scripts[0], [0x51]);
    assert_eq!(scripts[1..], vec![script(ADDRESS); 3]);
    assert!(client.publish(2, MAIN_NBITS).len() > 1);
}

#[test]
fn who_cannot_be_paid_as_asked_gets_no_channel() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    for (user, code) in [
        ("", "invalid-user-identity"),
        (MAIN, "address-of-another-network"),
        (&ADDRESS[..40], "invalid-address"),
        (&format!("solo/{ADDRESS}"), "solo-not-allowed"),
    ] {
        assert_eq!(errors(&client.open_as(user, 8)), [code]);
    }
    assert_eq!(
        paid(&client.open_as(ADDRESS, 8))[0].1,
        [0x51],
        "solo is off"
    );
    assert_eq!(client.session.channel_count(), 1);
    let refused = client.session.take_tally().channels_refused;
    let counts = [
        ("address-of-another-network", 1),
        ("invalid-address", 1),
        ("invalid-user-identity", 1),
        ("solo-not-allowed", 1),
    ];
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), counts);
}

#[test]
fn a_standard_channel_is_paid_by_its_own_blocks_too() {
    for flags in [0, REQUIRES_STANDARD_JOBS] {
        let accounts = AccountsConfig {
            solo: true,
            ..AccountsConfig::default()
        };
        let mut client = Client::connect_with(Target::MAX, &accounts).introduced(flags);
        client.publish(1, 0x207f_ffff);
        let opened = client.ask(Message::OpenStandardMiningChannel(
            OpenStandardMiningChannel {
                request_id: 1,
                user_identity: ADDRESS.try_into().unwrap(),
                nominal_hash_rate: 0.0,
                max_target: (&EASY).into(),
            },
        ));
        assert_eq!(group_of(&opened) >= SOLO_GROUP_BIT, flags == 0);
        let job_id = match &opened[1] {
            MiningOwned::NewMiningJob(m) => m.job_id,
            other => panic!("{other}"),
        };
        for nonce in 0..64 {
            client.ask(Message::SubmitSharesStandard(SubmitSharesStandard {
                channel_id: CHANNEL,
                sequence_number: nonce,
                job_id,
                nonce,
                ntime: 1_700_000_100,
                version: 0x2000_0000,
            }));
        }
        let found = client.session.take_found();
        let coinbase = &found[0].solved.solution.coinbase;
        let coinbase: bitcoin::Transaction = bitcoin::consensus::deserialize(coinbase).unwrap();
        assert_eq!(coinbase.output[0].script_pubkey.to_bytes(), script(ADDRESS));
        let next = client.publish(2, 0x207f_ffff);
        assert_eq!(paid(&next).is_empty(), flags != 0, "{next:?}");
    }
}

/// Who opens channels in the property test, and what their blocks pay.
fn users() -> [(&'static str, Vec<u8>); 4] {
    [
        ("alice.rig", vec![0x51]),
        ("bob", vec![0x51]),
        (ADDRESS, script(ADDRESS)),
        (OTHER, script(OTHER)),
    ]
}

/// Something that happens to a connection.
#[derive(Debug, Clone)]
enum Change {
    Open { user: usize, rolled: u16 },
    Close { channel: usize },
    CloseGroup { channel: usize },
    Job,
    Tip,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0_usize..4, prop_oneof![Just(8_u16), Just(16)])
            .prop_map(|(user, rolled)| Change::Open { user, rolled }),
        1 => (0_usize..5).prop_map(|channel| Change::Close { channel }),
        1 => (0_usize..5).prop_map(|channel| Change::CloseGroup { channel }),
        2 => Just(Change::Job),
        2 => Just(Change::Tip),
    ]
}

/// A channel as its client sees it.
#[derive(Debug)]
struct Seen {
    id: u32,
    group: u32,
    user: usize,
    rolled: u16,
    /// The job it has: its number, what it pays, and the tip that it was activated for.
    job: Option<(u32, Vec<u8>, Option<[u8; 32]>)>,
}

/// Takes messages as a client does, those to a group for all its channels.
fn take(seen: &mut [Seen], messages: &[MiningOwned]) {
    for message in messages {
        match message {
            MiningOwned::NewExtendedMiningJob(m) => {
                let (to, script) = paid(std::slice::from_ref(message)).remove(0);
                let future = m.min_ntime.as_ref().is_none();
                for channel in seen.iter_mut().filter(|c| c.id == to || c.group == to) {
                    let tip = channel.job.as_ref().and_then(|(_, _, tip)| *tip);
                    let tip = tip.filter(|_| !future);
                    channel.job = Some((m.job_id, script.clone(), tip));
                }
            }
            MiningOwned::SetNewPrevHash(m) => {
                let to = m.channel_id;
                for channel in seen.iter_mut().filter(|c| c.id == to || c.group == to) {
                    let (id, _, tip) = channel.job.as_mut().unwrap();
                    assert_eq!(*id, m.job_id);
                    *tip = Some(m.prev_hash.as_bytes().try_into().unwrap());
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_each_channel_works_for_whom_it_pays(
        changes in prop::collection::vec(change(), 1..60),
    ) {
        let mut client = solo_client();
        let mut tip = 1;
        client.publish(tip, MAIN_NBITS);
        let users = users();
        let mut seen: Vec<Seen> = Vec::new();
        for change in changes {
            match change {
                Change::Open { user, rolled } => {
                    let messages = client.open_as(users[user].0, rolled);
                    if seen.len() == 5 {
                        prop_assert_eq!(errors(&messages), ["channel-capacity-exhausted"]);
                        continue;
                    }
                    let id = match &messages[0] {
                        MiningOwned::OpenExtendedMiningChannelSuccess(m) => m.channel_id,
                        other => panic!("{other}"),
                    };
                    let group = group_of(&messages);
                    seen.push(Seen { id, group, user, rolled, job: None });
                    take(&mut seen, &messages);
                }
                Change::Close { channel } => {
                    if channel < seen.len() {
                        client.close_channel(seen.remove(channel).id);
                    }
                }
                Change::CloseGroup { channel } => {
                    if let Some(group) = seen.get(channel).map(|channel| channel.group) {
                        client.close_channel(group);
                        seen.retain(|channel| channel.group != group);
                    }
                }
                Change::Job => take(&mut seen, &client.publish(tip, MAIN_NBITS)),
                Change::Tip => {
                    tip = tip % 250 + 1;
                    take(&mut seen, &client.publish(tip, MAIN_NBITS));
                }
            }
            prop_assert_eq!(client.session.channel_count(), seen.len() as u64);
            for channel in &seen {
                let (_, script, active) = channel.job.as_ref().unwrap();
                prop_assert_eq!(script, &users[channel.user].1);
                prop_assert_eq!(active, &Some([tip; 32]));
                prop_assert!(seen.iter().all(|other| other.id != channel.group));
                for other in &seen {
                    let alike = users[other.user].1 == users[channel.user].1
                        && other.rolled == channel.rolled;
                    prop_assert_eq!(other.group == channel.group, alike);
                }
            }
            let solo: std::collections::BTreeSet<_> =
                seen.iter().map(|channel| channel.user).filter(|user| *user >= 2).collect();
            prop_assert_eq!(client.resources().payees.in_use(), solo.len());
        }
    }
}

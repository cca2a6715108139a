use super::*;

const OPENED: (u32, u16) = (5, 12);

fn wanted(account: &str, hashrate: f64) -> OpenChannel {
    OpenChannel {
        user_identity: account.into(),
        hashrate: Hashrate::new(hashrate).unwrap(),
        max_target: Target::MAX,
        min_extranonce_size: 8,
    }
}

fn first(channels: &SharedChannels, account: &str) -> (Arc<Mailbox>, Arc<SharedChannel>) {
    match channels.join(&wanted(account, 100.0)) {
        Joined::First(mailbox, channel) => (mailbox, channel),
        Joined::Existing(_) => panic!("there is one already"),
    }
}

fn existing(channels: &SharedChannels, account: &str) -> Arc<Mailbox> {
    match channels.join(&wanted(account, 100.0)) {
        Joined::Existing(mailbox) => mailbox,
        Joined::First(..) => panic!("there is none"),
    }
}

fn events(mailbox: &Mailbox) -> Vec<String> {
    let events = mailbox.take().into_events();
    events.map(|event| format!("{event:?}")).collect()
}

/// Three miners of one account, with an open channel.
fn three() -> (SharedChannels, Arc<SharedChannel>, [Arc<Mailbox>; 3]) {
    let channels = SharedChannels::default();
    let (one, channel) = first(&channels, "account");
    let [two, three] = [(); 2].map(|()| existing(&channels, "account"));
    assert!(channel.opened(OPENED.0, OPENED.1));
    let miners = [one, two, three];
    for miner in &miners {
        assert!(events(miner)[0].starts_with("Opened"));
    }
    (channels, channel, miners)
}

#[test]
fn miners_of_one_account_share_a_channel_and_others_do_not() {
    let channels = SharedChannels::default();
    let _alice = first(&channels, "alice");
    let _bob = first(&channels, "bob");
    existing(&channels, "alice");
    let floor = OpenChannel {
        max_target: Target::DIFFICULTY_1,
        ..wanted("alice", 1.0)
    };
    assert!(matches!(channels.join(&floor), Joined::First(..)));
}

#[test]
fn who_comes_later_gets_the_open_channel_and_its_work_at_once() {
    let (channels, channel, _miners) = three();
    let late = existing(&channels, "account");
    assert!(matches!(&events(&late)[..], [opened] if opened.starts_with("Opened")));
    channel.work(&work());
    let later = existing(&channels, "account");
    let heard = events(&later);
    assert!(
        heard.len() == 2 && heard[1].starts_with("Work"),
        "{heard:?}"
    );
    assert!(events(&late)[0].starts_with("Work"));
}

#[test]
fn every_answer_finds_the_miner_whose_share_it_is_for() {
    let (_channels, channel, [one, two, three]) = three();
    // Each counts its own shares; the channel counts all.
    let sent = [(&one, 1), (&two, 1), (&one, 2), (&three, 1), (&two, 2)];
    let numbers = sent.map(|(miner, its_number)| channel.sent(miner, its_number));
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert!(channel.rejected(3, RejectReason::UpstreamStale));
    assert!(
        channel.rejected(77, RejectReason::UpstreamStale),
        "nobody's"
    );
    channel.accepted(4, 3);
    assert_eq!(
        events(&one),
        [
            "Rejected { sequence_number: 2, reason: UpstreamStale }",
            "Accepted { last_sequence_number: 1, count: 1 }"
        ]
    );
    assert_eq!(
        events(&two),
        ["Accepted { last_sequence_number: 1, count: 1 }"]
    );
    assert_eq!(
        events(&three),
        ["Accepted { last_sequence_number: 1, count: 1 }"]
    );
    // More than were sent: the rest is nobody's.
    channel.accepted(9, 9);
    assert_eq!(
        events(&two),
        ["Accepted { last_sequence_number: 2, count: 1 }"]
    );
}

#[test]
fn answers_find_their_way_when_the_numbers_begin_anew() {
    let (_channels, channel, [one, two, _]) = three();
    lock(&channel.shares).sequence_number = u32::MAX - 1;
    let numbers = [&one, &two, &one].map(|miner| channel.sent(miner, 7));
    assert_eq!(numbers, [u32::MAX, 0, 1]);
    assert!(channel.rejected(0, RejectReason::UpstreamOther));
    assert!(events(&two)[0].starts_with("Rejected"));
    channel.accepted(1, 2);
    assert_eq!(
        events(&one),
        ["Accepted { last_sequence_number: 7, count: 2 }"]
    );
}

#[test]
fn the_last_who_leaves_closes_the_channel_and_the_next_opens_another() {
    let (channels, channel, [one, two, three]) = three();
    let leave = |miner: &Mailbox| miner.membership().unwrap().leave();
    assert_eq!(leave(&one), None);
    assert_eq!(leave(&one), None, "once more changes nothing");
    drop(two);
    let told: Vec<_> = channels
        .updates()
        .iter()
        .map(|update| update.hashrate.value())
        .collect();
    assert!(
        told.is_empty(),
        "what is left is what was told at opening: {told:?}"
    );
    three
        .membership()
        .unwrap()
        .set_hashrate(Hashrate::new(7.0).unwrap());
    assert_eq!(channels.updates()[0].hashrate.value(), 7.0);
    assert_eq!(leave(&three), Some(OPENED.0));
    assert!(channel.has_ended());
    assert!(channels.updates().is_empty());
    first(&channels, "account");
}

#[test]
fn nothing_is_left_of_a_channel_with_shares_that_nobody_answers() {
    let (channels, channel, miners) = three();
    channel.work(&work());
    for miner in &miners {
        channel.sent(miner, 1);
    }
    let left = Arc::downgrade(&channel);
    drop((channels, channel, miners));
    assert_eq!(left.strong_count(), 0);
}

#[test]
fn a_channel_that_nobody_wants_any_more_is_not_taken() {
    let channels = SharedChannels::default();
    let (miner, channel) = first(&channels, "account");
    drop(miner);
    assert!(!channel.opened(OPENED.0, OPENED.1));
    first(&channels, "account");
}

#[test]
fn all_hear_that_the_channel_is_refused_or_closed() {
    let (channels, channel, miners) = three();
    channel.closed("drain");
    for miner in &miners {
        assert_eq!(events(miner), [r#"Closed("drain")"#]);
    }
    let (again, channel) = first(&channels, "account");
    let with = existing(&channels, "account");
    channel.refused("unknown-user");
    for miner in [again, with] {
        assert_eq!(events(&miner), [r#"Refused("unknown-user")"#]);
    }
    first(&channels, "account");
}

#[test]
fn the_upstream_hears_the_sum_of_hashrates_when_it_has_changed() {
    let (channels, _channel, [one, two, _three]) = three();
    let told = || -> Vec<f64> {
        let updates = channels.updates();
        updates
            .iter()
            .map(|update| update.hashrate.value())
            .collect()
    };
    // It was opened with what the first one does.
    assert_eq!(told(), [300.0]);
    assert!(told().is_empty());
    let member = one.membership().unwrap();
    member.set_hashrate(Hashrate::new(110.0).unwrap());
    assert!(told().is_empty(), "too little to tell");
    member.set_hashrate(Hashrate::new(1000.0).unwrap());
    assert_eq!(told(), [1200.0]);
    two.membership().unwrap().leave();
    assert_eq!(told(), [1100.0]);
}

fn work() -> Work {
    let parts = crate::job::JobParts {
        upstream_id: 1,
        version: 1,
        version_rolling: true,
        coinbase_prefix: vec![1, 0, 0, 0, 1, 2],
        coinbase_suffix: vec![3, 4],
        merkle_path: Vec::new(),
    };
    let tip = crate::job::Tip {
        prev_hash: [1; 32],
        min_ntime: 1,
        nbits: 0x207f_ffff,
    };
    Work {
        job: Arc::new(crate::job::Job::new(1, &parts, &tip).unwrap()),
        target: Target::MAX,
        extranonce_prefix: Default::default(),
    }
}

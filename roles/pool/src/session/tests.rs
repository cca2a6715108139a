//! Whole conversations with a session, in simulated time.

use bitcoin::Network;
use proptest::prelude::*;
use stratum_core::{
    mining_sv2::{
        CloseChannel, OpenExtendedMiningChannel, OpenStandardMiningChannel, SubmitSharesExtended,
        SubmitSharesStandard, UpdateChannel,
    },
    parsers_sv2::{Mining as Message, MiningOwned},
};
use work::{Difficulty, Header, header};

mod accounts;
mod bad_input;
mod blocks;
mod capacity;
mod drain;
mod extensions;
mod limits;
mod memory;

use super::*;
use crate::{
    AccountsConfig,
    board::{FIRST_CHANNEL_ID, USUAL_EXTRANONCE},
    extranonce::PREFIX_SIZE,
    job::{Recipe, tests::template},
    payee::Payee,
    shares::Seen,
};

struct Client {
    session: Session,
    now: Instant,
    work_id: u32,
}

/// What a channel's client knows.
#[derive(Debug, Clone)]
struct Job {
    job_id: u32,
    prev_hash: [u8; 32],
    nbits: u32,
    ntime: u32,
    version: u32,
    coinbase: [Vec<u8>; 2],
    path: Vec<[u8; 32]>,
}

impl Client {
    fn connect(pool_minimum: Target) -> Self {
        Self::connect_with(pool_minimum, &AccountsConfig::default())
    }

    fn connect_with(pool_minimum: Target, accounts: &AccountsConfig) -> Self {
        let for_ever = Allowance {
            no_channel: None,
            idle: None,
        };
        Self::connect_for(pool_minimum, accounts, for_ever)
    }

    fn connect_for(pool_minimum: Target, accounts: &AccountsConfig, allowance: Allowance) -> Self {
        let now = Instant::now();
        let settings = Settings {
            shares_per_minute: 6.0,
            pool_minimum,
            channels_per_connection: 5,
            groups_per_connection: 5,
            setup_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(7),
            allowance,
        };
        let resources = Arc::new(Resources {
            settings,
            prefixes: Prefixes::new(3, 1),
            accounts: accounts.rules().unwrap(),
            payees: Payees::new("test"),
            places: Places::new(6),
        });
        Self {
            session: Session::new(resources, now),
            now,
            work_id: 0,
        }
    }

    /// A connection of somebody else to the same pool, before its set-up.
    fn beside(&self) -> Session {
        let resources = match &self.session {
            Session::Setup(setup) => &setup.resources,
            Session::Mining(mining) => mining.resources(),
        };
        Session::new(Arc::clone(resources), self.now)
    }

    fn set_up(pool_minimum: Target, flags: u32) -> Self {
        Self::connect(pool_minimum).introduced(flags)
    }

    fn introduced(self, flags: u32) -> Self {
        let mut client = self;
        let request = CommonMessages::SetupConnection(setup_request(flags));
        let mut sent = client.send(request).unwrap();
        let answer = sent.frames().next().unwrap().common().unwrap();
        assert!(
            matches!(answer, CommonMessages::SetupConnectionSuccess(_)),
            "{answer}"
        );
        client
    }

    fn send<M>(&mut self, message: M) -> Result<FrameBuffer, Fault>
    where
        M: stratum_core::parsers_sv2::IsSv2Message
            + stratum_core::binary_sv2::GetSize
            + stratum_core::binary_sv2::Encodable,
    {
        let mut input = FrameBuffer::new();
        input.push(message).unwrap();
        let mut out = FrameBuffer::new();
        for frame in input.frames() {
            self.session.handle(frame, self.now, &mut out)?;
        }
        self.session.end_turn(0, self.now, &mut out)?;
        self.session.durable(0, &mut out)?;
        Ok(out)
    }

    fn ask(&mut self, message: Message<'_>) -> Vec<MiningOwned> {
        parse(self.send(message).unwrap())
    }

    fn publish(&mut self, prev_hash: u8, nbits: u32) -> Vec<MiningOwned> {
        self.work_id += 1;
        let mut template = template(self.work_id.into(), prev_hash);
        template.nbits = nbits;
        template.coinbase.value_remaining += u64::from(self.work_id);
        let recipe = Recipe {
            payout: vec![0x51],
            tag: "test".to_owned(),
        };
        let pool = Arc::new(Payee::pool(recipe));
        let template = Arc::new(template);
        let work = Work::new(self.work_id, Network::Regtest, template, &pool).unwrap();
        let work = Arc::new(work);
        let mut out = FrameBuffer::new();
        self.session.work_changed(work, self.now, &mut out).unwrap();
        parse(out)
    }

    fn tick(&mut self, seconds: u64) -> Vec<MiningOwned> {
        self.now += Duration::from_secs(seconds);
        let mut out = FrameBuffer::new();
        self.session.tick(self.now, &mut out).unwrap();
        parse(out)
    }

    fn open(
        &mut self,
        hashrate: f32,
        max_target: [u8; 32],
        min_extranonce_size: u16,
    ) -> Vec<MiningOwned> {
        self.ask(Message::OpenExtendedMiningChannel(
            OpenExtendedMiningChannel {
                request_id: 77,
                user_identity: "alice.rig".try_into().unwrap(),
                nominal_hash_rate: hashrate,
                max_target: (&max_target).into(),
                min_extranonce_size,
            },
        ))
    }

    /// Hands a share to the session, and no more.
    fn hand_in(&mut self, channel_id: u32, job: &Job, nonce: u32) {
        let mut input = FrameBuffer::new();
        input
            .push(Message::SubmitSharesExtended(SubmitSharesExtended {
                channel_id,
                sequence_number: nonce,
                job_id: job.job_id,
                nonce,
                ntime: job.ntime,
                version: job.version,
                extranonce: [0u8; 8][..].try_into().unwrap(),
            }))
            .unwrap();
        for frame in input.frames() {
            self.session
                .handle(frame, self.now, &mut FrameBuffer::new())
                .unwrap();
        }
    }

    fn submit(&mut self, channel_id: u32, job: &Job, nonce: u32) -> Vec<MiningOwned> {
        self.submit_with(channel_id, job, nonce, job.version, job.ntime, &[0; 8])
    }

    fn submit_with(
        &mut self,
        channel_id: u32,
        job: &Job,
        nonce: u32,
        version: u32,
        ntime: u32,
        extranonce: &[u8],
    ) -> Vec<MiningOwned> {
        self.ask(Message::SubmitSharesExtended(SubmitSharesExtended {
            channel_id,
            sequence_number: nonce,
            job_id: job.job_id,
            nonce,
            ntime,
            version,
            extranonce: extranonce.try_into().unwrap(),
        }))
    }
}

fn setup_request(flags: u32) -> SetupConnection<'static> {
    sv2_connection::mining_setup(flags, "pool", 34254, "test").unwrap()
}

fn parse(mut out: FrameBuffer) -> Vec<MiningOwned> {
    out.frames()
        .map(|frame| frame.mining().unwrap().into_owned())
        .collect()
}

/// The job that these messages make active.
fn job_of(messages: &[MiningOwned]) -> Job {
    let mut job = None;
    for message in messages {
        match message {
            MiningOwned::NewExtendedMiningJob(m) => {
                job = Some(Job {
                    job_id: m.job_id,
                    prev_hash: [0; 32],
                    nbits: 0,
                    ntime: 0,
                    version: m.version,
                    coinbase: [
                        m.coinbase_tx_prefix.as_bytes().to_vec(),
                        m.coinbase_tx_suffix.as_bytes().to_vec(),
                    ],
                    path: m
                        .merkle_path
                        .iter()
                        .map(|node| node.as_bytes().try_into().unwrap())
                        .collect(),
                });
            }
            MiningOwned::SetNewPrevHash(m) => {
                let job = job.as_mut().expect("the job comes before its prev-hash");
                assert_eq!(job.job_id, m.job_id);
                job.prev_hash = m.prev_hash.as_bytes().try_into().unwrap();
                job.nbits = m.nbits;
                job.ntime = m.min_ntime;
            }
            _ => {}
        }
    }
    job.unwrap_or_else(|| panic!("no job in {messages:?}"))
}

fn errors(messages: &[MiningOwned]) -> Vec<String> {
    messages
        .iter()
        .filter_map(|message| match message {
            MiningOwned::SubmitSharesError(m) => Some(m.error_code.as_utf8_or_hex()),
            MiningOwned::OpenMiningChannelError(m) => Some(m.error_code.as_utf8_or_hex()),
            MiningOwned::UpdateChannelError(m) => Some(m.error_code.as_utf8_or_hex()),
            _ => None,
        })
        .collect()
}

fn accepted(messages: &[MiningOwned]) -> u32 {
    messages
        .iter()
        .map(|message| match message {
            MiningOwned::SubmitSharesSuccess(m) => m.new_submits_accepted_count,
            _ => 0,
        })
        .sum()
}

fn prefix_of(opened: &[MiningOwned]) -> Vec<u8> {
    match &opened[0] {
        MiningOwned::OpenExtendedMiningChannelSuccess(m) => m.extranonce_prefix.as_bytes().to_vec(),
        MiningOwned::OpenStandardMiningChannelSuccess(m) => m.extranonce_prefix.as_bytes().to_vec(),
        other => panic!("{other}"),
    }
}

const EASY: [u8; 32] = [0xff; 32];
const CHANNEL: u32 = FIRST_CHANNEL_ID;
const MAIN_NBITS: u32 = 0x1d00_ffff;

#[test]
fn a_channel_opened_with_work_there_gets_it_at_once() {
    let mut client = Client::set_up(Target::MAX, 0);
    assert!(client.publish(1, MAIN_NBITS).is_empty());
    let sent = client.open(0.0, EASY, 4);
    assert!(matches!(
        sent[0],
        MiningOwned::OpenExtendedMiningChannelSuccess(_)
    ));
    let job = job_of(&sent);
    assert_eq!(job.prev_hash, [1; 32]);
    let shares = client.submit(CHANNEL, &job, 1);
    assert_eq!(accepted(&shares), 1, "{shares:?}");
}

/// SRI pool 0.7.0 shuts down where a client connects between a future template and its prev-hash.
#[test]
fn a_channel_opened_before_there_is_work_gets_it_when_it_comes() {
    let mut client = Client::set_up(Target::MAX, 0);
    let opened = client.open(0.0, EASY, 4);
    assert_eq!(opened.len(), 1, "{opened:?}");
    let job = job_of(&client.publish(1, MAIN_NBITS));
    assert_eq!(accepted(&client.submit(CHANNEL, &job, 1)), 1);
}

#[test]
fn a_share_counts_once_and_each_fault_has_its_own_code() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let job = job_of(&client.open(0.0, EASY, 8));
    assert_eq!(accepted(&client.submit(CHANNEL, &job, 1)), 1);
    assert_eq!(
        errors(&client.submit(CHANNEL, &job, 1)),
        ["duplicate-share"]
    );
    assert_eq!(
        errors(&client.submit(CHANNEL + 1, &job, 2)),
        ["invalid-channel-id"]
    );
    let unknown = Job {
        job_id: 999,
        ..job.clone()
    };
    assert_eq!(
        errors(&client.submit(CHANNEL, &unknown, 2)),
        ["invalid-job-id"]
    );
    let mut submit = |version, ntime, extranonce: &[u8]| {
        errors(&client.submit_with(CHANNEL, &job, 3, version, ntime, extranonce))
    };
    assert_eq!(
        submit(job.version, job.ntime, &[0; 7]),
        ["bad-extranonce-size"]
    );
    assert_eq!(
        submit(job.version, job.ntime - 1, &[0; 8]),
        ["invalid-share"]
    );
    assert_eq!(
        submit(job.version, job.ntime + 7201, &[0; 8]),
        ["invalid-share"]
    );
    assert_eq!(
        submit(job.version ^ 1, job.ntime, &[0; 8]),
        ["invalid-non-rollable-version-bit"]
    );
    assert!(submit(job.version ^ 0x2000, job.ntime, &[0; 8]).is_empty());

    let second = job_of(&client.publish(1, MAIN_NBITS));
    assert_eq!(accepted(&client.submit(CHANNEL, &job, 4)), 1, "same tip");
    assert_eq!(
        accepted(&client.submit(
            CHANNEL,
            &Job {
                ntime: job.ntime,
                ..second.clone()
            },
            4
        )),
        1
    );
    client.publish(2, MAIN_NBITS);
    assert_eq!(errors(&client.submit(CHANNEL, &job, 5)), ["stale-share"]);
    let tally = client.session.take_tally();
    assert_eq!(tally.accepted, 4);
    assert_eq!(tally.rejected.iter().sum::<u64>(), 8);
}

#[test]
fn a_share_above_its_jobs_target_is_refused() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let job = job_of(&client.open(1e15, EASY, 8));
    assert_eq!(
        errors(&client.submit(CHANNEL, &job, 1)),
        ["difficulty-too-low"]
    );
}

#[test]
fn requests_that_cannot_be_met_get_the_protocols_error_and_change_nothing() {
    let mut client = Client::set_up(Target::MAX, 0);
    assert_eq!(
        errors(&client.open(f32::NAN, EASY, 4)),
        ["invalid-nominal-hashrate"]
    );
    assert_eq!(
        errors(&client.open(-1.0, EASY, 4)),
        ["invalid-nominal-hashrate"]
    );
    assert_eq!(
        errors(&client.open(0.0, [0; 32], 4)),
        ["max-target-out-of-range"]
    );
    assert_eq!(
        errors(&client.open(0.0, EASY, 25)),
        ["min-extranonce-size-too-large"]
    );
    for _ in 0..5 {
        assert!(errors(&client.open(0.0, EASY, 24)).is_empty());
    }
    assert_eq!(
        errors(&client.open(0.0, EASY, 4)),
        ["channel-capacity-exhausted"]
    );
    let update = |channel_id, nominal_hash_rate, target: &'static [u8; 32]| {
        Message::UpdateChannel(UpdateChannel {
            channel_id,
            nominal_hash_rate,
            maximum_target: target.into(),
        })
    };
    assert_eq!(
        errors(&client.ask(update(1, 1.0, &EASY))),
        ["invalid-channel-id"]
    );
    assert_eq!(
        errors(&client.ask(update(CHANNEL, f32::INFINITY, &EASY))),
        ["invalid-nominal-hashrate"]
    );
    assert_eq!(
        errors(&client.ask(update(CHANNEL, 1.0, &[0; 32]))),
        ["max-target-out-of-range"]
    );
    assert_eq!(client.session.channel_count(), 5);
}

#[test]
fn a_smaller_max_target_is_answered_by_a_target_at_once() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, 0x1700_ffff);
    client.open(0.0, EASY, 8);
    let limit = Difficulty::new(1000.0).unwrap().target();
    let sent = client.ask(Message::UpdateChannel(UpdateChannel {
        channel_id: CHANNEL,
        nominal_hash_rate: 0.0,
        maximum_target: (&limit.to_le_bytes()).into(),
    }));
    match &sent[0] {
        MiningOwned::SetTarget(m) => assert_eq!(m.maximum_target.as_bytes(), limit.to_le_bytes()),
        other => panic!("{other}"),
    }
}

#[test]
fn standard_channels_mine_with_and_without_a_group() {
    for flags in [0, REQUIRES_STANDARD_JOBS] {
        let mut client = Client::set_up(Target::MAX, flags);
        client.publish(1, MAIN_NBITS);
        let opened = client.ask(Message::OpenStandardMiningChannel(
            OpenStandardMiningChannel {
                request_id: 1,
                user_identity: "bob".try_into().unwrap(),
                nominal_hash_rate: 0.0,
                max_target: (&EASY).into(),
            },
        ));
        assert_eq!(prefix_of(&opened).len(), USUAL_EXTRANONCE);
        let (job_id, root) = match &opened[1] {
            MiningOwned::NewMiningJob(m) => (m.job_id, m.merkle_root.clone()),
            other => panic!("{other}"),
        };
        assert_ne!(root.as_bytes(), [0; 32]);
        let sent = client.ask(Message::SubmitSharesStandard(SubmitSharesStandard {
            channel_id: CHANNEL,
            sequence_number: 1,
            job_id,
            nonce: 5,
            ntime: 1_700_000_100,
            version: 0x2000_0000,
        }));
        assert_eq!(accepted(&sent), 1, "{sent:?}");
        let next = client.publish(2, MAIN_NBITS);
        let by_group = next
            .iter()
            .any(|m| matches!(m, MiningOwned::NewExtendedMiningJob(_)));
        assert_eq!(by_group, flags == 0, "{next:?}");
        let refused = !errors(&client.open(0.0, EASY, 4)).is_empty();
        assert_eq!(refused, flags != 0);
    }
}

#[test]
fn a_group_gets_one_job_for_all_its_channels() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    for min_extranonce_size in [0, 8, 8, 16] {
        client.open(0.0, EASY, min_extranonce_size);
    }
    let sent = client.publish(2, MAIN_NBITS);
    let jobs = sent
        .iter()
        .filter(|m| matches!(m, MiningOwned::NewExtendedMiningJob(_)))
        .count();
    assert_eq!(jobs, 2, "one for each size of extranonce: {sent:?}");
    let close = |channel_id| {
        Message::CloseChannel(CloseChannel {
            channel_id,
            reason_code: "".try_into().unwrap(),
        })
    };
    client.ask(close(u32::try_from(USUAL_EXTRANONCE).unwrap()));
    assert_eq!(
        client.session.channel_count(),
        1,
        "the group of the usual size is gone"
    );
}

#[test]
fn no_share_counts_twice_when_a_channel_gets_another_prefix() {
    let mut client = Client::set_up(Target::MAX, 0);
    // Half of all hashes are blocks here, so that no target can be harder than that.
    client.publish(1, 0x207f_ffff);
    let opened = client.open(0.0, EASY, 8);
    let first = job_of(&opened);
    let mut sent = Vec::new();
    for nonce in 0..u32::try_from(Seen::CAPACITY).unwrap() {
        let answers = client.submit(CHANNEL, &first, nonce);
        assert_eq!(accepted(&answers), 1);
        sent.extend(
            answers
                .into_iter()
                .filter(|m| !matches!(m, MiningOwned::SubmitSharesSuccess(_))),
        );
    }
    let renewed = sent.iter().find_map(|m| match m {
        MiningOwned::SetExtranoncePrefix(m) => Some(m.extranonce_prefix.as_bytes().to_vec()),
        _ => None,
    });
    assert_ne!(renewed.unwrap(), prefix_of(&opened));
    assert_eq!(
        errors(&client.submit(CHANNEL, &first, 7)),
        ["duplicate-share"]
    );
    let late = client.submit(CHANNEL, &first, 1 << 20);
    assert_eq!(
        accepted(&late),
        1,
        "a share that was under way still counts: {late:?}"
    );
    let second = Job {
        ntime: first.ntime,
        ..job_of(&sent)
    };
    let good = (0..)
        .find(|nonce| accepted(&client.submit(CHANNEL, &second, *nonce)) == 1)
        .unwrap();
    assert_eq!(
        errors(&client.submit(CHANNEL, &second, good)),
        ["duplicate-share"]
    );
}

#[test]
fn what_was_accepted_is_acknowledged_when_durable_also_if_its_channel_has_closed() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let job = job_of(&client.open(0.0, EASY, 8));
    let mut input = FrameBuffer::new();
    input
        .push(Message::SubmitSharesExtended(SubmitSharesExtended {
            channel_id: CHANNEL,
            sequence_number: 9,
            job_id: job.job_id,
            nonce: 1,
            ntime: job.ntime,
            version: job.version,
            extranonce: [0u8; 8][..].try_into().unwrap(),
        }))
        .unwrap();
    input
        .push(Message::CloseChannel(CloseChannel {
            channel_id: CHANNEL,
            reason_code: "".try_into().unwrap(),
        }))
        .unwrap();
    let mut out = FrameBuffer::new();
    for frame in input.frames() {
        client.session.handle(frame, client.now, &mut out).unwrap();
    }
    let booked = client.session.end_turn(1, client.now, &mut out).unwrap();
    assert_eq!((&*booked[0].account, booked[0].shares), ("alice", 1));
    assert_eq!(client.session.channel_count(), 0);
    assert!(
        out.is_empty(),
        "nothing is acknowledged before it is durable"
    );
    client.session.durable(0, &mut out).unwrap();
    assert!(out.is_empty());
    client.session.durable(1, &mut out).unwrap();
    assert_eq!(accepted(&parse(out)), 1);
}

#[test]
fn what_belongs_to_an_unknown_extension_is_ignored() {
    let mut client = Client::set_up(Target::MAX, 0);
    let mut payload = [1, 2, 3];
    let frame = Frame {
        extension_type: 0x4321,
        channel_bit: true,
        message_type: 0x10,
        payload: &mut payload,
    };
    let mut out = FrameBuffer::new();
    client.session.handle(frame, client.now, &mut out).unwrap();
    assert!(out.is_empty());
}

#[test]
fn nothing_counts_again_when_the_chain_returns_to_a_tip() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    let opened = client.open(0.0, EASY, 8);
    let before = job_of(&opened);
    assert_eq!(accepted(&client.submit(CHANNEL, &before, 1)), 1);
    assert!(!has_prefix(&client.publish(2, MAIN_NBITS)));
    let returned = client.publish(1, MAIN_NBITS);
    assert!(has_prefix(&returned), "{returned:?}");
    assert!(!has_prefix(&client.publish(3, MAIN_NBITS)));
}

#[test]
fn work_that_a_lighter_tier_still_has_is_not_gone_back_to() {
    let mut client = Client::set_up(Target::MAX, 0);
    client.publish(1, MAIN_NBITS);
    client.open(0.0, EASY, 8);
    client.publish(2, MAIN_NBITS);
    for behind in [1, 2] {
        client.work_id -= behind;
        assert!(client.publish(1, MAIN_NBITS).is_empty());
    }
    client.work_id = 2;
    assert!(!client.publish(3, MAIN_NBITS).is_empty());
}

#[test]
fn the_work_of_a_client_is_that_of_all_its_channels() {
    let mut client = Client::set_up(Target::MAX, 0);
    assert_eq!(client.session.hashrate(), Hashrate::ZERO);
    client.publish(1, MAIN_NBITS);
    client.open(1e12, EASY, 8);
    client.open(3e12, EASY, 8);
    let hashrate = client.session.hashrate().value();
    assert!((3.99e12..4.01e12).contains(&hashrate), "{hashrate}");
}

fn has_prefix(messages: &[MiningOwned]) -> bool {
    messages
        .iter()
        .any(|message| matches!(message, MiningOwned::SetExtranoncePrefix(_)))
}

#[test]
fn time_without_work_says_nothing_of_a_miner() {
    let mut client = Client::set_up(Target::MAX, 0);
    let opened = client.open(1e12, EASY, 8);
    for _ in 0..100 {
        assert!(client.tick(600).is_empty());
    }
    let sent = client.publish(1, 0x1700_ffff);
    let moved = sent
        .iter()
        .any(|message| matches!(message, MiningOwned::SetTarget(_)));
    assert!(!moved, "{opened:?} {sent:?}");
    assert!(client.tick(5).is_empty());
}

#[test]
fn a_client_has_to_introduce_itself_in_time_and_first() {
    let mut silent = Client::connect(Target::MAX);
    silent.now += Duration::from_secs(10);
    let fault = silent.session.tick(silent.now, &mut FrameBuffer::new());
    assert!(matches!(fault, Err(Fault::SetupTimeout)));

    let mut rude = Client::connect(Target::MAX);
    let fault = rude.send(Message::CloseChannel(CloseChannel {
        channel_id: 1,
        reason_code: "".try_into().unwrap(),
    }));
    assert!(matches!(
        fault,
        Err(Fault::Malformed(_) | Fault::Unexpected { .. })
    ));

    let mut strange = Client::connect(Target::MAX);
    let mut request = setup_request(0);
    request.protocol = Protocol::JobDeclarationProtocol;
    let fault = strange.send(CommonMessages::SetupConnection(request));
    assert!(matches!(fault, Err(Fault::Refused("unsupported-protocol"))));
}

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

const _: () = assert!(PREFIX_SIZE < USUAL_EXTRANONCE);

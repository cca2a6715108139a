//! Whole conversations with a session, in simulated time.

use bitcoin::Network;
use proptest::prelude::*;
use stratum_core::{
    mining_sv2::{
        CloseChannel, OpenExtendedMiningChannel, OpenStandardMiningChannel, SubmitSharesExtended,
        SubmitSharesStandard, UpdateChannel,
    },
    parsers_sv2::{CommonMessages, Mining as Message, MiningOwned},
};
use work::{Difficulty, Header, header};

mod accounts;
mod bad_input;
mod blocks;
mod capacity;
mod channels;
mod clamp;
mod drain;
mod extensions;
mod limits;
mod memory;
mod shares;

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
            told: false,
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

const _: () = assert!(PREFIX_SIZE < USUAL_EXTRANONCE);

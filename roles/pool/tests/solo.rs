//! Blocks of several payouts found over one connection, taken by the embedded chain.

#![allow(
    clippy::unwrap_used,
    reason = "a failed test should stop where it fails"
)]

use std::{net::SocketAddr, time::Duration};

use bitcoin::{Address, Transaction, address::NetworkUnchecked, consensus::deserialize};
use pool::{AccountsConfig, Config, Pool};
use service::http::Address as HttpAddress;
use stratum_core::{
    mining_sv2::{OpenExtendedMiningChannel, SubmitSharesExtended},
    parsers_sv2::{Mining, MiningOwned},
};
use sv2_connection::{
    AuthoritySecretKey, Connection, Error, FrameBuffer, Options, connect, mining_setup, setup,
};
use templates::{EmbeddedConfig, SourceConfig};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::sync::CancellationToken;
use work::{Header, Target, header};

const PATIENCE: Duration = Duration::from_secs(30);
const POOL: &str = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";
const LEGACY: &str = "mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn";
const TAPROOT: &str = "bcrt1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqc8gma6";

/// A channel, and the newest job that it was told of.
#[derive(Default, Clone)]
struct Channel {
    id: u32,
    group: u32,
    prefix: Vec<u8>,
    job: Job,
}

#[derive(Default, Clone)]
struct Job {
    id: u32,
    version: u32,
    coinbase: [Vec<u8>; 2],
    path: Vec<[u8; 32]>,
    prev_hash: [u8; 32],
    ntime: u32,
    nbits: u32,
}

struct Client {
    connection: Connection,
    channels: Vec<Channel>,
}

impl Client {
    async fn send(&mut self, message: Mining<'_>) {
        let mut frames = FrameBuffer::new();
        frames.push(message).unwrap();
        self.connection.writer.write(&mut frames).await.unwrap();
    }

    /// Reads until this holds of the channels.
    async fn until(&mut self, holds: impl Fn(&[Channel]) -> bool) {
        let Self {
            connection,
            channels,
        } = self;
        let search = async {
            while !holds(channels) {
                let handle = |frame: sv2_connection::Frame<'_>| {
                    note(channels, frame.mining()?.into_owned());
                    Ok(())
                };
                connection.reader.read::<Error>(handle).await.unwrap();
            }
        };
        timeout(PATIENCE, search).await.unwrap();
    }

    async fn open(&mut self, user: &str) {
        self.send(Mining::OpenExtendedMiningChannel(
            OpenExtendedMiningChannel {
                request_id: 1,
                user_identity: user.try_into().unwrap(),
                nominal_hash_rate: 0.0,
                max_target: (&[0xff; 32]).into(),
                min_extranonce_size: 8,
            },
        ))
        .await;
        let goal = self.channels.len() + 1;
        self.until(|channels| {
            channels.len() == goal && channels.iter().all(|channel| channel.job.nbits != 0)
        })
        .await;
    }

    /// Finds a block on the newest job of a channel: its hash and its coinbase, as a miner puts them together.
    async fn find_block(&mut self, at: usize) -> ([u8; 32], Transaction) {
        let Channel {
            id, prefix, job, ..
        } = self.channels[at].clone();
        let coinbase = [&job.coinbase[0][..], &prefix, &[0; 8], &job.coinbase[1]];
        let mut header = Header {
            version: job.version,
            prev_hash: job.prev_hash,
            merkle_root: header::merkle_root(header::coinbase_txid(&coinbase), &job.path),
            ntime: job.ntime,
            nbits: job.nbits,
            nonce: 0,
        };
        let target = Target::from_compact(job.nbits).unwrap();
        while !target.is_met_by(&header.hash()) {
            header.nonce += 1;
        }
        self.send(Mining::SubmitSharesExtended(SubmitSharesExtended {
            channel_id: id,
            sequence_number: 1,
            job_id: job.id,
            nonce: header.nonce,
            ntime: header.ntime,
            version: header.version,
            extranonce: [0u8; 8][..].try_into().unwrap(),
        }))
        .await;
        (header.hash(), deserialize(&coinbase.concat()).unwrap())
    }
}

fn note(channels: &mut Vec<Channel>, message: MiningOwned) {
    let of = |channels: &mut Vec<Channel>, id, change: &dyn Fn(&mut Job)| {
        for channel in channels {
            if channel.id == id || channel.group == id {
                change(&mut channel.job);
            }
        }
    };
    match message {
        MiningOwned::OpenExtendedMiningChannelSuccess(m) => channels.push(Channel {
            id: m.channel_id,
            group: m.group_channel_id,
            prefix: m.extranonce_prefix.as_bytes().to_vec(),
            job: Job::default(),
        }),
        MiningOwned::NewExtendedMiningJob(m) => of(channels, m.channel_id, &|job| {
            job.id = m.job_id;
            job.version = m.version;
            job.coinbase = [
                m.coinbase_tx_prefix.as_bytes().to_vec(),
                m.coinbase_tx_suffix.as_bytes().to_vec(),
            ];
            let path = m.merkle_path.iter();
            job.path = path
                .map(|node| node.as_bytes().try_into().unwrap())
                .collect();
        }),
        MiningOwned::SetNewPrevHash(m) => of(channels, m.channel_id, &|job| {
            assert_eq!(job.id, m.job_id);
            job.prev_hash = m.prev_hash.as_bytes().try_into().unwrap();
            job.ntime = m.min_ntime;
            job.nbits = m.nbits;
        }),
        MiningOwned::SubmitSharesSuccess(_) | MiningOwned::SetTarget(_) => {}
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn blocks_of_one_connection_pay_whom_their_channels_pay() {
    let data = tempfile::tempdir().unwrap();
    let pool = Pool::bind(Config {
        listen_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        http_address: HttpAddress::Off,
        authority_secret_key: Some(AuthoritySecretKey::generate()),
        data_dir: data.path().to_owned(),
        payout: POOL.to_owned(),
        minimum_difficulty: 1e-10,
        accounts: AccountsConfig {
            solo: true,
            ..AccountsConfig::default()
        },
        template: SourceConfig::Embedded(EmbeddedConfig {
            first_block_hashes: 256,
            minimum_block_hashes: 256,
            // No other job of the same tip comes between.
            refresh_interval_seconds: 3600,
            ..EmbeddedConfig::default()
        })
        .into(),
        ..Config::default()
    })
    .await
    .unwrap();
    let (address, key) = (pool.local_addr(), pool.authority_public_key());
    let (templates, status) = (pool.templates(), pool.status());
    let stop = CancellationToken::new();
    let task = tokio::spawn(pool.run(stop.clone()));

    let stream = TcpStream::connect(address).await.unwrap();
    let options = Options::default();
    let mut connection = connect(stream, Some(key), options).await.unwrap();
    let request = mining_setup(0, "127.0.0.1", address.port(), "test").unwrap();
    setup(&mut connection, request, PATIENCE).await.unwrap();
    let mut client = Client {
        connection,
        channels: Vec::new(),
    };
    let users = [
        ("alice.rig", POOL),
        (&*format!("{LEGACY}.rig.1"), LEGACY),
        (&*format!("solo/{TAPROOT}"), TAPROOT),
    ];
    for (user, _) in users {
        client.open(user).await;
    }

    // Twice, so that both the first job of a channel and one of its group find blocks.
    let order = [1, 0, 2, 2, 1, 0];
    for (found, at) in (1..).zip(order) {
        let (hash, coinbase) = client.find_block(at).await;
        // The chain took it: what comes next builds on it.
        client
            .until(|channels| channels.iter().all(|channel| channel.job.prev_hash == hash))
            .await;
        let paid: Address<NetworkUnchecked> = users[at].1.parse().unwrap();
        assert_eq!(
            coinbase.output[0].script_pubkey,
            paid.assume_checked().script_pubkey()
        );
        let reward: u64 = coinbase.output.iter().map(|out| out.value.to_sat()).sum();
        assert_eq!(coinbase.output[0].value.to_sat(), reward, "all of it");
        assert_eq!(templates.status().height, Some(found));
    }
    drop(client);
    stop.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
    assert_eq!(status.snapshot().blocks_accepted, 6);
}

//! An SV2 mining client that finds real shares and remembers what it was told about them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use stratum_core::{
    mining_sv2::{OpenExtendedMiningChannel, SubmitSharesExtended},
    parsers_sv2::Mining,
};
use sv2_connection::{
    AuthorityPublicKey, Connection, Error, Frame, FrameBuffer, Options, connect, mining_setup,
    setup,
};
use tokio::{net::TcpStream, time::timeout};
use work::{Header, Target, header};

use crate::PATIENCE;

/// One connection with one extended channel.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    frames: FrameBuffer,
    /// What it works on.
    pub channel: Channel,
    /// What the pool said.
    pub answers: Answers,
    next_sequence_number: u32,
}

/// What the pool said about the shares of one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// Shares that it acknowledged.
    pub accepted: u64,
    /// Shares that it refused, by code.
    pub rejected: BTreeMap<String, u64>,
}

impl Answers {
    /// Shares that it answered.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.accepted + self.rejected.values().sum::<u64>()
    }
}

/// A channel as its client sees it.
#[derive(Debug, Clone, Default)]
pub struct Channel {
    /// The pool's number for it.
    pub id: u32,
    prefix: Vec<u8>,
    extranonce_size: usize,
    target: [u8; 32],
    jobs: BTreeMap<u32, Job>,
    /// The job to work on; with it, the tip.
    active: Option<u32>,
    prev_hash: [u8; 32],
    nbits: u32,
    /// How often a job has become the one to work on.
    pub jobs_seen: u64,
}

#[derive(Debug, Clone, Default)]
struct Job {
    version: u32,
    ntime: u32,
    merkle_path: Vec<[u8; 32]>,
    coinbase_prefix: Vec<u8>,
    coinbase_suffix: Vec<u8>,
}

/// A share, to be submitted as often as a test likes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The job it was found for.
    pub job_id: u32,
    version: u32,
    ntime: u32,
    nonce: u32,
    extranonce: Vec<u8>,
}

impl Client {
    /// Connects and opens a channel; returns when there is work.
    ///
    /// # Errors
    /// If the pool goes away meanwhile.
    pub async fn open(
        address: SocketAddr,
        key: AuthorityPublicKey,
        identity: &str,
    ) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await.map_err(Error::Io)?;
        let mut connection = connect(stream, Some(key), Options::default()).await?;
        let request = mining_setup(0, "127.0.0.1", address.port(), "test").expect("short text");
        setup(&mut connection, request, PATIENCE).await?;
        let mut client = Self {
            connection,
            frames: FrameBuffer::new(),
            channel: Channel::default(),
            answers: Answers::default(),
            next_sequence_number: 1,
        };
        let request = OpenExtendedMiningChannel {
            request_id: 1,
            user_identity: identity.try_into().expect("short text"),
            nominal_hash_rate: 0.0,
            max_target: (&[0xff; 32]).into(),
            min_extranonce_size: 8,
        };
        let request = Mining::OpenExtendedMiningChannel(request);
        client.frames.push(request).expect("a whole message");
        client.write().await?;
        while client.channel.active.is_none() {
            client.read().await?;
        }
        Ok(client)
    }

    /// Takes what the pool sends next.
    ///
    /// # Errors
    /// If the pool goes away, or sends nothing for long.
    pub async fn read(&mut self) -> Result<(), Error> {
        let (channel, answers) = (&mut self.channel, &mut self.answers);
        let read = self
            .connection
            .reader
            .read(|frame| take(frame, channel, answers));
        timeout(PATIENCE, read).await.unwrap_or(Err(Error::Closed))
    }

    /// Reads until as many shares are answered in all, or nothing has come for a while.
    ///
    /// # Errors
    /// If the pool goes away.
    pub async fn answered(&mut self, total: u64) -> Result<(), Error> {
        while self.answers.total() < total {
            self.read().await?;
        }
        Ok(())
    }

    /// Takes what has come already, without waiting for more.
    ///
    /// # Errors
    /// If the pool goes away.
    pub async fn read_what_is_there(&mut self) -> Result<(), Error> {
        loop {
            let (channel, answers) = (&mut self.channel, &mut self.answers);
            let read = self
                .connection
                .reader
                .read(|frame| take(frame, channel, answers));
            match timeout(Duration::ZERO, read).await {
                Ok(result) => result?,
                Err(_) => return Ok(()),
            }
        }
    }

    /// Submits shares with one write; gives how many this connection has submitted in all.
    ///
    /// # Errors
    /// If the pool goes away.
    pub async fn submit(&mut self, shares: &[Share]) -> Result<u64, Error> {
        for share in shares {
            let message = SubmitSharesExtended {
                channel_id: self.channel.id,
                sequence_number: self.next_sequence_number,
                job_id: share.job_id,
                nonce: share.nonce,
                ntime: share.ntime,
                version: share.version,
                extranonce: share.extranonce.as_slice().try_into().expect("short"),
            };
            self.next_sequence_number += 1;
            let message = Mining::SubmitSharesExtended(message);
            self.frames.push(message).expect("a whole message");
        }
        self.write().await?;
        Ok(u64::from(self.next_sequence_number) - 1)
    }

    async fn write(&mut self) -> Result<(), Error> {
        self.connection.writer.write(&mut self.frames).await
    }
}

impl Channel {
    /// A claim that nobody has hashed: a share if it is lucky. Different numbers make different headers.
    #[must_use]
    pub fn guess(&self, number: u64) -> Share {
        let job_id = self.active.unwrap_or_default();
        let job = self.jobs.get(&job_id).cloned().unwrap_or_default();
        let mut extranonce = vec![0; self.extranonce_size];
        extranonce[..8].copy_from_slice(&number.to_le_bytes());
        Share {
            job_id,
            version: job.version,
            // Ahead, so that it is not too early for later jobs either.
            ntime: job.ntime + 600,
            nonce: 0,
            extranonce,
        }
    }

    /// Hashes until a header meets the channel's target; `number` as in [`guess`](Self::guess).
    #[must_use]
    pub fn mine(&self, number: u64) -> Share {
        let target = Target::from_le_bytes(self.target).expect("the pool's target");
        self.mine_for(target, number)
    }

    /// Hashes until a header is a block.
    #[must_use]
    pub fn mine_block(&self, number: u64) -> Share {
        let target = Target::from_compact(self.nbits).expect("the network's target");
        self.mine_for(target, number)
    }

    fn mine_for(&self, target: Target, number: u64) -> Share {
        let mut share = self.guess(number);
        let job = &self.jobs[&share.job_id];
        let coinbase = header::coinbase_txid(&[
            &job.coinbase_prefix,
            &self.prefix,
            &share.extranonce,
            &job.coinbase_suffix,
        ]);
        let mut header = Header {
            version: share.version,
            prev_hash: self.prev_hash,
            merkle_root: header::merkle_root(coinbase, &job.merkle_path),
            ntime: share.ntime,
            nbits: self.nbits,
            nonce: 0,
        };
        while !target.is_met_by(&header.hash()) {
            header.nonce += 1;
        }
        share.nonce = header.nonce;
        share
    }
}

impl Share {
    /// The same share, claimed for another job.
    #[must_use]
    pub fn for_job_of(&self, channel: &Channel) -> Self {
        Self {
            job_id: channel.active.unwrap_or_default(),
            ..self.clone()
        }
    }
}

fn take(frame: Frame<'_>, channel: &mut Channel, answers: &mut Answers) -> Result<(), Error> {
    match frame.mining()? {
        Mining::OpenExtendedMiningChannelSuccess(m) => {
            channel.id = m.channel_id;
            channel.prefix = m.extranonce_prefix.as_bytes().to_vec();
            channel.extranonce_size = m.extranonce_size.into();
            channel.target = m.target.to_array();
        }
        Mining::NewExtendedMiningJob(m) => {
            let begins_at = m.min_ntime.into_inner();
            let job = Job {
                version: m.version,
                ntime: begins_at.unwrap_or_default(),
                merkle_path: m.merkle_path.iter().map(|node| node.to_array()).collect(),
                coinbase_prefix: m.coinbase_tx_prefix.as_bytes().to_vec(),
                coinbase_suffix: m.coinbase_tx_suffix.as_bytes().to_vec(),
            };
            channel.jobs.insert(m.job_id, job);
            if begins_at.is_some() {
                channel.active = Some(m.job_id);
                channel.jobs_seen += 1;
            }
        }
        Mining::SetNewPrevHash(m) => {
            channel.prev_hash = m.prev_hash.to_array();
            channel.nbits = m.nbits;
            if let Some(job) = channel.jobs.get_mut(&m.job_id) {
                job.ntime = m.min_ntime;
            }
            channel.active = Some(m.job_id);
            channel.jobs_seen += 1;
        }
        Mining::SetTarget(m) => channel.target = m.maximum_target.to_array(),
        Mining::SetExtranoncePrefix(m) => {
            channel.prefix = m.extranonce_prefix.as_bytes().to_vec();
        }
        Mining::SubmitSharesSuccess(m) => {
            answers.accepted += u64::from(m.new_submits_accepted_count);
        }
        Mining::SubmitSharesError(m) => {
            let code = m.error_code.as_utf8_or_hex();
            *answers.rejected.entry(code).or_default() += 1;
        }
        _ => {}
    }
    Ok(())
}

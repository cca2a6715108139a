//! A miner's side of a connection: channels with a job each, and shares.

use std::{net::SocketAddr, time::Duration};

use stratum_core::{
    mining_sv2::{OpenExtendedMiningChannel, SubmitSharesExtended},
    parsers_sv2::Mining,
};
use sv2_connection::{
    AuthorityPublicKey, Connection, Frame, FrameBuffer, MalformedMessage, Options, Reader, Writer,
    connect, mining_setup, setup,
};
use tokio::{net::TcpStream, time::timeout};
use work::{Header, Target, header};

use crate::{Result, subject::NOMINAL_HASHRATE};

/// How long a pool may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The rollable part of the extranonce that is asked for, in bytes.
const ROLLABLE: u16 = 8;

/// A connection after its set-up.
#[derive(Debug)]
pub struct Client {
    /// What the pool says.
    pub reader: Reader,
    /// What it is told.
    pub writer: Writer,
    requests: u32,
}

/// A channel with the job that it got at its opening.
#[derive(Debug)]
pub struct Channel {
    id: u32,
    /// The group that gets its jobs, where the pool has no job yet at the opening.
    group: u32,
    target: Target,
    /// The part of the extranonce that the pool chose.
    prefix: Vec<u8>,
    /// Bytes of the part that the miner chooses.
    rollable: usize,
    job: Job,
}

#[derive(Debug)]
struct Job {
    id: u32,
    version: u32,
    coinbase_prefix: Vec<u8>,
    coinbase_suffix: Vec<u8>,
    merkle_path: Vec<[u8; 32]>,
    prev_hash: [u8; 32],
    ntime: u32,
    nbits: u32,
}

/// A share that meets its channel's target.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    extranonce: u64,
    nonce: u32,
}

/// What the pool says of shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// So many are accepted.
    Accepted(u32),
    /// One is refused, and why; or the channel is closed.
    Rejected(String),
    /// Something else.
    Other,
}

impl Client {
    /// Connects, and goes through the handshake and the set-up.
    ///
    /// # Errors
    /// Whatever the pool does wrong.
    pub async fn connect(pool: SocketAddr, key: AuthorityPublicKey) -> Result<Self> {
        let stream = TcpStream::connect(pool).await?;
        let mut connection = connect(stream, Some(key), Options::default()).await?;
        let host = pool.ip().to_string();
        let request = mining_setup(0, &host, pool.port(), "bench")?;
        setup(&mut connection, request, PATIENCE).await?;
        let Connection { reader, writer } = connection;
        Ok(Self {
            reader,
            writer,
            requests: 0,
        })
    }

    /// Opens a channel and waits for its job.
    ///
    /// # Errors
    /// Whatever the pool does wrong.
    pub async fn open_channel(&mut self) -> Result<Channel> {
        self.requests += 1;
        let request_id = self.requests;
        let mut frames = FrameBuffer::new();
        frames.push(Mining::OpenExtendedMiningChannel(
            OpenExtendedMiningChannel {
                request_id,
                user_identity: "bench.worker"
                    .try_into()
                    .map_err(MalformedMessage::Fields)?,
                nominal_hash_rate: NOMINAL_HASHRATE,
                max_target: (&[0xff; 32]).into(),
                min_extranonce_size: ROLLABLE,
            },
        ))?;
        self.writer.write(&mut frames).await?;
        let mut opening = Opening {
            request_id,
            channel: None,
            active: false,
        };
        timeout(PATIENCE, async {
            while !opening.active {
                self.reader.read(|frame| opening.handle(frame)).await?;
            }
            Ok::<_, crate::Error>(())
        })
        .await
        .map_err(|_| "the pool opens no channel")??;
        opening.channel.ok_or_else(|| "no channel".into())
    }
}

/// A channel on its way.
struct Opening {
    request_id: u32,
    channel: Option<Channel>,
    /// Its job is one to work on.
    active: bool,
}

impl Opening {
    fn handle(&mut self, frame: Frame<'_>) -> Result<()> {
        match (frame.mining()?, &mut self.channel) {
            (Mining::OpenMiningChannelError(refusal), _) => {
                return Err(refusal.error_code.as_utf8_or_hex().into());
            }
            (Mining::OpenExtendedMiningChannelSuccess(success), _)
                if success.request_id == self.request_id =>
            {
                self.channel = Some(Channel {
                    id: success.channel_id,
                    group: success.group_channel_id,
                    target: Target::from_le_bytes(success.target.to_array())?,
                    prefix: success.extranonce_prefix.as_bytes().to_vec(),
                    rollable: success.extranonce_size.into(),
                    job: Job::none(),
                });
            }
            (Mining::NewExtendedMiningJob(job), Some(channel))
                if channel.is_meant(job.channel_id) =>
            {
                channel.job = Job {
                    id: job.job_id,
                    version: job.version,
                    coinbase_prefix: job.coinbase_tx_prefix.as_bytes().to_vec(),
                    coinbase_suffix: job.coinbase_tx_suffix.as_bytes().to_vec(),
                    merkle_path: job
                        .merkle_path
                        .as_slice()
                        .iter()
                        .map(|branch| branch.to_array())
                        .collect(),
                    ..Job::none()
                };
            }
            (Mining::SetNewPrevHash(tip), Some(channel))
                if channel.is_meant(tip.channel_id) && tip.job_id == channel.job.id =>
            {
                channel.job.prev_hash = tip.prev_hash.to_array();
                channel.job.ntime = tip.min_ntime;
                channel.job.nbits = tip.nbits;
                self.active = true;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Job {
    fn none() -> Self {
        Self {
            id: 0,
            version: 0,
            coinbase_prefix: Vec::new(),
            coinbase_suffix: Vec::new(),
            merkle_path: Vec::new(),
            prev_hash: [0; 32],
            ntime: 0,
            nbits: 0,
        }
    }
}

impl Channel {
    fn is_meant(&self, channel_id: u32) -> bool {
        channel_id == self.id || channel_id == self.group
    }

    /// Hashes until there are so many shares. Each has an extranonce of its own, as it has where many miners work on
    /// one channel or a miner is fast, so that no part of the check can be remembered from the share before.
    #[must_use]
    pub fn find_shares(&self, count: usize) -> Vec<Share> {
        (0..)
            .filter_map(|extranonce| self.find(extranonce))
            .take(count)
            .collect()
    }

    fn find(&self, extranonce: u64) -> Option<Share> {
        let rolled = self.rolled(extranonce);
        let job = &self.job;
        let parts = [
            &job.coinbase_prefix,
            &self.prefix,
            &rolled,
            &job.coinbase_suffix,
        ];
        let coinbase = header::coinbase_txid(&parts.map(Vec::as_slice));
        let mut header = Header {
            version: job.version,
            prev_hash: job.prev_hash,
            merkle_root: header::merkle_root(coinbase, &job.merkle_path),
            ntime: job.ntime,
            nbits: job.nbits,
            nonce: 0,
        };
        let nonce = (0..=u32::MAX).find(|nonce| {
            header.nonce = *nonce;
            self.target.is_met_by(&header.hash())
        })?;
        Some(Share { extranonce, nonce })
    }

    fn rolled(&self, extranonce: u64) -> Vec<u8> {
        let mut rolled = extranonce.to_be_bytes().to_vec();
        rolled.resize(self.rollable, 0);
        rolled
    }

    /// Appends the message that submits the share.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn submit(
        &self,
        share: Share,
        sequence_number: u32,
        frames: &mut FrameBuffer,
    ) -> Result<()> {
        let rolled = self.rolled(share.extranonce);
        frames.push(Mining::SubmitSharesExtended(SubmitSharesExtended {
            channel_id: self.id,
            sequence_number,
            job_id: self.job.id,
            nonce: share.nonce,
            ntime: self.job.ntime,
            version: self.job.version,
            extranonce: rolled
                .as_slice()
                .try_into()
                .map_err(MalformedMessage::Fields)?,
        }))?;
        Ok(())
    }
}

impl Answer {
    /// Reads what one frame says of shares.
    ///
    /// # Errors
    /// If the frame is malformed.
    pub fn read(frame: Frame<'_>) -> std::result::Result<Self, sv2_connection::Error> {
        Ok(match frame.mining()? {
            Mining::SubmitSharesSuccess(success) => {
                Self::Accepted(success.new_submits_accepted_count)
            }
            Mining::SubmitSharesError(error) => Self::Rejected(error.error_code.as_utf8_or_hex()),
            Mining::CloseChannel(close) => Self::Rejected(close.reason_code.as_utf8_or_hex()),
            _ => Self::Other,
        })
    }
}

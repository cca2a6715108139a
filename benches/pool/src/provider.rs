//! A template provider of made-up templates: twelve branches, and a difficulty at which no share is a block.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use stratum_core::{
    binary_sv2::U256,
    common_messages_sv2::{MESSAGE_TYPE_SETUP_CONNECTION, SetupConnectionSuccess},
    parsers_sv2::{CommonMessages, TemplateDistribution},
    template_distribution_sv2::{
        MESSAGE_TYPE_COINBASE_OUTPUT_CONSTRAINTS, NewTemplate, SetNewPrevHash,
    },
};
use sv2_connection::{
    Authority, AuthorityPublicKey, AuthoritySecretKey, Connection, Frame, FrameBuffer,
    MalformedMessage, Options, accept,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use work::{Target, header::sha256d};

use crate::Result;

/// Branches of the merkle path: a block of 4,096 transactions.
pub const BRANCHES: u64 = 12;

/// A difficulty of the main chain's size.
const NBITS: u32 = 0x1702_5ced;

/// The height that the first template is for.
const FIRST_HEIGHT: u64 = 900_000;

/// The provider, which serves one pool at a time.
#[derive(Debug)]
pub struct Provider {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it proves itself with.
    pub authority_public_key: AuthorityPublicKey,
    orders: mpsc::Sender<oneshot::Sender<Announced>>,
}

/// A new block, as the pool was told of it.
#[derive(Debug, Clone, Copy)]
pub struct Announced {
    /// The block that is mined on from now on, in internal byte order.
    pub prev_hash: [u8; 32],
    /// Just before the messages were written.
    pub at: Instant,
}

impl Provider {
    /// Starts it as a task.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let authority = Authority::new(AuthoritySecretKey::generate())?;
        let authority_public_key = authority.public();
        let (orders, incoming) = mpsc::channel(1);
        tokio::spawn(serve(listener, authority, incoming));
        Ok(Self {
            address,
            authority_public_key,
            orders,
        })
    }

    /// Tells the pool of a new block.
    ///
    /// # Errors
    /// If the provider has ended.
    pub async fn announce(&self) -> Result<Announced> {
        let (order, announced) = oneshot::channel();
        self.orders.send(order).await?;
        Ok(announced.await?)
    }
}

async fn serve(
    listener: TcpListener,
    authority: Authority,
    mut orders: mpsc::Receiver<oneshot::Sender<Announced>>,
) {
    let mut tip = Tip { number: 0 };
    while let Ok((stream, _)) = listener.accept().await {
        // A pool that is gone or refuses the templates is noticed by whoever waits for its jobs.
        let _ = serve_pool(stream, &authority, &mut orders, &mut tip).await;
    }
}

async fn serve_pool(
    stream: TcpStream,
    authority: &Authority,
    orders: &mut mpsc::Receiver<oneshot::Sender<Announced>>,
    tip: &mut Tip,
) -> Result<()> {
    let Connection {
        mut reader,
        mut writer,
    } = accept(stream, authority, Options::default()).await?;
    let mut out = FrameBuffer::new();
    let mut subscribed = false;
    loop {
        let mut wants_templates = false;
        tokio::select! {
            read = reader.read(|frame| {
                wants_templates |= answer(&frame, &mut out)?;
                Ok::<_, sv2_connection::Error>(())
            }) => {
                read?;
                if wants_templates {
                    tip.push(&mut out)?;
                    subscribed = true;
                }
                writer.write(&mut out).await?;
            }
            Some(order) = orders.recv(), if subscribed => {
                tip.number += 1;
                tip.push(&mut out)?;
                let announced = Announced { prev_hash: tip.prev_hash(), at: Instant::now() };
                writer.write(&mut out).await?;
                let _ = order.send(announced);
            }
        }
    }
}

/// Whether the pool has just said what room its outputs need, after which it gets templates (SV2 7.1).
fn answer(frame: &Frame<'_>, out: &mut FrameBuffer) -> std::result::Result<bool, MalformedMessage> {
    if frame.message_type == MESSAGE_TYPE_SETUP_CONNECTION {
        out.push(CommonMessages::SetupConnectionSuccess(
            SetupConnectionSuccess {
                used_version: 2,
                flags: 0,
            },
        ))?;
    }
    // Nothing else is answered: pools can do without a template's transactions.
    Ok(frame.message_type == MESSAGE_TYPE_COINBASE_OUTPUT_CONSTRAINTS)
}

/// What is mined on. Everything about it follows from its number.
struct Tip {
    number: u64,
}

impl Tip {
    fn prev_hash(&self) -> [u8; 32] {
        sha256d(&self.number.to_le_bytes())
    }

    /// A template for the future, and the tip that makes it current (SV2 7.2, 7.3).
    fn push(&self, out: &mut FrameBuffer) -> std::result::Result<(), MalformedMessage> {
        let branches: Vec<[u8; 32]> = (0..BRANCHES)
            .map(|branch| sha256d(&[self.number, branch].map(u64::to_le_bytes).concat()))
            .collect();
        let path: Vec<U256<'_>> = branches.iter().map(U256::from).collect();
        let [low, middle, high, ..] = (FIRST_HEIGHT + self.number).to_le_bytes();
        let witness_commitment = [
            &[0; 8][..],
            &[38, 0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed],
            &self.prev_hash(),
        ]
        .concat();
        out.push(TemplateDistribution::NewTemplate(NewTemplate {
            template_id: self.number + 1,
            future_template: true,
            version: 0x2000_0000,
            coinbase_tx_version: 2,
            coinbase_prefix: [3, low, middle, high].as_slice().try_into()?,
            coinbase_tx_input_sequence: u32::MAX,
            coinbase_tx_value_remaining: 312_500_000,
            coinbase_tx_outputs_count: 1,
            coinbase_tx_outputs: witness_commitment.as_slice().try_into()?,
            coinbase_tx_locktime: 0,
            merkle_path: path.try_into()?,
        }))?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let target = Target::from_compact(NBITS).map_or([0; 32], |target| target.to_le_bytes());
        out.push(TemplateDistribution::SetNewPrevHash(SetNewPrevHash {
            template_id: self.number + 1,
            prev_hash: (&self.prev_hash()).into(),
            header_timestamp: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
            n_bits: NBITS,
            target: (&target).into(),
        }))
    }
}

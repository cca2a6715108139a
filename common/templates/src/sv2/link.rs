//! The connection to the provider, made anew for as long as the source runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{SockRef, TcpKeepalive};
use stratum_core::{
    parsers_sv2::TemplateDistribution,
    template_distribution_sv2::{CoinbaseOutputConstraints, SubmitSolution},
};
use sv2_connection::{
    Connection, FrameBuffer, MalformedMessage, Options, connect, setup, template_setup,
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Delivery, Source,
    conversation::{Conversation, Fault},
};
use crate::{Sv2Config, backoff::Backoff};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The protocol has no ping: a provider that vanished is noticed by the system's.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How often a connection that stands confirms the newest template. A provider need not send another while nothing
/// better is there.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(2);

pub(super) async fn run(config: Sv2Config, source: Arc<Source>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut last_problem = String::new();
    loop {
        let Err(fault) = serve(&config, &source, &mut backoff).await;
        let problem = format!("template provider {}: {fault}", config.address);
        if problem == last_problem {
            debug!("{problem}");
        } else {
            warn!("{problem}");
        }
        source.disconnected(problem.clone());
        last_problem = problem;
        sleep(backoff.next()).await;
    }
}

/// One connection, for as long as it lasts.
async fn serve(
    config: &Sv2Config,
    source: &Source,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, Fault> {
    let Connection {
        mut reader,
        mut writer,
    } = open(config).await?;
    info!(address = config.address, "connected to template provider");
    let mut deliveries = source.connected();
    let mut frames = FrameBuffer::new();
    frames.push(TemplateDistribution::CoinbaseOutputConstraints(
        CoinbaseOutputConstraints {
            coinbase_output_max_additional_size: config.coinbase_output_bytes,
            coinbase_output_max_additional_sigops: config.coinbase_output_sigops,
        },
    ))?;
    writer.write(&mut frames).await?;

    let mut conversation = Conversation::default();
    let mut has_template = false;
    let mut confirm = interval(CONFIRM_INTERVAL);
    confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(delivery) = deliveries.recv() => {
                deliver(delivery, &mut deliveries, &mut frames, &mut writer).await?;
            }
            read = reader.read::<Fault>(|frame| {
                if let Some(received) = conversation.handle(frame, Instant::now())? {
                    source.publish(received);
                    has_template = true;
                    backoff.reset();
                }
                Ok(())
            }) => read?,
            _ = confirm.tick() => if has_template {
                source.board.confirm();
            },
        }
    }
}

async fn open(config: &Sv2Config) -> Result<Connection, Fault> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(&config.address))
        .await
        .map_err(|_| Fault::Nonsense("it cannot be reached in time"))?
        .map_err(sv2_connection::Error::from)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 4);
    SockRef::from(&stream)
        .set_tcp_keepalive(&keepalive)
        .map_err(sv2_connection::Error::from)?;
    let (host, port) = config.host_and_port();
    let mut connection = connect(stream, config.authority_public_key, Options::default()).await?;
    let request = template_setup(host, port, concat!("hashpool/", env!("CARGO_PKG_VERSION")))?;
    setup(&mut connection, request, SETUP_TIMEOUT).await?;
    Ok(connection)
}

/// Writes what waits, all at once.
async fn deliver(
    first: Delivery,
    deliveries: &mut mpsc::Receiver<Delivery>,
    frames: &mut FrameBuffer,
    writer: &mut sv2_connection::Writer,
) -> Result<(), Fault> {
    let mut written = Vec::new();
    let mut next = Some(first);
    while let Some(delivery) = next {
        let solution = &delivery.solution;
        frames.push(TemplateDistribution::SubmitSolution(SubmitSolution {
            template_id: delivery.remote_id,
            version: solution.version,
            header_timestamp: solution.ntime,
            header_nonce: solution.nonce,
            coinbase_tx: solution
                .coinbase
                .as_slice()
                .try_into()
                .map_err(MalformedMessage::Fields)?,
        }))?;
        written.push(delivery.written);
        next = deliveries.try_recv().ok();
    }
    writer.write(frames).await?;
    for written in written {
        // Whoever submitted may have stopped waiting.
        let _ = written.send(());
    }
    Ok(())
}

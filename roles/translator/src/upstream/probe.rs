//! Tries a pool that miners may go back to, as a miner would: connects, opens a channel, and waits for work.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use work::Target;

use super::connection::Leash;
use super::dial::dial;
use super::{Link, Outgoing, Place, Plan, Record, Upstream, UpstreamError};
use crate::session::{ChannelEvent, OpenChannel, Request};

/// Bytes; as many as any miner needs.
const EXTRANONCE_SIZE: u16 = 12;

/// Comes back when the pool has been good for so long, or was not.
pub(super) async fn probe(
    record: &Record,
    upstream: &Upstream,
    plan: &Plan,
    good_for: Duration,
) -> Result<(), UpstreamError> {
    let established = dial(record, upstream, plan).await?;
    let good_at = Instant::now() + good_for;
    let (asking, mut asked) = mpsc::channel(1);
    let proving = prove(established.link(), plan);
    // What the pool does not do in time ends the connection, as it would end a miner's.
    let running = established.run(Leash {
        shutdown: CancellationToken::new(),
        retire: CancellationToken::new(),
        asked: asking,
    });
    tokio::select! {
        end = running => Err(end.err().unwrap_or(sv2_connection::Error::Closed.into())),
        // Whoever wants us to leave is not who miners should go to.
        _ = asked.recv() => Err(UpstreamError::Reconnect),
        proved = async {
            // As long as it is held, the connection is in use.
            let _link = proving.await?;
            sleep_until(good_at).await;
            Ok(())
        } => proved,
    }
}

/// Opens a channel as the last miner did, and waits for its work.
async fn prove(link: Link, plan: &Plan) -> Result<Link, UpstreamError> {
    let Some(user_identity) = plan.last_identity.read() else {
        // Nobody mines yet, so set-up is all that can be tried.
        return Ok(link);
    };
    let open = OpenChannel {
        user_identity,
        hashrate: plan.nominal_hashrate,
        max_target: Target::MAX,
        min_extranonce_size: EXTRANONCE_SIZE,
    };
    let Place {
        mailbox,
        request_id,
    } = link.place(&open);
    if let Some(request_id) = request_id {
        let request = Outgoing {
            request_id,
            request: Request::Open(open),
            mailbox: None,
        };
        // Fails only if the connection is gone, which says so itself.
        let _ = link.queue.send(request).await;
    }
    loop {
        mailbox.arrived().await;
        for event in mailbox.take().into_events() {
            match event {
                ChannelEvent::Work(_) => return Ok(link),
                ChannelEvent::Refused(code) => return Err(UpstreamError::Refused(code)),
                ChannelEvent::Closed(_) => return Err(sv2_connection::Error::Closed.into()),
                _ => {}
            }
        }
    }
}

//! One task per connection: it drives one session, and owns all its state.

use std::{future, net::SocketAddr, sync::Arc, time::Instant};

use service::listener::Accepted;
use sv2_connection::{Authority, Connection, FrameBuffer, Options, accept};
use templates::{Solution, Submission, Templates};
use tokio::{sync::Semaphore, task::coop::consume_budget, time::sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    session::{Fault, Session, Settings},
    status::{BlockReport, Counters},
};

/// Blocks of one connection that may wait for the node at a time. More is possible only on test networks; there the
/// connection is not read until the node has answered.
const SUBMISSIONS: usize = 16;

/// What all connections share; read-only but for counters.
pub(crate) struct Shared {
    pub settings: Settings,
    pub options: Options,
    pub authority: Authority,
    pub templates: Templates,
    pub counters: Arc<Counters>,
    /// Blocks on their way to the node; they outlive the connection that found them.
    pub submissions: TaskTracker,
}

/// Serves one client until it leaves, misbehaves, or the provider stops.
pub(crate) async fn serve(accepted: Accepted, shared: Arc<Shared>, shutdown: CancellationToken) {
    let Accepted {
        stream,
        peer,
        permit: _held,
        ..
    } = accepted;
    let session = Session::new(shared.settings, Instant::now());
    shared.counters.connected();
    let handshake = accept(stream, &shared.authority, shared.options);
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        connection = handshake => match connection {
            Ok(connection) => {
                debug!(%peer, "connected");
                drive(connection, session, peer, &shared, &shutdown).await
            }
            Err(error) => Err(error.into()),
        },
    };
    shared.counters.disconnected(ended.as_ref().err());
    match ended {
        Ok(()) | Err(Fault::Connection(sv2_connection::Error::Closed)) => {
            debug!(%peer, "disconnected");
        }
        Err(fault) => info!(%peer, reason = %fault, "connection ended"),
    }
}

async fn drive(
    connection: Connection,
    mut session: Session,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    shutdown: &CancellationToken,
) -> Result<(), Fault> {
    let Connection {
        mut reader,
        mut writer,
    } = connection;
    let mut out = FrameBuffer::new();
    let mut newest = shared.templates.subscribe();
    // One that is there already counts as a change.
    newest.mark_changed();
    let submissions = Arc::new(Semaphore::new(SUBMISSIONS));
    let mut solution: Option<Solution> = None;
    let result = loop {
        // Requests that were read at once are answered one by one without waiting for anything; others have their turn.
        consume_budget().await;
        let deadline = session.deadline();
        let overdue = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => future::pending().await,
            }
        };
        let turn = tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            Ok(()) = newest.changed() => {
                let template = newest.borrow_and_update().clone();
                template.map_or(Ok(()), |template| session.template_changed(template, &mut out))
            }
            Ok(permit) = Arc::clone(&submissions).acquire_owned(), if solution.is_some() => {
                if let Some(solution) = solution.take() {
                    let submission = submit(Arc::clone(shared), solution, peer);
                    shared.submissions.spawn(async move {
                        submission.await;
                        drop(permit);
                    });
                }
                Ok(())
            }
            read = reader.read_until(|frame| session.handle(frame, &mut out)), if solution.is_none() => read,
            () = overdue => Err(Fault::SetupTimeout),
        };
        solution = solution.or_else(|| session.take_solution());
        shared.counters.add(session.take_tally());
        // What there is to say is said even to a client that is about to be cut off; but one that does not take it keeps nobody
        // from stopping.
        let written = tokio::select! {
            biased;
            written = writer.write(&mut out) => written,
            () = shutdown.cancelled() => break Ok(()),
        };
        if let Err(fault) = turn.and(written.map_err(Fault::from)) {
            break Err(fault);
        }
    };
    if let Some(solution) = solution {
        let submission = submit(Arc::clone(shared), solution, peer);
        shared.submissions.spawn(submission);
    }
    result
}

async fn submit(shared: Arc<Shared>, solution: Solution, peer: SocketAddr) {
    let height = solution.template.height();
    // The session has computed it before.
    let mut displayed = solution.hash().unwrap_or_default();
    displayed.reverse();
    let hash = hex::encode(displayed);
    let submission = shared.templates.submit(solution).await;
    let accepted = submission == Submission::Accepted;
    let outcome = match submission {
        Submission::Accepted => {
            info!(%hash, height, %peer, "block accepted");
            "accepted".to_owned()
        }
        Submission::Rejected(reason) => {
            warn!(%hash, height, %peer, reason, "the node rejected a block");
            format!("rejected: {reason}")
        }
        Submission::Unknown(reason) => {
            warn!(%hash, height, %peer, reason, "a block was taken, and its fate is not known yet");
            format!("unknown: {reason}")
        }
        Submission::Unreachable(reason) => {
            warn!(%hash, height, %peer, reason, "nothing is known of a block that was submitted");
            format!("no answer: {reason}")
        }
    };
    shared.counters.block(BlockReport {
        hash,
        height,
        accepted,
        outcome,
    });
}

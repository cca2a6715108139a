//! One task per connection: it drives one session, and owns all its state.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

use service::listener::Accepted;
use sv2_connection::{Authority, Connection, FrameBuffer, Options, accept};
use templates::{Submission, Templates};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep_until,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    board::Work,
    session::{Fault, Found, Resources, Session},
    status::{BlockReport, Counters},
};

/// Blocks of one connection that may wait for the node at a time. More is possible only on test networks; there the
/// connection is not read until the node has answered.
const SUBMISSIONS: usize = 16;

/// What all connections share; read-only but for counters.
pub(crate) struct Shared {
    pub resources: Arc<Resources>,
    pub options: Options,
    pub authority: Authority,
    pub templates: Templates,
    pub counters: Arc<Counters>,
    /// Blocks on their way to the node; they outlive the connection that found them.
    pub submissions: TaskTracker,
}

/// Serves one client until it leaves, misbehaves, or the pool stops.
pub(crate) async fn serve(
    accepted: Accepted,
    shared: Arc<Shared>,
    work: watch::Receiver<Option<Arc<Work>>>,
    shutdown: CancellationToken,
) {
    let accepted_at = Instant::now();
    let Some(accepted) = identify(accepted, &shutdown).await else {
        return;
    };
    let Accepted {
        stream,
        peer,
        permit: _held,
    } = accepted;
    shared.counters.connected();
    let mut options = shared.options;
    options.handshake_timeout = options
        .handshake_timeout
        .saturating_sub(accepted_at.elapsed());
    let handshake = accept(stream, &shared.authority, options);
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        connection = handshake => match connection {
            Ok(connection) => {
                debug!(%peer, "connected");
                let mut driver = Driver {
                    session: Session::new(Arc::clone(&shared.resources), accepted_at),
                    out: FrameBuffer::new(),
                    work,
                    peer,
                    shared: Arc::clone(&shared),
                    submissions: Arc::new(Semaphore::new(SUBMISSIONS)),
                    surplus: VecDeque::new(),
                    turn: 0,
                };
                driver.run(connection, &shutdown).await
            }
            Err(error) => Err(error.into()),
        },
    };
    shared.counters.disconnected(ended.as_ref().err());
    match ended {
        Ok(()) | Err(Fault::Connection(sv2_connection::Error::Closed) | Fault::Stopping) => {
            debug!(%peer, "disconnected");
        }
        Err(fault) => info!(%peer, reason = %fault, "connection ended"),
    }
}

/// Learns who really calls; `None` if that is not to be had, which the listener counts.
async fn identify(accepted: Accepted, shutdown: &CancellationToken) -> Option<Accepted> {
    let peer = accepted.peer;
    // On the heap: most connections need it for no time at all.
    let identified = Box::pin(accepted.identify());
    tokio::select! {
        identified = identified => identified
            .inspect_err(|reason| debug!(%peer, %reason, "connection refused"))
            .ok(),
        () = shutdown.cancelled() => None,
    }
}

struct Driver {
    session: Session,
    out: FrameBuffer,
    work: watch::Receiver<Option<Arc<Work>>>,
    peer: SocketAddr,
    shared: Arc<Shared>,
    submissions: Arc<Semaphore>,
    /// Blocks that wait for one under way to be answered; while there are any, nothing is read.
    surplus: VecDeque<Found>,
    /// The number of this turn, for what it accepts.
    turn: u64,
}

impl Driver {
    async fn run(
        &mut self,
        connection: Connection,
        shutdown: &CancellationToken,
    ) -> Result<(), Fault> {
        let Connection {
            mut reader,
            mut writer,
        } = connection;
        self.take_work()?;
        let mut stopping = false;
        let result = loop {
            let deadline = self.session.deadline().into();
            let turn = tokio::select! {
                () = shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    self.session.drain(Instant::now(), &mut self.out)
                }
                Ok(()) = self.work.changed() => self.take_work(),
                Ok(permit) = Arc::clone(&self.submissions).acquire_owned(), if !self.surplus.is_empty() => {
                    drop(permit);
                    Ok(())
                }
                read = reader.read(|frame| {
                    let now = Instant::now();
                    self.session.handle(frame, now, &mut self.out)
                }), if self.surplus.is_empty() => read,
                () = sleep_until(deadline) => self.session.tick(Instant::now(), &mut self.out),
            };
            self.submit_blocks();
            let ended = self.end_turn();
            self.shared.counters.add(self.session.take_tally());
            // What there is to say is said even to a client that is about to be cut off.
            let written = writer.write(&mut self.out).await;
            if let Err(fault) = turn.and(ended).and(written.map_err(Fault::from)) {
                break Err(fault);
            }
        };
        for found in self.surplus.drain(..) {
            let submission = submit_block(Arc::clone(&self.shared), found, self.peer);
            self.shared.submissions.spawn(submission);
        }
        self.shared
            .counters
            .channels_closed(self.session.channel_count());
        result
    }

    fn take_work(&mut self) -> Result<(), Fault> {
        let work = self.work.borrow_and_update().clone();
        match work {
            Some(work) => self
                .session
                .work_changed(work, Instant::now(), &mut self.out),
            None => Ok(()),
        }
    }

    /// What the turn accepted is acknowledged.
    fn end_turn(&mut self) -> Result<(), Fault> {
        let bookings = self
            .session
            .end_turn(self.turn, Instant::now(), &mut self.out)?;
        if !bookings.is_empty() {
            self.session.durable(self.turn, &mut self.out)?;
            self.turn += 1;
        }
        Ok(())
    }

    /// Before anything else is done with the shares of this turn.
    fn submit_blocks(&mut self) {
        self.surplus.extend(self.session.take_found());
        while !self.surplus.is_empty() {
            let Ok(permit) = Arc::clone(&self.submissions).try_acquire_owned() else {
                return;
            };
            let Some(found) = self.surplus.pop_front() else {
                return;
            };
            let submission = submit_block(Arc::clone(&self.shared), found, self.peer);
            self.shared.submissions.spawn(async move {
                submission.await;
                drop(permit);
            });
        }
    }
}

async fn submit_block(shared: Arc<Shared>, found: Found, peer: SocketAddr) {
    let Found { solved, owner } = found;
    let (account, worker) = (&*owner.account, &*owner.worker);
    let height = solved.solution.template.height();
    let submission = shared.templates.submit(solved.solution).await;
    let mut displayed = solved.hash;
    displayed.reverse();
    let hash = hex::encode(displayed);
    let accepted = submission == Submission::Accepted;
    match &submission {
        Submission::Accepted => info!(%hash, height, account, worker, %peer, "block found"),
        Submission::Rejected(reason) if solved.late => {
            info!(%hash, height, account, worker, %peer, reason, "a block on a job that was over lost the race");
            return;
        }
        Submission::Rejected(reason) => {
            warn!(%hash, height, account, worker, %peer, reason, "the node rejected a block");
        }
        Submission::Unknown(reason) => {
            warn!(%hash, height, account, worker, %peer, reason, "a block was taken, and its fate is not known yet");
        }
        Submission::Unreachable(reason) => {
            warn!(%hash, height, account, worker, %peer, reason, "a block could not be handed to the node");
        }
    }
    let outcome = match submission {
        Submission::Accepted => "accepted".to_owned(),
        Submission::Rejected(reason) => format!("rejected: {reason}"),
        Submission::Unknown(reason) => format!("unknown: {reason}"),
        Submission::Unreachable(reason) => format!("not delivered: {reason}"),
    };
    shared.counters.block(BlockReport {
        hash,
        height,
        identity: owner.to_string(),
        accepted,
        outcome,
    });
}

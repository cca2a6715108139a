//! One task per connection: it drives one session, and owns all its state.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    ops::ControlFlow,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use ledger::{Booking, Ledger};
use service::{listener::Accepted, pace::Pace};
use sv2_connection::{Authority, Connection, FrameBuffer, Gate, Options, accept_at};
use templates::Templates;
use tokio::{
    sync::{Semaphore, watch},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    blocks::{self, Blocks},
    board::Work,
    peers::{Peers, Telling},
    session::{Farewell, Fault, Found, Resources, Session},
    status::{Counters, reason},
    tiers::{Tier, Tiers},
};

/// Blocks of one connection that may wait for the node at a time. More is possible only on test networks; there the
/// connection is not read until the node has answered.
const SUBMISSIONS: usize = 16;

/// Bytes to the client at which no more of its messages are handled before these are written.
const ENOUGH_OUTPUT: usize = 256 * 1024;

/// Messages after which other connections have their turn: about a millisecond of work.
const LONG_TURN: u32 = 256;

/// Time for bytes that are there to be seen, before a client counts as silent.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What all connections share; read-only but for counters.
pub(crate) struct Shared {
    pub resources: Arc<Resources>,
    pub options: Options,
    /// Whether clients are better off elsewhere.
    pub outage: watch::Receiver<bool>,
    /// 0 is no limit.
    pub messages_per_second: u32,
    pub authority: Authority,
    pub handshakes: Arc<Gate>,
    pub templates: Templates,
    pub ledger: Ledger,
    pub counters: Arc<Counters>,
    pub blocks: Blocks,
    /// Where a stats service is told of them.
    pub peers: Option<Arc<Peers>>,
    /// When the pool began to stop: the same for all connections, whenever they notice.
    pub stopped_at: OnceLock<Instant>,
}

impl Shared {
    /// Waits until the pool stops and clients have had their time to leave.
    async fn drained(&self, shutdown: &CancellationToken) {
        shutdown.cancelled().await;
        let stopped_at = *self.stopped_at.get_or_init(Instant::now);
        sleep_until((stopped_at + self.resources.settings.drain).into()).await;
    }
}

/// Serves one client until it leaves, misbehaves, or the pool stops.
pub(crate) async fn serve(
    accepted: Accepted,
    shared: Arc<Shared>,
    tiers: Arc<Tiers<Work>>,
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
        ..
    } = accepted;
    shared.counters.connected();
    let mut options = shared.options;
    options.handshake_timeout = options
        .handshake_timeout
        .saturating_sub(accepted_at.elapsed());
    // On the heap, because it is over soon.
    let handshake = Box::pin(accept_at(
        &shared.handshakes,
        stream,
        &shared.authority,
        options,
    ));
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        connection = handshake => match connection {
            Ok(mut connection) => {
                debug!(%peer, "connected");
                let pace = Pace::new(shared.messages_per_second, accepted_at);
                let mut driver = Driver {
                    session: Session::new(Arc::clone(&shared.resources), accepted_at),
                    out: FrameBuffer::new(),
                    tier: Tier::LAST,
                    work: tiers.subscribe(Tier::LAST),
                    tiers,
                    peer,
                    shared: Arc::clone(&shared),
                    submissions: Arc::new(Semaphore::new(SUBMISSIONS)),
                    surplus: VecDeque::new(),
                    booking: shared.ledger.booking(),
                    turn: 0,
                    pace,
                    resume_at: None,
                    outage: shared.outage.clone(),
                    looks_again: false,
                    telling: shared
                        .peers
                        .as_ref()
                        .map(|peers| peers.arrive(peer, accepted_at)),
                };
                driver.run(&mut connection, &shutdown).await
            }
            Err(error) => Err(error.into()),
        },
    };
    shared.counters.disconnected(ended.as_ref().err());
    match ended {
        Ok(())
        | Err(
            Fault::Connection(sv2_connection::Error::Closed) | Fault::Stopping | Fault::NoTemplates,
        ) => {
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
    tiers: Arc<Tiers<Work>>,
    /// By how much work the client does, it is told of new work sooner or later.
    tier: Tier,
    work: watch::Receiver<Option<Arc<Work>>>,
    peer: SocketAddr,
    shared: Arc<Shared>,
    submissions: Arc<Semaphore>,
    /// Blocks that wait for one under way to be answered; while there are any, nothing is read.
    surplus: VecDeque<Found>,
    /// The way to the ledger. While it is blocked, nothing is read.
    booking: Booking,
    /// The number of the last turn that was booked.
    turn: u64,
    pace: Pace,
    /// The client sent too many messages; until then it is not read.
    resume_at: Option<Instant>,
    /// Whether there have been no templates for too long.
    outage: watch::Receiver<bool>,
    /// The client was silent for too long, unless what it said is there and only was not read yet.
    looks_again: bool,
    /// For a stats service.
    telling: Option<Box<Telling>>,
}

impl Driver {
    async fn run(
        &mut self,
        connection: &mut Connection,
        shutdown: &CancellationToken,
    ) -> Result<(), Fault> {
        let Connection { reader, writer } = connection;
        self.take_work()?;
        self.take_outage()?;
        let mut stopping = false;
        let result = loop {
            let (reading, deadline) = (self.reads(), self.deadline());
            let mut read = Frames::default();
            let turn = tokio::select! {
                () = shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    let stopped_at = *self.shared.stopped_at.get_or_init(Instant::now);
                    self.session.drain(Farewell::Stopping, stopped_at, &mut self.out)
                }
                Ok(()) = self.outage.changed(), if !stopping => self.take_outage(),
                Ok(()) = self.work.changed() => self.take_work(),
                Ok(permit) = Arc::clone(&self.submissions).acquire_owned(), if !self.surplus.is_empty() => {
                    drop(permit);
                    Ok(())
                }
                result = reader.read_until(|frame| {
                    self.session.handle(frame, read.next(), &mut self.out)?;
                    let enough = read.count >= LONG_TURN || self.out.len() >= ENOUGH_OUTPUT;
                    Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                }), if reading => result,
                turn = self.booking.progress(), if self.booking.is_pending() => {
                    self.session.durable(turn, &mut self.out)
                }
                () = sleep_until(deadline.into()) => self.tick(reading),
            };
            // It is not silent; and a client that is read all the time must not put off its ticks.
            self.looks_again &= read.count == 0;
            self.keep_pace(&read);
            self.submit_blocks();
            let turn = turn.and(self.end_turn());
            self.count(read.at);
            // What there is to say is said even to a client that is about to be cut off; but one that does not take it keeps
            // nobody from stopping.
            let shared = &self.shared;
            let written = tokio::select! {
                biased;
                written = writer.write(&mut self.out) => written.map_err(Fault::from),
                // On the heap, and only once it is asked for: most writes are over at once.
                () = async { Box::pin(shared.drained(shutdown)).await } => Err(Fault::Stopping),
            };
            if let Err(fault) = turn.and(written) {
                break Err(fault);
            }
            // A client whose next bytes are always there must not keep the thread from others.
            if read.count >= LONG_TURN {
                tokio::task::yield_now().await;
            } else {
                tokio::task::consume_budget().await;
            }
        };
        for found in self.surplus.drain(..) {
            blocks::submit(&self.shared, found, self.peer, None);
        }
        self.shared
            .counters
            .channels_closed(self.session.channel_count());
        if let (Some(telling), Some(peers)) = (&mut self.telling, &self.shared.peers) {
            let reason = result.as_ref().err().and_then(reason).unwrap_or("left");
            telling.end(peers, &mut self.session, reason);
        }
        result
    }

    /// Adds what a turn brought to the pool's counters and to the connection's own.
    fn count(&mut self, at: Option<Instant>) {
        let tally = self.session.take_tally();
        if let (Some(telling), Some(peers)) = (&mut self.telling, &self.shared.peers) {
            telling.turn(peers, &mut self.session, &tally, at);
        }
        self.shared.counters.add(tally);
    }

    /// Whether what the client says can be taken now.
    fn reads(&self) -> bool {
        self.surplus.is_empty() && !self.booking.is_blocked() && self.resume_at.is_none()
    }

    fn deadline(&self) -> Instant {
        if self.looks_again {
            return Instant::now() + LOOK_AGAIN;
        }
        let deadline = self.session.deadline();
        self.resume_at.map_or(deadline, |at| at.min(deadline))
    }

    fn tick(&mut self, reading: bool) -> Result<(), Fault> {
        let now = Instant::now();
        if !reading {
            self.session.not_listening(now);
        }
        self.resume_at = self.resume_at.filter(|at| now < *at);
        match self.session.tick(now, &mut self.out) {
            // The clock may have been first, after a pause of the machine above all.
            Err(Fault::Idle) if !self.looks_again => self.looks_again = true,
            ended => {
                self.looks_again = false;
                ended?;
                self.change_tier();
            }
        }
        Ok(())
    }

    /// Work that its new tier has been told of already, or that the old one has not, is seen to at the next turn.
    fn change_tier(&mut self) {
        let tier = self.tier.follow(self.session.hashrate());
        if tier != self.tier {
            self.tier = tier;
            self.work = self.tiers.subscribe(tier);
        }
    }

    /// Lets a client wait that sends too many messages: TCP slows it down, and nothing of it is lost.
    fn keep_pace(&mut self, read: &Frames) {
        let Some(now) = read.at else {
            return;
        };
        self.resume_at = self.pace.spend(read.count, now);
        if self.resume_at.is_some() {
            self.shared.counters.throttled();
        }
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

    fn take_outage(&mut self) -> Result<(), Fault> {
        let lasts = *self.outage.borrow_and_update();
        self.session.outage(lasts, Instant::now(), &mut self.out)
    }

    /// What the turn accepted is booked, and acknowledged when that is durable.
    fn end_turn(&mut self) -> Result<(), Fault> {
        let number = self.turn + 1;
        let bookings = self
            .session
            .end_turn(number, Instant::now(), &mut self.out)?;
        if !bookings.is_empty() {
            self.turn = number;
            self.booking.book(number, bookings);
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
            blocks::submit(&self.shared, found, self.peer, Some(permit));
        }
    }
}

/// What one turn has read.
#[derive(Default)]
struct Frames {
    count: u32,
    /// The time of the turn, which is that of all its frames; the clock is asked once.
    at: Option<Instant>,
}

impl Frames {
    /// One more frame; gives its time.
    fn next(&mut self) -> Instant {
        self.count += 1;
        *self.at.get_or_insert_with(Instant::now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what an asynchronous function of four arguments returns, without calling it.
    fn size_of_future<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection costs while nothing happens, beside its socket and what is on the heap: its session.
    #[test]
    fn an_idle_connection_stays_small() {
        let (future, session) = (size_of_future(serve), size_of::<crate::mining::Mining>());
        println!("{future} + {session} bytes");
        assert!(future <= 2568, "{future}");
        assert!(session <= 512, "{session}");
    }
}

//! One miner's connection, from its first byte to its last: the only code that knows both of its sockets.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use service::listener::Accepted;
use stratum_v1::{ErrorCode, Id, write_error};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::clients::Identity;
use crate::connections::Entry;
use crate::dial::dial;
use crate::guard::{Guard, Refusal};
use crate::pools::Place;
use crate::pump::{End, Pump, Side};
use crate::routes::Plan;
use crate::stream::{Stream, prepare};
use crate::watcher::{Kind, Seen, Watcher};

/// Time for a miner to take the one line that the relay itself says, and for TLS to say goodbye.
const FAREWELL: Duration = Duration::from_secs(5);

/// Time for a pool to say more to a miner that has said that it will say nothing more.
const LINGER: Duration = Duration::from_secs(30);

/// Serves a miner until the connection ends.
pub(crate) async fn serve(accepted: Accepted, shared: Arc<Shared>, stop: CancellationToken) {
    // On the heap: over soon, and large beside what follows.
    let Some((mut relayed, permit)) = Box::pin(open(accepted, &shared, stop)).await else {
        return;
    };
    let end = relayed.run(shared.idle_timeout, shared.patience.each).await;
    Box::pin(relayed.finish(end, &shared)).await;
    drop(permit);
}

/// A miner and a pool that are connected.
struct Relayed {
    pump: Pump<Stream, Stream>,
    entry: Arc<Entry>,
    place: Place,
    plan: Arc<Plan>,
    /// Whether it was held against the pool that it ended the connection, or not.
    judged: bool,
}

/// Why a connection was over, for the log and the metrics.
enum Over {
    Ended(End),
    Idle,
    Stopped,
}

/// Finds out who calls, and connects a pool.
async fn open(
    accepted: Accepted,
    shared: &Arc<Shared>,
    stop: CancellationToken,
) -> Option<(Relayed, service::listener::Permit)> {
    let peer = accepted.peer;
    let refused = |reason: &dyn std::fmt::Display| {
        tracing::debug!(%peer, %reason, "connection refused");
    };
    let accepted = tokio::select! {
        identified = accepted.identify() => identified.inspect_err(|reason| refused(reason)).ok()?,
        () = stop.cancelled() => return None,
    };
    let Accepted {
        stream,
        peer,
        entrance,
        permit,
    } = accepted;
    prepare(&stream, shared.idle_timeout);
    let port = shared.ports.get(entrance).copied().unwrap_or_default();
    let entry = shared.connections.arrive(peer, port, stop);
    tracing::debug!(connection = entry.id, %peer, "miner connected");
    let opening = connect(stream, entrance, &entry, shared);
    let opened = tokio::select! {
        opened = opening => opened,
        () = entry.close.cancelled() => Err("stopped"),
    };
    match opened {
        Ok(relayed) => Some((relayed, permit)),
        Err(reason) => {
            tracing::debug!(connection = entry.id, %peer, reason, "miner disconnected");
            shared.connections.depart(&entry, reason);
            None
        }
    }
}

/// The miner's bytes are not read before a pool is there.
async fn connect(
    stream: tokio::net::TcpStream,
    entrance: usize,
    entry: &Arc<Entry>,
    shared: &Shared,
) -> Result<Relayed, &'static str> {
    let miner = match &shared.certificate {
        // The last entrance is that for TLS, if there is one.
        Some(certificate) if entrance + 1 == shared.ports.len() => {
            let handshake = TlsAcceptor::from(certificate.current()).accept(stream);
            let secured = timeout(shared.handshake_timeout, handshake).await;
            let secured = secured.map_err(|_| "tls-timeout")?.map_err(|_| "tls")?;
            Stream::Tls(Box::new(TlsStream::from(secured)))
        }
        _ => Stream::Plain(stream),
    };
    let plan = shared.plan();
    if let Identity::Known(client) = plan.clients.identify(entry.origin, None) {
        entry.belongs_to(client);
    }
    let route = plan.route(entry.origin).ok_or("no-route")?;
    let (pool, place) = dial(&route, shared.patience).await.ok_or("no-pool")?;
    entry.relayed_to(place.pool.name(), place.pool.host());
    tracing::debug!(
        connection = entry.id,
        pool = place.pool.name(),
        "pool connected"
    );
    let guard = route
        .allowed
        .as_ref()
        .map(|allowed| Box::new(Guard::new(Arc::clone(allowed), shared.line_limits.miner)));
    Ok(Relayed {
        pump: Pump::new(
            entry.id,
            miner,
            pool,
            Watcher::new(shared.line_limits),
            guard,
        ),
        entry: Arc::clone(entry),
        place,
        plan,
        judged: false,
    })
}

impl Relayed {
    /// Until it is over. A pool that leaves a request without an answer for `silence` is told from one that works.
    async fn run(&mut self, idle_timeout: Duration, silence: Duration) -> Over {
        let mut last = Instant::now();
        // It lives as long as the connection, and is set anew only when it has come: all timers have one lock.
        let mut alarm = pin!(sleep_until(last + idle_timeout.min(silence)));
        let close = self.entry.close.clone();
        let mut closed = pin!(close.cancelled());
        loop {
            let turn = tokio::select! {
                turn = self.pump.turn() => turn,
                () = &mut alarm => {
                    let now = Instant::now();
                    let idle = last + self.idle_after(idle_timeout);
                    if idle <= now {
                        return Over::Idle;
                    }
                    let look = self.look_for_an_answer(now, silence);
                    alarm.as_mut().reset(look.map_or(idle, |look| idle.min(look)));
                    continue;
                }
                () = &mut closed => return Over::Stopped,
            };
            last = turn.at;
            self.count(&turn.seen);
            if self.pump.first() == Some(Side::Pool) {
                self.judge("closed-without-answer", "closes connections without a word");
            }
            if let Some(end) = turn.end {
                return Over::Ended(end);
            }
            let idle = last + self.idle_after(idle_timeout);
            if idle < alarm.deadline() {
                alarm.as_mut().reset(idle);
            }
        }
    }

    fn idle_after(&self, idle_timeout: Duration) -> Duration {
        if self.pump.miner_has_said_all() {
            idle_timeout.min(LINGER)
        } else {
            idle_timeout
        }
    }

    /// Holds it against the pool if it has said nothing at all, although it was asked something so long ago. Says when to look
    /// again.
    fn look_for_an_answer(&mut self, now: Instant, silence: Duration) -> Option<Instant> {
        if self.judged || self.place.was_answered() {
            return None;
        }
        let asked = self.pump.watcher.waiting_since().map(Instant::from_std);
        match asked.map(|asked| asked + silence) {
            Some(late) if late <= now => {
                self.judge("silent", "accepts connections and answers nothing");
                None
            }
            late => Some(late.unwrap_or(now + silence)),
        }
    }

    fn count(&mut self, seen: &Seen) {
        if seen.totals.bytes_received > 0 {
            self.place.answered();
        }
        let watcher = &self.pump.watcher;
        let difficulty = watcher.difficulty().map(work::Difficulty::value);
        self.entry.count(seen, difficulty);
        // A few times in a connection's life.
        for (kind, took) in &seen.answers {
            if *kind == Kind::Submit {
                continue;
            }
            let mut timing = self.place.pool.timing();
            timing.answers[*kind as usize].observe(took.as_secs_f64());
            drop(timing);
            self.learn(*kind);
        }
    }

    /// Who the miner is, from an answer of the pool's.
    fn learn(&self, kind: Kind) {
        let watcher = &self.pump.watcher;
        match (kind, watcher.user(), watcher.user_agent()) {
            (Kind::Authorize, Some(user), _) => {
                self.entry.is_user(user);
                if !self.entry.is_identified()
                    && let Identity::Known(client) =
                        self.plan.clients.identify(self.entry.origin, Some(user))
                {
                    self.entry.belongs_to(client);
                }
            }
            (Kind::Subscribe, _, Some(user_agent)) => self.entry.has_user_agent(user_agent),
            _ => {}
        }
    }

    /// The pool has ended the connection, or lets the miner wait. One that does so to everybody is as good as away; what one
    /// miner did to be thrown out is no matter of others.
    fn judge(&mut self, reason: &'static str, words: &'static str) {
        let pool = &self.place.pool;
        let is_new = !std::mem::replace(&mut self.judged, true);
        if !is_new || self.place.was_answered() {
            return;
        }
        let was_asked = self.pump.watcher.waiting_since().is_some();
        if pool.left_unanswered(was_asked) && pool.failed(Instant::now(), reason, words.to_owned())
        {
            tracing::warn!(pool = pool.name(), "pool {words}");
        }
    }

    /// Passes the end on, and counts it.
    async fn finish(mut self, over: Over, shared: &Shared) {
        let reason = match over {
            Over::Idle => "idle",
            Over::Stopped => "stopped",
            Over::Ended(End::Closed(Side::Miner)) => "miner-closed",
            Over::Ended(End::Closed(Side::Pool)) => "pool-closed",
            Over::Ended(End::Reset(Side::Miner)) => {
                self.pump.pool.reset_on_drop();
                "miner-reset"
            }
            Over::Ended(End::Reset(Side::Pool)) => {
                self.pump.miner.reset_on_drop();
                "pool-reset"
            }
            Over::Ended(End::Refused(refusal)) => {
                tracing::warn!(connection = self.entry.id, peer = %self.entry.peer, %refusal, "miner refused");
                let _ = timeout(FAREWELL, self.tell(&refusal)).await;
                refusal.reason()
            }
        };
        let lasted = self.entry.since().as_secs();
        tracing::debug!(connection = self.entry.id, peer = %self.entry.peer, reason, seconds = lasted, "miner disconnected");
        shared.connections.depart(&self.entry, reason);
    }

    /// The only thing that the relay ever says itself.
    async fn tell(&mut self, refusal: &Refusal) -> std::io::Result<()> {
        let mut line = Vec::new();
        write_error(
            &mut line,
            Id::from_raw(refusal.id()),
            ErrorCode::Unauthorized,
            &refusal.to_string(),
        );
        self.pump.say_last(&line).await
    }
}

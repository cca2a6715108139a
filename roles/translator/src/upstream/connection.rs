//! One living upstream connection: the task that reads, the task that writes, and their end.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stratum_core::common_messages_sv2::MESSAGE_TYPE_RECONNECT;
use stratum_core::parsers_sv2::CommonMessages;
use sv2_connection::{Connection, Frame, FrameBuffer, MalformedMessage, Reader, Writer};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::encode::{encode, push_update};
use super::router::Router;
use super::shared::SharedChannels;
use super::vitals::{Acceptance, Patience, Vitals};
use super::{Link, Outgoing, Plan, Record, Registry, UpstreamError};
use crate::session::Request;

/// The least time between two reports of what a shared channel's miners do.
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);

/// Between two reminders of accepted shares: for one to two of these, nobody may have been told of them.
const REMIND_INTERVAL: Duration = Duration::from_millis(250);

/// Requests that are sealed and written together.
const BATCH: usize = 256;

/// After shares were written, further ones gather for so long, so that where there are many, one write here, one read and
/// one booking at the pool serve several. A single share does not wait, nor does a block or a request for a channel.
const GATHER: Duration = Duration::from_millis(4);

/// How long a connection that miners have left waits for the last of them, at least. It also waits for as long as another
/// pool may take to show that it is worth the move.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// How long a pool that takes nothing more is heard: it may have answered shares before.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection that is set up, before its tasks run.
pub(super) struct Established {
    reader: Reader,
    writer: Writer,
    router: Router,
    outgoing: mpsc::Receiver<Outgoing>,
    link: Link,
    patience: Patience,
    acceptance: Arc<Acceptance>,
}

/// How a running connection and whoever runs it hear of each other.
pub(super) struct Leash {
    /// Ends the connection.
    pub(super) shutdown: CancellationToken,
    /// Nobody new comes: the connection ends when its last link is dropped, or soon after anyway.
    pub(super) retire: CancellationToken,
    /// Takes one [`Asked`] at most from each connection.
    pub(super) asked: mpsc::Sender<Asked>,
}

/// The pool wants the connection made anew (SV2 3.6.5).
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) link_id: u64,
    /// Empty for the same.
    pub(super) new_host: String,
    /// Zero for the same.
    pub(super) new_port: u16,
}

impl Established {
    pub(super) fn new(
        connection: Connection,
        worker_names: bool,
        plan: &Plan,
        record: &Record,
    ) -> Self {
        let id = plan.link_ids.fetch_add(1, Ordering::Relaxed);
        let registry = Arc::new(Registry::planned(plan));
        let (sender, outgoing) = mpsc::channel(plan.queue);
        Self {
            reader: connection.reader,
            writer: connection.writer,
            router: Router::new(Arc::clone(&registry), Arc::clone(&plan.job_ids)),
            outgoing,
            link: Link {
                id,
                queue: sender,
                registry,
                worker_names,
            },
            patience: plan.patience,
            acceptance: Arc::clone(&record.acceptance),
        }
    }

    pub(super) fn link(&self) -> Link {
        self.link.clone()
    }

    /// Reads and writes until the connection ends, or until nobody holds a link to it any more.
    pub(super) async fn run(self, leash: Leash) -> Result<(), UpstreamError> {
        let vitals = Arc::new(Vitals::new(self.acceptance));
        let registry = Arc::clone(&self.link.registry);
        let mut reading = Reading {
            reader: self.reader,
            router: self.router,
            vitals: Arc::clone(&vitals),
            link_id: self.link.id,
            // The connection itself does not keep the connection.
            queue: self.link.queue.downgrade(),
            asked: Some(leash.asked),
        };
        let writing = Writing {
            writer: self.writer,
            outgoing: self.outgoing,
            registry: Arc::clone(&registry),
            vitals: Arc::clone(&vitals),
            worker_names: self.link.worker_names,
            gather: GATHER,
        };
        drop(self.link);
        let mut writing = tokio::spawn(writing.run());
        let retired = async {
            leash.retire.cancelled().await;
            sleep(DRAIN_LIMIT.max(self.patience.channel + self.patience.work)).await;
        };
        let mut reading = pin!(reading.run());
        let end = tokio::select! {
            end = &mut reading => end,
            error = until_unwell(&registry, &vitals, &self.patience) => Err(error),
            // A panic in the task is the only other way; it ends this connection alone.
            end = &mut writing => {
                let end = end.unwrap_or(Err(UpstreamError::Panicked));
                if end.is_err() {
                    let _ = timeout(LAST_WORDS, reading).await;
                }
                end
            }
            () = retired => Ok(()),
            () = leash.shutdown.cancelled() => Ok(()),
        };
        writing.abort();
        end
    }
}

/// The task that reads.
struct Reading {
    reader: Reader,
    router: Router,
    vitals: Arc<Vitals>,
    link_id: u64,
    queue: mpsc::WeakSender<Outgoing>,
    /// Until it has been used.
    asked: Option<mpsc::Sender<Asked>>,
}

impl Reading {
    async fn run(&mut self) -> Result<(), UpstreamError> {
        let mut reminders = tokio::time::interval(REMIND_INTERVAL);
        reminders.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut reconnect = None;
            let (router, vitals) = (&mut self.router, &self.vitals);
            let read = self.reader.read(|frame| {
                if frame.extension_type == 0 && frame.message_type == MESSAGE_TYPE_RECONNECT {
                    reconnect = Some(new_place(frame)?);
                    return Ok(());
                }
                if frame.extension_type == 0 {
                    vitals.heard(frame.message_type);
                }
                router.handle(frame)
            });
            tokio::select! {
                read = read => read?,
                _ = reminders.tick() => self.router.remind(),
            }
            self.close_unwanted();
            if let Some((new_host, new_port)) = reconnect
                && let Some(asked) = self.asked.take()
            {
                // Fails only where nobody listens, at the end.
                let _ = asked
                    .send(Asked {
                        link_id: self.link_id,
                        new_host,
                        new_port,
                    })
                    .await;
            }
        }
    }

    /// If the queue is full now, there is another time.
    fn close_unwanted(&mut self) {
        let Some(queue) = self.queue.upgrade() else {
            return;
        };
        while let Some(channel_id) = self.router.unwanted().pop() {
            let close = Outgoing {
                request_id: 0,
                request: Request::Close { channel_id },
                mailbox: None,
            };
            if queue.try_send(close).is_err() {
                self.router.unwanted().push(channel_id);
                break;
            }
        }
    }
}

fn new_place(frame: Frame<'_>) -> Result<(String, u16), UpstreamError> {
    let message_type = frame.message_type;
    match frame.common()? {
        CommonMessages::Reconnect(message) => {
            Ok((message.new_host.as_utf8_or_hex(), message.new_port))
        }
        _ => Err(UpstreamError::Unexpected(message_type)),
    }
}

/// Comes back when the upstream has not done its part for too long.
async fn until_unwell(registry: &Registry, vitals: &Vitals, patience: &Patience) -> UpstreamError {
    loop {
        sleep(patience.check()).await;
        let owing = registry.owing_for(Instant::now());
        if owing >= patience.channel {
            return UpstreamError::Owing(owing);
        }
        if owing >= patience.channel / 4 {
            tracing::warn!(
                seconds = owing.as_secs(),
                "the upstream answers no request for a channel"
            );
        }
        if let Err(error) = vitals.check(patience) {
            return error;
        }
    }
}

/// The task that seals and writes.
struct Writing {
    writer: Writer,
    outgoing: mpsc::Receiver<Outgoing>,
    registry: Arc<Registry>,
    vitals: Arc<Vitals>,
    worker_names: bool,
    /// See [`GATHER`].
    gather: Duration,
}

impl Writing {
    async fn run(mut self) -> Result<(), UpstreamError> {
        let mut frames = FrameBuffer::new();
        let mut batch = Vec::new();
        let mut updates = tokio::time::interval(UPDATE_INTERVAL);
        updates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut gather = false;
            let taken = tokio::select! {
                taken = self.outgoing.recv_many(&mut batch, BATCH) => Some(taken),
                _ = updates.tick(), if self.registry.shared.is_some() => None,
            };
            match taken {
                Some(0) => return Ok(()),
                Some(_) => gather = self.encode(&mut batch, &mut frames)?,
                None => {
                    for update in self
                        .registry
                        .shared
                        .iter()
                        .flat_map(SharedChannels::updates)
                    {
                        push_update(&update, &mut frames)?;
                    }
                }
            }
            self.writer.write(&mut frames).await?;
            if gather {
                tokio::select! {
                    () = sleep(self.gather) => {}
                    () = self.registry.hurry.notified() => {}
                }
            }
        }
    }

    /// Whether these were shares alone, and no more are waiting.
    fn encode(
        &self,
        batch: &mut Vec<Outgoing>,
        frames: &mut FrameBuffer,
    ) -> Result<bool, MalformedMessage> {
        let requests = batch.len() as u64;
        let mut shares = 0;
        for outgoing in batch.drain(..) {
            encode(&outgoing, self.worker_names, frames)?;
            match outgoing.request {
                Request::Submit(_) => shares += 1,
                Request::Close { .. } => self.vitals.channel_closed(),
                Request::Open(_) | Request::Update { .. } => {}
            }
        }
        self.vitals.forwarded(shares);
        Ok(shares == requests && requests < BATCH as u64)
    }
}

#[cfg(test)]
mod tests {
    use stratum_core::mining_sv2::{
        MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL, MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED,
    };
    use stratum_v1::ExtranonceBytes;
    use sv2_connection::{Authority, AuthoritySecretKey, Options, accept, connect};
    use tokio::net::{TcpListener, TcpStream};
    use work::{Hashrate, Target};

    use super::*;
    use crate::session::{OpenChannel, ShareSubmission};

    const SHARE: u8 = MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED;
    const OPEN: u8 = MESSAGE_TYPE_OPEN_EXTENDED_MINING_CHANNEL;

    async fn connections() -> (Connection, Connection) {
        let authority = Authority::new(AuthoritySecretKey::generate()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        let (ours, pools) = tokio::join!(
            connect(client.unwrap(), None, Options::default()),
            accept(server.unwrap().0, &authority, Options::default())
        );
        (ours.unwrap(), pools.unwrap())
    }

    fn outgoing(request: Request) -> Outgoing {
        Outgoing {
            request_id: 0,
            request,
            mailbox: None,
        }
    }

    fn share() -> Outgoing {
        outgoing(Request::Submit(ShareSubmission {
            channel_id: 1,
            sequence_number: 1,
            job_id: 1,
            nonce: 0,
            ntime: 0,
            version: 0,
            extranonce: ExtranonceBytes::default(),
            worker: None,
            solves_block: false,
        }))
    }

    fn open() -> Outgoing {
        outgoing(Request::Open(OpenChannel {
            user_identity: "alice".into(),
            hashrate: Hashrate::ZERO,
            max_target: Target::MAX,
            min_extranonce_size: 8,
        }))
    }

    /// The messages of one write.
    async fn heard(pool: &mut Reader) -> Vec<u8> {
        let mut types = Vec::new();
        while types.is_empty() {
            let read = pool.read(|frame| {
                types.push(frame.message_type);
                Ok::<_, sv2_connection::Error>(())
            });
            read.await.unwrap();
        }
        types
    }

    #[tokio::test]
    async fn shares_gather_between_two_writes_and_a_request_for_a_channel_does_not_wait() {
        let (ours, pools) = connections().await;
        let (queue, outgoing) = mpsc::channel(16);
        let registry = Arc::new(Registry::new(false));
        let writing = Writing {
            writer: ours.writer,
            outgoing,
            registry: Arc::clone(&registry),
            vitals: Arc::new(Vitals::new(Acceptance::new(true))),
            worker_names: false,
            gather: Duration::from_secs(3600),
        };
        tokio::spawn(writing.run());
        let mut pool = pools.reader;
        queue.send(share()).await.unwrap();
        assert_eq!(heard(&mut pool).await, [SHARE], "the first does not wait");
        queue.send(share()).await.unwrap();
        // Whoever would write it has the time.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        queue.send(open()).await.unwrap();
        registry.hurry.notify_one();
        assert_eq!(heard(&mut pool).await, [SHARE, OPEN]);
        for _ in 0..2 {
            queue.send(share()).await.unwrap();
        }
        assert_eq!(heard(&mut pool).await, [SHARE, SHARE]);
        queue.send(share()).await.unwrap();
        tokio::time::pause();
        assert_eq!(heard(&mut pool).await, [SHARE], "not for ever");
    }
}

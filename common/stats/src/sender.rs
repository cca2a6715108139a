//! The side of a role: tells a stats service what the role sees, and costs it next to nothing.
//!
//! A role implements [`Source`] over its own status and calls [`start`]. Once an interval the sender looks at the source,
//! compares with what it has told, and tells what has changed. No share ever waits for it: it has a thread of its own, so
//! that neither a look at many peers nor a slow service takes time from those that mine. What it tells is in
//! [`conversation`], which does no I/O; here is the thin shell that gives it sockets and a clock.

mod config;
mod conversation;
mod dial;
mod happened;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stats_events::{Event, Hello, VERSION};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Now;
use conversation::{Conversation, Fault};
use dial::Dialler;

pub use crate::Token;
pub use config::Config;
pub use happened::Happened;

/// Pauses between attempts: the first one, and the longest. Each is shortened at random by up to a half.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The longest text in an event, in bytes.
const MAX_TEXT: usize = 512;

/// What the service has to acknowledge the last counts in when the role stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a role sees. All of it is called from the sender's thread, and may take a while, but must hold no lock for longer
/// than it takes to copy something small.
pub trait Source: Send + Sync + 'static {
    /// Shows how everything is now, one event for each subject: itself, its upstreams and its template; each peer that is
    /// here (as [`Event::PeerConnected`] first, then as [`Event::Peer`]) and its workers. The counters are absolute.
    ///
    /// A peer that is not shown has gone. Its end must be among what [`happened`](Self::happened) no later than that.
    fn present(&self, show: &mut dyn FnMut(Event));

    /// Takes what has happened and has to arrive, oldest first, about so many events: ends of peers and of workers with
    /// their last counts, blocks. What is taken is not given again.
    fn happened(&self, most: usize) -> Vec<Event>;

    /// The Bitcoin network, once it is known: `mainnet`, `testnet4`, `signet` or `regtest`.
    fn network(&self) -> Option<String> {
        None
    }
}

/// A text that is no longer than a service takes; what is too much of it is cut off.
#[must_use]
pub fn clip(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rfind(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
    }
    text
}

/// Why a sender cannot be started; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration that cannot be.
    #[error("{key}: {problem}")]
    Config {
        /// The key, with dots.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// The system gives no thread or timer.
    #[error("the sender of stats cannot be started: {0}")]
    Start(#[from] io::Error),
}

/// A sender that runs until it is told to stop.
#[derive(Debug)]
pub struct Running {
    ended: oneshot::Receiver<()>,
}

impl Running {
    /// Waits until it has ended. That takes a few seconds at most after it is told to.
    pub async fn ended(self) {
        let _ = self.ended.await;
    }
}

/// Starts to tell what `source` shows, for ever, until `stop`; nothing if no service is configured. `role` is the one of
/// `Hello`. When it stops, the last counts are told; so `stop` comes when the role has ended all else.
///
/// # Errors
/// [`Error`]; a service that cannot be reached is none.
pub fn start(
    config: &Config,
    role: &str,
    source: Arc<dyn Source>,
    stop: CancellationToken,
) -> Result<Option<Running>, Error> {
    config.validate()?;
    let Some(dialler) = Dialler::new(config)? else {
        return Ok(None);
    };
    let hello = Hello {
        version: VERSION,
        role: role.to_owned(),
        name: config.name(),
        instance_id: format!("{:032x}", rand::random::<u128>()),
        started_at_ms: now().unix_ms,
        software: concat!("hashpool ", env!("CARGO_PKG_VERSION")).to_owned(),
        network: None,
        heartbeat_ms: config.interval_ms,
        token: config.token()?.map(|token| token.reveal().to_owned()),
    };
    let sender = Sender {
        conversation: Conversation::new(hello, config.interval(), now()),
        dialler,
        source,
        standing: Standing::New,
        lasted: config.interval(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (tell, ended) = oneshot::channel();
    thread::Builder::new()
        .name("stats".to_owned())
        .spawn(move || {
            runtime.block_on(sender.run(stop));
            // A name that is being looked up is waited for by nobody.
            runtime.shutdown_background();
            let _ = tell.send(());
        })?;
    Ok(Some(Running { ended }))
}

struct Sender {
    conversation: Conversation,
    dialler: Dialler,
    source: Arc<dyn Source>,
    standing: Standing,
    /// A connection that lasted as long was a good one: the pauses begin anew.
    lasted: Duration,
}

/// What was logged last. Each change is, once.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    New,
    Connected,
    Refused,
    Away,
}

impl Sender {
    async fn run(mut self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            let (began, last_chance) = (Instant::now(), stop.is_cancelled());
            let ended = tokio::select! {
                ended = self.connect_and_tell(&stop) => ended,
                () = wait_for_farewell(&stop) => return,
            };
            let fault = match ended {
                Ok(()) => return,
                Err(fault) => fault,
            };
            self.conversation.disconnected();
            self.log(&fault);
            if last_chance {
                return;
            }
            // It told more than what each connection begins with.
            if began.elapsed() >= self.lasted {
                pause = FIRST_PAUSE;
            }
            let shortened = pause.mul_f64(rand::random_range(0.5..=1.0));
            pause = (pause * 2).min(LONGEST_PAUSE);
            tokio::select! {
                () = self.meanwhile(sleep(shortened)) => {}
                // The last counts are worth one more attempt.
                () = stop.cancelled() => {}
            }
        }
    }

    /// Returns when all is told and the role stops.
    async fn connect_and_tell(&mut self, stop: &CancellationToken) -> Result<(), Fault> {
        let dialler = self.dialler.clone();
        let stream = self.meanwhile(dialler.dial()).await?;
        self.conversation.connected(now(), self.source.network());
        self.tell(stream, stop).await
    }

    async fn tell(
        &mut self,
        stream: impl AsyncRead + AsyncWrite,
        stop: &CancellationToken,
    ) -> Result<(), Fault> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let conversation = &mut self.conversation;
        let mut read = Vec::new();
        let (mut unflushed, mut stopping) = (false, false);
        while !(stopping && conversation.is_done()) {
            let deadline = conversation.deadline();
            let output = conversation.output();
            tokio::select! {
                bytes = reader.read_buf(&mut read) => {
                    if bytes? == 0 {
                        return Err(Fault::Closed);
                    }
                    conversation.received(now(), &read)?;
                    read.clear();
                    if conversation.is_welcome() && self.standing != Standing::Connected {
                        self.standing = Standing::Connected;
                        info!(service = %self.dialler, "the stats service is told what happens");
                    }
                }
                bytes = write_or_flush(&mut writer, output), if unflushed || !output.is_empty() => {
                    let bytes = bytes?;
                    unflushed = bytes > 0;
                    conversation.written(now(), bytes);
                }
                () = sleep_until(deadline.into()) => conversation.tick(now(), &*self.source)?,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    conversation.look_at_last(now());
                }
            }
        }
        Ok(())
    }

    /// Goes on taking what happens while something else takes its time.
    async fn meanwhile<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        loop {
            let deadline = self.conversation.deadline();
            tokio::select! {
                done = &mut wait => return done,
                // Nothing can go wrong where nobody is connected.
                () = sleep_until(deadline.into()) => {
                    let _ = self.conversation.tick(now(), &*self.source);
                }
            }
        }
    }

    fn log(&mut self, fault: &Fault) {
        let (service, standing) = (&self.dialler, fault.standing());
        if self.standing == standing {
            return;
        }
        match standing {
            Standing::Refused => {
                warn!(%service, reason = %fault, "the stats service refuses us; it is tried again");
            }
            _ => {
                warn!(%service, reason = %fault, "the stats service is away; counts go on, and it is tried again");
            }
        }
        self.standing = standing;
    }
}

impl Fault {
    fn standing(&self) -> Standing {
        match self {
            Self::Refused { .. } => Standing::Refused,
            _ => Standing::Away,
        }
    }
}

/// Writes some of it; where there is nothing, what TLS may hold back. To give up waiting for it loses nothing.
async fn write_or_flush(
    writer: &mut (impl AsyncWrite + Unpin),
    output: &[u8],
) -> Result<usize, Fault> {
    if output.is_empty() {
        writer.flush().await?;
        return Ok(0);
    }
    match writer.write(output).await? {
        0 => Err(Fault::Closed),
        bytes => Ok(bytes),
    }
}

/// The role has stopped, and the service has had its time to hear of it.
async fn wait_for_farewell(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(FAREWELL).await;
}

fn now() -> Now {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        instant: Instant::now(),
        unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    }
}

//! What a pool's name stands for.
//!
//! It is asked for each connection, since that changes; many miners that come at once ask once. A name server that hangs holds
//! up nobody for long as long as addresses are known, and takes one thread for each name.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// What was found is used again for so long.
const KEPT: Duration = Duration::from_secs(1);

/// Who knows addresses from before waits for new ones no longer than this.
const PATIENCE: Duration = Duration::from_millis(500);

type Lookup =
    dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync;

/// A host name or an address, with a port.
pub(crate) struct Name(Arc<Inner>);

struct Inner {
    host: String,
    lookup: Box<Lookup>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// When it was found out last, or waited for in vain.
    at: Option<Instant>,
    addresses: Vec<SocketAddr>,
    /// Why the last lookup failed.
    error: Option<io::Error>,
    /// Closed when the lookup that is under way has ended.
    looking: Option<watch::Receiver<()>>,
}

impl Name {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        let name = host.to_owned();
        Self::looked_up_by(host, move || {
            let name = name.clone();
            Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
        })
    }

    pub(crate) fn looked_up_by(
        host: &str,
        lookup: impl Fn() -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            host: host.to_owned(),
            lookup: Box::new(lookup),
            found: Mutex::default(),
        }))
    }

    /// The addresses that it stands for now. Where that cannot be found out, or not soon, those from before.
    ///
    /// # Errors
    /// The system's, if it never could.
    pub(crate) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let (mut looking, is_known) = {
            let mut found = self.0.found();
            let is_fresh = found.at.is_some_and(|at| at.elapsed() < KEPT);
            if is_fresh && !found.addresses.is_empty() {
                return Ok(found.addresses.clone());
            }
            (self.looking(&mut found), !found.addresses.is_empty())
        };
        // Nothing is ever sent: it ends when the lookup does, whatever becomes of that.
        let ended = looking.changed();
        if !is_known {
            let _ = ended.await;
        } else if timeout(PATIENCE, ended).await.is_err() {
            let mut found = self.0.found();
            if found.looking.is_some() {
                tracing::warn!(host = %self.0.host, "name not found in time; using the addresses from before");
                found.at = Some(Instant::now());
            }
        }
        let found = self.0.found();
        if found.addresses.is_empty() {
            return Err(found
                .error
                .as_ref()
                .map_or_else(|| io::Error::other("the name was not looked up"), again));
        }
        Ok(found.addresses.clone())
    }

    /// The lookup that is under way; a new one if there is none.
    fn looking(&self, found: &mut Found) -> watch::Receiver<()> {
        if let Some(looking) = &found.looking
            && looking.has_changed().is_ok()
        {
            return looking.clone();
        }
        let (ended, looking) = watch::channel(());
        found.looking = Some(looking.clone());
        let inner = Arc::clone(&self.0);
        // By itself: whoever waits for it may give up, and the system would go on looking all the same.
        tokio::spawn(async move {
            let looked_up = (inner.lookup)().await;
            inner.found().end(&inner.host, looked_up);
            drop(ended);
        });
        looking
    }
}

impl Inner {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    fn end(&mut self, host: &str, looked_up: io::Result<Vec<SocketAddr>>) {
        self.looking = None;
        self.at = Some(Instant::now());
        self.error = None;
        match looked_up {
            Ok(addresses) if !addresses.is_empty() => self.addresses = addresses,
            looked_up => {
                let empty = || io::Error::other("the name has no address");
                let error = looked_up.err().unwrap_or_else(empty);
                if !self.addresses.is_empty() {
                    tracing::warn!(%host, %error, "name not found; using the addresses from before");
                }
                self.error = Some(error);
            }
        }
    }
}

/// The same error, for one more who waited.
fn again(error: &io::Error) -> io::Error {
    let code = error.raw_os_error().map(io::Error::from_raw_os_error);
    code.unwrap_or_else(|| io::Error::new(error.kind(), error.to_string()))
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Name").field(&self.0.host).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    type Answers = Arc<std::sync::Mutex<VecDeque<io::Result<Vec<SocketAddr>>>>>;

    /// A name with these answers, one for each time that it is really asked.
    fn name(answers: impl IntoIterator<Item = io::Result<Vec<SocketAddr>>>) -> (Name, Answers) {
        let answers: Answers = Arc::new(std::sync::Mutex::new(answers.into_iter().collect()));
        let left = Arc::clone(&answers);
        let lookup = move || -> Pin<Box<dyn Future<Output = _> + Send>> {
            let answer = answers.lock().unwrap().pop_front().unwrap();
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                answer
            })
        };
        (Name::looked_up_by("pool.example", lookup), left)
    }

    fn address(last: u8) -> Vec<SocketAddr> {
        vec![([192, 0, 2, last], 3333).into()]
    }

    fn failure() -> io::Error {
        io::Error::other("no name server")
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_changes_is_followed_and_one_that_is_lost_is_remembered() {
        let (name, _) = name([
            Err(failure()),
            Ok(address(1)),
            Ok(address(2)),
            Err(failure()),
            Ok(Vec::new()),
            Ok(address(3)),
        ]);
        assert!(name.addresses().await.is_err());
        // A failure is not kept.
        assert_eq!(name.addresses().await.unwrap(), address(1));
        assert_eq!(name.addresses().await.unwrap(), address(1));
        for expected in [2, 2, 2, 3] {
            tokio::time::advance(KEPT).await;
            assert_eq!(name.addresses().await.unwrap(), address(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_ask_at_once_ask_the_name_server_once() {
        let (name, left) = name([Ok(address(1)), Ok(address(2))]);
        let (one, other) = tokio::join!(name.addresses(), name.addresses());
        assert_eq!((one.unwrap(), other.unwrap()), (address(1), address(1)));
        assert_eq!(left.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_server_that_hangs_holds_up_nobody_who_knows_addresses() {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let lookup = move || -> Pin<Box<dyn Future<Output = _> + Send>> {
            let is_first = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            Box::pin(async move {
                if !is_first {
                    std::future::pending::<()>().await;
                }
                Ok(address(1))
            })
        };
        let name = Name::looked_up_by("pool.example", lookup);
        assert_eq!(name.addresses().await.unwrap(), address(1));
        for waits in [PATIENCE, Duration::ZERO] {
            if waits > Duration::ZERO {
                tokio::time::advance(KEPT).await;
            }
            let start = Instant::now();
            let (one, other) = tokio::join!(name.addresses(), name.addresses());
            assert_eq!((one.unwrap(), other.unwrap()), (address(1), address(1)));
            let took = start.elapsed();
            assert!(took <= waits + Duration::from_millis(2), "{took:?}");
        }
        tokio::time::advance(KEPT).await;
        name.addresses().await.unwrap();
        // One that hangs is not asked again beside itself.
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 2);
    }
}

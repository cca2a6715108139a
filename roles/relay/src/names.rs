//! What a pool's name stands for.
//!
//! It is asked for each connection, since that changes; many miners that come at once ask once.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// What was found is used again for so long.
const KEPT: Duration = Duration::from_secs(1);

type Lookup =
    dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync;

/// A host name or an address, with a port.
pub(crate) struct Name {
    host: String,
    lookup: Box<Lookup>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    at: Option<Instant>,
    addresses: Vec<SocketAddr>,
}

impl Name {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        let name = host.to_owned();
        Self::looked_up_by(host, move || {
            let name = name.clone();
            Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
        })
    }

    fn looked_up_by(
        host: &str,
        lookup: impl Fn() -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            host: host.to_owned(),
            lookup: Box::new(lookup),
            found: Mutex::default(),
        }
    }

    /// The addresses that it stands for now. Where that cannot be found out, those from before.
    ///
    /// # Errors
    /// The system's, if it never could.
    pub(crate) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let mut found = self.found.lock().await;
        let is_fresh = found.at.is_some_and(|at| at.elapsed() < KEPT);
        if !is_fresh {
            let looked_up = match (self.lookup)().await {
                Ok(addresses) if addresses.is_empty() => {
                    Err(io::Error::other("the name has no address"))
                }
                looked_up => looked_up,
            };
            match looked_up {
                Ok(addresses) => found.addresses = addresses,
                Err(error) if found.addresses.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(host = %self.host, %error, "name not found; using the addresses from before");
                }
            }
            found.at = Some(Instant::now());
        }
        Ok(found.addresses.clone())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Name").field(&self.host).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

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
}

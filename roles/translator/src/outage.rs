//! When the port is closed because no pool can be had: miners that hang on to a translator without work never turn to the
//! next pool of their own.

use std::time::Duration;

use service::listener::Listener;
use tokio::sync::watch;
use tokio::time::sleep;

/// How long to wait for a port that somebody else took meanwhile.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Comes back when no pool could be had for so long without a break; never if that is zero.
pub(crate) async fn lasts(mut available: watch::Receiver<bool>, after: Duration) {
    if after.is_zero() {
        return std::future::pending().await;
    }
    loop {
        until(&mut available, false).await;
        tokio::select! {
            () = until(&mut available, true) => {}
            () = sleep(after) => return,
        }
    }
}

/// Waits for a pool, and opens the port again.
pub(crate) async fn ends(mut available: watch::Receiver<bool>, listener: &mut Listener) {
    until(&mut available, true).await;
    let address = listener.local_addr();
    let mut said = false;
    while let Err(error) = listener.reopen() {
        if !said {
            tracing::warn!(%error, "the port cannot be opened again yet");
            said = true;
        }
        sleep(REOPEN_PAUSE).await;
    }
    tracing::info!(%address, "an upstream is back; listening for SV1 miners again");
}

async fn until(available: &mut watch::Receiver<bool>, wanted: bool) {
    // An error says that the sender is gone, at the end: nothing comes any more.
    if available
        .wait_for(|available| *available == wanted)
        .await
        .is_err()
    {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const AFTER: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn an_outage_lasts_only_without_a_break() {
        let available = watch::Sender::new(false);
        let lasting = tokio::spawn(lasts(available.subscribe(), AFTER));
        sleep(AFTER - Duration::from_secs(1)).await;
        available.send_replace(true);
        sleep(AFTER * 2).await;
        assert!(!lasting.is_finished());
        available.send_replace(false);
        let since = Instant::now();
        lasting.await.unwrap();
        assert_eq!(since.elapsed(), AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_never() {
        let available = watch::Sender::new(false);
        let lasting = lasts(available.subscribe(), Duration::ZERO);
        timeout(AFTER * 1000, lasting).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_miner_comes_to_no_port_while_another_is_taken() {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let limits = service::listener::Limits::default();
        let mut listener = Listener::bind(any, &limits).unwrap().also(any).unwrap();
        let addresses: Vec<_> = listener.local_addrs().collect();
        listener.close();
        let _taken = std::net::TcpListener::bind(addresses[1]).unwrap();
        let available = watch::Sender::new(true);
        let early = ends(available.subscribe(), &mut listener);
        timeout(Duration::from_millis(20), early).await.unwrap_err();
        std::net::TcpStream::connect(addresses[0]).unwrap_err();
    }

    #[tokio::test]
    async fn a_port_that_was_taken_meanwhile_is_waited_for() {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let mut listener = Listener::bind(any, &service::listener::Limits::default()).unwrap();
        let address = listener.local_addr();
        listener.close();
        let taken = std::net::TcpListener::bind(address).unwrap();
        let available = watch::Sender::new(true);
        let early = ends(available.subscribe(), &mut listener);
        timeout(Duration::from_millis(20), early).await.unwrap_err();
        drop(taken);
        ends(available.subscribe(), &mut listener).await;
        let calling = tokio::net::TcpStream::connect(address);
        let (called, _) = tokio::join!(calling, listener.accept());
        called.unwrap();
    }
}

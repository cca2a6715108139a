//! A bad line between translator and pool: it slows down, stands still, and is cut in the middle of a frame.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use translator::Upstream;

use super::in_time;

/// Bytes that are taken at a time.
const CHUNK: usize = 4096;

/// How bytes go from the translator to the pool. The other direction is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Free,
    /// So many bytes at a time, and then a rest of a millisecond.
    Slow(usize),
    Stalled,
}

pub(crate) struct Line {
    upstream: Upstream,
    control: Arc<Control>,
}

struct Control {
    pace: watch::Sender<Pace>,
    /// Bytes of both directions until the cut.
    left: AtomicUsize,
    cuts: watch::Sender<usize>,
}

impl Line {
    /// A line to this pool.
    pub(crate) async fn to(pool: Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = Arc::new(Control {
            pace: watch::Sender::new(Pace::Free),
            left: AtomicUsize::new(usize::MAX),
            cuts: watch::Sender::new(0),
        });
        let upstream = Upstream {
            address: listener.local_addr().unwrap().to_string(),
            ..pool.clone()
        };
        let address: SocketAddr = pool.address.parse().unwrap();
        tokio::spawn(serve(listener, address, Arc::clone(&control)));
        Self { upstream, control }
    }

    /// The pool at the end of the line.
    pub(crate) fn upstream(&self) -> Upstream {
        self.upstream.clone()
    }

    pub(crate) fn pace(&self, pace: Pace) {
        self.control.pace.send_replace(pace);
    }

    /// Cuts all connections after so many bytes more, and waits for that.
    pub(crate) async fn cut_after(&self, bytes: usize) {
        let mut cuts = self.control.cuts.subscribe();
        self.control.left.store(bytes, Ordering::SeqCst);
        in_time("the cut", cuts.changed()).await.unwrap();
    }
}

async fn serve(listener: TcpListener, pool: SocketAddr, control: Arc<Control>) {
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(pool).await else {
            continue;
        };
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            let mut cuts = control.cuts.subscribe();
            let (from_translator, to_translator) = near.into_split();
            let (from_pool, to_pool) = far.into_split();
            tokio::select! {
                () = copy(from_translator, to_pool, true, &control) => {}
                () = copy(from_pool, to_translator, false, &control) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, paced: bool, control: &Control) {
    let mut pace = control.pace.subscribe();
    let mut buffer = [0; CHUNK];
    loop {
        let now = if paced {
            *pace.borrow_and_update()
        } else {
            Pace::Free
        };
        let limit = match now {
            Pace::Free => CHUNK,
            Pace::Slow(bytes) => {
                sleep(Duration::from_millis(1)).await;
                bytes.min(CHUNK)
            }
            Pace::Stalled => {
                if pace.changed().await.is_err() {
                    return;
                }
                continue;
            }
        };
        let read = tokio::select! {
            read = from.read(&mut buffer[..limit]) => read,
            _ = pace.changed(), if paced => continue,
        };
        let Ok(size @ 1..) = read else { return };
        let (passing, is_cut) = control.pass(size);
        if to.write_all(&buffer[..passing]).await.is_err() {
            return;
        }
        if is_cut {
            control.cuts.send_modify(|cuts| *cuts += 1);
            return;
        }
    }
}

impl Control {
    /// How many of these bytes go through, and whether the line is cut after them.
    fn pass(&self, size: usize) -> (usize, bool) {
        let take = |left: usize| match left {
            usize::MAX => None,
            left => Some(if left > size { left - size } else { usize::MAX }),
        };
        let before = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        match before {
            Ok(left) if left <= size => (left, true),
            _ => (size, false),
        }
    }
}

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::yield_now;

use super::*;
use crate::guard::AllowList;
use crate::pattern::Pattern;
use crate::totals::Totals;
use crate::watcher::LineLimits;

const LIMITS: LineLimits = LineLimits {
    miner: 1024,
    pool: 1024,
};

/// A pump with its two peers, behind pipes that hold so many bytes.
fn between(capacity: usize) -> (DuplexStream, Pump<DuplexStream, DuplexStream>, DuplexStream) {
    let (miner, miner_side) = duplex(capacity);
    let (pool, pool_side) = duplex(capacity);
    let pump = Pump::new(1, miner_side, pool_side, Watcher::new(LIMITS), None);
    (miner, pump, pool)
}

/// Runs until the end, and gives the sums.
async fn run(mut pump: Pump<DuplexStream, DuplexStream>) -> (Totals, End) {
    let mut totals = Totals::default();
    loop {
        let turn = pump.turn().await;
        for flow in [&pump.up, &pump.down] {
            assert!(flow.kept.capacity() <= READ_SIZE);
        }
        totals.add(&turn.seen.totals);
        if let Some(end) = turn.end {
            return (totals, end);
        }
    }
}

/// How one side of a conversation behaves: sizes of what it writes and reads, and for how many turns it does nothing between.
#[derive(Debug, Clone)]
struct Manners {
    says: Vec<u8>,
    sizes: Vec<(usize, usize)>,
}

fn manners() -> impl Strategy<Value = Manners> {
    let line = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..3_000),
        Just(b"{\"id\":1,\"method\":\"mining.submit\",\"params\":[\"a\",\"b\",\"00\",\"00\",\"00\"]}\n".to_vec()),
        Just(b"{\"id\":1,\"result\":true,\"error\":null}\n".to_vec()),
        Just(b"\r\n\0\xff\n".to_vec()),
    ];
    let says = prop::collection::vec(line, 0..30).prop_map(|lines| lines.concat());
    let sizes = prop::collection::vec((1usize..2_000, 0usize..20), 1..20);
    (says, sizes).prop_map(|(says, sizes)| Manners { says, sizes })
}

/// Says all it has to say and says that this was all, while it reads to the end of what the other says.
async fn converse(stream: DuplexStream, manners: Manners) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let Manners { says, sizes } = manners;
    let backwards: VecDeque<_> = sizes.iter().rev().copied().collect();
    let saying = async {
        let mut rest = &says[..];
        for (size, pause) in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min(*size));
            writer.write_all(now).await.unwrap();
            rest = later;
            for _ in 0..*pause {
                yield_now().await;
            }
        }
        writer.shutdown().await.unwrap();
    };
    let hearing = async {
        let mut heard = Vec::new();
        for (size, pause) in backwards.iter().cycle() {
            let mut buffer = vec![0; *size];
            match reader.read(&mut buffer).await.unwrap() {
                0 => break,
                read => heard.extend_from_slice(&buffer[..read]),
            }
            for _ in 0..*pause {
                yield_now().await;
            }
        }
        heard
    };
    tokio::join!(saying, hearing).1
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #[test]
    fn every_byte_arrives_as_it_was_sent_whatever_it_is_and_however_both_sides_stall(
        miner in manners(),
        pool in manners(),
        capacity in 1usize..5_000,
    ) {
        let (to_pool, to_miner) = (miner.says.clone(), pool.says.clone());
        let (miner_end, pump, pool_end) = between(capacity);
        let (heard_by_miner, heard_by_pool, (totals, end)) = block_on(async {
            tokio::join!(converse(miner_end, miner), converse(pool_end, pool), run(pump))
        });
        prop_assert_eq!(totals.bytes_sent, to_pool.len() as u64);
        prop_assert_eq!(totals.bytes_received, to_miner.len() as u64);
        prop_assert_eq!(totals.pauses, totals.resumes);
        prop_assert!(matches!(end, End::Closed(_)));
        prop_assert!(heard_by_pool == to_pool);
        prop_assert!(heard_by_miner == to_miner);
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_is_not_read_while_the_other_takes_no_more() {
    let (mut miner, mut pump, mut pool) = between(100);
    let reading = tokio::spawn(async move {
        let mut totals = Totals::default();
        loop {
            let turn = pump.turn().await;
            totals.add(&turn.seen.totals);
            if turn.end.is_some() {
                return totals;
            }
        }
    });
    // The pool takes nothing. What fits is in the two pipes and in what is kept of one read; the miner can say no more.
    let mut said = 0;
    // The clock stands still while anybody can go on.
    let patience = std::time::Duration::from_secs(1);
    while let Ok(written) = tokio::time::timeout(patience, miner.write(b"0123456789")).await {
        said += written.unwrap();
    }
    assert!(said <= 3 * 100, "{said}");
    let mut heard = vec![0; said];
    pool.read_exact(&mut heard).await.unwrap();
    drop((miner, pool));
    let totals = reading.await.unwrap();
    assert!(totals.pauses >= 1 && totals.pauses == totals.resumes);
    assert_eq!(totals.bytes_sent, said as u64);
}

#[tokio::test]
async fn a_side_that_has_said_all_still_hears_the_other() {
    let (mut miner, pump, mut pool) = between(100);
    let running = tokio::spawn(run(pump));
    miner.write_all(b"bye").await.unwrap();
    miner.shutdown().await.unwrap();
    let mut heard = Vec::new();
    pool.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"bye");
    pool.write_all(b"so long").await.unwrap();
    drop(pool);
    let mut heard = Vec::new();
    miner.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"so long");
    let (_, end) = running.await.unwrap();
    assert_eq!(end, End::Closed(Side::Miner));
}

#[tokio::test]
async fn lines_before_a_refused_one_still_reach_the_pool() {
    let (mut miner, miner_side) = duplex(10_000);
    let (mut pool, pool_side) = duplex(10);
    let allowed = AllowList::new(&[Pattern::new("me")]).unwrap();
    let guard = Box::new(Guard::new(allowed, 1024));
    let watcher = Watcher::new(LIMITS);
    let running = tokio::spawn(run(Pump::new(
        1,
        miner_side,
        pool_side,
        watcher,
        Some(guard),
    )));
    let good = "{\"id\":1,\"method\":\"mining.authorize\",\"params\":[\"me\"]}\n";
    let bad = "{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"you\"]}\n";
    let all = [good, good, bad, good].concat();
    miner.write_all(all.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    pool.read_to_end(&mut heard).await.unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), [good, good].concat());
    let (_, end) = running.await.unwrap();
    assert!(matches!(end, End::Refused(Refusal::Unlisted { .. })));
}

#[tokio::test]
async fn what_a_refused_miner_is_told_comes_after_all_that_its_pool_has_said() {
    let (miner, miner_side) = duplex(10);
    let (mut pool, pool_side) = duplex(10_000);
    let allowed = AllowList::new(&[Pattern::new("me")]).unwrap();
    let guard = Some(Box::new(Guard::new(allowed, 1024)));
    let mut pump = Pump::new(1, miner_side, pool_side, Watcher::new(LIMITS), guard);
    // More than the miner takes at once, a line that is too long to be looked at, and one that does not end.
    let said = "x".repeat(3 * LIMITS.pool) + "\nand so";
    pool.write_all(said.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(miner);
    let bad = b"{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"you\"]}\n";
    let talking = tokio::spawn(async move {
        writer.write_all(bad).await.unwrap();
        writer
    });
    // What the miner has not read is kept.
    let end = loop {
        if let Some(end) = pump.turn().await.end {
            break end;
        }
    };
    assert!(matches!(end, End::Refused(_)));
    let mut heard = String::new();
    let (told, read) = tokio::join!(
        pump.say_last(b"the reason\n"),
        reader.read_to_string(&mut heard)
    );
    told.unwrap();
    read.unwrap();
    assert!(heard == said + "\nthe reason\n");
    drop(talking.await.unwrap());
}

/// Passes on at once what it is given, but keeps all of it until it is flushed, as TLS may.
struct Flushed {
    inner: DuplexStream,
    held: Vec<u8>,
}

impl AsyncRead for Flushed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Flushed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let taken = write(context, &mut this.inner, &this.held);
        this.held.drain(..taken.bytes);
        if this.held.is_empty() || taken.refused {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.as_mut().poll_flush(context).is_pending() {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// A miner whose connection breaks off after its last line.
struct Breaking(VecDeque<Vec<u8>>);

impl AsyncRead for Breaking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0.pop_front() {
            Some(line) => buffer.put_slice(&line),
            None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Breaking {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_was_said_before_an_end_is_not_left_in_tls() {
    const GOOD: &str = "{\"id\":1,\"method\":\"mining.authorize\",\"params\":[\"me\"]}\n";
    const BAD: &str = "{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"you\"]}\n";
    for (lines, is_refused) in [(vec![GOOD], false), (vec![GOOD, BAD], true)] {
        let (mut pool, inner) = duplex(10);
        let sink = Flushed {
            inner,
            held: Vec::new(),
        };
        let miner = Breaking(lines.iter().map(|line| line.as_bytes().to_vec()).collect());
        let allowed = AllowList::new(&[Pattern::new("me")]).unwrap();
        let guard = Some(Box::new(Guard::new(allowed, 1024)));
        let mut pump = Pump::new(1, miner, sink, Watcher::new(LIMITS), guard);
        let pumping = tokio::spawn(async move {
            loop {
                if let Some(end) = pump.turn().await.end {
                    return end;
                }
            }
        });
        let mut heard = Vec::new();
        pool.read_to_end(&mut heard).await.unwrap();
        assert_eq!(String::from_utf8(heard).unwrap(), GOOD);
        let end = pumping.await.unwrap();
        assert_eq!(matches!(end, End::Refused(_)), is_refused, "{end:?}");
    }
}

/// Where lines of the log go.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_pause_and_its_end_are_told_at_debug_level() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let told = tracing::subscriber::set_default(subscriber);
    let (mut miner, mut pump, mut pool) = between(10);
    miner.write_all(b"0123456789").await.unwrap();
    pump.turn().await;
    miner
        .write_all(b"more than the pool takes".get(..10).unwrap())
        .await
        .unwrap();
    let turn = pump.turn().await;
    assert_eq!(turn.seen.totals.pauses, 1);
    let lines = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        lines().contains("paused connection=1 from=Miner"),
        "{}",
        lines()
    );
    assert!(!lines().contains("resumed"));
    let mut heard = [0; 20];
    pool.read_exact(&mut heard[..10]).await.unwrap();
    pump.turn().await;
    assert!(
        lines().contains("resumed connection=1 from=Miner"),
        "{}",
        lines()
    );
    drop(told);
}

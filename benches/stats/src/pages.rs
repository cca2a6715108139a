//! How long a page takes, from the request to the last byte.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bench_pool::Result;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A page's times, with its connection's.
#[derive(Debug, Serialize)]
pub(crate) struct Times {
    page: String,
    bytes: usize,
    /// Of the first request, before which nobody has looked at the same list.
    first_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Asks for it again and again.
pub(crate) async fn time(address: SocketAddr, page: &str, requests: usize) -> Result<Times> {
    let mut times = Vec::with_capacity(requests);
    let mut bytes = 0;
    for _ in 0..requests.max(1) {
        let start = Instant::now();
        bytes = get(address, page).await?;
        times.push(start.elapsed());
    }
    let first_ms = ms(times[0]);
    times.sort();
    let at = |part: usize| ms(times[(times.len() - 1) * part / 100]);
    Ok(Times {
        page: page.to_owned(),
        bytes,
        first_ms,
        p50_ms: at(50),
        p99_ms: at(99),
    })
}

async fn get(address: SocketAddr, page: &str) -> Result<usize> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        let first = String::from_utf8_lossy(&answer);
        return Err(format!("{page}: {}", first.lines().next().unwrap_or_default()).into());
    }
    Ok(answer.len())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

//! What a pool's `/metrics` says.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use bench_pool::Result;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The sum of all values of this metric.
pub(crate) fn sum(address: SocketAddr, metric: &str) -> Result<u64> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(
        format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let mut sum = 0.0;
    for line in answer.lines() {
        let value = line
            .strip_prefix(metric)
            .filter(|rest| rest.starts_with(['{', ' ']))
            .and_then(|rest| rest.rsplit_once(' '));
        if let Some((_, value)) = value {
            sum += value.parse::<f64>()?;
        }
    }
    // Counts are whole, and far below 2^53.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(sum as u64)
}

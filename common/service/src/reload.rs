//! SIGHUP, by which an operator asks a role to read its files again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Watches SIGHUP from now on, which no longer ends the process then; call it inside a runtime.
///
/// # Errors
/// The system's error if a handler cannot be installed.
pub fn on_hangup() -> io::Result<Hangup> {
    signal(SignalKind::hangup()).map(Hangup)
}

/// Tells of SIGHUP.
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    /// Waits for the next one. Those that come while nobody waits are one.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

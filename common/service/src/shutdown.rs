//! Turning signals into a [`CancellationToken`]: the first asks, the second insists.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Watches SIGINT and SIGTERM from now on; call it once, inside a runtime.
///
/// The first signal cancels the returned token, so that everything can finish what it has in hand. The second ends the
/// process at once with the shell's code for that signal (130 for SIGINT, 143 for SIGTERM).
///
/// # Errors
/// The system's error if a handler cannot be installed.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut signals = Signals {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    };
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let first = signals.next().await;
        tracing::info!(
            signal = first.name,
            "stopping; a second signal stops at once"
        );
        cancel.cancel();
        let second = signals.next().await;
        tracing::warn!(signal = second.name, "stopped without finishing");
        std::process::exit(second.exit_code);
    });
    Ok(token)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.interrupt.recv() => Received { name: "SIGINT", exit_code: 130 },
            _ = self.terminate.recv() => Received { name: "SIGTERM", exit_code: 143 },
        }
    }
}

struct Received {
    name: &'static str,
    exit_code: i32,
}

//! What a miner gets when the translator stops: the answers to its last shares, and a request to come again.

use std::io;
use std::time::Duration;

use stratum_v1::write_reconnect_here;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use super::{Driver, End, Socket};

/// For the pool's answers, and for the miner to take them.
const PATIENCE: Duration = Duration::from_secs(3);

/// For the miner to hang up, when it has been told all.
const HANGING_UP: Duration = Duration::from_secs(1);

impl Socket {
    /// Ends the conversation so that all that was written arrives. Nothing is read any more: what the miner still sends
    /// it has to send again after it has come back.
    pub(crate) async fn farewell(&mut self, driver: &mut Driver, reconnect: bool) {
        let deadline = Instant::now() + PATIENCE;
        while driver.session.owes_answers() {
            if timeout_at(deadline, driver.wait(true, false))
                .await
                .is_err()
            {
                break;
            }
            driver.handle_mail();
            driver.send_requests();
        }
        if reconnect {
            write_reconnect_here(&mut driver.out.bytes);
        }
        let written = timeout_at(deadline, self.write_all(driver)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
        self.close();
        // To close a socket with bytes that were not read would have the system throw away what was written.
        let deadline = Instant::now() + HANGING_UP;
        let _ = timeout_at(deadline, self.until_closed()).await;
    }

    async fn write_all(&mut self, driver: &mut Driver) -> Result<(), End> {
        loop {
            self.write(driver)?;
            if !self.is_writing(driver) {
                return Ok(());
            }
            self.stream.writable().await.map_err(|_| End::Failed)?;
        }
    }

    async fn until_closed(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut ignored = [0; 512];
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut ignored) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

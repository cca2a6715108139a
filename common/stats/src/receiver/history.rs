//! Samples of longer ago than what is held in memory.

use std::collections::BTreeMap;

use storage::Url;
use tokio::sync::Mutex;

use crate::series::{Period, Sample};
use crate::store::Connection;

/// Series that are asked for at once.
const MOST_SERIES: usize = 1000;

/// Reads samples through a connection of its own, which waits for no commit.
pub struct History {
    url: Url,
    connection: Mutex<Option<Connection>>,
}

impl History {
    pub(super) fn new(url: Url) -> Self {
        Self {
            url,
            connection: Mutex::new(None),
        }
    }

    /// Samples of some series, at most a thousand, added up; the oldest first. The end is not included.
    ///
    /// # Errors
    /// The database's words.
    pub async fn samples(
        &self,
        series: &[i64],
        period: Period,
        from_ms: u64,
        to_ms: u64,
    ) -> Result<Vec<Sample>, String> {
        let series = series.iter().copied().take(MOST_SERIES).collect();
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let mut place = self.connection.lock().await;
        // Taken out, so that a connection in an unknown state is not used again.
        let mut connection = match place.take() {
            Some(connection) => connection,
            None => Connection::open(&self.url, false)
                .await
                .map_err(|error| error.to_string())?,
        };
        let rows = connection
            .samples(series, period, ms(from_ms), ms(to_ms))
            .await
            .map_err(|error| error.to_string())?;
        *place = Some(connection);
        let mut sums = BTreeMap::<u64, Sample>::new();
        for sample in rows.iter().filter_map(|row| row.sample()) {
            sums.entry(sample.start_ms)
                .and_modify(|sum| sum.hashes += sample.hashes)
                .or_insert(sample);
        }
        Ok(sums.into_values().collect())
    }
}

//! Reading a ledger, also while a pool writes it.

use std::{collections::BTreeMap, ops::Range};

use storage::Url;

use crate::{
    Block, BlockState, Error, StorageConfig,
    block::parse_hash,
    journal::{Row, Sum, Unreadable},
    store::{self, BlockRow, Blocks, Connection, WorkRow},
};

/// Reads what pools have written.
pub struct Reader {
    connection: Connection,
}

/// Work that was booked for a worker in a window.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Work {
    /// Who is paid for it.
    pub account: String,
    /// With which machine; may be empty.
    pub worker: String,
    /// Done for blocks that pay the account itself.
    pub solo: bool,
    /// Accepted shares.
    pub shares: u64,
    /// Their work, in expected hashes.
    pub work: u128,
}

/// A window of time, in minutes since the Unix epoch, without its end. Work that is kept by the hour counts where its
/// hour begins in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minutes {
    pub(crate) first: i64,
    pub(crate) end: i64,
}

impl Minutes {
    /// All there is.
    pub const ALL: Self = Self {
        first: 0,
        end: i64::MAX,
    };

    /// The minutes that begin in a range of milliseconds since the Unix epoch.
    #[must_use]
    pub fn of_ms(range: &Range<i64>) -> Self {
        Self {
            first: up(range.start, 60_000),
            end: up(range.end, 60_000),
        }
    }

    fn contains(self, minute: i64) -> bool {
        (self.first..self.end).contains(&minute)
    }

    pub(crate) fn first_hour(self) -> i64 {
        up(self.first, 60)
    }

    pub(crate) fn end_hour(self) -> i64 {
        up(self.end, 60)
    }
}

/// Divides, and rounds up.
fn up(value: i64, by: i64) -> i64 {
    value.div_euclid(by) + i64::from(value.rem_euclid(by) > 0)
}

impl Reader {
    pub(crate) async fn connect(url: &Url) -> Result<Self, Error> {
        let connection = store::connect(url, false).await?;
        Ok(Self { connection })
    }

    /// Opens the ledger where it is configured; it must be there.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Open`], [`Error::Empty`].
    pub async fn open(config: &StorageConfig) -> Result<Self, Error> {
        let url = config.place()?;
        if let Url::Sqlite(path) = &url
            && !std::path::Path::new(path).exists()
        {
            return Err(Error::Empty(url.shown()));
        }
        let mut connection = store::connect(&url, false).await?;
        if !connection.has_tables().await {
            return Err(Error::Empty(url.shown()));
        }
        Ok(Self { connection })
    }

    /// Work by account and worker, of all servers, in the order of their names: all that was committed before, whether it
    /// has come out of the journal or not.
    ///
    /// # Errors
    /// [`Error::Database`]; [`Error::Journal`] where a sum without the rest would be wrong.
    pub async fn work(&mut self, window: Minutes) -> Result<Vec<Work>, Error> {
        let (rows, journal) = self.connection.work(window).await?;
        Ok(add_up(&rows, &journal, window)?)
    }

    /// Blocks of this server whose fate is open, without what they consist of, the oldest first; with orphans and
    /// rejected ones that became so since then, because a reorganisation or another node can bring them back.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn open_blocks(
        &mut self,
        server_id: u16,
        ended_since_ms: i64,
    ) -> Result<Vec<Block>, Error> {
        self.blocks_of(Blocks::Open {
            server_id: server_id.into(),
            ended_since_ms,
        })
        .await
    }

    /// The whole block of this hash, if it is here and kept.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn raw_block(&mut self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.connection.raw_block(hash).await?)
    }

    /// The newest blocks that were found since then, without what they consist of.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn newest_blocks(&mut self, since_ms: i64, count: u32) -> Result<Vec<Block>, Error> {
        let count = count.into();
        self.blocks_of(Blocks::Newest { since_ms, count }).await
    }

    async fn blocks_of(&mut self, wanted: Blocks) -> Result<Vec<Block>, Error> {
        let rows = self.connection.blocks(wanted).await?;
        Ok(rows.into_iter().filter_map(block).collect())
    }
}

/// Sums of all minutes of the window, by their keys without it.
pub(crate) fn add_up(
    rows: &[WorkRow],
    journal: &[Row],
    window: Minutes,
) -> Result<Vec<Work>, Unreadable> {
    let mut sums = BTreeMap::<_, Sum>::new();
    for row in rows {
        let name = (&*row.account, &*row.worker, row.solo);
        sums.entry(name).or_default().add(row.sum());
    }
    for batch in journal {
        for (key, sum) in batch.deltas()? {
            if window.contains(key.minute) {
                let name = (key.account, key.worker, key.solo);
                sums.entry(name).or_default().add(sum);
            }
        }
    }
    let work = sums.into_iter().map(|((account, worker, solo), sum)| Work {
        account: account.to_owned(),
        worker: worker.to_owned(),
        solo,
        shares: sum.shares,
        work: sum.work,
    });
    Ok(work.collect())
}

/// A row that was not written here is left out.
fn block(row: BlockRow) -> Option<Block> {
    Some(Block {
        hash: parse_hash(&row.hash)?,
        height: row.height.and_then(|height| u32::try_from(height).ok()),
        account: row.account.into(),
        worker: row.worker.into(),
        solo: row.solo,
        reward_sats: row.reward_sats.unsigned_abs(),
        state: BlockState::from_columns(&row.state, row.reason, row.confirmations)?,
        found_ms: row.found_ms,
        raw: None,
    })
}

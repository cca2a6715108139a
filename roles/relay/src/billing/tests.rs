//! Books that are opened, killed and opened again.

use std::sync::{Arc, Mutex};

use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _};
use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// Counts that a test sets, of one client.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<Usage>>);

impl Counts {
    fn set(&self, bytes_sent: u64) {
        *self.0.lock().unwrap() = Usage {
            bytes_sent,
            work: u128::from(bytes_sent) << 60,
            ..Usage::default()
        };
    }

    fn source(&self) -> impl Fn() -> BTreeMap<String, Usage> + Send + 'static {
        let counts = self.clone();
        move || BTreeMap::from([("acme".to_owned(), *counts.0.lock().unwrap())])
    }
}

fn config(folder: &TempDir) -> StorageConfig {
    StorageConfig {
        url: format!("sqlite:{}", folder.path().join("relay.sqlite").display()),
        commit_interval_seconds: 1,
        ..StorageConfig::default()
    }
}

async fn start(config: &StorageConfig) -> (Books, Counts) {
    let counts = Counts::default();
    let books = Books::open(config, counts.source()).await.unwrap();
    (books.unwrap(), counts)
}

async fn billed(config: &StorageConfig) -> u64 {
    let mut reader = Reader::open(config).await.unwrap();
    let hours = Hours::of_ms(&(0..i64::MAX));
    let bills = reader.bills(hours, Step::Whole).await.unwrap();
    let [bill] = &bills[..] else {
        assert!(bills.is_empty(), "{bills:?}");
        return 0;
    };
    assert_eq!(bill.client, "acme");
    assert_eq!(bill.usage.work, u128::from(bill.usage.bytes_sent) << 60);
    bill.usage.bytes_sent
}

#[tokio::test]
async fn each_start_adds_to_what_was_kept_before() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    for (counted, sum) in [(5, 5), (3, 8), (0, 8), (2, 10)] {
        let (books, counts) = start(&config).await;
        counts.set(counted);
        books.close(PATIENCE).await;
        assert_eq!(billed(&config).await, sum);
    }
}

#[tokio::test]
async fn what_was_committed_survives_a_kill_and_is_not_counted_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let (books, counts) = start(&config).await;
    counts.set(7);
    // While it runs: after the next commit.
    timeout(PATIENCE, async {
        while billed(&config).await != 7 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("nothing is committed");
    counts.set(9);
    books.writer.abort();
    assert!(books.writer.await.unwrap_err().is_cancelled());
    let kept = billed(&config).await;
    assert!(kept == 7 || kept == 9, "{kept}");
    let (books, counts) = start(&config).await;
    counts.set(1);
    books.close(PATIENCE).await;
    assert_eq!(billed(&config).await, kept + 1);
}

#[tokio::test]
async fn a_database_that_is_locked_costs_nothing_once_it_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let (books, counts) = start(&config).await;
    let mut health = books.health();
    let path = folder.path().join("relay.sqlite");
    let mut lock = SqliteConnection::establish(&path.display().to_string()).unwrap();
    lock.batch_execute("PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE")
        .unwrap();
    counts.set(4);
    let stalled = health.wait_for(|health| matches!(health, Health::Stalled(_)));
    timeout(PATIENCE, stalled)
        .await
        .expect("nobody notices")
        .unwrap();
    counts.set(6);
    lock.batch_execute("ROLLBACK").unwrap();
    books.close(PATIENCE).await;
    assert_eq!(billed(&config).await, 6);
}

#[tokio::test]
async fn a_relay_whose_place_is_taken_bills_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let (first, of_first) = start(&config).await;
    let (second, of_second) = start(&config).await;
    let mut health = first.health();
    of_first.set(100);
    of_second.set(1);
    let taken = health.wait_for(|health| *health == Health::TakenOver);
    timeout(PATIENCE, taken)
        .await
        .expect("nobody notices")
        .unwrap();
    first.close(PATIENCE).await;
    second.close(PATIENCE).await;
    assert_eq!(billed(&config).await, 1);
}

#[tokio::test]
async fn without_a_place_nothing_is_kept_and_a_bill_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let off = StorageConfig {
        url: "off".to_owned(),
        ..StorageConfig::default()
    };
    let books = Books::open(&off, BTreeMap::new).await.unwrap();
    assert!(books.is_none());
    assert!(matches!(Reader::open(&off).await, Err(Error::Off)));
    let nothing = Reader::open(&config(&folder)).await;
    assert!(matches!(nothing, Err(Error::Empty(_))), "{nothing:?}");
}

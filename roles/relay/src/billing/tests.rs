//! Books that are opened, killed and opened again.

use std::sync::{Arc, Mutex};

use database::Database;
use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _};
use tempfile::TempDir;
use tokio::time::Instant;

use super::clock::HOUR_MS;
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
    let mut health = books.condition.health.clone();
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

/// Bills by hour: the hour, the client and its bytes.
async fn by_hour(config: &StorageConfig) -> Vec<(u64, String, u64)> {
    let mut reader = Reader::open(config).await.unwrap();
    let hours = Hours::of_ms(&(0..i64::MAX));
    let bills = reader.bills(hours, Step::Hour).await.unwrap();
    let row = |bill: Bill| {
        let hour = bill.from_ms.unsigned_abs() / HOUR_MS;
        (hour, bill.client, bill.usage.bytes_sent)
    };
    bills.into_iter().map(row).collect()
}

/// Time is simulated: it goes on when nothing else does.
#[tokio::test(start_paused = true)]
async fn use_is_billed_to_the_hour_in_which_it_was() {
    const HOUR: u64 = 500_000;
    for interval in [1, 10, 3600] {
        let folder = tempfile::tempdir().unwrap();
        let config = StorageConfig {
            commit_interval_seconds: interval,
            ..config(&folder)
        };
        let begun = Instant::now();
        // Half a second before the full hour.
        let clock =
            move || HOUR * HOUR_MS - 500 + u64::try_from(begun.elapsed().as_millis()).unwrap();
        let counts = Counts::default();
        let books = Books::open_at(&config, counts.source(), clock).await;
        let books = books.unwrap().unwrap();
        counts.set(5);
        while by_hour(&config).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        counts.set(12);
        books.close(PATIENCE).await;
        let row = |hour, bytes| (hour, "acme".to_owned(), bytes);
        assert_eq!(
            by_hour(&config).await,
            [row(HOUR - 1, 5), row(HOUR, 7)],
            "every {interval} s"
        );
    }
}

database::on_both! {
    async fn a_second_relay_of_the_same_number_bills_its_own_and_ends_nobodys(database) {
        let config = StorageConfig {
            url: database.url(),
            commit_interval_seconds: 1,
            ..StorageConfig::default()
        };
        let (first, of_first) = start(&config).await;
        of_first.set(100);
        until_billed(&config, 100).await;
        // As a copied configuration has it, or a start that finds its port taken.
        let (second, of_second) = start(&config).await;
        let (third, _) = start(&config).await;
        drop(third);
        of_second.set(1);
        until_billed(&config, 101).await;
        of_first.set(150);
        of_second.set(3);
        first.close(PATIENCE).await;
        second.close(PATIENCE).await;
        assert_eq!(billed(&config).await, 153);
    }

    async fn what_a_database_refuses_of_one_client_stops_nobody_elses_bill(database) {
        let config = StorageConfig {
            url: database.url(),
            commit_interval_seconds: 1,
            ..StorageConfig::default()
        };
        let counts = Arc::new(Mutex::new(BTreeMap::new()));
        let set = |client: &str, bytes_sent| {
            let usage = Usage { bytes_sent, ..Usage::default() };
            counts.lock().unwrap().insert(client.to_owned(), usage);
        };
        let source = Arc::clone(&counts);
        let books = Books::open(&config, move || source.lock().unwrap().clone()).await;
        let books = books.unwrap().unwrap();
        // It takes no second row of this client.
        database
            .execute(
                "CREATE UNIQUE INDEX trouble ON usage_hours (client) WHERE client = 'refused';
                 INSERT INTO usage_hours VALUES (0, 'refused', 9, 1, 0, 0, 0, 0, 0, 0, 0)",
            )
            .await;
        set("refused", 20);
        set("acme", 5);
        let sums = async || {
            let rows = by_hour(&config).await.into_iter();
            rows.fold(BTreeMap::<_, u64>::new(), |mut sums, (_, client, bytes)| {
                *sums.entry(client).or_default() += bytes;
                sums
            })
        };
        let both = |refused, acme| BTreeMap::from([("acme".to_owned(), acme), ("refused".to_owned(), refused)]);
        until("the other is billed", async || sums().await == both(1, 5)).await;
        set("acme", 8);
        until("the other is billed on", async || sums().await == both(1, 8)).await;
        let condition = books.condition();
        assert_eq!(condition.refused_rows(), 1);
        assert!(condition.problem().unwrap().contains("refuses 1 row"));
        database.execute("DROP INDEX trouble").await;
        set("refused", 24);
        books.close(PATIENCE).await;
        assert_eq!(sums().await, both(25, 8));
        assert_eq!(condition.problem(), None);
    }

    async fn a_bill_says_why_it_cannot_be_read(database) {
        let config = StorageConfig {
            url: database.url(),
            ..StorageConfig::default()
        };
        // Something is there, and nothing of a relay's.
        database.execute("CREATE TABLE usage (hour BIGINT)").await;
        let nothing = Reader::open(&config).await;
        assert!(matches!(nothing, Err(Error::Empty(_))), "{nothing:?}");
        if let Database::Sqlite(_) = &database {
            let path = config.url.trim_start_matches("sqlite:");
            std::fs::write(path, [b'x'; 4096]).unwrap();
            let broken = Reader::open(&config).await;
            assert!(!matches!(broken, Ok(_) | Err(Error::Empty(_))), "{broken:?}");
        }
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

async fn until_billed(config: &StorageConfig, bytes: u64) {
    until(&format!("{bytes} bytes are billed"), async || {
        billed(config).await == bytes
    })
    .await;
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

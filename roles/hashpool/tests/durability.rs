//! An acknowledged share is a durable share, whatever happens to the process, and none counts twice.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use e2e::{
    PATIENCE,
    client::{Client, Share},
};
use ledger::{Minutes, Reader, StorageConfig};
use sv2_connection::AuthorityPublicKey;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet, time::timeout};

/// Kills in one test, and shares that are acknowledged between them.
const KILLS: u64 = 8;
const SHARES_BETWEEN: u64 = 150;
const CLIENTS: u64 = 4;
/// Shares that a client has under way.
const IN_FLIGHT: u64 = 40;

/// A real pool process.
struct Pool {
    child: Child,
    address: SocketAddr,
    key: AuthorityPublicKey,
}

/// Where it keeps what has to survive it.
struct Place {
    folder: TempDir,
    key: AuthorityPublicKey,
    storage: String,
}

impl Place {
    fn new(storage: Option<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = hashpool()
            .args(["keygen", "--out"])
            .arg(folder.path().join("authority.key"))
            .output()
            .unwrap();
        assert!(made.status.success());
        let key = String::from_utf8(made.stdout).unwrap();
        let file = folder.path().join("ledger.sqlite");
        Self {
            key: key.trim().parse().unwrap(),
            storage: storage.unwrap_or_else(|| format!("sqlite:{}", file.display())),
            folder,
        }
    }

    /// Starts a pool and waits until it listens.
    fn start(&self, server_id: u16, minimum_difficulty: &str) -> Pool {
        let mut child = hashpool()
            .args(["pool", "--log-format", "json"])
            .args(["--set", "listen_address=127.0.0.1:0"])
            .args(["--set", "http_address=off"])
            .args(["--set", "shares_per_minute=6000"])
            .args(["--set", "template.source=embedded"])
            .args(["--set", "template.refresh_interval_seconds=1"])
            .args(["--set", "template.block_interval_seconds=3600"])
            // Far harder than anything here: no block moves the tip.
            .args(["--set", "template.first_block_hashes=4000000000000"])
            .args([
                "--set",
                "payout=bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080",
            ])
            .args(["--set", &format!("minimum_difficulty={minimum_difficulty}")])
            .args(["--set", &format!("server_id={server_id}")])
            .args(["--set", &format!("storage.url={}", self.storage)])
            .args(["--set", &self.setting("data_dir", ".")])
            .args([
                "--set",
                &self.setting("authority_secret_key_file", "authority.key"),
            ])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = Vec::new();
        let mut lines = lines
            .map_while(Result::ok)
            .inspect(|line| seen.push(line.clone()));
        let address = lines.find_map(|line| {
            let rest = line
                .contains("pool listens")
                .then(|| line.split_once("\"address\":\""))??
                .1;
            rest.split('"').next()?.parse().ok()
        });
        // Nobody reads the log from here on; that must not end the pool.
        drop(lines);
        let Some(address) = address else {
            let _ = child.wait();
            panic!("the pool does not listen:\n{}", seen.join("\n"));
        };
        Pool {
            child,
            address,
            key: self.key,
        }
    }

    fn setting(&self, key: &str, file: &str) -> String {
        format!("{key}={}", self.folder.path().join(file).display())
    }

    /// Shares in the ledger, by account.
    async fn booked(&self) -> BTreeMap<String, u64> {
        let config = StorageConfig {
            url: self.storage.clone(),
            ..StorageConfig::default()
        };
        let mut reader = Reader::open(&config).await.unwrap();
        let mut booked = BTreeMap::new();
        for row in reader.work(Minutes::ALL).await.unwrap() {
            *booked.entry(row.account).or_default() += row.shares;
        }
        booked
    }
}

impl Pool {
    async fn client(&self, identity: &str) -> Client {
        Client::open(self.address, self.key, identity)
            .await
            .unwrap()
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.end();
    }
}

fn hashpool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hashpool"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HASHPOOL_") {
            command.env_remove(name);
        }
    }
    command
}

/// Submits until the pool is gone; gives the shares that were submitted and those that were acknowledged.
async fn pump(mut client: Client, acknowledged: watch::Sender<u64>) -> (u64, u64) {
    let (mut submitted, mut guess) = (0, 0);
    loop {
        let room = IN_FLIGHT.saturating_sub(submitted - client.answers.total());
        let shares: Vec<Share> = (guess..guess + room)
            .map(|number| client.channel.guess(number))
            .collect();
        guess += room;
        let before = client.answers.accepted;
        let result = match client.submit(&shares).await {
            Ok(total) => {
                submitted = total;
                client.read().await
            }
            // Some of them may have arrived.
            Err(error) => {
                submitted += room;
                Err(error)
            }
        };
        let accepted = client.answers.accepted;
        acknowledged.send_modify(|total| *total += accepted - before);
        if result.is_err() {
            return (submitted, accepted);
        }
    }
}

async fn acknowledged_shares_survive_kills(storage: Option<String>) {
    let place = Place::new(storage);
    let mut totals: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let acknowledged = watch::Sender::new(0);
    for round in 0..KILLS {
        // Any hash is a share at first; difficulty then follows.
        let pool = place.start(0, "0.0000000001");
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let account = format!("account{number}");
            let client = pool.client(&format!("{account}.rig{round}")).await;
            let acknowledged = acknowledged.clone();
            clients.spawn(async move { (account, pump(client, acknowledged).await) });
        }
        // The pool is killed at whatever it is doing when as many are acknowledged.
        let enough = (round + 1) * SHARES_BETWEEN;
        let mut total = acknowledged.subscribe();
        let reached = total.wait_for(|total| *total >= enough);
        timeout(PATIENCE, reached).await.unwrap().unwrap();
        pool.kill();
        while let Some(ended) = clients.join_next().await {
            let (account, (submitted, accepted)) = ended.unwrap();
            let total = totals.entry(account).or_default();
            total.0 += submitted;
            total.1 += accepted;
        }
        let booked = place.booked().await;
        for (account, (submitted, accepted)) in &totals {
            let booked = booked.get(account).copied().unwrap_or_default();
            assert!(
                *accepted <= booked && booked <= *submitted,
                "round {round}, {account}: acknowledged {accepted}, booked {booked}, submitted {submitted}"
            );
        }
    }
    assert!(*acknowledged.borrow() >= KILLS * SHARES_BETWEEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_share_survives_a_kill_on_sqlite() {
    acknowledged_shares_survive_kills(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_share_survives_a_kill_on_postgres() {
    if let Some(server) = database::Postgres::start() {
        acknowledged_shares_survive_kills(Some(server.url())).await;
    }
}

/// Replays must not meet the target by luck: a share takes 2^20 hashes.
const HARD: &str = "0.000244140625";

async fn a_replayed_share_never_counts_again(storage: Option<String>) {
    let place = Place::new(storage);
    let first = place.start(1, HARD);
    let mut client = first.client("alice.rig").await;
    let shares: Vec<Share> = (0..3).map(|number| client.channel.mine(number)).collect();
    let submitted = client.submit(&shares).await.unwrap();
    client.answered(submitted).await.unwrap();
    assert_eq!(client.answers.accepted, 3, "{:?}", client.answers);

    // On the same connection, for the same job and for a later one on the same tip.
    client.submit(&shares).await.unwrap();
    let seen = client.channel.jobs_seen;
    while client.channel.jobs_seen == seen {
        client.read().await.unwrap();
    }
    let later: Vec<Share> = shares
        .iter()
        .map(|share| share.for_job_of(&client.channel))
        .collect();
    assert_ne!(later, shares);
    let submitted = client.submit(&later).await.unwrap();
    client.answered(submitted).await.unwrap();
    assert_eq!(client.answers.accepted, 3, "{:?}", client.answers);
    assert_eq!(
        client.answers.rejected.get("duplicate-share"),
        Some(&6),
        "{:?}",
        client.answers
    );

    // After a reconnect, with the old connection still there and with it gone.
    replay(&first, &shares).await;
    drop(client);
    replay(&first, &shares).await;

    // To a second pool on the same ledger, and to the first after a kill.
    let second = place.start(2, HARD);
    replay(&second, &shares).await;
    first.kill();
    let restarted = place.start(1, HARD);
    replay(&restarted, &shares).await;
    assert_eq!(
        place.booked().await,
        BTreeMap::from([("alice".to_owned(), 3)])
    );
}

async fn replay(pool: &Pool, shares: &[Share]) {
    let mut client = pool.client("alice.rig").await;
    let again: Vec<Share> = shares
        .iter()
        .map(|share| share.for_job_of(&client.channel))
        .collect();
    let submitted = client.submit(&again).await.unwrap();
    client.answered(submitted).await.unwrap();
    assert_eq!(client.answers.accepted, 0, "{:?}", client.answers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_share_never_counts_again_on_sqlite() {
    a_replayed_share_never_counts_again(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_share_never_counts_again_on_postgres() {
    if let Some(server) = database::Postgres::start() {
        a_replayed_share_never_counts_again(Some(server.url())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_database_delays_shares_and_refuses_none() {
    let place = Place::new(None);
    let path = place.folder.path().join("ledger.sqlite");
    let pool = place.start(0, "0.0000000001");
    let mut client = pool.client("alice.rig").await;
    let lock = Lock::take(&path);
    // Shares that are valid with certainty: the channel is young, and every hash meets its target.
    let shares: Vec<Share> = (0..20).map(|number| client.channel.guess(number)).collect();
    client.submit(&shares).await.unwrap();
    // Jobs keep coming, and nothing is acknowledged.
    let seen = client.channel.jobs_seen;
    while client.channel.jobs_seen < seen + 2 {
        client.read().await.unwrap();
    }
    assert_eq!(client.answers.total(), 0, "{:?}", client.answers);
    drop(lock);
    client.answered(20).await.unwrap();
    assert_eq!(client.answers.accepted, 20, "{:?}", client.answers);
    assert_eq!(place.booked().await["alice"], 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_database_does_not_keep_the_pool_from_stopping_and_the_exit_code_tells() {
    let place = Place::new(None);
    let mut pool = place.start(0, "0.0000000001");
    let mut client = pool.client("alice.rig").await;
    let _lock = Lock::take(&place.folder.path().join("ledger.sqlite"));
    let share = client.channel.guess(0);
    client.submit(&[share]).await.unwrap();
    // What comes after the share has been read when the next job is here.
    let seen = client.channel.jobs_seen;
    while client.channel.jobs_seen < seen + 2 {
        client.read().await.unwrap();
    }
    let terminated = Command::new("kill")
        .arg(pool.child.id().to_string())
        .status();
    assert!(terminated.unwrap().success());
    let ended = tokio::task::spawn_blocking(move || pool.child.wait().unwrap().code());
    let code = timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert_eq!((code, client.answers.accepted), (Some(1), 0));
}

/// Somebody else writes to the database and does not end.
struct Lock(#[allow(dead_code)] diesel::SqliteConnection);

impl Lock {
    fn take(path: &Path) -> Self {
        use diesel::{Connection, connection::SimpleConnection};
        let mut connection = diesel::SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        let lock = "PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE";
        connection.batch_execute(lock).unwrap();
        Self(connection)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_printed_as_a_table_and_as_csv() {
    let place = Place::new(None);
    let pool = place.start(0, "0.0000000001");
    let mut client = pool.client("alice.rig").await;
    let shares: Vec<Share> = (0..5).map(|number| client.channel.guess(number)).collect();
    client.submit(&shares).await.unwrap();
    client.answered(5).await.unwrap();
    let print = |arguments: &[&str]| {
        let storage = format!("storage.url={}", place.storage);
        let output = hashpool()
            .args(["ledger", "--set", &storage])
            .args(arguments)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let csv = print(&["--format", "csv"]);
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines[0], "account,worker,solo,shares,work");
    assert!(lines[1].starts_with("alice,rig,false,5,"), "{csv}");
    let table = print(&["--show", "accounts", "--from", "1h"]);
    assert!(
        table.starts_with("ACCOUNT") && table.contains("alice"),
        "{table}"
    );
    let nobody = print(&["--account", "bob", "--format", "csv"]);
    assert_eq!(nobody.lines().count(), 1, "{nobody}");
    let before = print(&["--from", "2d", "--to", "1d", "--format", "csv"]);
    assert_eq!(before.lines().count(), 1, "{before}");
    assert_eq!(
        print(&["--show", "blocks", "--format", "csv"])
            .lines()
            .count(),
        1
    );
}

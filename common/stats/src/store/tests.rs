//! The same promises on both databases.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;

fn sample(series: i64, period: Period, start_ms: i64) -> SampleRow {
    SampleRow {
        series,
        seconds: seconds(period),
        start_ms,
        hashes: 1.5e30,
    }
}

fn document(key: &str, body: &str) -> DocumentRow {
    DocumentRow {
        role: "pool".into(),
        name: "a".into(),
        key: key.into(),
        body: body.into(),
    }
}

async fn opened(url: &str) -> (Connection, i64) {
    let url = Url::parse(url, None).unwrap();
    let connection = Connection::open(&url, true).await.unwrap();
    let mut connection = connection.migrate().await.unwrap();
    let boot = connection.count_start().await.unwrap();
    (connection, boot)
}

async fn a_batch_that_is_written_twice_is_written_once(url: &str) {
    let (mut store, boot) = opened(url).await;
    let series = SeriesRow {
        series: 7,
        role: "pool".into(),
        name: "a".into(),
        subject: "\"sender\"".into(),
    };
    let mut batch = Batch {
        documents: vec![
            document("1", "{\"odd\":\"o'b\\u0000\u{1f980}\"}"),
            document("2", "2"),
        ],
        series: vec![series],
        samples: vec![sample(7, Period::Minute, 60_000)],
        ..Batch::default()
    };
    for _ in 0..2 {
        let committed = store.commit(boot, Arc::new(batch.clone())).await;
        assert_eq!(committed.unwrap(), Committed::Yes);
    }
    assert_eq!(store.documents().await.unwrap(), batch.documents);
    assert_eq!(store.series().await.unwrap(), batch.series);
    let samples = store.samples(vec![7], Period::Minute, 0, i64::MAX).await;
    assert_eq!(samples.unwrap(), batch.samples);

    batch.documents = vec![document("2", "3")];
    batch.gone = vec![("pool".into(), "a".into(), "1".into())];
    batch.samples[0].hashes = 2.0;
    store.commit(boot, Arc::new(batch.clone())).await.unwrap();
    assert_eq!(store.documents().await.unwrap(), batch.documents);
    let samples = store.samples(vec![7], Period::Minute, 0, i64::MAX).await;
    assert_eq!(samples.unwrap(), batch.samples);

    // A later start writes; this one has nothing to say any more.
    assert_eq!(store.count_start().await.unwrap(), boot + 1);
    batch.documents = vec![document("2", "4")];
    let late = store.commit(boot, Arc::new(batch)).await.unwrap();
    assert_eq!(late, Committed::TakenOver);
    assert_eq!(store.documents().await.unwrap(), [document("2", "3")]);
}

async fn old_samples_go_and_the_others_stay(url: &str) {
    let (mut store, boot) = opened(url).await;
    let periods = [Period::Minute, Period::TenMinutes, Period::Hour];
    let mut batch = Batch::default();
    for series in 1..=3 {
        for period in periods {
            for start_ms in [0, 3_600_000, 7_200_000] {
                batch.samples.push(sample(series, period, start_ms));
            }
        }
    }
    store.commit(boot, Arc::new(batch)).await.unwrap();
    let old = Old {
        series: vec![1, 2],
        before_ms: vec![
            (seconds(Period::Minute), 7_200_000),
            (seconds(Period::TenMinutes), 3_600_000),
        ],
        gone: Vec::new(),
    };
    let cleaned = store.clean(boot, Arc::new(old.clone())).await.unwrap();
    assert_eq!(cleaned, Committed::Yes);
    let mut left = Vec::new();
    for period in periods {
        for series in 1..=3 {
            let rows = store.samples(vec![series], period, 0, i64::MAX).await;
            left.push(rows.unwrap().len());
        }
    }
    assert_eq!(left, [1, 1, 3, 2, 2, 3, 3, 3, 3]);
    let both = store
        .samples(vec![3, 1], Period::Hour, 3_600_000, 7_200_000)
        .await;
    let expected = [1, 3].map(|series| sample(series, Period::Hour, 3_600_000));
    assert_eq!(both.unwrap(), expected);
    store.count_start().await.unwrap();
    let late = store.clean(boot, Arc::new(old)).await.unwrap();
    assert_eq!(late, Committed::TakenOver);
}

async fn a_series_that_goes_takes_its_samples_along(url: &str) {
    let (mut store, boot) = opened(url).await;
    let series = |series| SeriesRow {
        series,
        role: "pool".into(),
        name: "a".into(),
        subject: format!("{series}"),
    };
    let batch = Batch {
        series: (1..=3).map(series).collect(),
        samples: (1..=3).map(|id| sample(id, Period::Hour, 0)).collect(),
        ..Batch::default()
    };
    store.commit(boot, Arc::new(batch)).await.unwrap();
    let old = Old {
        series: Vec::new(),
        before_ms: Vec::new(),
        gone: vec![1, 3],
    };
    for _ in 0..2 {
        let cleaned = store.clean(boot, Arc::new(old.clone())).await;
        assert_eq!(cleaned.unwrap(), Committed::Yes);
        assert_eq!(store.series().await.unwrap(), [series(2)]);
        let left = store
            .samples(vec![1, 2, 3], Period::Hour, 0, i64::MAX)
            .await;
        assert_eq!(left.unwrap(), [sample(2, Period::Hour, 0)]);
    }
}

fn in_a_file() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("stats.sqlite").display());
    (folder, url)
}

#[tokio::test]
async fn a_batch_that_is_written_twice_is_written_once_on_sqlite() {
    let (_folder, url) = in_a_file();
    a_batch_that_is_written_twice_is_written_once(&url).await;
}

#[tokio::test]
async fn a_batch_that_is_written_twice_is_written_once_on_postgres() {
    if let Some(server) = database::Postgres::start() {
        a_batch_that_is_written_twice_is_written_once(&server.url()).await;
    }
}

#[tokio::test]
async fn old_samples_go_and_the_others_stay_on_sqlite() {
    let (_folder, url) = in_a_file();
    old_samples_go_and_the_others_stay(&url).await;
}

#[tokio::test]
async fn old_samples_go_and_the_others_stay_on_postgres() {
    if let Some(server) = database::Postgres::start() {
        old_samples_go_and_the_others_stay(&server.url()).await;
    }
}

#[tokio::test]
async fn a_series_that_goes_takes_its_samples_along_on_sqlite() {
    let (_folder, url) = in_a_file();
    a_series_that_goes_takes_its_samples_along(&url).await;
}

#[tokio::test]
async fn a_series_that_goes_takes_its_samples_along_on_postgres() {
    if let Some(server) = database::Postgres::start() {
        a_series_that_goes_takes_its_samples_along(&server.url()).await;
    }
}

#[test]
fn both_databases_have_the_same_tables() {
    let sqlite =
        include_str!("../../migrations/sqlite/2026-11-21-170000_documents_and_samples/up.sql");
    let postgres =
        include_str!("../../migrations/postgres/2026-11-21-170000_documents_and_samples/up.sql");
    assert_eq!(sqlite.replace(") WITHOUT ROWID;", ");"), postgres);
}

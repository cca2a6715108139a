//! The admin API of a relay that runs, through a real socket.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;

use service::http::Address;
use stats::Token;
use support::{Pools, Running, any_port, config, first_share, in_time, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn admin(pools: &[SocketAddr]) -> (Running, SocketAddr) {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind(any_port())
        .unwrap()
        .local_addr()
        .unwrap();
    let mut config = config(pools);
    config.admin.listen_address = Address::At(address);
    config.admin.token = Some(Token::from("secret"));
    (start(config).await, address)
}

/// The status and the body of an answer.
async fn ask(address: SocketAddr, token: Option<&str>, what: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let token = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let length = body.len();
    let request =
        format!("{what} HTTP/1.1\r\nHost: relay\r\n{token}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time("an answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn nobody_gets_in_without_the_token() {
    let pools = Pools::new().await;
    let (relay, address) = admin(&[pools.address()]).await;
    for what in [
        "GET /api/v1/connections",
        "DELETE /api/v1/connections/1",
        "PUT /api/v1/routes",
        "PUT /api/v1/limits",
        "POST /api/v1/drain",
        "GET /api/v1/openapi.json",
        "GET /elsewhere",
    ] {
        assert_eq!(ask(address, None, what, "").await.0, 401, "{what}");
        assert_eq!(ask(address, Some("secre"), what, "").await.0, 401, "{what}");
    }
    assert!(relay.handle.snapshot().listening);
    let (status, _) = ask(address, Some("secret"), "GET /api/v1/openapi.json", "").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_connection_is_listed_and_closed() {
    let pools = Pools::new().await;
    let (relay, address) = admin(&[pools.address()]).await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    first_share(&mut miner, &mut pool, "acme.rig").await;
    let (status, body) = ask(address, Some("secret"), "GET /api/v1/connections", "").await;
    assert_eq!(status, 200);
    let listed: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(listed[0]["user"], "acme.rig");
    assert_eq!(listed[0]["totals"]["accepted"], 1);
    let close = format!("DELETE /api/v1/connections/{}", listed[0]["id"]);
    assert_eq!(ask(address, Some("secret"), &close, "").await.0, 204);
    assert_eq!(miner.hear().await, None);
    relay
        .until("the end", |handle| handle.connections().is_empty())
        .await;
    assert_eq!(ask(address, Some("secret"), &close, "").await.0, 404);
    let nonsense = "DELETE /api/v1/connections/all";
    assert_eq!(ask(address, Some("secret"), nonsense, "").await.0, 404);
}

#[tokio::test]
async fn new_connections_take_the_routes_that_were_set() {
    let (first, second) = (Pools::new().await, Pools::new().await);
    let (relay, address) = admin(&[first.address(), second.address()]).await;
    let before = relay.connect().await;
    let _at_first = first.accept().await;
    for wrong in [
        "",
        "{}",
        r#"[{"groups":[["nowhere"]]}]"#,
        r#"[{"pools":[]}]"#,
    ] {
        let (status, body) = ask(address, Some("secret"), "PUT /api/v1/routes", wrong).await;
        assert_eq!(status, 422, "{wrong}");
        assert!(body.contains("error"), "{body}");
    }
    let routes = r#"[{"groups":[["b"]]}]"#;
    let (status, _) = ask(address, Some("secret"), "PUT /api/v1/routes", routes).await;
    assert_eq!(status, 204);
    let (_, body) = ask(address, Some("secret"), "GET /api/v1/routes", "").await;
    let now: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(now[0]["groups"], serde_json::json!([["b"]]));
    let _after = relay.connect().await;
    let _at_second = second.accept().await;
    drop(before);
}

#[tokio::test]
async fn new_connections_meet_the_limits_that_were_set() {
    let pools = Pools::new().await;
    let (relay, address) = admin(&[pools.address()]).await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    for wrong in [
        "",
        "{}",
        r#"{"connections":0,"connections_per_address":1}"#,
        r#"{"connections":1,"connections_per_address":1,"idle":1}"#,
    ] {
        let (status, body) = ask(address, Some("secret"), "PUT /api/v1/limits", wrong).await;
        assert_eq!(status, 422, "{wrong}");
        assert!(body.contains("error"), "{body}");
    }
    let limits = r#"{"connections":10,"connections_per_address":1}"#;
    let (status, _) = ask(address, Some("secret"), "PUT /api/v1/limits", limits).await;
    assert_eq!(status, 204);
    let (_, body) = ask(address, Some("secret"), "GET /api/v1/limits", "").await;
    let now: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(now["connections_per_address"], 1);
    // Who is there stays, and nobody else comes from that address.
    assert_eq!(relay.connect().await.hear().await, None);
    first_share(&mut miner, &mut pool, "acme.rig").await;
}

#[tokio::test]
async fn a_drained_relay_ends_with_its_last_connection() {
    let pools = Pools::new().await;
    let (relay, address) = admin(&[pools.address()]).await;
    let mut miner = relay.connect().await;
    let mut pool = pools.accept().await;
    first_share(&mut miner, &mut pool, "acme.rig").await;
    assert_eq!(
        ask(address, Some("secret"), "POST /api/v1/drain", "")
            .await
            .0,
        202
    );
    relay
        .until("no new connections", |handle| !handle.snapshot().listening)
        .await;
    pool.say("still here").await;
    assert_eq!(miner.hear().await.as_deref(), Some("still here"));
    drop((miner, pool));
    in_time("the end", relay.task).await.unwrap().unwrap();
}

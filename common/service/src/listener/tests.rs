use std::net::{IpAddr, Ipv4Addr};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::admission::network;
use super::entrance::KEEPALIVE_INTERVAL;
use super::*;

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn listener(limits: &Limits) -> Listener {
    Listener::bind(ANY, limits).unwrap()
}

async fn call(listener: &Listener) -> TcpStream {
    TcpStream::connect(listener.local_addr()).await.unwrap()
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = listener(&Limits::default());
    let error = Listener::bind(first.local_addr(), &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&first.local_addr().to_string()), "{text}");
}

#[tokio::test]
async fn a_limit_of_zero_is_refused() {
    let limits = Limits {
        connections_per_address: 0,
        ..Limits::default()
    };
    let text = Listener::bind(ANY, &limits).unwrap_err().to_string();
    assert!(text.contains("connections_per_address"), "{text}");
}

#[tokio::test]
async fn an_accepted_connection_has_no_delay() {
    let mut listener = listener(&Limits::default());
    let _peer = call(&listener).await;
    assert!(listener.accept().await.stream.nodelay().unwrap());
}

#[tokio::test]
async fn two_sockets_share_the_limits_and_each_connection_knows_its_own() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let mut listener = Listener::bind(ANY, &limits).unwrap().also(ANY).unwrap();
    let addresses: Vec<_> = listener.local_addrs().collect();
    // One socket has a queue; the other is served all the same.
    let mut crowd = Vec::new();
    for _ in 0..3 {
        crowd.push(TcpStream::connect(addresses[0]).await.unwrap());
    }
    let other = TcpStream::connect(addresses[1]).await.unwrap();
    let held = [listener.accept().await, listener.accept().await];
    let by_second = held.iter().find(|held| held.entrance == 1).unwrap();
    assert_eq!(by_second.peer, other.local_addr().unwrap());
    assert!(held.iter().any(|held| held.entrance == 0));
    let mut waiting = std::pin::pin!(listener.accept());
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("accepted above the limit of both"),
        () = tokio::task::yield_now() => {}
    }
    drop(held);
    assert_eq!(waiting.await.entrance, 0);
}

#[tokio::test]
async fn a_second_port_in_use_is_named() {
    let first = listener(&Limits::default());
    let error = listener(&Limits::default())
        .also(first.local_addr())
        .unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error:?}");
}

#[tokio::test]
async fn an_accepted_connection_is_asked_after_when_it_is_silent() {
    let mut listener = listener(&Limits::default());
    let _peer = call(&listener).await;
    let accepted = listener.accept().await;
    let socket = SockRef::from(&accepted.stream);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
    #[cfg(target_os = "linux")]
    assert_eq!(
        socket.tcp_user_timeout().unwrap(),
        Some(Duration::from_secs(90)),
        "a cable is as cut while something is under way as in silence"
    );
}

#[tokio::test]
async fn at_the_limit_the_next_connection_waits_for_one_to_end() {
    let mut listener = listener(&Limits {
        connections: 1,
        ..Limits::default()
    });
    let _first = call(&listener).await;
    let second = call(&listener).await;
    let held = listener.accept().await;
    let counters = listener.counters();
    {
        let mut waiting = std::pin::pin!(listener.accept());
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("accepted above the limit"),
            () = tokio::task::yield_now() => {}
        }
        drop(held);
        assert_eq!(waiting.await.peer, second.local_addr().unwrap());
    }
    assert_eq!(counters.snapshot().waited_for_slot, 1);
}

#[tokio::test]
async fn limits_that_are_changed_hold_for_those_who_come_then() {
    let mut listener = listener(&Limits {
        connections: 3,
        ..Limits::default()
    });
    let control = listener.control();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push((call(&listener).await, listener.accept().await));
    }
    let fewer = Limits {
        connections: 1,
        connections_per_address: 1,
        new_connections_per_second: Some(1000),
    };
    control.set_limits(&fewer).unwrap();
    assert_eq!(control.limits(), fewer);
    assert_eq!(listener.counters().snapshot().limit, 1);
    // Nobody is sent away for it, and nobody comes in before there is one place.
    let _next = call(&listener).await;
    for _ in 0..2 {
        held.pop();
        let waiting = std::pin::pin!(listener.accept());
        assert!(futures_now(waiting).is_none());
    }
    held.pop();
    let alone = listener.accept().await;
    control
        .set_limits(&Limits {
            connections: 2,
            connections_per_address: 2,
            new_connections_per_second: None,
        })
        .unwrap();
    let _second = call(&listener).await;
    let second = listener.accept().await;
    assert_eq!(listener.counters().snapshot().open, 2);
    let nobody = Limits {
        connections: 0,
        ..Limits::default()
    };
    assert!(control.set_limits(&nobody).is_err());
    assert_eq!(control.limits().connections, 2);
    drop((alone, second));
}

/// What the future gives without waiting.
fn futures_now<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn how_full_it_is_is_told_without_the_place_that_is_kept_for_the_next_one() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let mut listener = listener(&limits);
    let counters = listener.counters();
    let told = || (counters.snapshot().open, counters.snapshot().limit);
    assert_eq!(told(), (0, 2));
    let _caller = call(&listener).await;
    let held = listener.accept().await;
    assert_eq!(told(), (1, 2));
    {
        let mut waiting = std::pin::pin!(listener.accept());
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("nobody called"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(told(), (1, 2));
    }
    drop(held);
    assert_eq!(told(), (0, 2));
    let _others = [call(&listener).await, call(&listener).await];
    let _held = [listener.accept().await, listener.accept().await];
    assert_eq!(told(), (2, 2));
}

#[tokio::test]
async fn one_address_cannot_take_every_place() {
    let mut listener = listener(&Limits {
        connections_per_address: 1,
        ..Limits::default()
    });
    let _first = call(&listener).await;
    let held = listener.accept().await;
    let refused = call(&listener).await;
    let counters = listener.counters();
    let other = tokio::spawn(async move { listener.accept().await });
    // The refused connection is closed, and only it.
    let mut byte = [0];
    refused.readable().await.unwrap();
    assert!(matches!(refused.try_read(&mut byte), Ok(0) | Err(_)));
    assert_eq!(counters.snapshot().refused_per_address, 1);
    assert_eq!(counters.snapshot().accepted, 1);
    drop(held);
    other.abort();
}

#[tokio::test]
async fn an_address_without_a_connection_is_forgotten() {
    let addresses = Arc::new(Addresses {
        limit: 2.into(),
        present: Mutex::default(),
    });
    let places: Vec<_> = (0..4)
        .map(|_| Addresses::enter(&addresses, IpAddr::V4(Ipv4Addr::LOCALHOST)))
        .collect();
    assert_eq!(places.iter().flatten().count(), 2);
    drop(places);
    assert!(addresses.lock().is_empty());
}

#[test]
fn an_ipv6_network_counts_as_one_address_and_a_mapped_ipv4_as_itself() {
    let ip = |text: &str| network(text.parse().unwrap());
    assert_eq!(ip("2001:db8:1:2:3::4"), ip("2001:db8:1:2:ffff::1"));
    assert_ne!(ip("2001:db8:1:2::"), ip("2001:db8:1:3::"));
    assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
}

#[tokio::test(start_paused = true)]
async fn the_pace_lets_a_second_of_burst_through_and_then_one_at_a_time() {
    let counters = Counters::default();
    let mut pace = Pace::new(10);
    let start = Instant::now();
    for _ in 0..30 {
        pace.ready(&counters).await;
        pace.spend();
    }
    let took = start.elapsed();
    assert!((1_900..=2_100).contains(&took.as_millis()), "{took:?}");
}

/// A listener that lets one connection of each caller in, through a load balancer on this machine.
fn behind_a_load_balancer() -> Listener {
    let limits = Limits {
        connections_per_address: 1,
        ..Limits::default()
    };
    let proxy = ProxyProtocol {
        mode: Mode::Required,
        trusted_networks: vec!["127.0.0.0/8".parse().unwrap()],
        ..ProxyProtocol::default()
    };
    listener(&limits).behind(proxy).unwrap()
}

#[tokio::test]
async fn behind_a_load_balancer_the_real_caller_is_named_and_limited() {
    let mut listener = behind_a_load_balancer();
    let caller: SocketAddr = "192.0.2.7:4711".parse().unwrap();
    let other: SocketAddr = "[2001:db8::7]:4711".parse().unwrap();
    let mut held = Vec::new();
    for (header, who) in [
        (proxy::tests::line(caller), caller),
        (proxy::tests::binary(other, b"and more"), other),
    ] {
        let mut stream = call(&listener).await;
        stream.write_all(&header).await.unwrap();
        stream.write_all(b"{}").await.unwrap();
        let accepted = listener.accept().await;
        let mut accepted = accepted.identify().await.unwrap();
        assert_eq!(accepted.peer, who);
        let mut first = [0; 2];
        accepted.stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"{}");
        held.push(accepted);
    }
    let mut stream = call(&listener).await;
    stream.write_all(&proxy::tests::line(caller)).await.unwrap();
    let refused = listener.accept().await.identify().await.unwrap_err();
    assert!(
        matches!(refused, Refused::PerAddress(who) if who == caller),
        "{refused}"
    );
    assert_eq!(listener.counters().snapshot().refused_per_address, 1);
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_is_read() {
    let mut listener = behind_a_load_balancer();
    let caller: SocketAddr = "192.0.2.7:4711".parse().unwrap();
    let mut stream = call(&listener).await;
    stream.set_nodelay(true).unwrap();
    let sending = async {
        for byte in proxy::tests::binary(caller, &[]) {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let accepted = listener.accept().await;
    let (accepted, ()) = tokio::join!(accepted.identify(), sending);
    assert_eq!(accepted.unwrap().peer, caller);
}

#[tokio::test]
async fn a_connection_without_a_header_costs_only_itself() {
    let mut listener = behind_a_load_balancer();
    let mut miner = call(&listener).await;
    miner.write_all(b"{\"id\":1}").await.unwrap();
    let refused = listener.accept().await.identify().await.unwrap_err();
    assert!(refused.to_string().contains("no PROXY header"), "{refused}");
    let closed = call(&listener).await;
    drop(closed);
    assert!(listener.accept().await.identify().await.is_err());
    assert_eq!(listener.counters().snapshot().refused_proxy_header, 2);
}

#[tokio::test]
async fn a_load_balancer_that_says_nothing_is_not_waited_for() {
    let mut listener = behind_a_load_balancer();
    let _silent = call(&listener).await;
    let accepted = listener.accept().await;
    tokio::time::pause();
    let refused = accepted.identify().await.unwrap_err();
    assert!(
        matches!(&refused, Refused::Header(error) if error.kind() == io::ErrorKind::TimedOut),
        "{refused}"
    );
}

#[tokio::test]
async fn nobody_but_a_load_balancer_may_name_a_caller() {
    let proxy = ProxyProtocol {
        mode: Mode::Required,
        trusted_networks: vec!["192.0.2.0/24".parse().unwrap()],
        ..ProxyProtocol::default()
    };
    let mut listener = listener(&Limits::default()).behind(proxy).unwrap();
    let stranger = call(&listener).await;
    let counters = listener.counters();
    let accepting = tokio::spawn(async move { listener.accept().await });
    let mut byte = [0];
    stranger.readable().await.unwrap();
    assert!(matches!(stranger.try_read(&mut byte), Ok(0) | Err(_)));
    assert_eq!(counters.snapshot().refused_untrusted, 1);
    accepting.abort();
}

#[tokio::test]
async fn without_a_load_balancer_nothing_is_read() {
    let proxy = ProxyProtocol::default();
    let mut listener = listener(&Limits::default()).behind(proxy).unwrap();
    let silent = call(&listener).await;
    let accepted = listener.accept().await.identify().await.unwrap();
    assert_eq!(accepted.peer, silent.local_addr().unwrap());
    assert!(SockRef::from(&accepted.stream).keepalive().unwrap());
}

#[tokio::test]
async fn a_header_that_nobody_may_send_is_an_error_at_the_start() {
    let proxy = ProxyProtocol {
        mode: Mode::Required,
        ..ProxyProtocol::default()
    };
    let error = listener(&Limits::default()).behind(proxy).unwrap_err();
    assert!(error.to_string().contains("trusted_networks"), "{error}");
}

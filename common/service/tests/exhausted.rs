//! What the listener does when there is no file descriptor left. In a process of its own, because the limit is one of
//! the process.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::SocketAddr;
use std::process::Command;

use service::listener::{Limits, Listener};
use tokio::net::TcpStream;

const CHILD: &str = "SERVICE_TEST_CHILD";

#[test]
fn a_lack_of_file_descriptors_is_waited_out() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(accepts_again_once_there_is_one());
    }
    let child = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
}

async fn accepts_again_once_there_is_one() {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut listener = Listener::bind(address, &Limits::default()).unwrap();
    let caller = TcpStream::connect(listener.local_addr()).await.unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    let counters = listener.counters();
    let accepting = tokio::spawn(async move { listener.accept().await.peer });
    while counters.snapshot().accept_errors == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(counters.snapshot().accepted, 0);
    drop(files);
    assert_eq!(accepting.await.unwrap(), caller.local_addr().unwrap());
    assert_eq!(counters.snapshot().accepted, 1);
}

//! What miners ask about their difficulty, and what our pool makes of it.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{SocketAddr, TcpStream};

use e2e::{PATIENCE, embedded, pool_config, start_pool, start_translator};
use stratum_v1::{ServerMessage, parse_server_message};

/// A miner that hashes nothing.
struct Miner {
    writer: TcpStream,
    lines: Lines<BufReader<TcpStream>>,
}

impl Miner {
    fn connect(address: SocketAddr, user_agent: &str, password: &str) -> Self {
        let writer = TcpStream::connect(address).unwrap();
        writer.set_read_timeout(Some(PATIENCE)).unwrap();
        let lines = BufReader::new(writer.try_clone().unwrap()).lines();
        let mut miner = Self { writer, lines };
        miner.say(&format!(
            r#"{{"id":1,"method":"mining.subscribe","params":["{user_agent}"]}}"#
        ));
        miner.say(&format!(
            r#"{{"id":2,"method":"mining.authorize","params":["alice.rig","{password}"]}}"#
        ));
        miner
    }

    fn say(&mut self, line: &str) {
        self.writer
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    /// The next difficulty that it is told.
    fn difficulty(&mut self) -> f64 {
        loop {
            let line = self.lines.next().unwrap().unwrap();
            if let Ok(ServerMessage::SetDifficulty(difficulty)) =
                parse_server_message(line.as_bytes())
            {
                return difficulty;
            }
        }
    }
}

/// Whether a number is another one, but for some per cent.
fn is_about(seen: f64, expected: f64) -> bool {
    (seen / expected - 1.0).abs() < 0.1
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_does_what_miners_ask() {
    let data = tempfile::tempdir().unwrap();
    let config = pool_config(embedded(), &data);
    let minimum = config.minimum_difficulty;
    let (pool, key) = start_pool(config).await;
    let translator = start_translator(pool.address, key, |_| ()).await;
    let connect = |user_agent, password| Miner::connect(translator.address, user_agent, password);

    // A market's minimum holds although every block here is far easier.
    assert!(connect("NiceHash/1.0.0", "x").difficulty() >= 500_000.0);
    assert!(is_about(connect("test", "x;fd=2").difficulty(), 2.0));

    // A share every ten seconds is what a difficulty means; the pool here wants ten a second.
    let mut miner = connect("test", "d=0.003");
    assert!(is_about(miner.difficulty(), 0.003 / 100.0));

    // What is asked of an open channel takes effect as well, and without waiting for the next block.
    let mut miner = connect("test", "x");
    assert!(is_about(miner.difficulty(), minimum));
    miner.say(r#"{"id":3,"method":"mining.suggest_difficulty","params":[0.003]}"#);
    // It has been silent meanwhile, which is worth something to the pool.
    let suggested = miner.difficulty();
    assert!(
        (10.0 * minimum..1.1 * 0.003 / 100.0).contains(&suggested),
        "{suggested}"
    );
    miner.say(r#"{"id":4,"method":"mining.configure","params":[["minimum-difficulty"],{"minimum-difficulty.value":7}]}"#);
    assert!(is_about(miner.difficulty(), 7.0));
}

//! A real Bitcoin node of a test's own, on a private chain.
//!
//! Tests call it. It never dials anybody, never touches a node that it did not start, and leaves nothing behind.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "all of it runs in tests"
)]

mod premined;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Another process can take a free port before the node has it.
const START_ATTEMPTS: usize = 3;
const USER: &str = "tester";

/// Which private chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// Every second hash is a block.
    Regtest,
    /// A signet whose challenge is `51` (`OP_TRUE`): unsigned blocks are valid, and take about 2^22 hashes.
    Signet,
    /// A signet whose challenge is this script in hex: its blocks have to be signed.
    SignedSignet(&'static str),
}

impl Chain {
    fn arguments(self) -> Vec<String> {
        match self {
            Self::Regtest => vec!["-regtest".to_owned()],
            Self::Signet => Self::SignedSignet("51").arguments(),
            Self::SignedSignet(challenge) => {
                vec![
                    "-signet".to_owned(),
                    format!("-signetchallenge={challenge}"),
                ]
            }
        }
    }

    /// The folder below the data directory.
    fn folder(self, data: &Path) -> PathBuf {
        let Self::Regtest = self else {
            // The name depends on the challenge.
            let found = std::fs::read_dir(data).ok().and_then(|mut entries| {
                entries.find_map(|entry| {
                    let path = entry.ok()?.path();
                    path.join("debug.log").exists().then_some(path)
                })
            });
            return found.unwrap_or_else(|| data.join("signet"));
        };
        data.join("regtest")
    }
}

/// A running node; ends when dropped.
pub struct Node {
    chain: Chain,
    program: PathBuf,
    child: Option<Child>,
    data: TempDir,
    port: u16,
    http: reqwest::Client,
}

impl Node {
    /// Starts a node and waits until it answers.
    ///
    /// Where no node can be had it says so with `SKIPPED: …` and gives `None`; the caller returns then. With `CI` in the
    /// environment that is a failure. A node that is there but does not start is a failure everywhere.
    pub async fn start(chain: Chain) -> Option<Self> {
        let program = match spawn_blocking(program).await.expect("finding the node") {
            Ok(program) => program,
            Err(problem) => {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "CI needs a node: {problem}"
                );
                println!("SKIPPED: {problem}");
                return None;
            }
        };
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0);
        let mut node = Self {
            chain,
            program,
            child: None,
            data: tempfile::tempdir().expect("a temporary folder"),
            port: 0,
            http: http.build().expect("an HTTP client"),
        };
        let mut problem = String::new();
        for _ in 0..START_ATTEMPTS {
            node.port = free_port();
            match node.resume().await {
                Ok(()) => return Some(node),
                Err(text) => problem = text,
            }
        }
        panic!("the node does not start: {problem}");
    }

    /// Starts the program on its port and data folder again, after [`Node::stop`].
    pub async fn resume(&mut self) -> Result<(), String> {
        self.kill();
        let child = Command::new(&self.program)
            .args(self.chain.arguments())
            .arg(format!("-datadir={}", self.data.path().display()))
            .arg(format!("-rpcport={}", self.port))
            .arg(format!("-rpcuser={USER}"))
            .arg(format!("-rpcpassword={}", self.password()))
            .args([
                "-server=1",
                "-rpcbind=127.0.0.1",
                "-rpcallowip=127.0.0.1",
                // Nobody is dialled, and nobody can dial.
                "-listen=0",
                "-connect=0",
                "-dnsseed=0",
                "-fixedseeds=0",
                "-fallbackfee=0.0001",
                "-dbcache=16",
                "-rpcthreads=8",
                "-printtoconsole=0",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        self.child = Some(child);

        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let problem = match self.rpc("getblockchaininfo", json!([])).await {
                Ok(_) => return Ok(()),
                Err(problem) => problem,
            };
            let exited = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok())
                .flatten();
            if exited.is_some() || Instant::now() > deadline {
                return Err(format!("{problem}; {}", self.log_tail()));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Shuts the node down properly, so that what it knows is on disk for [`Node::resume`].
    pub async fn stop(&mut self) {
        let _ = self.rpc("stop", json!([])).await;
        let deadline = Instant::now() + START_TIMEOUT;
        while let Some(child) = &mut self.child {
            if matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                sleep(POLL_INTERVAL).await;
            } else {
                self.kill();
            }
        }
    }

    /// Ends the node as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The address with user and password, as the configuration takes it.
    pub fn url(&self) -> String {
        format!("http://{USER}:{}@127.0.0.1:{}", self.password(), self.port)
    }

    /// The random name of the data folder, so that the node of another test, which took the port first, is not taken for
    /// this one.
    fn password(&self) -> String {
        let name = self.data.path().file_name().unwrap_or_default();
        name.to_string_lossy().replace('.', "")
    }

    /// The address alone.
    pub fn url_without_user(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A call; an error is the node's text or what went wrong on the way.
    pub async fn rpc(&self, method: &str, params: Value) -> Result<Value, String> {
        self.rpc_at("", method, params).await
    }

    /// A call to one wallet.
    pub async fn wallet_rpc(
        &self,
        wallet: &str,
        method: &str,
        params: Value,
    ) -> Result<Value, String> {
        self.rpc_at(&format!("/wallet/{wallet}"), method, params)
            .await
    }

    /// A call that has to succeed.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        self.rpc(method, params)
            .await
            .unwrap_or_else(|problem| panic!("{method}: {problem}"))
    }

    /// Hash of the tip, as nodes print it.
    pub async fn tip(&self) -> String {
        let hash = self.call("getbestblockhash", json!([])).await;
        hash.as_str().expect("a hash").to_owned()
    }

    /// Height of the tip.
    pub async fn height(&self) -> u64 {
        self.call("getblockcount", json!([]))
            .await
            .as_u64()
            .expect("a height")
    }

    /// Makes a wallet with coins that can be spent, on top of 101 blocks. For a chain without blocks.
    pub async fn fund_wallet(&self, wallet: &str) {
        self.call("createwallet", json!([wallet])).await;
        if self.chain == Chain::Regtest {
            let address = self.new_address(wallet).await;
            self.call("generatetoaddress", json!([101, address])).await;
            return;
        }
        let described = self
            .call("getdescriptorinfo", json!([premined::descriptor()]))
            .await;
        let checksum = described["checksum"].as_str().expect("a checksum");
        let descriptor = format!("{}#{checksum}", premined::descriptor());
        let import = json!([[{"desc": descriptor, "timestamp": 0}]]);
        let imported = self
            .wallet_rpc(wallet, "importdescriptors", import)
            .await
            .expect("an import");
        assert_eq!(imported[0]["success"], json!(true), "{imported}");
        for block in premined::blocks() {
            assert_eq!(self.call("submitblock", json!([block])).await, Value::Null);
        }
        // The wallet follows the chain in its own time.
        self.call("syncwithvalidationinterfacequeue", json!([]))
            .await;
    }

    /// A fresh address of the wallet.
    pub async fn new_address(&self, wallet: &str) -> String {
        let address = self.wallet_rpc(wallet, "getnewaddress", json!([])).await;
        address
            .expect("an address")
            .as_str()
            .expect("a text")
            .to_owned()
    }

    /// Puts a payment of one coin into the mempool; gives its id.
    pub async fn pay(&self, wallet: &str) -> String {
        let address = self.new_address(wallet).await;
        let id = self
            .wallet_rpc(wallet, "sendtoaddress", json!([address, 1]))
            .await;
        id.expect("a payment").as_str().expect("an id").to_owned()
    }

    async fn rpc_at(&self, path: &str, method: &str, params: Value) -> Result<Value, String> {
        let answer = self
            .http
            .post(format!("{}{path}", self.url_without_user()))
            .basic_auth(USER, Some(self.password()))
            .timeout(START_TIMEOUT)
            .json(&json!({"jsonrpc": "1.0", "id": 1, "method": method, "params": params}))
            .send()
            .await
            .map_err(|error| format!("{error:?}"))?;
        let mut answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        match answer["error"].take() {
            Value::Null => Ok(answer["result"].take()),
            error => Err(error.to_string()),
        }
    }

    fn log_tail(&self) -> String {
        let file = self.chain.folder(self.data.path()).join("debug.log");
        let log = std::fs::read_to_string(&file).unwrap_or_else(|error| format!("no log: {error}"));
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What `tools/bitcoind` finds, asked once a process.
fn program() -> Result<PathBuf, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/bitcoind");
        let output = Command::new(&script)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{}: {error}", script.display()))?;
        if output.status.success() {
            let path = String::from_utf8_lossy(&output.stdout);
            Ok(PathBuf::from(path.trim_end()))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    };
    PROGRAM.get_or_init(find).clone()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.expect("a free port").port()
}

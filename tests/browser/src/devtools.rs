//! Chromium's process and its DevTools protocol: JSON over a WebSocket, calls with numbers and events without.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use crate::PATIENCE;

const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// What it prints before its address.
const LISTENS: &str = "DevTools listening on ";

pub(crate) struct Devtools {
    socket: WebSocket<TcpStream>,
    /// The tab.
    session: String,
    last_call: u64,
    /// Events that nobody waited for yet.
    events: Vec<(String, Value)>,
    chromium: Child,
    _profile: TempDir,
}

impl Devtools {
    /// Nothing if there is no Chromium.
    pub(crate) fn start() -> Option<Self> {
        let profile = tempfile::tempdir().expect("a folder");
        let mut chromium = PROGRAMS
            .into_iter()
            .find_map(|program| spawn(program, &profile))?;
        let mut stderr = BufReader::new(chromium.stderr.take().expect("it is piped"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            let read = stderr.read_line(&mut line).expect("it can be read");
            assert!(read > 0, "Chromium ended before it listened");
            if let Some(address) = line.trim().strip_prefix(LISTENS) {
                break address.to_owned();
            }
        };
        // It would stop where nobody reads what it has to say.
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let host = address.trim_start_matches("ws://").split('/').next();
        let stream = TcpStream::connect(host.unwrap_or_default()).expect("it listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket has a timeout");
        let (socket, _) = tungstenite::client(&address, stream).expect("it speaks WebSocket");
        let mut devtools = Self {
            socket,
            session: String::new(),
            last_call: 0,
            events: Vec::new(),
            chromium,
            _profile: profile,
        };
        let tab = devtools.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": tab["targetId"], "flatten": true });
        let attached = devtools.call("Target.attachToTarget", attach);
        attached["sessionId"]
            .as_str()
            .expect("a tab has a session")
            .clone_into(&mut devtools.session);
        devtools.call("Log.enable", json!({}));
        Some(devtools)
    }

    /// Calls a method that has to succeed, and gives its result.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        match self.try_call(method, parameters) {
            Ok(result) => result,
            Err(error) => panic!("{method}: {error}"),
        }
    }

    /// Calls a method, and gives its result or what was wrong with the call.
    pub(crate) fn try_call(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.last_call += 1;
        let mut call = json!({ "id": self.last_call, "method": method, "params": parameters });
        if !self.session.is_empty() {
            call["sessionId"] = json!(self.session);
        }
        let call = Message::text(call.to_string());
        self.socket.send(call).expect("Chromium listens");
        loop {
            let mut message = self.read();
            if message["id"] == self.last_call {
                return match message.get("error") {
                    None => Ok(message["result"].take()),
                    Some(error) => Err(error.clone()),
                };
            }
            self.keep(message);
        }
    }

    /// Forgets what has happened of a kind.
    pub(crate) fn forget(&mut self, event: &str) {
        self.events.retain(|(name, _)| name != event);
    }

    /// Waits until something happens, or takes it from what has.
    pub(crate) fn wait_for(&mut self, event: &str) {
        loop {
            if let Some(at) = self.events.iter().position(|(name, _)| name == event) {
                self.events.remove(at);
                return;
            }
            let message = self.read();
            self.keep(message);
        }
    }

    pub(crate) fn complaints(&mut self) -> Vec<String> {
        let is_complaint = |(name, value): &&(String, Value)| match &**name {
            "Runtime.exceptionThrown" => true,
            "Log.entryAdded" => value["entry"]["level"] == "error",
            _ => false,
        };
        let complaints = self.events.iter().filter(is_complaint);
        let complaints = complaints.map(|(_, value)| value.to_string()).collect();
        self.forget("Runtime.exceptionThrown");
        self.forget("Log.entryAdded");
        complaints
    }

    fn keep(&mut self, mut message: Value) {
        if let Some(name) = message["method"].as_str() {
            let name = name.to_owned();
            self.events.push((name, message["params"].take()));
        }
    }

    fn read(&mut self) -> Value {
        loop {
            let message = self.socket.read().expect("Chromium answers");
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).expect("JSON");
            }
        }
    }
}

impl Drop for Devtools {
    fn drop(&mut self) {
        let _ = self.chromium.kill();
        let _ = self.chromium.wait();
    }
}

fn spawn(program: &str, profile: &TempDir) -> Option<Child> {
    Command::new(program)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--remote-debugging-port=0",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg("about:blank")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()
}

//! A node that answers what a test wants.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};

/// What comes back for one call.
pub(crate) enum Reply {
    Result(Value),
    /// The same, once the test says so.
    Later(Arc<Notify>, Value),
    Error(i64, &'static str),
    /// The whole body.
    Body(Vec<u8>),
    /// The whole HTTP response.
    Http(String),
    /// Says it sends this much, sends some, and closes.
    Truncated(usize),
    /// Sends without end.
    Endless,
    /// Keeps the connection open and says nothing.
    Silence,
    /// Closes the connection.
    Close,
}

pub(crate) struct FakeNode {
    pub(crate) url: String,
    /// Every call, as method and parameters.
    pub(crate) calls: mpsc::UnboundedReceiver<(String, Value)>,
}

impl FakeNode {
    pub(crate) async fn start(
        answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, calls) = mpsc::unbounded_channel();
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, sender) = (Arc::clone(&answer), sender.clone());
                // A client that goes away ends its connection only.
                tokio::spawn(async move { serve(stream, &*answer, &sender).await.ok() });
            }
        });
        Self { url, calls }
    }

    pub(crate) async fn expect_call(&mut self, method: &str) -> Value {
        loop {
            let (called, params) = self.calls.recv().await.unwrap();
            if called == method {
                return params;
            }
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: &(impl Fn(&str, &Value) -> Reply + ?Sized),
    calls: &mpsc::UnboundedSender<(String, Value)>,
) -> std::io::Result<()> {
    let mut read = Vec::new();
    loop {
        let Some((request, used)) = whole_request(&read) else {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
            continue;
        };
        read.drain(..used);
        let method = request["method"].as_str().unwrap();
        let reply = answer(method, &request["params"]);
        let _ = calls.send((method.to_owned(), request["params"].clone()));
        let reply = match reply {
            Reply::Later(now, result) => {
                now.notified().await;
                Reply::Result(result)
            }
            reply => reply,
        };
        let body = match reply {
            Reply::Result(result) => json!({"result": result, "error": null, "id": 1})
                .to_string()
                .into_bytes(),
            Reply::Error(code, message) => {
                let error = json!({"code": code, "message": message});
                json!({"result": null, "error": error, "id": 1})
                    .to_string()
                    .into_bytes()
            }
            Reply::Body(body) => body,
            Reply::Http(text) => return stream.write_all(text.as_bytes()).await,
            Reply::Truncated(bytes) => {
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n{{\"result\":");
                return stream.write_all(head.as_bytes()).await;
            }
            Reply::Endless => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"result\":\"")
                    .await?;
                loop {
                    stream.write_all(&[b'a'; 1 << 16]).await?;
                }
            }
            Reply::Later(..) => unreachable!("its time has come"),
            Reply::Silence => return std::future::pending().await,
            Reply::Close => return Ok(()),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
    }
}

fn whole_request(read: &[u8]) -> Option<(Value, usize)> {
    let head = read.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&read[..head]).to_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))?;
    let end = head + length.trim().parse::<usize>().ok()?;
    let body = read.get(head..end)?;
    Some((serde_json::from_slice(body).unwrap(), end))
}

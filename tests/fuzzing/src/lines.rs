//! The SV1 parsers: lines out of a stream, requests and a server's messages out of lines.

use serde_json::value::RawValue;
use stratum_v1::{
    Id, Line, LineBuffer, Method, ServerMessage, SubscribeResult, Value, parse_request,
    parse_server_message,
};

/// Longer lines than this are too long here, so that short inputs get there.
const LONGEST: usize = 256;

/// The first byte says in what pieces the others come. However that is, the same lines come out, and each of them is taken
/// or refused without a panic.
pub fn lines(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else {
        return;
    };
    let whole = split(stream, stream.len().max(1));
    let pieces = split(stream, usize::from(size).max(1));
    assert_eq!(whole, pieces, "pieces of {size} bytes");
    let expected = stream
        .split_inclusive(|byte| *byte == b'\n')
        .filter_map(expected);
    assert_eq!(whole, expected.collect::<Vec<_>>());
    for line in whole.iter().flatten() {
        request(line);
        server_message(line);
    }
}

/// Lines; `None` for each that is too long.
fn split(stream: &[u8], size: usize) -> Vec<Option<Vec<u8>>> {
    let mut buffer = LineBuffer::new(LONGEST);
    let mut found = Vec::new();
    for (number, chunk) in stream.chunks(size).enumerate() {
        let mut lines = buffer.lines(chunk);
        // Now and then none is taken, as under backpressure; they have to come later.
        if number % 3 == 2 && number + 1 < stream.len().div_ceil(size) {
            continue;
        }
        while let Some(line) = lines.next() {
            found.push(match line {
                Line::Whole(line) => Some(line.to_vec()),
                Line::TooLong => None,
            });
        }
    }
    found
}

/// The same, told simply.
fn expected(line: &[u8]) -> Option<Option<Vec<u8>>> {
    let (content, ended) = match line.strip_suffix(b"\n") {
        Some(content) => (content, true),
        None => (line, false),
    };
    if content.len() > LONGEST {
        return Some(None);
    }
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    (ended && !content.is_empty()).then(|| Some(content.to_vec()))
}

fn request(line: &[u8]) {
    match parse_request(line) {
        Ok(request) => {
            is_json(request.id);
            match request.method {
                Method::Configure(configure) => {
                    for name in configure.unknown() {
                        drop(name.decode().into_owned());
                    }
                }
                method => drop(format!("{method:?}")),
            }
        }
        Err(error) => {
            is_json(error.id);
            assert!(!error.to_string().is_empty());
        }
    }
}

fn server_message(line: &[u8]) {
    match parse_server_message(line) {
        Ok(ServerMessage::Notify(notify)) => {
            drop(notify.job_id.decode().into_owned());
            assert!(notify.merkle_path().count() <= line.len() / 64);
        }
        Ok(ServerMessage::Response { id, outcome }) => {
            is_json(id);
            if let Ok(result) = outcome {
                walk(result);
                drop(format!("{:?}", SubscribeResult::parse(result)));
            }
        }
        Ok(message) => drop(format!("{message:?}")),
        Err(error) => is_json(error.id),
    }
}

/// What is echoed must not break the line that it stands in.
fn is_json(id: Id<'_>) {
    // Raw: 1e400 is JSON, though no number of ours.
    let parsed = serde_json::from_str::<&RawValue>(id.json());
    assert!(parsed.is_ok(), "{}", id.json());
    assert!(!id.json().contains(['\n', '\r']), "{}", id.json());
}

fn walk(value: Value<'_>) {
    if let Some(array) = value.array() {
        array.elements().for_each(walk);
    }
    if let Some(object) = value.object() {
        object.members().for_each(|(_, value)| walk(value));
    }
    if let Some(text) = value.text() {
        let _ = text.decode_hex(&mut Vec::new());
        drop(text.decode().into_owned());
    }
}

//! What a server writes: answers and notifications, each appended to a buffer as one line.

use std::io::Write as _;

use crate::id::Id;
use crate::notify::append_hex;

/// The error codes of SV1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// 20: anything that has no code of its own.
    Other,
    /// 21: the job is unknown or its block is no longer the tip.
    JobNotFound,
    /// 22: the share was submitted before.
    Duplicate,
    /// 23: the share does not meet the difficulty of its job.
    LowDifficulty,
    /// 24: the worker has not authorised.
    Unauthorized,
    /// 25: the connection has not subscribed.
    NotSubscribed,
}

impl ErrorCode {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Other => 20,
            Self::JobNotFound => 21,
            Self::Duplicate => 22,
            Self::LowDifficulty => 23,
            Self::Unauthorized => 24,
            Self::NotSubscribed => 25,
        }
    }
}

/// The request was met.
pub fn write_result_true(out: &mut Vec<u8>, id: Id<'_>) {
    write_result(out, id, "true");
}

/// The request was met, with a result given as JSON.
pub fn write_result(out: &mut Vec<u8>, id: Id<'_>, json: &str) {
    write!(
        out,
        r#"{{"id":{},"result":{json},"error":null}}"#,
        id.json()
    );
    out.push(b'\n');
}

/// The request was refused.
pub fn write_error(out: &mut Vec<u8>, id: Id<'_>, code: ErrorCode, message: &str) {
    write!(
        out,
        r#"{{"id":{},"result":null,"error":[{},"#,
        id.json(),
        code.number()
    );
    append_string(out, message);
    out.extend_from_slice(b",null]}\n");
}

/// The answer to `mining.subscribe`. The subscription id must need no escaping.
pub fn write_subscribe_result(
    out: &mut Vec<u8>,
    id: Id<'_>,
    subscription: &str,
    extranonce1: &[u8],
    extranonce2_size: u8,
) {
    write!(
        out,
        r#"{{"id":{},"result":[[["mining.set_difficulty","{subscription}"],["mining.notify","{subscription}"]],""#,
        id.json()
    );
    append_hex(out, extranonce1);
    write!(out, r#"",{extranonce2_size}],"error":null}}"#);
    out.push(b'\n');
}

/// What is answered to the extensions that a `mining.configure` asked for; `None` for those it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfigureReply {
    /// The mask granted; `Some(None)` refuses.
    pub version_rolling: Option<Option<u32>>,
    /// Whether the minimum difficulty is kept.
    pub minimum_difficulty: Option<bool>,
    /// Whether `mining.set_extranonce` may come.
    pub subscribe_extranonce: Option<bool>,
    /// Whether the miner's description was taken.
    pub info: Option<bool>,
}

/// The answer to `mining.configure`; `unknown` are extensions that are refused, as escaped JSON or plain text is decoded.
pub fn write_configure_result<'a>(
    out: &mut Vec<u8>,
    id: Id<'_>,
    reply: &ConfigureReply,
    unknown: impl Iterator<Item = crate::Text<'a>>,
) {
    write!(out, r#"{{"id":{},"result":{{"#, id.json());
    let mut separator = "";
    let mut member = |out: &mut Vec<u8>, name: &str, value: bool| {
        out.extend_from_slice(separator.as_bytes());
        append_string(out, name);
        write!(out, ":{value}");
        separator = ",";
    };
    if let Some(mask) = reply.version_rolling {
        member(out, "version-rolling", mask.is_some());
        if let Some(mask) = mask {
            write!(out, r#","version-rolling.mask":"{mask:08x}""#);
        }
    }
    for (name, value) in [
        ("minimum-difficulty", reply.minimum_difficulty),
        ("subscribe-extranonce", reply.subscribe_extranonce),
        ("info", reply.info),
    ] {
        if let Some(value) = value {
            member(out, name, value);
        }
    }
    for name in unknown {
        member(out, &name.decode(), false);
    }
    out.extend_from_slice(b"},\"error\":null}\n");
}

/// The answer to `client.get_version`.
pub fn write_get_version(out: &mut Vec<u8>, id: Id<'_>, version: &str) {
    write!(out, r#"{{"id":{},"result":"#, id.json());
    append_string(out, version);
    out.extend_from_slice(b",\"error\":null}\n");
}

/// `mining.set_difficulty`: holds for every later `mining.notify`. The number must be finite.
pub fn write_set_difficulty(out: &mut Vec<u8>, difficulty: f64) {
    // Rust prints the shortest digits that read back as the same number, and never an exponent.
    write!(
        out,
        r#"{{"id":null,"method":"mining.set_difficulty","params":[{difficulty}]}}"#
    );
    out.push(b'\n');
}

/// `mining.set_version_mask` (BIP 310).
pub fn write_set_version_mask(out: &mut Vec<u8>, mask: u32) {
    write!(
        out,
        r#"{{"id":null,"method":"mining.set_version_mask","params":["{mask:08x}"]}}"#
    );
    out.push(b'\n');
}

/// `mining.set_extranonce`: holds for every later `mining.notify`.
pub fn write_set_extranonce(out: &mut Vec<u8>, extranonce1: &[u8], extranonce2_size: u8) {
    out.extend_from_slice(br#"{"id":null,"method":"mining.set_extranonce","params":[""#);
    append_hex(out, extranonce1);
    write!(out, r#"",{extranonce2_size}]}}"#);
    out.push(b'\n');
}

/// `client.show_message`: something for the miner's operator to read.
pub fn write_show_message(out: &mut Vec<u8>, message: &str) {
    out.extend_from_slice(br#"{"id":null,"method":"client.show_message","params":["#);
    append_string(out, message);
    out.extend_from_slice(b"]}\n");
}

/// `client.reconnect`: come back here, after so many seconds.
pub fn write_reconnect(out: &mut Vec<u8>, host: &str, port: u16, wait_seconds: u32) {
    out.extend_from_slice(br#"{"id":null,"method":"client.reconnect","params":["#);
    append_string(out, host);
    write!(out, ",{port},{wait_seconds}]}}");
    out.push(b'\n');
}

/// `client.reconnect` without a host: come back to where you are, at once.
pub fn write_reconnect_here(out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"id":null,"method":"client.reconnect","params":[]}"#);
    out.push(b'\n');
}

/// A JSON string with what must be escaped escaped.
pub(crate) fn append_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => write!(out, "\\u{byte:04x}"),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// `write!` to a vector, which cannot fail.
macro_rules! write {
    ($out:expr, $($format:tt)*) => {
        { let _ = std::write!($out, $($format)*); }
    };
}
use write;

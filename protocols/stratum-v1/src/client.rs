//! What a client writes: requests, each appended to a buffer as one line.

use std::io::Write as _;

use crate::notify::append_hex;
use crate::server::append_string;
use crate::submit::Share;

/// `mining.subscribe`
pub fn write_subscribe(out: &mut Vec<u8>, id: u64, user_agent: &str) {
    open(out, id, "mining.subscribe");
    append_string(out, user_agent);
    close(out);
}

/// `mining.configure` for version rolling (BIP 310).
pub fn write_configure(out: &mut Vec<u8>, id: u64, mask: u32, min_bit_count: u32) {
    open(out, id, "mining.configure");
    let _ = write!(
        out,
        r#"["version-rolling"],{{"version-rolling.mask":"{mask:08x}","version-rolling.min-bit-count":{min_bit_count}}}"#
    );
    close(out);
}

/// `mining.authorize`
pub fn write_authorize(out: &mut Vec<u8>, id: u64, user: &str, password: &str) {
    open(out, id, "mining.authorize");
    append_string(out, user);
    out.push(b',');
    append_string(out, password);
    close(out);
}

/// `mining.suggest_difficulty`; the number must be finite.
pub fn write_suggest_difficulty(out: &mut Vec<u8>, id: u64, difficulty: f64) {
    open(out, id, "mining.suggest_difficulty");
    let _ = write!(out, "{difficulty}");
    close(out);
}

/// `mining.extranonce.subscribe`
pub fn write_extranonce_subscribe(out: &mut Vec<u8>, id: u64) {
    open(out, id, "mining.extranonce.subscribe");
    close(out);
}

/// `mining.submit`
pub fn write_submit(out: &mut Vec<u8>, id: u64, share: &Share<'_>) {
    open(out, id, "mining.submit");
    append_string(out, share.worker);
    out.push(b',');
    append_string(out, share.job_id);
    out.extend_from_slice(b",\"");
    append_hex(out, share.extranonce2);
    let _ = write!(out, r#"","{:08x}","{:08x}""#, share.ntime, share.nonce);
    if let Some(bits) = share.version_bits {
        let _ = write!(out, r#","{bits:08x}""#);
    }
    close(out);
}

fn open(out: &mut Vec<u8>, id: u64, method: &str) {
    let _ = write!(out, r#"{{"id":{id},"method":"{method}","params":["#);
}

fn close(out: &mut Vec<u8>) {
    out.extend_from_slice(b"]}\n");
}

//! `mining.notify`, rendered once a job and finished with each channel's prefix.

use std::io::Write as _;

/// What a `mining.notify` says, apart from `clean_jobs` and the channel's prefix.
#[derive(Debug, Clone, Copy)]
pub struct Notification<'a> {
    /// Must need no escaping.
    pub job_id: &'a str,
    /// In internal byte order.
    pub prev_hash: &'a [u8; 32],
    /// The coinbase transaction up to the extranonce, without witness data.
    pub coinbase_prefix: &'a [u8],
    /// The coinbase transaction after the extranonce, without witness data.
    pub coinbase_suffix: &'a [u8],
    /// From the coinbase upwards, in internal byte order.
    pub merkle_path: &'a [[u8; 32]],
    /// The header's version.
    pub version: u32,
    /// The header's compact target.
    pub nbits: u32,
    /// The header's time.
    pub ntime: u32,
}

/// A rendered `mining.notify` with a hole at the end of `coinb1`, where the bytes go that stand between the job's coinbase
/// and the miner's extranonce1, and another for `clean_jobs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyTemplate {
    text: Box<[u8]>,
    id_end: usize,
    hole: usize,
}

/// What stands in front of the job's id.
const OPENING: &[u8] = br#"{"id":null,"method":"mining.notify","params":[""#;

impl NotifyTemplate {
    /// Renders everything that all channels share.
    pub fn new(job: &Notification<'_>) -> Self {
        let mut out = Vec::with_capacity(
            256 + job.job_id.len()
                + 2 * (job.coinbase_prefix.len() + job.coinbase_suffix.len())
                + 67 * job.merkle_path.len(),
        );
        out.extend_from_slice(OPENING);
        out.extend_from_slice(job.job_id.as_bytes());
        let id_end = out.len();
        out.extend_from_slice(br#"",""#);
        append_hex(&mut out, &swap_words(job.prev_hash));
        out.extend_from_slice(br#"",""#);
        append_hex(&mut out, job.coinbase_prefix);
        let hole = out.len();
        out.extend_from_slice(br#"",""#);
        append_hex(&mut out, job.coinbase_suffix);
        out.extend_from_slice(br#"",["#);
        for (index, hash) in job.merkle_path.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
            append_hex(&mut out, hash);
            out.push(b'"');
        }
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            r#"],"{:08x}","{:08x}","{:08x}","#,
            job.version, job.nbits, job.ntime
        );
        Self {
            text: out.into(),
            id_end,
            hole,
        }
    }

    /// Appends the line for a channel.
    pub fn write(&self, out: &mut Vec<u8>, prefix: &[u8], clean_jobs: bool) {
        out.reserve(self.text.len() + 2 * prefix.len() + 8);
        out.extend_from_slice(&self.text[..self.id_end]);
        self.write_rest(out, prefix, clean_jobs);
    }

    /// As [`NotifyTemplate::write`], with another id for the job, which must need no escaping.
    pub fn write_as(&self, out: &mut Vec<u8>, job_id: &str, prefix: &[u8], clean_jobs: bool) {
        out.extend_from_slice(OPENING);
        out.extend_from_slice(job_id.as_bytes());
        self.write_rest(out, prefix, clean_jobs);
    }

    fn write_rest(&self, out: &mut Vec<u8>, prefix: &[u8], clean_jobs: bool) {
        out.extend_from_slice(&self.text[self.id_end..self.hole]);
        append_hex(out, prefix);
        out.extend_from_slice(&self.text[self.hole..]);
        out.extend_from_slice(if clean_jobs {
            b"true]}\n"
        } else {
            b"false]}\n"
        });
    }

    /// How many bytes it holds.
    pub fn size(&self) -> usize {
        self.text.len()
    }
}

/// SV1 sends the previous block's hash in eight words, each with its bytes reversed. The swap is its own inverse.
pub(crate) fn swap_words(hash: &[u8; 32]) -> [u8; 32] {
    let mut swapped = *hash;
    for word in swapped.chunks_exact_mut(4) {
        word.reverse();
    }
    swapped
}

pub(crate) fn append_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(bytes.iter().flat_map(|byte| {
        [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ServerMessage, parse_server_message};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_miner_reads_in_a_notify_what_the_job_says(
            prev_hash: [u8; 32], coinbase_prefix: Vec<u8>, coinbase_suffix: Vec<u8>, hole: Vec<u8>,
            merkle_path: Vec<[u8; 32]>, version: u32, nbits: u32, ntime: u32, clean: bool,
        ) {
            let template = NotifyTemplate::new(&Notification {
                job_id: "1f", prev_hash: &prev_hash, coinbase_prefix: &coinbase_prefix, coinbase_suffix: &coinbase_suffix,
                merkle_path: &merkle_path, version, nbits, ntime,
            });
            let mut line = Vec::new();
            template.write(&mut line, &hole, clean);
            let mut renamed = Vec::new();
            template.write_as(&mut renamed, "abc", &hole, clean);
            let expected = String::from_utf8_lossy(&line).replacen("[\"1f\"", "[\"abc\"", 1);
            prop_assert_eq!(String::from_utf8_lossy(&renamed), expected);
            let ServerMessage::Notify(notify) = parse_server_message(&line).unwrap() else { panic!("not a notify") };
            prop_assert!(notify.job_id == "1f");
            prop_assert_eq!(notify.prev_hash, prev_hash);
            let (mut coinb1, mut coinb2) = (Vec::new(), Vec::new());
            notify.coinb1.decode_hex(&mut coinb1).unwrap();
            notify.coinb2.decode_hex(&mut coinb2).unwrap();
            prop_assert_eq!(coinb1, [coinbase_prefix, hole].concat());
            prop_assert_eq!(coinb2, coinbase_suffix);
            prop_assert_eq!(notify.merkle_path().collect::<Vec<_>>(), merkle_path);
            prop_assert_eq!((notify.version, notify.nbits, notify.ntime, notify.clean_jobs), (version, nbits, ntime, clean));
        }
    }

    #[test]
    fn the_genesis_hash_is_sent_as_every_pool_sends_it() {
        // Block 0's hash in internal order, and as SV1 servers send it: words in order, bytes of each reversed.
        let mut internal = [0; 32];
        hex::decode_to_slice(
            "6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000",
            &mut internal,
        )
        .unwrap();
        assert_eq!(
            hex::encode(swap_words(&internal)),
            "0a8ce26f72b3f1b646a2a6c14ff763ae65831e939c085ae10019d66800000000"
        );
    }
}

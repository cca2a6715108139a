//! Blocks that were found, and their fate.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// A block that was found here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The header's hash, as hashed: the last byte is the first that is shown.
    pub hash: [u8; 32],
    /// Its height, where the template says it.
    pub height: Option<u32>,
    /// Who found it.
    pub account: Arc<str>,
    /// With which machine.
    pub worker: Arc<str>,
    /// Whether it pays the account itself.
    pub solo: bool,
    /// All that its coinbase pays, in satoshis.
    pub reward_sats: u64,
    /// What has become of it.
    pub state: BlockState,
    /// When it was found, in milliseconds since the Unix epoch.
    pub found_ms: i64,
    /// The serialised block, to be recorded and kept until it is buried. `None` where only the template source knows it,
    /// and where it was not asked for.
    pub raw: Option<Vec<u8>>,
}

impl Block {
    /// The hash as it is usually shown: in hex, the last byte first.
    #[must_use]
    pub fn shown_hash(&self) -> String {
        shown(&self.hash)
    }
}

/// What has become of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockState {
    /// It was, or is to be, handed to the node; there is no answer yet.
    Submitted,
    /// The node took it. This many blocks of the best chain speak for it, itself included.
    Accepted(u32),
    /// The node did not take it, for this reason.
    Rejected(String),
    /// It is buried deep enough.
    Confirmed(u32),
    /// The best chain has another block at its height.
    Orphaned,
}

impl BlockState {
    /// The state's name, as it stands in the table.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Accepted(_) => "accepted",
            Self::Rejected(_) => "rejected",
            Self::Confirmed(_) => "confirmed",
            Self::Orphaned => "orphaned",
        }
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Rejected(reason) => Some(reason),
            _ => None,
        }
    }

    pub(crate) fn confirmations(&self) -> i64 {
        match self {
            Self::Accepted(count) | Self::Confirmed(count) => (*count).into(),
            Self::Submitted | Self::Rejected(_) | Self::Orphaned => 0,
        }
    }

    pub(crate) fn from_columns(
        name: &str,
        reason: Option<String>,
        confirmations: i64,
    ) -> Option<Self> {
        let confirmations = u32::try_from(confirmations).unwrap_or(0);
        Some(match name {
            "submitted" => Self::Submitted,
            "accepted" => Self::Accepted(confirmations),
            "rejected" => Self::Rejected(reason.unwrap_or_default()),
            "confirmed" => Self::Confirmed(confirmations),
            "orphaned" => Self::Orphaned,
            _ => return None,
        })
    }
}

impl fmt::Display for BlockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Rejected(reason) => write!(f, ": {reason}"),
            Self::Accepted(count) => write!(f, ", {count} deep"),
            Self::Submitted | Self::Confirmed(_) | Self::Orphaned => Ok(()),
        }
    }
}

/// The hash as it is shown and stored.
pub(crate) fn shown(hash: &[u8; 32]) -> String {
    use fmt::Write;
    hash.iter()
        .rev()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing into a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The hash that is shown like this.
pub(crate) fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().rev().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(hash)
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

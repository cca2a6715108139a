//! The conversation: who calls, what it has to tell, and what was stored of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Event;

/// What a sender says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromSender {
    /// First of all.
    Hello(Hello),
    /// Something that is or has happened.
    Event(Numbered),
    /// Nothing new.
    Heartbeat {
        /// The sender's clock.
        at_ms: u64,
    },
    /// A kind that is newer than this crate; to be skipped.
    #[serde(other)]
    Unknown,
}

/// What a service answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromService {
    /// The sender may go on.
    Welcome {
        /// The version to speak: the sender's.
        version: u16,
        /// The last event of this instance that is stored; 0 if none is.
        last_sequence: u64,
    },
    /// The sender may not; the connection is closed.
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        reason: String,
    },
    /// Everything up to this number is stored.
    Ack {
        /// Of an event.
        sequence: u64,
    },
    /// A kind that is newer than this crate; to be skipped.
    #[serde(other)]
    Unknown,
}

/// Why a sender is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The service does not speak the sender's version.
    VersionTooNew,
    /// The token is not the service's.
    WrongToken,
    /// Another instance with this role and name is connected.
    NameInUse,
    /// The service is for other roles, or for another network.
    NotServed,
    /// Something in the `Hello` cannot be.
    BadHello,
    /// What came is no frame or no message.
    BadFrame,
    /// The service cannot store anything now.
    Unavailable,
    /// A code that is newer than this crate.
    #[serde(other)]
    Other,
}

/// Who calls.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version that the sender speaks.
    pub version: u16,
    /// `pool`, `translator`, `relay`, `mint`, `template-provider`, `jd-server`, `jd-client`.
    pub role: String,
    /// Tells senders of one role apart. It stays the same when one is started anew.
    pub name: String,
    /// New at every start: 32 hexadecimal digits.
    pub instance_id: String,
    /// When this instance was started.
    pub started_at_ms: u64,
    /// Its software and version.
    #[serde(default)]
    pub software: String,
    /// The Bitcoin network, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// It says something at least so often.
    pub heartbeat_ms: u64,
    /// The secret that both sides were configured with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl fmt::Debug for Hello {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("version", &self.version)
            .field("role", &self.role)
            .field("name", &self.name)
            .field("instance_id", &self.instance_id)
            .field("started_at_ms", &self.started_at_ms)
            .field("software", &self.software)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// An event with its number. Numbers of one instance begin at 1 and go up; they need not follow each other closely.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbered {
    /// The number.
    pub sequence: u64,
    /// When it was so, by the sender's clock.
    pub at_ms: u64,
    /// What.
    pub event: Event,
}

//! An SV2 connection: Noise, framing, authority keys and set-up.
//!
//! The pool accepts with it and the translator dials with it. It hands over whole frames and takes whole frames; it
//! never interprets a mining message, spawns no task and keeps no buffer for a connection that is idle.

mod authority;
mod cipher;
mod connection;
mod extensions;
mod frame;
mod keys;
mod server;
mod setup;

pub use authority::{AuthorityKey, AuthorityKeyError};
pub use cipher::{Opener, Sealer};
pub use connection::{Connection, Gate, Options, Reader, Writer, accept, accept_at, connect};
pub use extensions::negotiate;
pub use frame::{Frame, FrameBuffer};
pub use keys::{Authority, AuthorityPublicKey, AuthoritySecretKey, KeyError};
pub use server::{Refusal, accept_setup, check_setup, refuse_setup};
pub use setup::{mining_setup, setup, template_setup};

use stratum_core::{binary_sv2, parsers_sv2};

/// Why a connection could not be made or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer's fault: it did not complete the Noise handshake in time.
    #[error("the Noise handshake was not completed in time")]
    HandshakeTimeout,
    /// The peer's fault, or that of something between: the handshake does not decrypt.
    #[error(
        "the Noise handshake failed: the peer does not speak Noise as SV2 does, or its bytes were altered"
    )]
    Handshake,
    /// The operator's fault as a rule: another key is configured here than the server signs with, or a clock is wrong.
    #[error(
        "the server's certificate is not signed by the configured authority key, or is not valid at this time: check \
         authority_public_key, and the clocks of both machines"
    )]
    Certificate,
    /// The peer's fault: bytes that do not authenticate.
    #[error("a frame does not decrypt")]
    Decrypt,
    /// Our fault or a connection that lived for 2^64 frames.
    #[error("a frame cannot be encrypted")]
    Encrypt,
    /// The peer's fault: more than this role accepts.
    #[error("a frame of {declared} bytes is announced; at most {limit} are accepted")]
    FrameTooLarge {
        /// What the header announces, in bytes.
        declared: usize,
        /// What this role accepts, in bytes.
        limit: usize,
    },
    /// The peer's fault: a message that does not parse.
    #[error("malformed message: {0}")]
    Malformed(#[from] MalformedMessage),
    /// The peer's fault: it does not read what it is sent.
    #[error("the peer did not take what was sent to it in time")]
    WriteTimeout,
    /// The peer refused the set-up, with its error code.
    #[error("the server refused the connection: {0}")]
    SetupRefused(String),
    /// The peer's fault: no answer to the set-up in time.
    #[error("the server did not answer the set-up in time")]
    SetupTimeout,
    /// The server knows nothing of extensions, as it seems.
    #[error("the server did not answer which extensions it speaks")]
    NegotiationTimeout,
    /// The server does not go on without an extension that is not spoken here.
    #[error("the server requires the extension {0:#06x}, which is not spoken here")]
    ExtensionRequired(u16),
    /// The peer's fault: something else than an answer to the set-up.
    #[error(
        "message type {message_type:#04x} (extension {extension_type:#06x}) is not expected here"
    )]
    Unexpected {
        /// Extension of the frame, without the channel bit.
        extension_type: u16,
        /// Message type of the frame.
        message_type: u8,
    },
}

impl Error {
    /// Its name among a server's counts of why connections ended; `None` where the peer just left.
    pub fn reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::Closed => return None,
            Self::HandshakeTimeout | Self::Handshake => "handshake",
            Self::WriteTimeout => "slow-reader",
            Self::Decrypt | Self::FrameTooLarge { .. } => "bad-frame",
            Self::Malformed(_) => "malformed-message",
            Self::Unexpected { .. } => "unexpected-message",
            _ => "connection-lost",
        })
    }
}

/// A message that does not parse, or one of ours that does not fit its own format.
#[derive(Debug, thiserror::Error)]
pub enum MalformedMessage {
    /// A field is too short, too long or not of its type.
    #[error("{0}")]
    Fields(binary_sv2::Error),
    /// The message type is not one of the protocol's.
    #[error("{0}")]
    Type(String),
    /// The payload has more than 2^24 - 1 bytes.
    #[error("a payload of {0} bytes is longer than a frame can be")]
    TooLong(usize),
}

impl From<binary_sv2::Error> for MalformedMessage {
    fn from(error: binary_sv2::Error) -> Self {
        Self::Fields(error)
    }
}

impl From<parsers_sv2::ParserError> for MalformedMessage {
    fn from(error: parsers_sv2::ParserError) -> Self {
        Self::Type(format!("{error:?}"))
    }
}

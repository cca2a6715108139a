//! Why a connection to a pool ends, or why there is none.

use std::time::Duration;

use sv2_connection::MalformedMessage;

/// Why a connection to an upstream ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The connection failed, or the upstream closed it.
    #[error(transparent)]
    Connection(#[from] sv2_connection::Error),
    /// The upstream's fault: a message that does not parse.
    #[error("malformed message: {0}")]
    Malformed(#[from] MalformedMessage),
    /// The upstream's fault: a message that has no place here.
    #[error("message type {0:#04x} is not expected from an upstream")]
    Unexpected(u8),
    /// The upstream's fault.
    #[error("the upstream refuses shares that were never sent")]
    Implausible,
    /// The upstream's fault.
    #[error("a new block names job {0}, which was never sent")]
    UnknownJob(u32),
    /// The upstream's fault.
    #[error("the upstream sets an impossible {0}")]
    Impossible(&'static str),
    /// The upstream's fault.
    #[error("the upstream opens a channel that nobody asked for")]
    Unasked,
    /// The upstream's fault.
    #[error("the upstream has answered no request for a channel for {} seconds", .0.as_secs())]
    Owing(Duration),
    /// The upstream's fault.
    #[error("the upstream has opened channels and sent no work for {} seconds", .0.as_secs())]
    NoWork(Duration),
    /// The upstream's fault.
    #[error("the upstream has answered none of {shares} shares for {} seconds", .waited.as_secs())]
    NoAnswers {
        /// Forwarded since the last answer.
        shares: u64,
        /// Since the first of them was forwarded.
        waited: Duration,
    },
    /// The upstream's fault, or all miners'.
    #[error("the upstream has refused every channel for {} seconds", .0.as_secs())]
    Refusing(Duration),
    /// What was asked to try it.
    #[error("the upstream refuses a channel: {0}")]
    Refused(String),
    /// No connection within the time for it.
    #[error("no connection in time")]
    ConnectTimeout,
    /// The upstream wants the connection made anew, and asks the new one for the same.
    #[error("the upstream asked for a new connection again and again")]
    Reconnect,
    /// The connection's task panicked; ours to mend.
    #[error("the connection's task failed")]
    Panicked,
}

impl UpstreamError {
    /// The name under which it is counted.
    pub(crate) fn reason(&self) -> &'static str {
        use sv2_connection::Error;
        match self {
            Self::Connection(error) => match error {
                Error::Io(_) => "socket",
                Error::Closed => "closed",
                Error::HandshakeTimeout => "handshake-timeout",
                Error::Handshake | Error::Decrypt | Error::Encrypt => "noise",
                Error::Certificate => "certificate",
                Error::WriteTimeout => "write-timeout",
                Error::SetupRefused(_) => "setup-refused",
                Error::SetupTimeout => "setup-timeout",
                Error::NegotiationTimeout | Error::ExtensionRequired(_) => "extensions",
                Error::FrameTooLarge { .. } | Error::Malformed(_) | Error::Unexpected { .. } => {
                    "protocol"
                }
            },
            Self::Malformed(_)
            | Self::Unexpected(_)
            | Self::Implausible
            | Self::UnknownJob(_)
            | Self::Impossible(_)
            | Self::Unasked => "protocol",
            Self::Owing(_) => "no-channel",
            Self::NoWork(_) => "no-work",
            Self::NoAnswers { .. } => "no-answers",
            Self::Refusing(_) | Self::Refused(_) => "channels-refused",
            Self::ConnectTimeout => "connect-timeout",
            Self::Reconnect => "reconnect-loop",
            Self::Panicked => "internal",
        }
    }
}

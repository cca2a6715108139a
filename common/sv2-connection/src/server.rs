//! The server's part of the set-up that comes first on every SV2 connection (SV2 3.5).

use stratum_core::{
    common_messages_sv2::{
        ERROR_CODE_SETUP_CONNECTION_PROTOCOL_VERSION_MISMATCH,
        ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_FEATURE_FLAGS,
        ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_PROTOCOL, Protocol, SetupConnection,
        SetupConnectionError, SetupConnectionSuccess,
    },
    parsers_sv2::CommonMessages,
};

use crate::{Frame, FrameBuffer, MalformedMessage, setup::VERSION};

/// Why a set-up cannot be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The error code that is answered.
    pub code: &'static str,
    /// The flags that are not supported.
    pub flags: u32,
}

impl<'a> Frame<'a> {
    /// Parses the message that has to come first; `None` is another message.
    pub fn setup(self) -> Result<Option<SetupConnection<'a>>, MalformedMessage> {
        if self.extension_type != 0 {
            return Ok(None);
        }
        Ok(match self.common()? {
            CommonMessages::SetupConnection(request) => Some(request),
            _ => None,
        })
    }
}

/// Whether a server of this protocol, with these flags of it, can serve the client.
pub fn check_setup(
    request: &SetupConnection<'_>,
    protocol: Protocol,
    supported_flags: u32,
) -> Result<(), Refusal> {
    let refusal = |code, flags| Err(Refusal { code, flags });
    let unsupported = request.flags & !supported_flags;
    if request.protocol != protocol {
        refusal(ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_PROTOCOL, 0)
    } else if request.get_version(VERSION, VERSION).is_none() {
        refusal(ERROR_CODE_SETUP_CONNECTION_PROTOCOL_VERSION_MISMATCH, 0)
    } else if unsupported != 0 {
        refusal(
            ERROR_CODE_SETUP_CONNECTION_UNSUPPORTED_FEATURE_FLAGS,
            unsupported,
        )
    } else {
        Ok(())
    }
}

/// Answers that the connection is set up. None of the servers here has flags to set.
pub fn accept_setup(out: &mut FrameBuffer) -> Result<(), MalformedMessage> {
    out.push(CommonMessages::SetupConnectionSuccess(
        SetupConnectionSuccess {
            used_version: VERSION,
            flags: 0,
        },
    ))
}

/// Answers that it is not; the connection has to end.
pub fn refuse_setup(refusal: Refusal, out: &mut FrameBuffer) -> Result<(), MalformedMessage> {
    out.push(CommonMessages::SetupConnectionError(SetupConnectionError {
        flags: refusal.flags,
        error_code: refusal.code.try_into()?,
    }))
}

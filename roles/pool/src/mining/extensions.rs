//! Which extensions are spoken on a connection (extension 0x0001).

use stratum_core::{
    binary_sv2::Seq064K,
    extensions_sv2::{
        EXTENSION_TYPE_EXTENSIONS_NEGOTIATION, EXTENSION_TYPE_WORKER_HASHRATE_TRACKING,
        RequestExtensionsError, RequestExtensionsSuccess,
    },
    parsers_sv2::{Extensions, ExtensionsNegotiation},
};
use sv2_connection::{Frame, FrameBuffer, MalformedMessage};

use super::Mining;
use crate::session::Fault;

/// What a client can have.
const SPOKEN: [u16; 2] = [
    EXTENSION_TYPE_EXTENSIONS_NEGOTIATION,
    EXTENSION_TYPE_WORKER_HASHRATE_TRACKING,
];

impl Mining {
    /// Answers which extensions are spoken (extension 0x0001). None is required of a client. The last answer holds.
    pub(super) fn negotiate(
        &mut self,
        frame: Frame<'_>,
        out: &mut FrameBuffer,
    ) -> Result<(), Fault> {
        let unexpected = Fault::unexpected(&frame);
        let message =
            Extensions::try_from((frame.extension_type, frame.message_type, frame.payload))
                .map_err(MalformedMessage::from)?;
        let Extensions::ExtensionsNegotiation(ExtensionsNegotiation::RequestExtensions(request)) =
            message
        else {
            return Err(unexpected);
        };
        let requested = request.requested_extensions.into_inner();
        let list = |extensions| Seq064K::new(extensions).map_err(MalformedMessage::Fields);
        let supported: Vec<u16> = SPOKEN
            .into_iter()
            .filter(|extension| requested.contains(extension))
            .collect();
        self.shares_name_workers = supported.contains(&EXTENSION_TYPE_WORKER_HASHRATE_TRACKING);
        self.negotiated = !supported.is_empty();
        let answer = if supported.is_empty() {
            ExtensionsNegotiation::RequestExtensionsError(RequestExtensionsError {
                request_id: request.request_id,
                unsupported_extensions: list(requested)?,
                required_extensions: list(Vec::new())?,
            })
        } else {
            ExtensionsNegotiation::RequestExtensionsSuccess(RequestExtensionsSuccess {
                request_id: request.request_id,
                supported_extensions: list(supported)?,
            })
        };
        out.push(Extensions::ExtensionsNegotiation(answer))?;
        Ok(())
    }
}

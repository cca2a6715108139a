//! The client's part in agreeing on extensions (extension 0x0001), which comes after the set-up.

use std::{ops::ControlFlow, time::Duration};

use stratum_core::{
    binary_sv2::Seq064K,
    extensions_sv2::{EXTENSION_TYPE_EXTENSIONS_NEGOTIATION, RequestExtensions},
    parsers_sv2::{Extensions, ExtensionsNegotiation},
};
use tokio::time::timeout;

use crate::{Connection, Error, Frame, FrameBuffer, MalformedMessage};

/// There is one request on a connection.
const REQUEST_ID: u16 = 1;

/// Asks the server for extensions, and gives those that it speaks.
///
/// # Errors
/// [`Error::NegotiationTimeout`] if the server ignores the question: the connection can be used then, without extensions. A
/// server that does not know the question may close the connection.
pub async fn negotiate(
    connection: &mut Connection,
    wanted: &[u16],
    patience: Duration,
) -> Result<Vec<u16>, Error> {
    let request = RequestExtensions {
        request_id: REQUEST_ID,
        requested_extensions: Seq064K::new(wanted.to_vec()).map_err(MalformedMessage::Fields)?,
    };
    let mut frames = FrameBuffer::new();
    frames.push(Extensions::ExtensionsNegotiation(
        ExtensionsNegotiation::RequestExtensions(request),
    ))?;
    connection.writer.write(&mut frames).await?;
    timeout(patience, answer(connection, wanted))
        .await
        .unwrap_or(Err(Error::NegotiationTimeout))
}

/// What the server says behind its answer is left for whoever reads next.
async fn answer(connection: &mut Connection, wanted: &[u16]) -> Result<Vec<u16>, Error> {
    let mut spoken = None;
    loop {
        let read = connection.reader.read_until(|frame| {
            let unexpected = Error::Unexpected {
                extension_type: frame.extension_type,
                message_type: frame.message_type,
            };
            if frame.extension_type != EXTENSION_TYPE_EXTENSIONS_NEGOTIATION {
                return Err(unexpected);
            }
            spoken = Some(parse(frame)?.ok_or(unexpected)?);
            Ok(ControlFlow::Break(()))
        });
        read.await?;
        if let Some(mut spoken) = spoken.take() {
            spoken.retain(|extension| wanted.contains(extension));
            return Ok(spoken);
        }
    }
}

fn parse(frame: Frame<'_>) -> Result<Option<Vec<u16>>, Error> {
    let Extensions::ExtensionsNegotiation(message) =
        Extensions::try_from((frame.extension_type, frame.message_type, frame.payload))
            .map_err(MalformedMessage::from)?;
    match message {
        ExtensionsNegotiation::RequestExtensionsSuccess(answer) => {
            Ok(Some(answer.supported_extensions.into_inner()))
        }
        ExtensionsNegotiation::RequestExtensionsError(answer) => {
            match answer.required_extensions.into_inner().first() {
                Some(required) => Err(Error::ExtensionRequired(*required)),
                None => Ok(Some(Vec::new())),
            }
        }
        ExtensionsNegotiation::RequestExtensions(_) => Ok(None),
    }
}

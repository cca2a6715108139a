//! The client's part of the set-up that comes first on every SV2 connection (SV2 3.5).

use std::{ops::ControlFlow, time::Duration};

use stratum_core::{
    common_messages_sv2::{
        MESSAGE_TYPE_SETUP_CONNECTION_ERROR, MESSAGE_TYPE_SETUP_CONNECTION_SUCCESS, Protocol,
        SetupConnection, SetupConnectionSuccess,
    },
    parsers_sv2::CommonMessages,
};
use tokio::time::timeout;

use crate::{Connection, Error, FrameBuffer, MalformedMessage};

/// The version of SV2 that this speaks.
pub(crate) const VERSION: u16 = 2;

/// A set-up for the mining protocol, with the given flags (SV2 5.3.1) and the name of the client's software.
pub fn mining_setup<'a>(
    flags: u32,
    host: &'a str,
    port: u16,
    firmware: &'a str,
) -> Result<SetupConnection<'a>, Error> {
    request(Protocol::MiningProtocol, flags, host, port, firmware)
}

/// A set-up for the template distribution protocol, which has no flags (SV2 7).
pub fn template_setup<'a>(
    host: &'a str,
    port: u16,
    firmware: &'a str,
) -> Result<SetupConnection<'a>, Error> {
    request(
        Protocol::TemplateDistributionProtocol,
        0,
        host,
        port,
        firmware,
    )
}

fn request<'a>(
    protocol: Protocol,
    flags: u32,
    host: &'a str,
    port: u16,
    firmware: &'a str,
) -> Result<SetupConnection<'a>, Error> {
    let text = |text: &'a str| text.try_into().map_err(MalformedMessage::Fields);
    Ok(SetupConnection {
        protocol,
        min_version: VERSION,
        max_version: VERSION,
        flags,
        endpoint_host: text(host)?,
        endpoint_port: port,
        vendor: text("hashpool")?,
        hardware_version: text("")?,
        firmware: text(firmware)?,
        device_id: text("")?,
    })
}

/// Asks the server for the connection, and gives its answer.
pub async fn setup(
    connection: &mut Connection,
    request: SetupConnection<'_>,
    patience: Duration,
) -> Result<SetupConnectionSuccess, Error> {
    let mut frames = FrameBuffer::new();
    frames.push(CommonMessages::SetupConnection(request))?;
    connection.writer.write(&mut frames).await?;
    timeout(patience, answer(connection))
        .await
        .unwrap_or(Err(Error::SetupTimeout))
}

/// A server may go on speaking behind its answer; that is left for whoever reads next.
async fn answer(connection: &mut Connection) -> Result<SetupConnectionSuccess, Error> {
    let mut answer = None;
    loop {
        let read = connection.reader.read_until(|frame| {
            let unexpected = Error::Unexpected {
                extension_type: frame.extension_type,
                message_type: frame.message_type,
            };
            let is_answer = matches!(
                frame.message_type,
                MESSAGE_TYPE_SETUP_CONNECTION_SUCCESS | MESSAGE_TYPE_SETUP_CONNECTION_ERROR
            );
            if frame.extension_type != 0 || !is_answer {
                return Err(unexpected);
            }
            match frame.common()? {
                CommonMessages::SetupConnectionSuccess(success) => answer = Some(success),
                CommonMessages::SetupConnectionError(refusal) => {
                    return Err(Error::SetupRefused(refusal.error_code.as_utf8_or_hex()));
                }
                _ => return Err(unexpected),
            }
            Ok(ControlFlow::Break(()))
        });
        read.await?;
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
}

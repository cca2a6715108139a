//! Frames in the clear: a six-byte header and a payload (SV2 3.2).

use stratum_core::{
    binary_sv2::{Encodable, GetSize},
    parsers_sv2::{CommonMessages, IsSv2Message, Mining, TemplateDistribution},
};

use crate::MalformedMessage;

/// Bytes of a frame's header.
pub(crate) const HEADER_SIZE: usize = 6;

/// The bit of `extension_type` that says the payload starts with a channel id.
const CHANNEL_BIT: u16 = 0x8000;

/// The largest payload that the header's three length bytes can say.
const LARGEST_PAYLOAD: usize = (1 << 24) - 1;

/// One frame, borrowed from the buffer that it was read into. Parsing may write to the payload.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The extension that the message belongs to; 0 for the protocol itself. Without the channel bit.
    pub extension_type: u16,
    /// Whether the payload starts with a channel id.
    pub channel_bit: bool,
    /// What the payload is, within the extension.
    pub message_type: u8,
    /// The message.
    pub payload: &'a mut [u8],
}

impl<'a> Frame<'a> {
    /// Parses a message of the mining protocol.
    pub fn mining(self) -> Result<Mining<'a>, MalformedMessage> {
        Ok((self.message_type, self.payload).try_into()?)
    }

    /// Parses a message of the template distribution protocol.
    pub fn template_distribution(self) -> Result<TemplateDistribution<'a>, MalformedMessage> {
        Ok((self.message_type, self.payload).try_into()?)
    }

    /// Parses a message that all protocols share (`SetupConnection` and its answers, `Reconnect`).
    pub fn common(self) -> Result<CommonMessages<'a>, MalformedMessage> {
        Ok((self.message_type, self.payload).try_into()?)
    }
}

/// A frame's header, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub extension_type: u16,
    pub channel_bit: bool,
    pub message_type: u8,
    pub payload_size: usize,
}

impl Header {
    pub(crate) fn parse(bytes: [u8; HEADER_SIZE]) -> Self {
        let [extension_low, extension_high, message_type, length @ ..] = bytes;
        let extension = u16::from_le_bytes([extension_low, extension_high]);
        let [low, middle, high] = length.map(usize::from);
        Self {
            extension_type: extension & !CHANNEL_BIT,
            channel_bit: extension & CHANNEL_BIT != 0,
            message_type,
            payload_size: low | middle << 8 | high << 16,
        }
    }

    pub(crate) fn frame(self, payload: &mut [u8]) -> Frame<'_> {
        Frame {
            extension_type: self.extension_type,
            channel_bit: self.channel_bit,
            message_type: self.message_type,
            payload,
        }
    }
}

/// Frames that wait to be sealed and written together, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// An empty buffer. It allocates nothing until something is pushed.
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Appends a message as a frame.
    pub fn push<M>(&mut self, message: M) -> Result<(), MalformedMessage>
    where
        M: IsSv2Message + GetSize + Encodable,
    {
        let extension_type = message.extension_type();
        let channel_bit = message.channel_bit();
        let message_type = message.message_type();
        let size = message.get_size();
        self.push_with(extension_type, channel_bit, message_type, size, |payload| {
            message.to_bytes(payload).map(drop)
        })
    }

    /// Appends a frame of `size` payload bytes, which `fill` writes.
    pub fn push_with<E>(
        &mut self,
        extension_type: u16,
        channel_bit: bool,
        message_type: u8,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), MalformedMessage>
    where
        MalformedMessage: From<E>,
    {
        if size > LARGEST_PAYLOAD {
            return Err(MalformedMessage::TooLong(size));
        }
        let start = self.bytes.len();
        let extension = extension_type | if channel_bit { CHANNEL_BIT } else { 0 };
        self.bytes.extend_from_slice(&extension.to_le_bytes());
        self.bytes.push(message_type);
        self.bytes.extend_from_slice(&size.to_le_bytes()[..3]);
        self.bytes.resize(start + HEADER_SIZE + size, 0);
        fill(&mut self.bytes[start + HEADER_SIZE..]).map_err(|error| {
            self.bytes.truncate(start);
            MalformedMessage::from(error)
        })
    }

    /// Appends frames that were encoded before and are sent to many.
    pub fn push_frames(&mut self, frames: &FrameBuffer) {
        self.bytes.extend_from_slice(&frames.bytes);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that wait, headers included and without encryption.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets all frames and, where many were held, their memory.
    pub fn clear(&mut self) {
        const KEPT: usize = 4096;
        self.bytes.clear();
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
    }

    /// The frames, in order.
    pub fn frames(&mut self) -> impl Iterator<Item = Frame<'_>> {
        let mut rest = self.bytes.as_mut_slice();
        std::iter::from_fn(move || {
            let (header, after) = std::mem::take(&mut rest).split_first_chunk_mut()?;
            let header = Header::parse(*header);
            let (payload, after) = after.split_at_mut_checked(header.payload_size)?;
            rest = after;
            Some(header.frame(payload))
        })
    }

    /// Header and payload of each frame, in order.
    pub(crate) fn encoded(&self) -> impl Iterator<Item = (&[u8; HEADER_SIZE], &[u8])> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (header, after) = rest.split_first_chunk()?;
            let (payload, after) = after.split_at_checked(Header::parse(*header).payload_size)?;
            rest = after;
            Some((header, payload))
        })
    }
}

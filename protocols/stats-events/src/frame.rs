//! Frames: a big-endian length in four bytes, then so many bytes of MessagePack with named fields.

use serde::{Serialize, de::DeserializeOwned};

/// The largest frame, in bytes after the length.
pub const MAX_FRAME: usize = 1 << 20;

const LENGTH_SIZE: usize = 4;

/// How deep values may be nested. Messages need five levels; without a bound a frame of a kilobyte exhausts the stack.
const MAX_DEPTH: usize = 32;

/// Why a frame cannot be read or written. The connection has to end: what follows cannot be trusted to be a frame.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer's fault.
    #[error("a frame of {0} bytes is announced; at most {MAX_FRAME} are accepted")]
    TooLong(usize),
    /// The peer's fault.
    #[error("a frame of no bytes is no message")]
    Empty,
    /// The peer's fault: no MessagePack, or not of a message's shape.
    #[error("a frame is no message: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// Ours: a message that is larger than a frame may be.
    #[error("a message cannot be written: {0}")]
    Unwritable(#[from] rmp_serde::encode::Error),
}

/// Appends a message as one frame.
///
/// # Errors
/// [`Error::TooLong`] or [`Error::Unwritable`]; then nothing is appended.
pub fn encode<M: Serialize>(message: &M, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_SIZE]);
    let written = rmp_serde::encode::write_named(out, message);
    let size = out.len() - start - LENGTH_SIZE;
    let error = match written {
        Err(error) => error.into(),
        Ok(()) if size > MAX_FRAME => Error::TooLong(size),
        Ok(()) => {
            // MAX_FRAME has fewer than 32 bits.
            let length = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
            out[start..start + LENGTH_SIZE].copy_from_slice(&length);
            return Ok(());
        }
    };
    out.truncate(start);
    Err(error)
}

/// Reads the message of one frame. Fields that are not known here are skipped.
///
/// # Errors
/// [`Error::Malformed`]
pub fn decode<M: DeserializeOwned>(frame: &[u8]) -> Result<M, Error> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(frame);
    deserializer.set_max_depth(MAX_DEPTH);
    Ok(M::deserialize(&mut deserializer)?)
}

/// Takes frames out of a stream of bytes, however that is cut. Holds no more than one unfinished frame and what was read
/// last.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
    /// Where the first frame that was not taken begins.
    start: usize,
}

impl FrameReader {
    /// Adds bytes that came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.drain(..self.start);
        }
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, without its length.
    ///
    /// # Errors
    /// [`Error::TooLong`] or [`Error::Empty`], as soon as the length has come.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, Error> {
        let rest = &self.bytes[self.start..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_SIZE>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(Error::TooLong(length));
        }
        if length == 0 {
            return Err(Error::Empty);
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        self.start += LENGTH_SIZE + length;
        Ok(Some(frame))
    }

    /// Bytes that are held and were not taken.
    #[must_use]
    pub fn held(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Gives memory back that an idle connection does not need.
    pub fn shrink(&mut self) {
        if self.held() == 0 {
            *self = Self::default();
        }
    }
}

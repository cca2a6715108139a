//! Sealing and opening of frames with the keys of a finished Noise handshake, in place (SV2 4.6).

use aead::Buffer;
use stratum_core::noise_sv2::{AEAD_MAC_LEN, NoiseDecryptor, NoiseEncryptor};

use crate::{
    Error, Frame, FrameBuffer,
    frame::{HEADER_SIZE, Header},
};

/// Bytes of a header with its authentication tag.
const SEALED_HEADER_SIZE: usize = HEADER_SIZE + AEAD_MAC_LEN;

/// The largest piece of a payload that is sealed at once, with and without its tag (SV2 4.6, the Noise message size).
const SEALED_CHUNK_SIZE: usize = 65_535;
const CHUNK_SIZE: usize = SEALED_CHUNK_SIZE - AEAD_MAC_LEN;

/// Seals the frames of one direction of one connection.
#[derive(Debug)]
pub struct Sealer(NoiseEncryptor);

impl Sealer {
    pub(crate) fn new(encryptor: NoiseEncryptor) -> Self {
        Self(encryptor)
    }

    /// Appends all frames to `out`, sealed.
    pub fn seal(&mut self, frames: &FrameBuffer, out: &mut Vec<u8>) -> Result<(), Error> {
        for (header, payload) in frames.encoded() {
            self.seal_piece(header, out)?;
            for chunk in payload.chunks(CHUNK_SIZE) {
                self.seal_piece(chunk, out)?;
            }
        }
        Ok(())
    }

    fn seal_piece(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        out.extend_from_slice(plain);
        out.extend_from_slice(&[0; AEAD_MAC_LEN]);
        let mut piece = Piece {
            bytes: &mut out[start..],
            len: plain.len(),
        };
        self.0.encrypt(&mut piece).map_err(|_| Error::Encrypt)
    }
}

/// Opens the frames of one direction of one connection.
#[derive(Debug)]
pub struct Opener {
    decryptor: NoiseDecryptor,
    /// The header of a frame whose payload is not there yet; its bytes are consumed.
    header: Option<Header>,
    largest_frame: usize,
}

impl Opener {
    pub(crate) fn new(decryptor: NoiseDecryptor, largest_frame: usize) -> Self {
        Self {
            decryptor,
            header: None,
            largest_frame,
        }
    }

    /// Opens the first frame of `input` in place and advances `input` behind it; `None` while it is not all there.
    ///
    /// An error is final: the two sides no longer agree on what comes next.
    pub fn open<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Frame<'a>>, Error> {
        let header = match self.header {
            Some(header) => header,
            None => match take(input, SEALED_HEADER_SIZE) {
                None => return Ok(None),
                Some(sealed) => {
                    let header = self.open_header(sealed)?;
                    *self.header.insert(header)
                }
            },
        };
        let sealed_size =
            header.payload_size + header.payload_size.div_ceil(CHUNK_SIZE) * AEAD_MAC_LEN;
        let Some(sealed) = take(input, sealed_size) else {
            return Ok(None);
        };
        self.header = None;
        let mut opened = 0;
        for start in (0..sealed_size).step_by(SEALED_CHUNK_SIZE) {
            let end = sealed_size.min(start + SEALED_CHUNK_SIZE);
            let size = self.open_piece(&mut sealed[start..end])?;
            // Close the gap that the tag before left; a frame of one chunk has none.
            sealed.copy_within(start..start + size, opened);
            opened += size;
        }
        Ok(Some(header.frame(&mut sealed[..opened])))
    }

    fn open_header(&mut self, sealed: &mut [u8]) -> Result<Header, Error> {
        self.open_piece(sealed)?;
        let plain = sealed.first_chunk().ok_or(Error::Decrypt)?;
        let header = Header::parse(*plain);
        if header.payload_size > self.largest_frame {
            return Err(Error::FrameTooLarge {
                declared: header.payload_size,
                limit: self.largest_frame,
            });
        }
        Ok(header)
    }

    fn open_piece(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        let len = bytes.len();
        let mut piece = Piece { bytes, len };
        self.decryptor
            .decrypt(&mut piece)
            .map_err(|_| Error::Decrypt)?;
        Ok(piece.len)
    }
}

fn take<'a>(input: &mut &'a mut [u8], size: usize) -> Option<&'a mut [u8]> {
    if input.len() < size {
        return None;
    }
    let (taken, rest) = std::mem::take(input).split_at_mut(size);
    *input = rest;
    Some(taken)
}

/// A piece of a larger buffer that is sealed or opened where it lies.
struct Piece<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl AsRef<[u8]> for Piece<'_> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Piece<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Buffer for Piece<'_> {
    fn extend_from_slice(&mut self, other: &[u8]) -> aead::Result<()> {
        let end = self.len + other.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(aead::Error)?;
        room.copy_from_slice(other);
        self.len = end;
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

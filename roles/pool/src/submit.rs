//! The two messages that come all the time, read without the allocations of the general parser (SV2 5.3.11, 5.3.12).

use stratum_core::{
    extensions_sv2::{EXTENSION_TYPE_WORKER_HASHRATE_TRACKING, TLV_FIELD_TYPE_USER_IDENTITY},
    mining_sv2::{MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED, MESSAGE_TYPE_SUBMIT_SHARES_STANDARD},
};

use crate::{channel::Share, job::Claim};

/// A share and where it belongs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Submission<'a> {
    pub channel_id: u32,
    pub sequence_number: u32,
    pub share: Share<'a>,
    /// What follows the fields of an extended channel's share: those of extensions (SV2 3.4.3), which mean something only
    /// where they were negotiated. None extends a standard channel's.
    pub extensions: &'a [u8],
}

impl<'a> Submission<'a> {
    /// Nothing if the message is another, or is malformed; the general parser says in which way.
    pub(crate) fn parse(message_type: u8, payload: &'a [u8]) -> Option<Self> {
        let extended = match message_type {
            MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED => true,
            MESSAGE_TYPE_SUBMIT_SHARES_STANDARD => false,
            _ => return None,
        };
        let (fields, rest) = payload.split_first_chunk::<24>()?;
        let mut words = fields.chunks_exact(4).map(|word| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(word);
            u32::from_le_bytes(bytes)
        });
        let mut word = || words.next();
        let (channel_id, sequence_number, job_id) = (word()?, word()?, word()?);
        let (nonce, ntime, version) = (word()?, word()?, word()?);
        let (extranonce, extensions) = if extended {
            let (&size, rest) = rest.split_first()?;
            rest.split_at_checked(usize::from(size))
                .filter(|_| size <= 32)?
        } else {
            (&[][..], &[][..])
        };
        Some(Self {
            channel_id,
            sequence_number,
            share: Share {
                job_id,
                claim: Claim {
                    version,
                    ntime,
                    nonce,
                },
                extranonce,
            },
            extensions,
        })
    }

    /// The name of the worker that found it, as extension 0x0002 has it. What is malformed says nothing.
    pub(crate) fn worker(&self) -> Option<&'a [u8]> {
        let mut rest = self.extensions;
        // Type (extension and field), length, value.
        while let Some((&[low, high, field, length_low, length_high], after)) =
            rest.split_first_chunk()
        {
            let length = u16::from_le_bytes([length_low, length_high]);
            let (value, after) = after.split_at_checked(length.into())?;
            let extension = u16::from_le_bytes([low, high]);
            if (extension, field)
                == (
                    EXTENSION_TYPE_WORKER_HASHRATE_TRACKING,
                    TLV_FIELD_TYPE_USER_IDENTITY,
                )
            {
                return Some(value);
            }
            rest = after;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stratum_core::parsers_sv2::{Mining, Tlv, TlvList};

    use super::*;

    /// All that a submission says, by the general parser.
    fn reference(message_type: u8, payload: &mut [u8]) -> Option<([u32; 6], Vec<u8>)> {
        match (message_type, payload).try_into().ok()? {
            Mining::SubmitSharesExtended(m) => Some((
                [
                    m.channel_id,
                    m.sequence_number,
                    m.job_id,
                    m.nonce,
                    m.ntime,
                    m.version,
                ],
                m.extranonce.as_bytes().to_vec(),
            )),
            Mining::SubmitSharesStandard(m) => Some((
                [
                    m.channel_id,
                    m.sequence_number,
                    m.job_id,
                    m.nonce,
                    m.ntime,
                    m.version,
                ],
                Vec::new(),
            )),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn it_reads_what_the_general_parser_reads(
            message_type in prop_oneof![Just(0x1a_u8), Just(0x1b), Just(0x10)],
            mut payload in prop::collection::vec(any::<u8>(), 0..80),
            size in prop_oneof![Just(8_u8), 0_u8..40, any::<u8>()],
        ) {
            if let Some(byte) = payload.get_mut(24) {
                *byte = size;
            }
            let ours = Submission::parse(message_type, &payload).map(|submission| {
                let Share { job_id, claim, extranonce } = submission.share;
                let words = [
                    submission.channel_id,
                    submission.sequence_number,
                    job_id,
                    claim.nonce,
                    claim.ntime,
                    claim.version,
                ];
                (words, extranonce.to_vec())
            });
            prop_assert_eq!(ours, reference(message_type, &mut payload));
        }

        #[test]
        fn it_reads_the_workers_that_the_general_parser_reads(
            fields in prop::collection::vec(
                (prop_oneof![Just(2_u16), 0_u16..4], 0_u8..3, prop::collection::vec(any::<u8>(), 0..40)),
                0..4,
            ),
            cut in 0_usize..8,
            extranonce in prop::collection::vec(any::<u8>(), 0..33),
        ) {
            let mut extensions = Vec::new();
            for (extension, field, value) in fields {
                extensions.extend(Tlv::new(extension, field, value).encode().unwrap());
            }
            extensions.truncate(extensions.len().saturating_sub(cut));
            let size = u8::try_from(extranonce.len()).unwrap();
            let payload = [&[7; 24][..], &[size], &extranonce, &extensions].concat();
            let submission = Submission::parse(MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED, &payload).unwrap();
            prop_assert_eq!(submission.share.extranonce, extranonce);
            let theirs = TlvList::from_bytes(&extensions).find(2, 1).map(|tlv| tlv.value);
            prop_assert_eq!(submission.worker().map(<[u8]>::to_vec), theirs);
        }
    }
}

//! Requests as frames.

use stratum_core::{
    extensions_sv2::{EXTENSION_TYPE_WORKER_HASHRATE_TRACKING, TLV_FIELD_TYPE_USER_IDENTITY},
    mining_sv2::{
        CloseChannel, MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED, OpenExtendedMiningChannel, UpdateChannel,
    },
    parsers_sv2::Mining,
};
use sv2_connection::{FrameBuffer, MalformedMessage};
use work::Hashrate;

use super::Outgoing;
use super::shared::Update;
use crate::session::{OpenChannel, Request, ShareSubmission, WorkerName};

/// Six words of 32 bits, and the length of the extranonce (SV2 5.3.12).
const FIXED_SIZE: usize = 25;

/// Type (extension and field) and length (SV2 3.4.3).
const TLV_HEADER_SIZE: usize = 5;

/// What a request is on the wire. Shares carry the names of their workers if `worker_names` were negotiated.
pub(super) fn encode(
    outgoing: &Outgoing,
    worker_names: bool,
    frames: &mut FrameBuffer,
) -> Result<(), MalformedMessage> {
    match &outgoing.request {
        Request::Submit(share) => {
            let sequence_number = match outgoing.membership() {
                // The number under which the upstream answers is the channel's, not the miner's.
                Some((mailbox, membership)) => {
                    membership.channel().sent(mailbox, share.sequence_number)
                }
                None => share.sequence_number,
            };
            let worker = share.worker.as_ref().filter(|_| worker_names);
            push_share(share, sequence_number, worker, frames)
        }
        Request::Open(open) => push_open(outgoing.request_id, open, frames),
        Request::Update {
            channel_id,
            hashrate,
            max_target,
        } => push_update(
            &Update {
                channel_id: *channel_id,
                hashrate: *hashrate,
                max_target: *max_target,
            },
            frames,
        ),
        Request::Close { channel_id } => frames.push(Mining::CloseChannel(CloseChannel {
            channel_id: *channel_id,
            reason_code: "miner-disconnected".try_into()?,
        })),
    }
}

/// `UpdateChannel`
pub(super) fn push_update(
    update: &Update,
    frames: &mut FrameBuffer,
) -> Result<(), MalformedMessage> {
    frames.push(Mining::UpdateChannel(UpdateChannel {
        channel_id: update.channel_id,
        nominal_hash_rate: single_precision(update.hashrate),
        maximum_target: (&update.max_target.to_le_bytes()).into(),
    }))
}

/// `OpenExtendedMiningChannel`
fn push_open(
    request_id: u32,
    open: &OpenChannel,
    frames: &mut FrameBuffer,
) -> Result<(), MalformedMessage> {
    frames.push(Mining::OpenExtendedMiningChannel(
        OpenExtendedMiningChannel {
            request_id,
            user_identity: (&*open.user_identity).try_into()?,
            nominal_hash_rate: single_precision(open.hashrate),
            max_target: (&open.max_target.to_le_bytes()).into(),
            min_extranonce_size: open.min_extranonce_size,
        },
    ))
}

/// `SubmitSharesExtended`, the one that comes all the time: written without the allocations of the general serialiser.
fn push_share(
    share: &ShareSubmission,
    sequence_number: u32,
    worker: Option<&WorkerName>,
    frames: &mut FrameBuffer,
) -> Result<(), MalformedMessage> {
    let extranonce = &*share.extranonce;
    let tlv_size = worker.map_or(0, |name| TLV_HEADER_SIZE + name.len());
    let size = FIXED_SIZE + extranonce.len() + tlv_size;
    let fill = |payload: &mut [u8]| {
        let words = [
            share.channel_id,
            sequence_number,
            share.job_id,
            share.nonce,
            share.ntime,
            share.version,
        ];
        for (place, word) in payload.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        // An extranonce has 32 bytes at most.
        payload[FIXED_SIZE - 1] = extranonce.len().to_le_bytes()[0];
        let (place, tlv) = payload[FIXED_SIZE..].split_at_mut(extranonce.len());
        place.copy_from_slice(extranonce);
        if let Some(name) = worker {
            let (header, value) = tlv.split_at_mut(TLV_HEADER_SIZE);
            header[..2].copy_from_slice(&EXTENSION_TYPE_WORKER_HASHRATE_TRACKING.to_le_bytes());
            header[2] = TLV_FIELD_TYPE_USER_IDENTITY;
            header[3..].copy_from_slice(&name.len().to_le_bytes()[..2]);
            value.copy_from_slice(name);
        }
        Ok::<_, MalformedMessage>(())
    };
    frames.push_with(0, true, MESSAGE_TYPE_SUBMIT_SHARES_EXTENDED, size, fill)
}

/// The protocol has 32 bits for a hashrate. Finite stays finite.
#[allow(clippy::cast_possible_truncation)]
fn single_precision(hashrate: Hashrate) -> f32 {
    hashrate.value().min(f32::MAX.into()) as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stratum_core::mining_sv2::SubmitSharesExtended;
    use stratum_core::parsers_sv2::{Tlv, TlvList};
    use stratum_v1::ExtranonceBytes;

    use super::*;

    proptest! {
        #[test]
        fn a_share_is_written_as_the_general_serialiser_writes_it(
            words: [u32; 6], extranonce in proptest::collection::vec(any::<u8>(), 0..=32), worker in "[a-z.]{0,40}",
        ) {
            let [channel_id, sequence_number, job_id, nonce, ntime, version] = words;
            let worker = WorkerName::new(&worker);
            let share = ShareSubmission {
                channel_id, sequence_number: 0, job_id, nonce, ntime, version,
                extranonce: ExtranonceBytes::new(&extranonce).unwrap(),
                worker: None,
                solves_block: false,
            };
            let mut ours = FrameBuffer::new();
            push_share(&share, sequence_number, worker.as_ref(), &mut ours).unwrap();
            let mut theirs = FrameBuffer::new();
            theirs.push(Mining::SubmitSharesExtended(SubmitSharesExtended {
                channel_id, sequence_number, job_id, nonce, ntime, version,
                extranonce: extranonce.as_slice().try_into().unwrap(),
            })).unwrap();
            let ours = ours.frames().next().unwrap();
            let theirs = theirs.frames().next().unwrap();
            prop_assert_eq!(
                (ours.extension_type, ours.channel_bit, ours.message_type),
                (theirs.extension_type, theirs.channel_bit, theirs.message_type)
            );
            let (fields, tlv) = ours.payload.split_at(theirs.payload.len());
            prop_assert_eq!(fields, theirs.payload);
            match worker {
                None => prop_assert!(tlv.is_empty()),
                Some(worker) => {
                    let found: Vec<Tlv> = TlvList::from_bytes(tlv).iter().map(|tlv| tlv.unwrap()).collect();
                    prop_assert_eq!(found.len(), 1);
                    prop_assert_eq!(&*found[0].value, &*worker);
                }
            }
        }
    }
}

//! Room for a coinbase: transactions are left out from the end until the block is within the chain's limits with it.

use std::sync::Arc;

use bitcoin::{TxOut, VarInt, consensus::encode::deserialize};

use crate::{BlockTransaction, Body, MAX_BLOCK_WEIGHT, Template, block};

/// Signature operations that a block may have (BIP 141).
const MAX_BLOCK_SIGOPS: u64 = 80_000;

/// What one outside of a witness counts (BIP 141), and what a byte outside of a witness weighs.
const WITNESS_SCALE: u64 = 4;

/// A header, then a coinbase without its outputs: version, input count, outpoint, script length, a script of 100 bytes,
/// sequence, the longest output count, lock time.
const FIXED_BYTES: u64 = 80 + 4 + 1 + 36 + 1 + 100 + 4 + 9 + 4;

/// Marker, flag and the coinbase's witness with its reserved value (BIP 141).
const WITNESS_BYTES: u64 = 2 + 1 + 1 + 32;

/// What is added to a coinbase beside what the template prescribes (SV2 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Serialised bytes of the outputs that are added.
    pub output_bytes: u32,
    /// Signature operations in them; each counts four times against the block's limit.
    pub sigops: u16,
}

/// The room cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no block of this template has room for {} bytes and {} sigops of outputs", .0.output_bytes, .0.sigops)]
pub struct TooLarge(pub Room);

impl Template {
    /// The template if it leaves this room; else one without the last transactions, with the fees, the merkle path and
    /// the witness commitment that follow. A transaction never comes before those it spends from, so that the rest
    /// stays valid. Nothing can be left out of a remote body.
    pub fn with_room(self: &Arc<Self>, room: Room) -> Result<Arc<Self>, TooLarge> {
        let Body::Transactions(transactions) = &self.body else {
            return Ok(Arc::clone(self));
        };
        let outputs = self.coinbase.outputs.len() as u64 + u64::from(room.output_bytes);
        let count = VarInt(transactions.len() as u64 + 1).size() as u64;
        let mut weight = (FIXED_BYTES + outputs + count) * WITNESS_SCALE + WITNESS_BYTES;
        let mut sigops = u64::from(room.sigops) * WITNESS_SCALE;
        weight += transactions.iter().map(|each| each.weight).sum::<u64>();
        sigops += transactions.iter().map(|each| each.sigops).sum::<u64>();

        let mut kept = transactions.len();
        let mut fees = 0;
        while weight > MAX_BLOCK_WEIGHT || sigops > MAX_BLOCK_SIGOPS {
            kept = kept.checked_sub(1).ok_or(TooLarge(room))?;
            let last = &transactions[kept];
            weight -= last.weight;
            sigops -= last.sigops;
            fees += last.fee.ok_or(TooLarge(room))?;
        }
        if kept == transactions.len() {
            return Ok(Arc::clone(self));
        }
        self.shortened(&transactions[..kept], fees)
            .map(Arc::new)
            .ok_or(TooLarge(room))
    }

    /// `None` if the fees or the commitment are not what they should be.
    fn shortened(&self, transactions: &[Arc<BlockTransaction>], fees: u64) -> Option<Self> {
        let mut coinbase = self.coinbase.clone();
        coinbase.value_remaining = coinbase.value_remaining.checked_sub(fees)?;
        if coinbase.outputs_count > 0 {
            let witness_ids: Vec<_> = transactions.iter().map(|each| each.witness_id).collect();
            let output: TxOut = deserialize(&coinbase.outputs).ok()?;
            let mut script = output.script_pubkey.into_bytes();
            script
                .get_mut(block::COMMITMENT_MARKER.len()..)?
                .get_mut(..32)?
                .copy_from_slice(&block::witness_commitment(&witness_ids));
            coinbase.outputs = block::valueless_output(&script);
        }
        let ids: Vec<_> = transactions.iter().map(|each| each.id).collect();
        Some(Self {
            coinbase,
            merkle_path: block::merkle_path(&ids),
            body: Body::Transactions(transactions.into()),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CoinbaseTemplate;

    const FEE: u64 = 1000;
    const SUBSIDY: u64 = 5_000_000_000;

    fn template(count: u8, weight: u64, sigops: u64, fee: Option<u64>) -> Arc<Template> {
        let transactions: Vec<_> = (0..count)
            .map(|number| {
                Arc::new(BlockTransaction {
                    bytes: vec![number].into(),
                    id: [number; 32],
                    witness_id: [number + 100; 32],
                    weight,
                    fee,
                    sigops,
                })
            })
            .collect();
        let whole = Template {
            id: 1,
            prev_hash: [0; 32],
            min_ntime: 0,
            ntime: 0,
            nbits: 0x207f_ffff,
            version: 0x2000_0000,
            coinbase: CoinbaseTemplate {
                version: 2,
                script_prefix: block::height_prefix(100),
                sequence: 0,
                value_remaining: SUBSIDY,
                outputs: block::valueless_output(
                    &[&block::COMMITMENT_MARKER[..], &[0; 32]].concat(),
                ),
                outputs_count: 1,
                locktime: 0,
            },
            merkle_path: Vec::new(),
            body: Body::Transactions(transactions.clone().into()),
        };
        let mut whole = whole.shortened(&transactions, 0).unwrap();
        whole.coinbase.value_remaining += FEE * u64::from(count);
        Arc::new(whole)
    }

    fn room(output_bytes: u32, sigops: u16) -> Room {
        Room {
            output_bytes,
            sigops,
        }
    }

    #[test]
    fn a_template_with_room_enough_is_not_touched() {
        let template = template(9, 400_000, 8000, Some(FEE));
        let same = template.with_room(room(1000, 100)).unwrap();
        assert!(Arc::ptr_eq(&same, &template));
    }

    #[test]
    fn what_is_left_out_takes_its_fee_and_its_hashes_along() {
        // 200 kB of outputs weigh as much as two of the transactions.
        let template9 = template(9, 400_000, 0, Some(FEE));
        let less = template9.with_room(room(200_000, 0)).unwrap();
        assert_eq!(less.body.transaction_count(), Some(7));
        let expected = template(7, 400_000, 0, Some(FEE));
        assert_eq!(less.coinbase, expected.coinbase);
        assert_eq!(less.merkle_path, expected.merkle_path);
        assert_eq!(less.coinbase.value_remaining, SUBSIDY + 7 * FEE);
    }

    #[test]
    fn sigops_count_four_times() {
        let template = template(9, 1000, 8000, Some(FEE));
        let fits = template.with_room(room(100, 2000)).unwrap();
        assert_eq!(fits.body.transaction_count(), Some(9));
        let less = template.with_room(room(100, 2001)).unwrap();
        assert_eq!(less.body.transaction_count(), Some(8));
    }

    #[test]
    fn the_limit_is_met_to_the_unit() {
        // 9 transactions, and 360,000 weight units for all else.
        let template = template(9, 400_000, 0, Some(FEE));
        let fixed = (FIXED_BYTES + 47 + 1) * 4 + WITNESS_BYTES;
        let most = u32::try_from((400_000 - fixed) / 4).unwrap();
        let fits = template.with_room(room(most, 0)).unwrap();
        assert_eq!(fits.body.transaction_count(), Some(9));
        let less = template.with_room(room(most + 1, 0)).unwrap();
        assert_eq!(less.body.transaction_count(), Some(8));
    }

    #[test]
    fn room_that_no_block_has_is_refused() {
        let template9 = template(9, 400_000, 0, Some(FEE));
        let huge = room(1_000_000, 0);
        assert_eq!(template9.with_room(huge).unwrap_err(), TooLarge(huge));
        let unknown_fees = template(9, 400_000, 0, None);
        assert!(unknown_fees.with_room(room(200_000, 0)).is_err());
    }
}

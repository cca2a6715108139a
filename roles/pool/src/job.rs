//! A job: a template with our coinbase around a hole for the extranonce.

use std::sync::Arc;

use bitcoin::{Script, consensus::Encodable};
use stratum_core::{
    binary_sv2::{Seq0255, Sv2Option, U256},
    mining_sv2::{NewExtendedMiningJob, SetNewPrevHash},
    parsers_sv2::Mining,
};
use sv2_connection::{FrameBuffer, MalformedMessage};
use templates::Template;
use work::{Header, Target, header};

/// What every coinbase of this pool has in common.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// The script that gets the reward.
    pub payout: Vec<u8>,
    /// Text in the coinbase.
    pub tag: String,
}

/// One job, held once and shared by all channels with this payout and size of extranonce.
#[derive(Debug)]
pub(crate) struct Job {
    pub template: Arc<Template>,
    pub network_target: Target,
    /// Serialised without witness, up to the extranonce.
    coinbase_prefix: Vec<u8>,
    /// Serialised without witness, from behind the extranonce.
    coinbase_suffix: Vec<u8>,
}

/// What a share says of its header; the rest is the job's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    pub version: u32,
    pub ntime: u32,
    pub nonce: u32,
}

impl Job {
    pub(crate) fn new(
        template: Arc<Template>,
        network_target: Target,
        recipe: &Recipe,
        extranonce_size: usize,
    ) -> Self {
        let coinbase = &template.coinbase;
        let mut script = coinbase.script_prefix.clone();
        push_data(&mut script, recipe.tag.as_bytes());
        // The extranonce is data too; its bytes come from the channel and the miner. At most 32 of them.
        script.push(u8::try_from(extranonce_size).unwrap_or(u8::MAX));

        let mut prefix = coinbase.version.to_le_bytes().to_vec();
        prefix.push(1);
        prefix.extend_from_slice(&[0; 32]);
        prefix.extend_from_slice(&u32::MAX.to_le_bytes());
        compact_size(&mut prefix, script.len() + extranonce_size);
        prefix.extend_from_slice(&script);

        let mut suffix = coinbase.sequence.to_le_bytes().to_vec();
        compact_size(&mut suffix, 1 + coinbase.outputs_count as usize);
        suffix.extend_from_slice(&coinbase.value_remaining.to_le_bytes());
        compact_size(&mut suffix, recipe.payout.len());
        suffix.extend_from_slice(&recipe.payout);
        suffix.extend_from_slice(&coinbase.outputs);
        suffix.extend_from_slice(&coinbase.locktime.to_le_bytes());

        Self {
            network_target,
            coinbase_prefix: prefix,
            coinbase_suffix: suffix,
            template,
        }
    }

    /// The header that a share claims to have found, with the extranonce given in parts.
    pub(crate) fn header(&self, extranonce: [&[u8]; 2], claim: Claim) -> Header {
        Header {
            version: claim.version,
            prev_hash: self.template.prev_hash,
            merkle_root: self.merkle_root(extranonce),
            ntime: claim.ntime,
            nbits: self.template.nbits,
            nonce: claim.nonce,
        }
    }

    pub(crate) fn merkle_root(&self, [first, second]: [&[u8]; 2]) -> [u8; 32] {
        let parts = [&self.coinbase_prefix, first, second, &self.coinbase_suffix];
        header::merkle_root(header::coinbase_txid(&parts), &self.template.merkle_path)
    }

    /// The whole coinbase as a block has it. With a witness commitment comes a witness of 32 zero bytes (BIP 141).
    pub(crate) fn coinbase(&self, extranonce: [&[u8]; 2]) -> Vec<u8> {
        const VERSION: usize = 4;
        const LOCKTIME: usize = 4;
        let [first, second] = extranonce;
        let has_commitment = self.template.coinbase.outputs_count > 0;
        let (version, inputs) = self.coinbase_prefix.split_at(VERSION);
        let (outputs, locktime) = self
            .coinbase_suffix
            .split_at(self.coinbase_suffix.len() - LOCKTIME);
        let marker_and_flag: &[u8] = if has_commitment { &[0, 1] } else { &[] };
        let mut whole = [version, marker_and_flag, inputs, first, second, outputs].concat();
        if has_commitment {
            whole.extend_from_slice(&[1, 32]);
            whole.extend_from_slice(&[0; 32]);
        }
        whole.extend_from_slice(locktime);
        whole
    }

    /// Appends the job for a channel or group, and for a new tip what makes it active (SV2 5.3.15, 5.3.18).
    pub(crate) fn announce(
        &self,
        channel_id: u32,
        job_id: u32,
        new_tip: bool,
        frames: &mut FrameBuffer,
    ) -> Result<(), MalformedMessage> {
        let path = self.template.merkle_path.iter().map(U256::from).collect();
        let min_ntime = (!new_tip).then_some(self.template.ntime);
        frames.push(Mining::NewExtendedMiningJob(NewExtendedMiningJob {
            channel_id,
            job_id,
            min_ntime: Sv2Option::new(min_ntime),
            version: self.template.version,
            version_rolling_allowed: true,
            merkle_path: Seq0255::new(path)?,
            coinbase_tx_prefix: self.coinbase_prefix.as_slice().try_into()?,
            coinbase_tx_suffix: self.coinbase_suffix.as_slice().try_into()?,
        }))?;
        if new_tip {
            self.announce_tip(channel_id, job_id, frames)?;
        }
        Ok(())
    }

    /// Appends what makes a future job active.
    pub(crate) fn announce_tip(
        &self,
        channel_id: u32,
        job_id: u32,
        frames: &mut FrameBuffer,
    ) -> Result<(), MalformedMessage> {
        frames.push(Mining::SetNewPrevHash(SetNewPrevHash {
            channel_id,
            job_id,
            prev_hash: (&self.template.prev_hash).into(),
            min_ntime: self.template.ntime,
            nbits: self.template.nbits,
        }))
    }
}

fn push_data(script: &mut Vec<u8>, data: &[u8]) {
    // Tags are at most 32 bytes, which a single length byte pushes.
    if let (Ok(length), false) = (u8::try_from(data.len()), data.is_empty()) {
        script.push(length);
        script.extend_from_slice(data);
    }
}

fn compact_size(out: &mut Vec<u8>, size: usize) {
    let mut encoded = Vec::with_capacity(9);
    // Writing to a vector does not fail.
    let _ = bitcoin::VarInt(size as u64).consensus_encode(&mut encoded);
    out.extend_from_slice(&encoded);
}

impl Recipe {
    pub(crate) fn new(payout: &Script, tag: &str) -> Self {
        Self {
            payout: payout.to_bytes(),
            tag: tag.to_owned(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bitcoin::{Transaction, consensus::deserialize};
    use templates::{Body, CoinbaseTemplate};

    use super::*;

    pub(crate) fn template(id: u64, prev_hash: u8) -> Template {
        Template {
            id,
            prev_hash: [prev_hash; 32],
            min_ntime: 1_700_000_000,
            ntime: 1_700_000_100,
            nbits: 0x1d00_ffff,
            version: 0x2000_0000,
            coinbase: CoinbaseTemplate {
                version: 2,
                script_prefix: vec![3, 0x40, 0x0d, 0x03],
                sequence: u32::MAX,
                value_remaining: 5_000_000_000,
                outputs: [
                    &[0; 8][..],
                    &[38, 0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed],
                    &[7; 32],
                ]
                .concat(),
                outputs_count: 1,
                locktime: 0,
            },
            merkle_path: vec![[1; 32], [2; 32]],
            body: Body::Remote,
        }
    }

    #[test]
    fn the_coinbase_pays_the_script_and_carries_tag_and_extranonce() {
        let recipe = Recipe {
            payout: vec![0x51],
            tag: "hashpool".to_owned(),
        };
        let job = Job::new(Arc::new(template(1, 9)), Target::MAX, &recipe, 16);
        let extranonce: [&[u8]; 2] = [&[0xaa; 8], &[0xbb; 8]];
        let bytes = job.coinbase(extranonce);
        let coinbase: Transaction = deserialize(&bytes).unwrap();
        assert!(coinbase.is_coinbase());
        assert_eq!(coinbase.output.len(), 2);
        assert_eq!(coinbase.output[0].value.to_sat(), 5_000_000_000);
        assert_eq!(coinbase.output[0].script_pubkey.as_bytes(), [0x51]);
        assert_eq!(coinbase.input[0].witness.len(), 1);
        let script = coinbase.input[0].script_sig.as_bytes();
        assert!(script.starts_with(&[3, 0x40, 0x0d, 0x03, 8]));
        assert!(script.ends_with(&[[0xaa; 8], [0xbb; 8]].concat()));
        assert!(script.windows(8).any(|part| part == b"hashpool"));
        let path = [[1; 32], [2; 32]];
        use bitcoin::hashes::Hash;
        assert_eq!(
            job.merkle_root(extranonce),
            header::merkle_root(coinbase.compute_txid().to_byte_array(), &path)
        );
    }
}

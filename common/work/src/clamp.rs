//! The bounds of every target that a server sets.

use crate::Target;

/// What bounds the target of one channel.
///
/// As numbers, where larger is easier: `min(max(vardiff, network), max_target, pool minimum)`, so the client's limit
/// always wins. A server that sends anything else gets its channel refused by a strict client, and a client that is
/// asked for more than its limit disconnects; the SRI code of 2025 did that to every miner in a loop.
#[derive(Debug, Clone, Copy)]
pub struct Clamp {
    /// The network's target. Harder makes no sense: a hash that is a block must always be submitted.
    pub network: Target,
    /// The easiest target that the client accepts (`max_target` of `Open…MiningChannel`, `UpdateChannel`).
    pub max_target: Target,
    /// The easiest target that the pool hands out, its minimum difficulty.
    pub pool_minimum: Target,
}

impl Clamp {
    /// The target to set where the difficulty controller asks for `wanted`.
    pub fn apply(&self, wanted: Target) -> Target {
        let easiest = self.max_target.min(self.pool_minimum);
        // On regtest a block is easier than the pool's minimum; there vardiff alone holds the share rate.
        if self.network <= self.pool_minimum {
            wanted.max(self.network).min(easiest)
        } else {
            wanted.min(easiest)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target() -> impl Strategy<Value = Target> {
        (0u32..256, any::<[u8; 32]>()).prop_map(|(shift, mut bytes)| {
            let clear = usize::try_from(shift / 8).unwrap();
            bytes[32 - clear..].fill(0);
            bytes[0] |= 1;
            Target::from_le_bytes(bytes).unwrap()
        })
    }

    proptest! {
        #[test]
        fn the_clients_limit_always_wins(
            wanted in target(), network in target(), max_target in target(), pool_minimum in target(),
        ) {
            let set = Clamp { network, max_target, pool_minimum }.apply(wanted);
            prop_assert!(set <= max_target);
            prop_assert!(set <= pool_minimum);
            if network <= pool_minimum {
                prop_assert!(set >= network.min(max_target));
            }
        }
    }
}

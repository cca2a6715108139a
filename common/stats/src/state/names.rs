//! Names of peers, and how many of those that are connected share one.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stats_events::Peer;

/// Tells peers apart over their reconnections: by what stays the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerName {
    /// As in [`Peer`].
    pub protocol: String,
    /// The address without its port.
    pub host: String,
    /// The device id of SV2, or the vendor where there is none, or the user agent of SV1.
    pub device: String,
}

impl PeerName {
    /// The name of a peer.
    #[must_use]
    pub fn of(peer: &Peer) -> Self {
        let host = peer
            .address
            .rsplit_once(':')
            .map_or(&*peer.address, |(host, _)| host);
        let device = [&peer.device_id, &peer.vendor, &peer.user_agent]
            .into_iter()
            .flatten()
            .find(|text| !text.is_empty());
        Self {
            protocol: peer.protocol.clone(),
            host: host.to_owned(),
            device: device.cloned().unwrap_or_default(),
        }
    }
}

/// How many connected peers have each name, so that nobody has to be compared with all others.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<Arc<PeerName>, u32>);

impl Names {
    /// One more has this name.
    pub(super) fn add(&mut self, name: PeerName) -> Arc<PeerName> {
        let name = match self.0.get_key_value(&name) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(name),
        };
        *self.0.entry(Arc::clone(&name)).or_default() += 1;
        name
    }

    /// One fewer has it.
    pub(super) fn remove(&mut self, name: &PeerName) {
        if let Some(count) = self.0.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(name);
            }
        }
    }

    pub(super) fn count(&self, name: &PeerName) -> u32 {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

//! Names of peers, and how many of those that are connected share one.

use std::collections::{BTreeMap, HashMap};
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

/// How many connected peers have each name, and how many speak each protocol, so that nobody has to look at all of them.
#[derive(Debug, Default)]
pub(super) struct Names {
    peers: HashMap<Arc<PeerName>, u32>,
    protocols: BTreeMap<String, usize>,
}

impl Names {
    /// One more has this name.
    pub(super) fn add(&mut self, name: PeerName) -> Arc<PeerName> {
        match self.protocols.get_mut(&name.protocol) {
            Some(count) => *count += 1,
            None => drop(self.protocols.insert(name.protocol.clone(), 1)),
        }
        let name = match self.peers.get_key_value(&name) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(name),
        };
        *self.peers.entry(Arc::clone(&name)).or_default() += 1;
        name
    }

    /// One fewer has it.
    pub(super) fn remove(&mut self, name: &PeerName) {
        if let Some(count) = self.protocols.get_mut(&name.protocol) {
            *count -= 1;
            if *count == 0 {
                self.protocols.remove(&name.protocol);
            }
        }
        if let Some(count) = self.peers.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(name);
            }
        }
    }

    pub(super) fn count(&self, name: &PeerName) -> u32 {
        self.peers.get(name).copied().unwrap_or_default()
    }

    pub(super) fn protocols(&self) -> impl Iterator<Item = (&str, usize)> {
        let protocols = self.protocols.iter();
        protocols.map(|(protocol, count)| (&**protocol, *count))
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_gone_is_not_counted() {
        let name = |host: &str| PeerName {
            protocol: "sv1".into(),
            host: host.into(),
            device: String::new(),
        };
        let mut names = Names::default();
        let [one, _, other] = ["a", "a", "b"].map(|host| names.add(name(host)));
        assert_eq!((names.count(&one), names.count(&other)), (2, 1));
        names.remove(&one);
        names.remove(&other);
        assert_eq!((names.count(&one), names.count(&other)), (1, 0));
        assert!(names.protocols().eq([("sv1", 1)]));
        names.remove(&one);
        assert!(names.protocols().eq([]) && names.peers.is_empty());
    }
}

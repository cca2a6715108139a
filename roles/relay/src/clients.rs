//! Which customer a connection belongs to.
//!
//! Pure: the rules are read, and nothing is counted here. The counts are kept with the connections
//! ([`crate::connections`]), and [`crate::Handle::totals`] gives their sums by client to whoever bills.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use service::listener::Network;

use crate::pattern::Pattern;

/// Whom connections belong to that no rule fits.
pub const UNKNOWN: &str = "unknown";

/// A rule by which connections belong to a client. Of each kind that is given, one must fit. A client may have several rules.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// The client's name in metrics and bills.
    pub id: String,
    /// The name that the miner authorised, and the pool accepted. No condition if empty.
    pub user_names: Vec<Pattern>,
    /// Where it calls from. No condition if empty.
    pub networks: Vec<Network>,
    /// The port that it called. No condition if empty.
    pub ports: Vec<u16>,
}

/// Where a connection comes from, which is known before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Who calls.
    pub address: IpAddr,
    /// The port that was called.
    pub port: u16,
}

impl Origin {
    /// Whether it fits lists of which an empty one is no condition.
    #[must_use]
    pub fn fits(&self, networks: &[Network], ports: &[u16]) -> bool {
        (networks.is_empty() || networks.iter().any(|net| net.contains(self.address)))
            && (ports.is_empty() || ports.contains(&self.port))
    }
}

/// Whom a connection belongs to, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// This client, or [`UNKNOWN`].
    Known(Arc<str>),
    /// That depends on the name that the miner will authorise.
    Undecided,
}

/// The rules in their order; the first that fits decides.
#[derive(Debug)]
pub struct Clients {
    rules: Vec<(Arc<str>, Client)>,
    unknown: Arc<str>,
}

impl Clients {
    /// The clients of a checked configuration.
    #[must_use]
    pub fn new(rules: &[Client]) -> Self {
        let rule = |rule: &Client| (Arc::from(&*rule.id), rule.clone());
        Self {
            rules: rules.iter().map(rule).collect(),
            unknown: Arc::from(UNKNOWN),
        }
    }

    /// Whose the connection is; `user` is the name that the pool accepted, if it has accepted one.
    ///
    /// A rule with names is undecided before there is a name, and hides the rules behind it until then.
    #[must_use]
    pub fn identify(&self, origin: Origin, user: Option<&str>) -> Identity {
        for (id, rule) in &self.rules {
            if !origin.fits(&rule.networks, &rule.ports) {
                continue;
            }
            if rule.user_names.is_empty() {
                return Identity::Known(Arc::clone(id));
            }
            match user {
                None => return Identity::Undecided,
                Some(user) if rule.user_names.iter().any(|name| name.fits(user)) => {
                    return Identity::Known(Arc::clone(id));
                }
                Some(_) => {}
            }
        }
        Identity::Known(self.unknown())
    }

    /// The name of those that are not known.
    #[must_use]
    pub fn unknown(&self) -> Arc<str> {
        Arc::clone(&self.unknown)
    }

    /// The names of all clients, each once, without the unknown.
    pub fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        let earlier = |at: usize, id: &Arc<str>| self.rules[..at].iter().any(|rule| rule.0 == *id);
        let rules = self.rules.iter().enumerate();
        rules
            .filter(move |(at, (id, _))| !earlier(*at, id))
            .map(|(_, (id, _))| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> Clients {
        let network = |text: &str| text.parse().unwrap();
        Clients::new(&[
            Client {
                id: "acme".into(),
                user_names: vec![Pattern::new("acme.*")],
                networks: vec![network("10.0.0.0/8")],
                ..Client::default()
            },
            Client {
                id: "rented".into(),
                ports: vec![3334],
                ..Client::default()
            },
            Client {
                id: "acme".into(),
                networks: vec![network("192.0.2.7")],
                ..Client::default()
            },
        ])
    }

    fn origin(address: &str, port: u16) -> Origin {
        Origin {
            address: address.parse().unwrap(),
            port,
        }
    }

    fn known(id: &str) -> Identity {
        Identity::Known(id.into())
    }

    #[test]
    fn the_first_rule_that_fits_says_whose_a_connection_is() {
        let clients = clients();
        let farm = origin("10.1.2.3", 3334);
        assert_eq!(clients.identify(farm, None), Identity::Undecided);
        assert_eq!(clients.identify(farm, Some("acme.rig")), known("acme"));
        assert_eq!(clients.identify(farm, Some("other.rig")), known("rented"));
        let elsewhere = origin("198.51.100.1", 3333);
        assert_eq!(clients.identify(elsewhere, None), known(UNKNOWN));
        assert_eq!(
            clients.identify(elsewhere, Some("acme.rig")),
            known(UNKNOWN)
        );
        let second_rule = origin("192.0.2.7", 3333);
        assert_eq!(clients.identify(second_rule, None), known("acme"));
    }

    #[test]
    fn a_client_with_several_rules_is_one() {
        let clients = clients();
        let ids: Vec<&str> = clients.ids().map(|id| &**id).collect();
        assert_eq!(ids, ["acme", "rented"]);
    }
}

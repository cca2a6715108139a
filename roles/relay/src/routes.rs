//! Which pools a connection may be relayed to, and in which order they are tried.
//!
//! Pure: what it decides by is where a connection comes from, which is known before its first byte. The miner's name is
//! not: in SV1 it comes after the pool's answer to `mining.subscribe`.

use std::sync::Arc;

use service::listener::Network;

use crate::clients::{Clients, Identity, Origin};
use crate::config::Config;
use crate::guard::AllowList;
use crate::pools::Pool;

/// All routes, and whose connections are whose. Read-only, and swapped whole when they change.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) clients: Clients,
    routes: Vec<Arc<Route>>,
}

/// Where connections of one kind go.
#[derive(Debug)]
pub(crate) struct Route {
    clients: Vec<String>,
    networks: Vec<Network>,
    ports: Vec<u16>,
    groups: Vec<Vec<Arc<Pool>>>,
    /// Who may work, if not everybody.
    pub(crate) allowed: Option<Arc<AllowList>>,
}

impl Plan {
    /// The routes of a checked configuration, to pools that were made of it.
    pub(crate) fn new(config: &Config, pools: &[Arc<Pool>]) -> Self {
        let by_name = |name: &String| pools.iter().find(|pool| pool.name() == name).cloned();
        let mut routes: Vec<Arc<Route>> = config
            .routes
            .iter()
            .map(|route| {
                Arc::new(Route {
                    clients: route.clients.clone(),
                    networks: route.networks.clone(),
                    ports: route.ports.clone(),
                    groups: route
                        .groups
                        .iter()
                        .map(|group| group.iter().filter_map(by_name).collect())
                        .collect(),
                    allowed: AllowList::new(&route.workers),
                })
            })
            .collect();
        if routes.is_empty() {
            routes.push(Arc::new(Route {
                clients: Vec::new(),
                networks: Vec::new(),
                ports: Vec::new(),
                groups: pools.iter().map(|pool| vec![Arc::clone(pool)]).collect(),
                allowed: None,
            }));
        }
        Self {
            clients: Clients::new(&config.clients),
            routes,
        }
    }

    /// The first route that fits.
    pub(crate) fn route(&self, origin: Origin) -> Option<Arc<Route>> {
        let identity = self.clients.identify(origin, None);
        let is_client = |route: &Route| match &identity {
            _ if route.clients.is_empty() => true,
            Identity::Known(id) => route.clients.iter().any(|client| **client == **id),
            Identity::Undecided => false,
        };
        self.routes
            .iter()
            .find(|route| origin.fits(&route.networks, &route.ports) && is_client(route))
            .cloned()
    }
}

impl Route {
    /// All its pools in the order in which they are to be tried. In a group, the one with the fewest connections for its
    /// weight comes first. Pools that are failing come last, so that they cost nobody time who can be served elsewhere.
    pub(crate) fn candidates(&self, now: tokio::time::Instant) -> Vec<Arc<Pool>> {
        let mut ordered = Vec::new();
        for group in &self.groups {
            let mut group = group.clone();
            // Looked at once, because it changes meanwhile. Positive numbers are in the order of their bits.
            group.sort_by_cached_key(|pool| pool.load().to_bits());
            ordered.extend(group);
        }
        // Stable: within either part the order stays.
        ordered.sort_by_cached_key(|pool| !pool.may_be_tried(now));
        ordered
    }
}

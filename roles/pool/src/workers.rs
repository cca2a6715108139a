//! Whom the shares of one channel are booked for: its own worker, or those that its client names in each share
//! (extension 0x0002, worker-specific hashrate tracking).

use std::{collections::HashMap, sync::Arc};

use stratum_core::extensions_sv2::MAX_USER_IDENTITY_LENGTH;

use crate::{acknowledge::Owner, peers::Counts};

/// Workers that the shares of one connection may name. Where a connection has had as many, further ones are booked under
/// [`OTHER`] together, so that a client can neither fill the memory nor lose a share by inventing names.
pub(crate) const NAMES_PER_CONNECTION: usize = 10_000;

/// The worker of all that have no place of their own; the ledger has the same name for it.
const OTHER: &str = "other";

/// The workers of one channel.
#[derive(Debug)]
pub(crate) struct Workers {
    own: Booked,
    /// Most channels name nobody.
    others: Option<Box<Others>>,
}

#[derive(Debug, Default)]
struct Others {
    named: HashMap<Arc<str>, Booked>,
    unnamed: Option<Booked>,
}

/// A worker, and where its shares of this turn are gathered.
#[derive(Debug)]
pub(crate) struct Booked {
    pub owner: Owner,
    pub slot: usize,
    /// For a stats service, where one is told.
    pub counts: Option<Box<Counts>>,
}

impl Workers {
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            own: Booked {
                owner,
                slot: 0,
                counts: None,
            },
            others: None,
        }
    }

    /// How many workers were named that have a place of their own.
    pub(crate) fn named(&self) -> usize {
        self.others.as_ref().map_or(0, |others| others.named.len())
    }

    /// All that there are: the channel's own one first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Booked> {
        let others = self.others.iter();
        let others = others.flat_map(|others| others.named.values().chain(&others.unnamed));
        std::iter::once(&self.own).chain(others)
    }

    /// Whose fault a refused share is that names this worker: the channel's own one's, if nobody with this name has had a
    /// share accepted.
    pub(crate) fn of_refused(&mut self, name: Option<&[u8]>) -> &mut Booked {
        let name = name.and_then(|name| worker(name, &self.own.owner.account));
        let named = self.others.as_mut().map(|others| &mut others.named);
        match (name, named) {
            (Some(name), Some(named)) => named.get_mut(name).unwrap_or(&mut self.own),
            _ => &mut self.own,
        }
    }

    /// Whom a share is booked for that names this worker. The channel's own worker where it names none that can be shown;
    /// `may_grow` says whether there is room for one that was not named before.
    pub(crate) fn of_share(&mut self, name: Option<&[u8]>, may_grow: bool) -> &mut Booked {
        let account = &self.own.owner.account;
        let Some(name) = name.and_then(|name| worker(name, account)) else {
            return &mut self.own;
        };
        if *name == *self.own.owner.worker {
            return &mut self.own;
        }
        let booked = |worker| Booked {
            owner: Owner {
                worker,
                ..self.own.owner.clone()
            },
            slot: 0,
            counts: None,
        };
        let Others { named, unnamed } = &mut **self.others.get_or_insert_default();
        if may_grow && !named.contains_key(name) {
            let name: Arc<str> = name.into();
            named.insert(Arc::clone(&name), booked(name));
        }
        match named.get_mut(name) {
            Some(known) => known,
            None => unnamed.get_or_insert_with(|| booked(OTHER.into())),
        }
    }
}

/// The worker's name, if it is one: at most 32 bytes of UTF-8 without control characters, and not empty. The account in
/// front of it, as some clients send it, is not part of the name.
fn worker<'a>(name: &'a [u8], account: &str) -> Option<&'a str> {
    if name.len() > MAX_USER_IDENTITY_LENGTH {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?.trim();
    let name = name
        .strip_prefix(account)
        .and_then(|rest| rest.strip_prefix('.'))
        .unwrap_or(name);
    (!name.is_empty() && !name.chars().any(char::is_control)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn booked(workers: &mut Workers, name: &[u8], may_grow: bool) -> String {
        workers.of_share(Some(name), may_grow).owner.to_string()
    }

    #[test]
    fn a_share_is_booked_for_the_worker_that_it_names() {
        let mut workers = Workers::new(Owner::new("farm.proxy"));
        assert_eq!(workers.of_share(None, true).owner.to_string(), "farm.proxy");
        assert_eq!(booked(&mut workers, b"rig.7", true), "farm.rig.7");
        assert_eq!(booked(&mut workers, b"farm.rig.7", true), "farm.rig.7");
        assert_eq!(booked(&mut workers, b" proxy ", true), "farm.proxy");
        assert_eq!(workers.named(), 1);
    }

    #[test]
    fn a_name_that_cannot_be_shown_costs_no_share() {
        let mut workers = Workers::new(Owner::new("farm.proxy"));
        for name in [&b""[..], b"  ", b"\xff\xfe", b"a\nb", b"farm.", &[b'x'; 33]] {
            assert_eq!(booked(&mut workers, name, true), "farm.proxy", "{name:?}");
        }
        assert_eq!(booked(&mut workers, &[b'x'; 32], true).len(), 5 + 32);
    }

    #[test]
    fn workers_without_a_place_are_booked_together() {
        let mut workers = Workers::new(Owner::new("farm.proxy"));
        assert_eq!(booked(&mut workers, b"first", true), "farm.first");
        assert_eq!(booked(&mut workers, b"second", false), "farm.other");
        assert_eq!(booked(&mut workers, b"third", false), "farm.other");
        assert_eq!(booked(&mut workers, b"first", false), "farm.first");
        assert_eq!(workers.named(), 1);
    }
}

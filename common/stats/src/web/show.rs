//! What templates call. They give everything by reference.

use std::collections::BTreeMap;

use super::format;
use super::model::{List, Peer, Sort, Status};
use super::site::Kind;

/// What stands where nothing is known.
const NONE: &str = "–";

pub(super) fn number(number: &u64) -> String {
    format::count(*number)
}

pub(super) fn size(number: &usize) -> String {
    format::count(*number as u64)
}

pub(super) fn rate(rate: &Option<f64>) -> String {
    rate.map_or(NONE.into(), format::hashrate)
}

pub(super) fn difficulty(difficulty: &Option<f64>) -> String {
    difficulty.map_or(NONE.into(), format::difficulty)
}

pub(super) fn work(work: &str) -> String {
    work.parse().map_or(NONE.into(), format::work)
}

pub(super) fn percent(part: &u64, whole: &u64) -> String {
    format::percent(*part, *whole)
}

pub(super) fn ago(at_ms: &u64, now_ms: &u64) -> String {
    format::ago(*at_ms, *now_ms)
}

pub(super) fn maybe_ago(at_ms: &Option<u64>, now_ms: &u64) -> String {
    at_ms.map_or("never".into(), |at_ms| format::ago(at_ms, *now_ms))
}

pub(super) fn since(at_ms: &u64, now_ms: &u64) -> String {
    match at_ms {
        0 => NONE.into(),
        at_ms => format::duration(now_ms.saturating_sub(*at_ms)),
    }
}

pub(super) fn moment(at_ms: &u64) -> String {
    format::moment(*at_ms)
}

/// The same for programs, such as the page's script.
pub(super) fn timestamp(at_ms: &u64) -> String {
    format!("{}Z", format::moment(*at_ms).replace(' ', "T"))
}

pub(super) fn bitcoin(satoshi: &Option<u64>) -> String {
    satoshi.map_or(NONE.into(), format::bitcoin)
}

/// The first part of a hash that is not zeros alone, or all of it where it is short.
pub(super) fn short(hash: &str) -> String {
    let rest = hash.trim_start_matches('0');
    match (rest.get(..8), rest.get(rest.len().saturating_sub(6)..)) {
        (Some(begin), Some(end)) if rest.len() > 20 => format!("{begin}…{end}"),
        _ => hash.to_owned(),
    }
}

/// A name whose account, which is often an address or a key, would push all else aside; nothing where it is short enough.
pub(super) fn abridged(name: &str) -> Option<String> {
    const LONGEST: usize = 24;
    let (account, worker) = match name.split_once('.') {
        Some((account, worker)) => (account, Some(worker)),
        None => (name, None),
    };
    if account.chars().count() <= LONGEST {
        return None;
    }
    let chars: Vec<char> = account.chars().collect();
    let (begin, end) = (&chars[..9], &chars[chars.len() - 6..]);
    let mut short: String = begin.iter().chain(&['…']).chain(end).collect();
    if let Some(worker) = worker {
        short.push('.');
        short.push_str(worker);
    }
    Some(short)
}

/// A word and a class for it.
pub(super) fn status(status: &Status) -> (&'static str, &'static str) {
    match status {
        Status::Ready => ("ready", "good"),
        Status::NotReady => ("not ready", "bad"),
        Status::Stale => ("stale", "warn"),
        Status::Down => ("down", "bad"),
        Status::NeverSeen => ("never seen", "bad"),
    }
}

pub(super) fn block_class(state: &str) -> &'static str {
    match state {
        "confirmed" | "accepted" => "good",
        "orphaned" | "refused" => "bad",
        "found" => "warn",
        _ => "none",
    }
}

pub(super) fn health_class(health: &str) -> &'static str {
    match health {
        "healthy" => "good",
        "failing" => "bad",
        _ => "none",
    }
}

/// Where a step of a chart is, in percent.
#[allow(clippy::cast_precision_loss)]
pub(super) fn left(step: &usize, steps: usize) -> String {
    format!("{:.3}", 100.0 * *step as f64 / steps.max(1) as f64)
}

/// How wide one is.
pub(super) fn width(steps: usize) -> String {
    left(&1, steps)
}

/// All counts together.
pub(super) fn sum(counts: &BTreeMap<String, usize>) -> String {
    size(&counts.values().sum())
}

/// Where a peer is shown.
pub(super) fn peer(kind: &Kind, peer: &Peer) -> String {
    let (role, service) = (encoded(&peer.role), encoded(&peer.service));
    format!("{}/{role}/{service}/{}", kind.peers(), peer.id)
}

/// A list's order as it stands in a URL.
pub(super) fn order(list: &List) -> String {
    let minus = if list.descending { "-" } else { "" };
    format!("{minus}{}", list.sort.name())
}

/// The URL of the same list in the order of a column; the other way round where it is in that order already.
pub(super) fn ordered(path: &str, list: &List, sort: &Sort) -> String {
    let descending = if list.sort == *sort {
        !list.descending
    } else {
        *sort != Sort::Name
    };
    let list = List {
        sort: *sort,
        descending,
        page: 1,
        ..list.clone()
    };
    href(path, &list)
}

/// The URL of another page of the same list.
pub(super) fn turned(path: &str, list: &List, page: usize) -> String {
    let list = List {
        page,
        ..list.clone()
    };
    href(path, &list)
}

pub(super) fn href(path: &str, list: &List) -> String {
    let mut url = format!("{path}?sort={}", order(list));
    if !list.search.is_empty() {
        url.push_str(&format!("&q={}", encoded(&list.search)));
    }
    if let Some(account) = &list.account {
        url.push_str(&format!("&account={}", encoded(account)));
    }
    if list.page > 1 {
        url.push_str(&format!("&page={}", list.page));
    }
    url
}

/// `aria-sort` of a column.
pub(super) fn direction(list: &List, sort: &Sort) -> &'static str {
    match (list.sort == *sort, list.descending) {
        (false, _) => "none",
        (true, true) => "descending",
        (true, false) => "ascending",
    }
}

/// Text as a part of a path or query.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_short_without_its_zeros() {
        let hash = "00000000000000000001a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7";
        assert_eq!(short(hash), "1a2b3c4d…d5e6f7");
        assert_eq!(short("é<b>"), "é<b>");
        assert_eq!(short(&"é".repeat(30)), "éééé…ééé");
    }

    #[test]
    fn a_long_account_leaves_room_for_the_worker() {
        let address = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4";
        assert_eq!(abridged(address).unwrap(), "bc1qw508d…v8f3t4");
        let name = format!("{address}.rig.7");
        assert_eq!(abridged(&name).unwrap(), "bc1qw508d…v8f3t4.rig.7");
        assert_eq!(abridged("alice.rig7"), None);
        assert_eq!(abridged(&"é".repeat(40)).unwrap(), "ééééééééé…éééééé");
    }

    #[test]
    fn text_cannot_leave_its_place_in_a_url() {
        assert_eq!(encoded("a b/../?&\"é"), "a%20b%2F%2E%2E%2F%3F%26%22%C3%A9");
    }

    #[test]
    fn a_column_that_is_sorted_by_turns_round() {
        let list = List::parse(Some("x"), None, Some("3")).unwrap();
        assert_eq!(
            ordered("/workers", &list, &Sort::Hashrate),
            "/workers?sort=hashrate&q=x"
        );
        assert_eq!(
            ordered("/workers", &list, &Sort::Name),
            "/workers?sort=name&q=x"
        );
        assert_eq!(
            turned("/workers", &list, 2),
            "/workers?sort=-hashrate&q=x&page=2"
        );
    }
}

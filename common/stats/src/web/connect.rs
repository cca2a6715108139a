//! What to put into a miner.

use std::net::{IpAddr, SocketAddr};

use qrcode::{Color, QrCode};

use super::model::{Endpoint, Service};

/// A way to connect.
#[derive(Debug)]
pub(super) struct Way {
    /// Whose: role and name of the service.
    pub(super) service: String,
    /// In words.
    pub(super) title: &'static str,
    pub(super) url: String,
    /// What has to be known about the address.
    pub(super) note: Option<&'static str>,
    pub(super) code: Option<Code>,
}

/// A QR code as a path, in a square with a margin.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) side: usize,
    pub(super) path: String,
}

/// All ways of these services. `host` is where this page was asked for, as the browser said.
/// `known` is where miners reach this machine, as the operator said.
pub(super) fn ways(services: &[Service], host: Option<&str>, known: Option<&str>) -> Vec<Way> {
    let host = match known {
        Some(known) => Host::Known(known),
        None => host
            .and_then(without_port)
            .map_or(Host::Unknown, Host::Seen),
    };
    let all = services.iter().flat_map(|service| {
        let of = move |endpoint| way(service, endpoint, host);
        service.endpoints.iter().filter_map(of)
    });
    all.collect()
}

fn way(service: &Service, endpoint: &Endpoint, host: Host<'_>) -> Option<Way> {
    let (title, scheme) = match &*endpoint.protocol {
        "sv1" => ("Stratum V1", "stratum+tcp"),
        "sv1-tls" => ("Stratum V1 over TLS", "stratum+ssl"),
        "sv2-mining" => ("Stratum V2", "stratum2+tcp"),
        _ => return None,
    };
    let (address, note) = reachable(&endpoint.address, host);
    let key = endpoint.authority_public_key.as_ref();
    let key = key.map(|key| format!("/{key}")).unwrap_or_default();
    let url = format!("{scheme}://{address}{key}");
    Some(Way {
        service: format!("{} {}", service.role, service.name),
        title,
        code: code(&url),
        url,
        note,
    })
}

/// The name or address of the machine on which everything runs.
#[derive(Debug, Clone, Copy)]
enum Host<'a> {
    /// The operator said so.
    Known(&'a str),
    /// The page was asked for there.
    Seen(&'a str),
    Unknown,
}

/// The address for a miner. Where the service listens on all addresses of its machine, the one that this page was asked for
/// under is likely to be one of them.
fn reachable(address: &str, host: Host<'_>) -> (String, Option<&'static str>) {
    let Ok(bound) = address.parse::<SocketAddr>() else {
        return (address.to_owned(), None);
    };
    if bound.ip().is_loopback() {
        let note =
            "Only programs on the same machine can connect: listen_address is a loopback address.";
        return (address.to_owned(), Some(note));
    }
    if !bound.ip().is_unspecified() {
        return (address.to_owned(), None);
    }
    let at = |host| format!("{host}:{}", bound.port());
    match host {
        Host::Known(host) => (at(host), None),
        Host::Seen(host) if is_this_machine(host) => {
            let note = "This is for programs on this machine. Others need its name or address in the network in place of the first \
                 part; web.miner_host of this service puts it here.";
            (at(host), Some(note))
        }
        Host::Seen(host) => {
            let note = "It listens on every address of its machine; this is the one under which you see this page.";
            (at(host), Some(note))
        }
        Host::Unknown => {
            let note = "Put the name or address of the machine in place of the first part.";
            (address.to_owned(), Some(note))
        }
    }
}

/// Whether others would find themselves under it.
fn is_this_machine(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The host of a `Host` header, if it can be one.
pub(super) fn without_port(host: &str) -> Option<&str> {
    let end = match host.rfind(']') {
        Some(end) => end + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    let host = host.get(..end)?;
    let possible = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    (!host.is_empty() && host.len() <= 253 && host.chars().all(possible)).then_some(host)
}

fn code(text: &str) -> Option<Code> {
    /// Light modules around it, which readers need.
    const MARGIN: usize = 4;
    let code = QrCode::new(text).ok()?;
    let width = code.width();
    let dark = code.to_colors().into_iter().enumerate();
    let path = dark
        .filter(|(_, color)| *color == Color::Dark)
        .map(|(at, _)| format!("M{} {}h1v1h-1z", at % width + MARGIN, at / width + MARGIN))
        .collect();
    Some(Code {
        side: width + 2 * MARGIN,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_one_that_a_miner_can_reach_where_that_is_known() {
        let seen = |address, host| reachable(address, host).0;
        let (page, known) = (Host::Seen("pool.lan"), Host::Known("10.0.0.9"));
        assert_eq!(seen("10.0.0.7:3333", known), "10.0.0.7:3333");
        assert_eq!(seen("127.0.0.1:3333", known), "127.0.0.1:3333");
        assert_eq!(seen("0.0.0.0:3333", page), "pool.lan:3333");
        assert_eq!(seen("0.0.0.0:3333", known), "10.0.0.9:3333");
        assert_eq!(seen("[::]:3333", Host::Unknown), "[::]:3333");
        let note = |host| reachable("0.0.0.0:3333", Host::Seen(host)).1.unwrap();
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            assert!(note(host).contains("web.miner_host"), "{host}");
        }
        assert!(!note("pool.lan").contains("web.miner_host"));
        assert_eq!(without_port("pool.lan:3030"), Some("pool.lan"));
        assert_eq!(without_port("[2001:db8::1]:3030"), Some("[2001:db8::1]"));
        assert_eq!(without_port("<script>"), None);
        assert_eq!(without_port(""), None);
    }

    #[test]
    fn a_code_has_three_corners_and_a_margin() {
        let code = code("stratum+tcp://10.0.0.7:3333").unwrap();
        assert!(code.side > 21 + 8);
        for corner in [(4, 4), (code.side - 5, 4), (4, code.side - 5)] {
            assert!(code.path.contains(&format!("M{} {}h1", corner.0, corner.1)));
        }
        assert!(!code.path.contains("M3 "));
    }
}

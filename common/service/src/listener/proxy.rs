//! The PROXY protocol, versions 1 and 2 (haproxy.org, `proxy-protocol.txt`): a load balancer says first who really calls.
//!
//! Only a load balancer may say so: whoever could send the header from elsewhere could pick any address.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::Error;

/// The longest header that is read. Addresses need 52 bytes; the rest is for what load balancers add to version 2.
const MAX_HEADER: usize = 1024;

/// Section 2.1: the longest line of version 1, its end included.
const MAX_LINE: usize = 107;

/// Section 2.2: how version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, version with command, family with transport, and length.
const FIXED: usize = 16;

/// Whether connections come through a load balancer, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyProtocol {
    /// Whether each connection begins with a header.
    pub mode: Mode,
    /// Where load balancers call from. Others are refused, if a header is required.
    pub trusted_networks: Vec<Network>,
    /// Time for the header to come.
    pub header_timeout_seconds: u32,
}

impl Default for ProxyProtocol {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            trusted_networks: Vec::new(),
            header_timeout_seconds: 5,
        }
    }
}

impl ProxyProtocol {
    /// Refuses settings with which nobody could ever connect.
    ///
    /// # Errors
    /// [`Error::NobodyTrusted`], or [`Error::ZeroLimit`] naming the key.
    pub fn validate(&self) -> Result<(), Error> {
        if self.mode == Mode::Off {
            return Ok(());
        }
        if self.trusted_networks.is_empty() {
            return Err(Error::NobodyTrusted);
        }
        if self.header_timeout_seconds == 0 {
            return Err(Error::ZeroLimit {
                key: "header_timeout_seconds",
            });
        }
        Ok(())
    }

    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_networks
            .iter()
            .any(|network| network.contains(address))
    }
}

/// Whether connections begin with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// None does.
    #[default]
    Off,
    /// All do.
    Required,
}

/// A network such as `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the address is in it. An IPv4 address that is written as IPv6 is taken for what it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let different = network.to_bits() ^ address.to_bits();
                different.leading_zeros() >= prefix
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let different = network.to_bits() ^ address.to_bits();
                different.leading_zeros() >= prefix
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no network; use one such as 10.0.0.0/8 or 2001:db8::/32");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), |prefix| prefix.parse().map_err(|_| wrong()))?;
        if prefix > longest {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Takes the header off the stream, and nothing after it. Who calls, or `None` if the load balancer speaks for itself.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut header = [0; MAX_HEADER];
    let mut taken = 0;
    loop {
        let present = stream.peek(&mut header[taken..]).await?;
        if present == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let invalid = |problem| io::Error::new(io::ErrorKind::InvalidData, problem);
        match parse(&header[..taken + present]).map_err(invalid)? {
            Parsed::Whole { length, source } => {
                stream.read_exact(&mut header[taken..length]).await?;
                return Ok(source);
            }
            Parsed::Unfinished if taken + present < MAX_HEADER => {
                stream
                    .read_exact(&mut header[taken..taken + present])
                    .await?;
                taken += present;
            }
            Parsed::Unfinished => return Err(invalid("longer than is read")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parsed {
    /// Everything so far belongs to the header, and more of it has to come.
    Unfinished,
    Whole {
        length: usize,
        /// The caller, unless the load balancer speaks for itself or does not know.
        source: Option<SocketAddr>,
    },
}

fn parse(bytes: &[u8]) -> Result<Parsed, &'static str> {
    const LINE: &[u8] = b"PROXY ";
    let begins = |how: &[u8]| {
        let length = bytes.len().min(how.len());
        bytes[..length] == how[..length]
    };
    if begins(SIGNATURE) {
        parse_binary(bytes)
    } else if begins(LINE) {
        parse_line(bytes)
    } else {
        Err("no PROXY header")
    }
}

/// Version 1, section 2.1.
fn parse_line(bytes: &[u8]) -> Result<Parsed, &'static str> {
    let searched = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = searched.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MAX_LINE {
            Ok(Parsed::Unfinished)
        } else {
            Err("PROXY line too long")
        };
    };
    let line = std::str::from_utf8(&searched[..end]).map_err(|_| "PROXY line is no text")?;
    let whole = |source| {
        Ok(Parsed::Whole {
            length: end + 2,
            source,
        })
    };
    let mut words = line.split(' ').skip(1);
    let ip = |address: Option<&str>, v4: bool| -> Option<IpAddr> {
        let address: IpAddr = address?.parse().ok()?;
        (address.is_ipv4() == v4).then_some(address)
    };
    let port = |port: Option<&str>| -> Option<u16> { port?.parse().ok() };
    let v4 = match words.next() {
        Some("UNKNOWN") => return whole(None),
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err("unknown family in the PROXY line"),
    };
    let source = ip(words.next(), v4);
    let destination = ip(words.next(), v4);
    let ports = (port(words.next()), port(words.next()));
    match (source, destination, ports, words.next()) {
        (Some(source), Some(_), (Some(port), Some(_)), None) => {
            whole(Some(SocketAddr::new(source, port)))
        }
        _ => Err("malformed address in the PROXY line"),
    }
}

/// Version 2, section 2.2.
fn parse_binary(bytes: &[u8]) -> Result<Parsed, &'static str> {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        return Ok(Parsed::Unfinished);
    };
    let [.., version_command, family, high, low] = *fixed;
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_HEADER {
        return Err("PROXY header too long");
    }
    let local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err("unknown version or command in the PROXY header"),
    };
    let Some(rest) = bytes.get(FIXED..length) else {
        return Ok(Parsed::Unfinished);
    };
    let source = match family {
        _ if local => None,
        0x11 => Some(read_v4(rest).ok_or("PROXY header too short")?),
        0x21 => Some(read_v6(rest).ok_or("PROXY header too short")?),
        // Not TCP, so nothing that is known here.
        _ => None,
    };
    Ok(Parsed::Whole { length, source })
}

/// Source, destination, and their ports.
fn read_v4(rest: &[u8]) -> Option<SocketAddr> {
    let addresses = rest.first_chunk::<12>()?;
    let source: [u8; 4] = *addresses.first_chunk()?;
    let port = u16::from_be_bytes([addresses[8], addresses[9]]);
    Some(SocketAddr::from((Ipv4Addr::from(source), port)))
}

fn read_v6(rest: &[u8]) -> Option<SocketAddr> {
    let addresses = rest.first_chunk::<36>()?;
    let source: [u8; 16] = *addresses.first_chunk()?;
    let port = u16::from_be_bytes([addresses[32], addresses[33]]);
    Some(SocketAddr::from((Ipv6Addr::from(source), port)))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 1.
    pub(in crate::listener) fn line(source: SocketAddr) -> Vec<u8> {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (ip, port) = (source.ip(), source.port());
        format!("PROXY {family} {ip} {ip} {port} 34255\r\n").into_bytes()
    }

    /// A header of version 2 with something after the addresses.
    pub(in crate::listener) fn binary(source: SocketAddr, more: &[u8]) -> Vec<u8> {
        let (family, ip) = match source.ip() {
            IpAddr::V4(ip) => (0x11, ip.octets().to_vec()),
            IpAddr::V6(ip) => (0x21, ip.octets().to_vec()),
        };
        let rest = [&ip, &ip, &source.port().to_be_bytes()[..], &[0, 1], more].concat();
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x21, family], &length, &rest].concat()
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<([u8; 4], u16)>().prop_map(SocketAddr::from);
        let v6 = any::<([u8; 16], u16)>()
            .prop_map(|(ip, port)| SocketAddr::from((Ipv6Addr::from(ip), port)));
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn a_header_is_read_whole_however_it_is_split_and_whatever_follows(
            source in address(),
            more in proptest::collection::vec(any::<u8>(), 0..200),
            after in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            for header in [line(source), binary(source, &more)] {
                for split in 1..header.len() {
                    prop_assert_eq!(parse(&header[..split]), Ok(Parsed::Unfinished));
                }
                let length = header.len();
                let sent = [header, after.clone()].concat();
                prop_assert_eq!(parse(&sent), Ok(Parsed::Whole { length, source: Some(source) }));
            }
        }

        #[test]
        fn no_bytes_make_it_panic_or_read_beyond_its_bound(
            mut bytes in proptest::collection::vec(any::<u8>(), 1..2000),
            start in prop_oneof![Just(&b""[..]), Just(&b"PROXY TCP4 "[..]), Just(&SIGNATURE[..])],
        ) {
            bytes.splice(..0, start.iter().copied());
            match parse(&bytes) {
                Ok(Parsed::Whole { length, .. }) => prop_assert!(length <= MAX_HEADER && length <= bytes.len()),
                Ok(Parsed::Unfinished) => prop_assert!(bytes.len() < MAX_HEADER),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn a_load_balancer_may_speak_for_itself() {
        let local = [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
        for (header, length) in [(&local[..], 16), (b"PROXY UNKNOWN\r\n", 15)] {
            let source = None;
            assert_eq!(parse(header), Ok(Parsed::Whole { length, source }));
        }
    }

    #[test]
    fn what_is_no_header_is_an_error_at_once() {
        let short = [&SIGNATURE[..], &[0x21, 0x11, 0, 3, 1, 2, 3]].concat();
        let version = [&SIGNATURE[..], &[0x31, 0x11, 0, 0]].concat();
        let long = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        for bytes in [
            b"{",
            &b"PROXY TCP4 ::1 ::1 1 2\r\n"[..],
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            &short,
            &version,
            &long,
            &endless,
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_other() {
        let holds = |network: &str, address: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.6"));
        assert!(holds("0.0.0.0/0", "192.0.2.7") && !holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1") && !holds("2001:db8::/32", "2001:db9::1"));
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "host", "1.2.3.4/"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}

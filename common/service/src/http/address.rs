//! Where the HTTP server listens, if it does.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address, or `"off"`. A file cannot say "nothing" otherwise, because a key that is absent has its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// No HTTP server.
    Off,
    /// Listen there; port 0 takes a free one.
    At(SocketAddr),
}

impl Address {
    /// A port of the loopback interface: what a role says is for this machine unless it is configured otherwise.
    #[must_use]
    pub const fn loopback(port: u16) -> Self {
        Self::At(SocketAddr::new(
            std::net::IpAddr::V4(Ipv4Addr::LOCALHOST),
            port,
        ))
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse()
            .map(Self::At)
            .map_err(|_| format!("{text:?} is neither an IP address with a port nor \"off\""))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

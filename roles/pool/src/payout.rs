//! The script that a coinbase pays.

use std::str::FromStr;

use bitcoin::{Address, Network, ScriptBuf, address::NetworkUnchecked};
use miniscript::{
    Descriptor,
    descriptor::{DefiniteDescriptorKey, checksum::desc_checksum},
};

use crate::Error;

/// A payout as configured: the network that an address belongs to is not known before the node is.
#[derive(Debug, Clone)]
pub(crate) enum Payout {
    Address(Address<NetworkUnchecked>),
    Descriptor(Box<Descriptor<DefiniteDescriptorKey>>),
}

/// Reads an address or an output descriptor.
pub(crate) fn parse(text: &str) -> Result<Payout, Error> {
    let text = text.trim();
    if text.is_empty() {
        return Err(wrong(
            "set the address or output descriptor that blocks are to pay".to_owned(),
        ));
    }
    if let Some(inner) = text.strip_prefix("addr(") {
        let (inner, checksum) = inner.split_once(')').unwrap_or((inner, ""));
        let right = desc_checksum(&format!("addr({inner})")).ok();
        if checksum.is_empty() || checksum.strip_prefix('#') == right.as_deref() {
            return address(inner);
        }
        return Err(wrong("the descriptor's checksum does not match".to_owned()));
    }
    if text.contains('(') {
        return Descriptor::from_str(text)
            .map(|descriptor| Payout::Descriptor(Box::new(descriptor)))
            .map_err(|error| {
                wrong(format!(
                    "not an output descriptor with one definite script: {error}"
                ))
            });
    }
    address(text)
}

fn address(text: &str) -> Result<Payout, Error> {
    Address::from_str(text)
        .map(Payout::Address)
        .map_err(|error| wrong(format!("not a Bitcoin address: {error}")))
}

impl Payout {
    /// The script to pay on this network.
    pub(crate) fn script(&self, network: Network) -> Result<ScriptBuf, Error> {
        match self {
            Self::Descriptor(descriptor) => Ok(descriptor.script_pubkey()),
            Self::Address(address) => address
                .clone()
                .require_network(network)
                .map(|address| address.script_pubkey())
                .map_err(|_| {
                    wrong(format!(
                        "the address is for another network than {network}, which the template source works on"
                    ))
                }),
        }
    }
}

fn wrong(problem: String) -> Error {
    Error::Config {
        key: "payout",
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGTEST: &str = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";

    #[test]
    fn an_address_pays_on_its_own_network_only() {
        let payout = parse(REGTEST).unwrap();
        let script = payout.script(Network::Regtest).unwrap();
        assert!(script.is_p2wpkh());
        let error = payout.script(Network::Bitcoin).unwrap_err();
        assert!(error.to_string().contains("bitcoin"), "{error}");
        let wrapped = parse(&format!("addr({REGTEST})")).unwrap();
        assert_eq!(wrapped.script(Network::Regtest).unwrap(), script);
    }

    #[test]
    fn a_descriptor_pays_on_every_network() {
        let key = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        let payout = parse(&format!("wpkh({key})")).unwrap();
        let script = payout.script(Network::Bitcoin).unwrap();
        assert_eq!(script, payout.script(Network::Regtest).unwrap());
        assert!(script.is_p2wpkh());
    }

    #[test]
    fn what_pays_nobody_is_refused_with_a_reason() {
        let ranged = "wpkh(xpub6CUGRUonZSQ4TWtTMmzXdrXDtypWKiKrhko4egpiMZbpiaQL2jkwSB1icqYh2cfDfVxdx4df189oLKnC5fSwqPfgyP3hooxujYzAu3fDVmz/*)";
        let unchecked = format!("addr({REGTEST})#qqqqqqqq");
        for bad in ["", &unchecked, "bcrt1qnonsense", "wpkh(nothing)", ranged] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("payout: "), "{bad}: {error}");
        }
    }
}

//! Who may open channels, and whom their blocks pay.

use std::{collections::HashSet, fs, path::PathBuf, str::FromStr};

use bitcoin::{Address, Network, ScriptBuf, address::NetworkUnchecked};
use serde::{Deserialize, Serialize};
use stratum_core::mining_sv2::ERROR_CODE_OPEN_MINING_CHANNEL_INVALID_USER_IDENTITY as NOT_ACCEPTED;

use crate::{Error, acknowledge::Owner};

/// What an identity starts with that wants to be paid by its own blocks, or not at all.
const SOLO: &str = "solo/";

/// Answers to an `OpenMiningChannel` that the protocol has no code for.
const ANOTHER_NETWORK: &str = "address-of-another-network";
const INVALID_ADDRESS: &str = "invalid-address";
const SOLO_NOT_ALLOWED: &str = "solo-not-allowed";

/// The `[accounts]` table of the configuration; `config/pool.toml` documents each key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountsConfig {
    /// Which accounts may open channels.
    pub accept: Accept,
    /// The accounts, where `accept` is `names`.
    pub names: Vec<String>,
    /// A file with further ones, one in a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names_file: Option<PathBuf>,
    /// Whether an account that is an address gets the whole reward of the blocks that its channels find.
    pub solo: bool,
}

/// Which accounts may open channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accept {
    /// Any name.
    #[default]
    Any,
    /// Bitcoin addresses of the template source's network.
    Addresses,
    /// Those that are listed.
    Names,
}

impl AccountsConfig {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let listed = !self.names.is_empty() || self.names_file.is_some();
        if listed && self.accept != Accept::Names {
            return Err(wrong(
                "accounts.accept",
                "names are listed, which count only with \"names\"",
            ));
        }
        if !listed && self.accept == Accept::Names {
            return Err(wrong(
                "accounts.names",
                "nobody could mine: list accounts here or in names_file",
            ));
        }
        Ok(())
    }

    /// The rules, with the file read.
    pub(crate) fn rules(&self) -> Result<Accounts, Error> {
        let mut names = self.names.clone();
        if let Some(path) = &self.names_file {
            let text = fs::read_to_string(path).map_err(|error| {
                let problem = format!("{} cannot be read: {error}", path.display());
                wrong("accounts.names_file", &problem)
            })?;
            let lines = text.lines().map(str::trim);
            names.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
        }
        Ok(Accounts {
            accept: self.accept,
            names: names.iter().map(|name| canonical(name)).collect(),
            solo: self.solo,
        })
    }
}

/// The rules that a user identity is judged by.
#[derive(Debug)]
pub(crate) struct Accounts {
    accept: Accept,
    names: HashSet<String>,
    solo: bool,
}

/// What a user identity turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    Accepted {
        owner: Owner,
        /// Paid by the channel's own blocks; without one, the pool's script is.
        solo: Option<ScriptBuf>,
    },
    /// With the protocol's error code, or where it has none, with ours.
    Refused(&'static str),
    /// It depends on the network, which is not known yet.
    Open,
}

impl Accounts {
    /// Judges `account.worker` or `solo/address.worker`. An address counts only on its own network: nobody is to mine for
    /// coins that they cannot have.
    pub(crate) fn judge(&self, identity: &[u8], network: Option<Network>) -> Judgement {
        let Some(identity) = std::str::from_utf8(identity).ok().map(str::trim) else {
            return Judgement::Refused(NOT_ACCEPTED);
        };
        if identity.chars().any(char::is_control) {
            return Judgement::Refused(NOT_ACCEPTED);
        }
        let (wants_solo, identity) = match identity.strip_prefix(SOLO) {
            Some(rest) => (true, rest),
            None => (false, identity),
        };
        let mut owner = Owner::new(identity);
        if wants_solo && !self.solo {
            return Judgement::Refused(SOLO_NOT_ALLOWED);
        }
        let Ok(address) = Address::<NetworkUnchecked>::from_str(&owner.account) else {
            return if wants_solo || hides_an_address(&owner) {
                Judgement::Refused(INVALID_ADDRESS)
            } else if self.accepts_name(&owner.account) {
                Judgement::Accepted { owner, solo: None }
            } else {
                Judgement::Refused(NOT_ACCEPTED)
            };
        };
        let Some(network) = network else {
            return Judgement::Open;
        };
        let Ok(address) = address.require_network(network) else {
            return Judgement::Refused(ANOTHER_NETWORK);
        };
        // However it was written, it is one account.
        owner.account = address.to_string().into();
        if self.accept == Accept::Names && !self.names.contains(&*owner.account) {
            return Judgement::Refused(NOT_ACCEPTED);
        }
        owner.solo = self.solo;
        Judgement::Accepted {
            owner,
            solo: self.solo.then(|| address.script_pubkey()),
        }
    }

    fn accepts_name(&self, name: &str) -> bool {
        !name.is_empty()
            && match self.accept {
                Accept::Any => true,
                Accept::Addresses => false,
                Accept::Names => self.names.contains(name),
            }
    }
}

/// Whether somebody may have meant an address, and mistyped it or put it where it is not looked for: behind a word, or
/// before another separator than the dot. They would mine for the pool's script and not know it.
fn hides_an_address(owner: &Owner) -> bool {
    let is_address = |piece| Address::<NetworkUnchecked>::from_str(piece).is_ok();
    // A worker may look like anything; only its checksum tells that it is an address.
    pieces(&owner.account).any(|piece| is_address(piece) || looks_like_an_address(piece))
        || pieces(&owner.worker).any(is_address)
}

fn pieces(name: &str) -> impl Iterator<Item = &str> {
    name.split(|letter: char| !letter.is_ascii_alphanumeric())
}

/// Whether the letters and digits are an address's, but perhaps for a few.
fn looks_like_an_address(piece: &str) -> bool {
    const SEGWIT: [&str; 3] = ["bc1", "tb1", "bcrt1"];
    const SHORTEST_SEGWIT: usize = 14;
    let segwit = piece.len() >= SHORTEST_SEGWIT
        && SEGWIT.iter().any(|prefix| {
            piece
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        });
    // Not just a long name: addresses look random.
    let base58 = (26..=35).contains(&piece.len())
        && piece.starts_with(['1', '3', 'm', 'n', '2'])
        && !piece.contains(['0', 'O', 'I', 'l'])
        && piece.contains(|letter: char| letter.is_ascii_digit())
        && piece.contains(|letter: char| letter.is_ascii_lowercase())
        && piece.contains(|letter: char| letter.is_ascii_uppercase());
    segwit || base58
}

/// An account as it is compared and booked; an address can be written in several ways.
fn canonical(name: &str) -> String {
    match Address::<NetworkUnchecked>::from_str(name) {
        Ok(address) => address.assume_checked().to_string(),
        Err(_) => name.to_owned(),
    }
}

fn wrong(key: &'static str, problem: &str) -> Error {
    Error::Config {
        key,
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGTEST: &str = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";
    const MAIN: &str = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4";
    const LEGACY: &str = "mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfn";

    fn rules(accept: Accept, names: &[&str], solo: bool) -> Accounts {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let config = AccountsConfig {
            accept,
            names,
            names_file: None,
            solo,
        };
        config.validate().unwrap();
        config.rules().unwrap()
    }

    fn judged(rules: &Accounts, identity: &str) -> Result<(String, bool), &'static str> {
        match rules.judge(identity.as_bytes(), Some(Network::Regtest)) {
            Judgement::Accepted { owner, solo } => {
                assert_eq!(owner.solo, solo.is_some());
                Ok((owner.to_string(), owner.solo))
            }
            Judgement::Refused(code) => Err(code),
            Judgement::Open => panic!("the network is known"),
        }
    }

    #[test]
    fn an_address_is_paid_by_its_own_blocks_where_that_is_allowed() {
        let allowed = rules(Accept::Any, &[], true);
        let forbidden = rules(Accept::Any, &[], false);
        let expected = |solo| Ok((format!("{REGTEST}.rig.7"), solo));
        let plain = format!("{REGTEST}.rig.7");
        assert_eq!(judged(&allowed, &plain), expected(true));
        assert_eq!(judged(&forbidden, &plain), expected(false));
        let asked = format!("solo/{REGTEST}.rig.7");
        assert_eq!(judged(&allowed, &asked), expected(true));
        assert_eq!(judged(&forbidden, &asked), Err("solo-not-allowed"));
        assert_eq!(
            judged(&allowed, &plain.to_uppercase()).unwrap().0,
            format!("{REGTEST}.RIG.7")
        );
        assert_eq!(judged(&allowed, LEGACY), Ok((LEGACY.to_owned(), true)));
        for name in [
            "alice.rig",
            "minerfarmnorthernhemisphere.1",
            "bc1.rig",
            "alice_1/2.bc1_3",
        ] {
            assert_eq!(judged(&allowed, name), Ok((name.to_owned(), false)));
        }
        let script = match allowed.judge(asked.as_bytes(), Some(Network::Regtest)) {
            Judgement::Accepted { solo, .. } => solo.unwrap(),
            other => panic!("{other:?}"),
        };
        let address = Address::from_script(&script, Network::Regtest).unwrap();
        assert_eq!(address.to_string(), REGTEST);
    }

    #[test]
    fn nobody_mines_for_an_address_that_would_not_get_it() {
        for solo in [true, false] {
            let rules = rules(Accept::Any, &[], solo);
            assert_eq!(judged(&rules, MAIN), Err("address-of-another-network"));
            for mistyped in [
                "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt081.rig",
                "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T",
                "mipcBbFg9gMiCh81Kj8tqqdgoZub1ZJRfm",
            ] {
                assert_eq!(
                    judged(&rules, mistyped),
                    Err("invalid-address"),
                    "{mistyped}"
                );
            }
        }
        for solo in [true, false] {
            let rules = rules(Accept::Any, &[], solo);
            for address in [
                REGTEST,
                MAIN,
                LEGACY,
                "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt081",
            ] {
                for identity in [
                    format!("{address}_rig1"),
                    format!("{address}/rig1"),
                    format!("{address}+rig1.2"),
                    format!("{address} .rig1"),
                    format!("{address}\u{200b}"),
                    format!("Solo/{address}"),
                    format!("Solo/{address}.rig1"),
                    format!("bitcoin:{address}"),
                    format!("sri/solo/{address}/rig"),
                ] {
                    assert_eq!(
                        judged(&rules, &identity),
                        Err("invalid-address"),
                        "{identity}"
                    );
                }
            }
            for identity in [format!("solo.{REGTEST}"), format!("alice.rig-{MAIN}")] {
                assert_eq!(
                    judged(&rules, &identity),
                    Err("invalid-address"),
                    "{identity}"
                );
            }
        }
        let rules = rules(Accept::Any, &[], true);
        for identity in ["solo/alice", "solo/", "solo/.rig"] {
            assert_eq!(
                judged(&rules, identity),
                Err("invalid-address"),
                "{identity}"
            );
        }
        let asked = format!("solo/{MAIN}");
        assert_eq!(judged(&rules, &asked), Err("address-of-another-network"));
    }

    #[test]
    fn an_address_waits_for_the_network_and_a_name_does_not() {
        let rules = rules(Accept::Any, &[], false);
        assert_eq!(rules.judge(REGTEST.as_bytes(), None), Judgement::Open);
        assert_eq!(rules.judge(MAIN.as_bytes(), None), Judgement::Open);
        let name = rules.judge(b"alice.rig", None);
        assert!(
            matches!(name, Judgement::Accepted { solo: None, .. }),
            "{name:?}"
        );
    }

    #[test]
    fn accounts_that_are_not_accepted_are_refused() {
        let any = rules(Accept::Any, &[], false);
        for nobody in ["", ".rig", "  ", "a\nb"] {
            assert_eq!(
                judged(&any, nobody),
                Err("invalid-user-identity"),
                "{nobody:?}"
            );
        }
        assert_eq!(
            any.judge(b"\xff\xfe", None),
            Judgement::Refused(NOT_ACCEPTED)
        );

        let addresses = rules(Accept::Addresses, &[], false);
        assert_eq!(
            judged(&addresses, "alice.rig"),
            Err("invalid-user-identity")
        );
        assert!(judged(&addresses, REGTEST).is_ok());

        let upper = REGTEST.to_uppercase();
        let names = rules(Accept::Names, &["alice", &upper], false);
        assert!(judged(&names, "alice.rig").is_ok());
        assert!(judged(&names, REGTEST).is_ok());
        for other in ["bob", "alice2", LEGACY] {
            assert_eq!(
                judged(&names, other),
                Err("invalid-user-identity"),
                "{other}"
            );
        }
    }

    #[test]
    fn names_come_from_the_configuration_and_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accounts");
        let mut config = AccountsConfig {
            accept: Accept::Names,
            names: vec!["alice".to_owned()],
            names_file: Some(path.clone()),
            solo: false,
        };
        let error = config.rules().unwrap_err().to_string();
        assert!(error.starts_with("accounts.names_file: "), "{error}");
        fs::write(&path, "bob\n\n  carol \n").unwrap();
        let rules = config.rules().unwrap();
        for name in ["alice", "bob", "carol.rig"] {
            assert!(judged(&rules, name).is_ok(), "{name}");
        }
        config.accept = Accept::Any;
        assert!(config.validate().is_err(), "a list that does not count");
        config = AccountsConfig {
            accept: Accept::Names,
            ..AccountsConfig::default()
        };
        assert!(config.validate().is_err(), "nobody could mine");
    }
}

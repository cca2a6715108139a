//! The short names of the environment, by which the relay can be configured without a file.
//!
//! They are under `HASHPOOL_RELAY__...` and over the file; `config/relay.toml` says what each stands for.

use std::path::PathBuf;

use crate::Error;

/// Where pools listen that say nothing else.
const POOL_PORT: u16 = 3333;

/// What short names gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ShortNames {
    /// `CONFIG_FILE`
    pub config_file: Option<PathBuf>,
    /// `LOG_LEVEL`
    pub log_level: Option<String>,
    /// The others: the variable, the key that it stands for, and its value in TOML's notation.
    pub values: Vec<(&'static str, &'static str, String)>,
}

impl ShortNames {
    /// Reads them with `variable`, which gives the value of a variable that is set.
    ///
    /// # Errors
    /// [`Error::Config`] naming the variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let port = |name: &'static str| {
            let Some(text) = set(name) else {
                return Ok(None);
            };
            let port = text.trim().parse::<u16>().map(Some);
            port.map_err(|_| wrong(name, format!("{text:?} is no port")))
        };
        let mut values = Vec::new();
        match (set("POOL_HOST"), port("POOL_PORT")?) {
            (Some(host), port) => {
                let value = pool(&host, port.unwrap_or(POOL_PORT))?;
                values.push(("POOL_HOST", "pools", value));
            }
            (None, Some(_)) => {
                let problem = "is the port of no pool; give POOL_HOST too".to_owned();
                return Err(wrong("POOL_PORT", problem));
            }
            (None, None) => {}
        }
        if let Some(port) = port("BIND_PORT")? {
            values.push(("BIND_PORT", "listen_address", format!("0.0.0.0:{port}")));
        }
        if let Some(port) = port("METRICS_PORT")? {
            values.push(("METRICS_PORT", "http_address", format!("127.0.0.1:{port}")));
        }
        Ok(Self {
            config_file: set("CONFIG_FILE").map(PathBuf::from),
            log_level: set("LOG_LEVEL").map(|level| level_name(&level)),
            values,
        })
    }
}

/// One pool as a list of one.
fn pool(host: &str, port: u16) -> Result<String, Error> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if !host.bytes().all(is_name) {
        return Err(wrong("POOL_HOST", format!("{host:?} is no host name")));
    }
    // An IPv6 address needs brackets before a port.
    let address = if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    Ok(format!("[{{ name = \"pool\", address = \"{address}\" }}]"))
}

/// Levels as other programs write them.
fn level_name(level: &str) -> String {
    match level.to_lowercase().as_str() {
        "warning" => "warn".to_owned(),
        "critical" | "fatal" => "error".to_owned(),
        _ => level.to_owned(),
    }
}

fn wrong(key: &'static str, problem: String) -> Error {
    Error::Config { key, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<ShortNames, Error> {
        ShortNames::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn each_short_name_stands_for_a_key() {
        let names = read(&[
            ("POOL_HOST", "pool.example"),
            ("POOL_PORT", "4444"),
            ("BIND_PORT", "3334"),
            ("METRICS_PORT", "9191"),
            ("LOG_LEVEL", "WARNING"),
            ("CONFIG_FILE", "relay.toml"),
        ])
        .unwrap();
        assert_eq!(names.config_file, Some("relay.toml".into()));
        assert_eq!(names.log_level.as_deref(), Some("warn"));
        let keys: Vec<_> = names.values.iter().map(|value| value.1).collect();
        assert_eq!(keys, ["pools", "listen_address", "http_address"]);
        assert!(names.values[0].2.contains("\"pool.example:4444\""));
        let names = read(&[("POOL_HOST", "2001:db8::1")]).unwrap();
        assert!(names.values[0].2.contains("\"[2001:db8::1]:3333\""));
        assert_eq!(read(&[("POOL_HOST", "")]).unwrap(), ShortNames::default());
    }

    #[test]
    fn a_short_name_with_a_wrong_value_is_named() {
        for (variables, name) in [
            (&[("POOL_PORT", "3333")][..], "POOL_PORT"),
            (&[("BIND_PORT", "high")], "BIND_PORT"),
            (&[("METRICS_PORT", "70000")], "METRICS_PORT"),
            (&[("POOL_HOST", "a\"b")], "POOL_HOST"),
        ] {
            let error = read(variables).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}

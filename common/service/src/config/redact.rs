//! Showing a configuration without what nobody may see.

use serde::Serialize;
use toml::Value;

/// What stands in a secret's place.
const HIDDEN: &str = "(hidden)";

/// Whether the value at `key` must never be printed. A file's path may be: it says where a secret is, not what it is.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    let is = |word: &str| last.contains(word);
    !last.ends_with("_file") && (is("secret") || is("password") || is("passphrase") || is("token"))
}

/// `config` as TOML, with secrets and the passwords in URLs hidden.
///
/// # Errors
/// The serialiser's, for a type that TOML cannot hold.
pub fn to_redacted_toml<T: Serialize>(config: &T) -> Result<String, toml::ser::Error> {
    let mut value = Value::try_from(config)?;
    redact(&mut value);
    toml::to_string_pretty(&value)
}

fn redact(value: &mut Value) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                if is_secret(key) {
                    *value = Value::String(HIDDEN.into());
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::String(text) => {
            *text = without_password(text);
        }
        _ => {}
    }
}

/// `scheme://user:password@host` without the password; any other text as it is.
#[must_use]
pub fn without_password(url: &str) -> String {
    let without = || {
        let (scheme, rest) = url.split_once("://")?;
        // A password may hold any character; better to hide too much.
        let at = rest.rfind('@')?;
        let user = rest[..at].split_once(':')?.0;
        Some(format!("{scheme}://{user}:{HIDDEN}{}", &rest[at..]))
    };
    without().unwrap_or_else(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Config {
        url: &'static str,
        rpc_password: &'static str,
        api_token: Option<&'static str>,
        secret_key_file: &'static str,
        plain: &'static str,
        nested: Nested,
    }

    #[derive(Serialize)]
    struct Nested {
        secret: u32,
    }

    #[test]
    fn no_secret_survives_printing() {
        let text = to_redacted_toml(&Config {
            url: "http://alice:hun@/ter2@127.0.0.1:8332",
            rpc_password: "hunter2",
            api_token: Some("hunter2"),
            secret_key_file: "data/authority.key",
            plain: "http://127.0.0.1:8332/a:b",
            nested: Nested { secret: 77_777 },
        })
        .unwrap();
        for secret in ["hunter2", "hun@", "ter2", "77777"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        for kept in ["alice", "@127.0.0.1:8332", "data/authority.key", "/a:b"] {
            assert!(text.contains(kept), "{kept} not in {text}");
        }
    }
}

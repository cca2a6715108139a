//! The key that a server proves itself with, in the text form that SV2 URLs and SRI's configurations use.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};
use stratum_core::bitcoin::secp256k1::{Keypair, Secp256k1, SecretKey, XOnlyPublicKey};

/// Version of the public key's text form (SV2 4.7, "URL scheme").
const PUBLIC_KEY_VERSION: [u8; 2] = 1u16.to_le_bytes();

/// The x-only public key of a server's authority; base58check of a version and 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AuthorityPublicKey([u8; 32]);

/// The secret key of a server's authority; base58check of 32 bytes. It is never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AuthoritySecretKey([u8; 32]);

/// Both keys, known to belong together.
#[derive(Clone)]
pub struct Authority {
    secret: AuthoritySecretKey,
    public: AuthorityPublicKey,
}

/// A key's text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base58, or its checksum does not match.
    #[error("not a base58check text: {0}")]
    Text(String),
    /// Another number of bytes than such a key has.
    #[error("a key of this kind has {expected} bytes, this has {actual}")]
    Length {
        /// With its version.
        expected: usize,
        /// As given.
        actual: usize,
    },
    /// Written by a later version of the text form.
    #[error("version {0} of the public key's text form is not known")]
    Version(u16),
    /// Not a point of the curve, or not a scalar of it.
    #[error("the bytes are no key of the curve secp256k1")]
    NotOnCurve,
}

impl AuthorityPublicKey {
    /// 32 bytes, x-only (BIP 340).
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

impl AuthoritySecretKey {
    /// Makes a key from the operating system's randomness.
    pub fn generate() -> Self {
        loop {
            let bytes = rand::random::<[u8; 32]>();
            // All but about 2^-128 of the numbers of 256 bits are scalars of the curve.
            if SecretKey::from_slice(&bytes).is_ok() {
                return Self(bytes);
            }
        }
    }

    /// The text form, for a key file. Named so that no log line prints it by accident.
    pub fn reveal(&self) -> String {
        bs58::encode(self.0).with_check().into_string()
    }

    fn keypair(&self) -> Result<Keypair, KeyError> {
        Keypair::from_seckey_slice(&Secp256k1::signing_only(), &self.0)
            .map_err(|_| KeyError::NotOnCurve)
    }
}

impl Authority {
    /// Derives the public key.
    pub fn new(secret: AuthoritySecretKey) -> Result<Self, KeyError> {
        let (public, _parity) = secret.keypair()?.x_only_public_key();
        Ok(Self {
            public: AuthorityPublicKey(public.serialize()),
            secret,
        })
    }

    /// What clients pin.
    pub fn public(&self) -> AuthorityPublicKey {
        self.public
    }

    pub(crate) fn secret_bytes(&self) -> &[u8; 32] {
        &self.secret.0
    }
}

impl FromStr for AuthorityPublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = decode::<34>(text)?;
        let [low, high, key @ ..] = bytes;
        if [low, high] != PUBLIC_KEY_VERSION {
            return Err(KeyError::Version(u16::from_le_bytes([low, high])));
        }
        XOnlyPublicKey::from_slice(&key).map_err(|_| KeyError::NotOnCurve)?;
        Ok(Self(key))
    }
}

impl FromStr for AuthoritySecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let key = Self(decode(text)?);
        key.keypair()?;
        Ok(key)
    }
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], KeyError> {
    let bytes = bs58::decode(text.trim())
        .with_check(None)
        .into_vec()
        .map_err(|error| KeyError::Text(error.to_string()))?;
    <[u8; N]>::try_from(bytes).map_err(|bytes| KeyError::Length {
        expected: N,
        actual: bytes.len(),
    })
}

impl fmt::Display for AuthorityPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = PUBLIC_KEY_VERSION.to_vec();
        bytes.extend_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).with_check().into_string())
    }
}

impl fmt::Debug for AuthorityPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for AuthoritySecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthoritySecretKey(…)")
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.public)
    }
}

/// A configuration is printed by `--check-config`; the key in it is not.
impl Serialize for AuthoritySecretKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(not shown)")
    }
}

impl From<AuthorityPublicKey> for String {
    fn from(key: AuthorityPublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for AuthorityPublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl TryFrom<String> for AuthoritySecretKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair of SRI's example configurations.
    const PUBLIC: &str = "9auqWEzQDVyd2oe1JVGFLMLHZtCo2FFqZwtKA5gd9xbuEu7PH72";
    const SECRET: &str = "mkDLTBBRxdBv998612qipDYoTK3YUrqLe8uWw7gu3iXbSrn2n";

    #[test]
    fn keys_are_written_as_sri_writes_them() {
        let secret: AuthoritySecretKey = SECRET.parse().unwrap();
        assert_eq!(secret.reveal(), SECRET);
        let authority = Authority::new(secret).unwrap();
        assert_eq!(authority.public().to_string(), PUBLIC);
        assert_eq!(PUBLIC.parse(), Ok(authority.public()));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret: AuthoritySecretKey = SECRET.parse().unwrap();
        let authority = Authority::new(secret.clone()).unwrap();
        assert!(!format!("{secret:?} {authority:?}").contains(SECRET));
    }

    #[test]
    fn a_text_that_is_no_key_says_why() {
        let altered = PUBLIC.replace('9', "8");
        assert!(matches!(
            altered.parse::<AuthorityPublicKey>(),
            Err(KeyError::Text(_))
        ));
        assert!(matches!(
            SECRET.parse::<AuthorityPublicKey>(),
            Err(KeyError::Length { .. })
        ));
        let later = bs58::encode([&[2, 0][..], &[1; 32]].concat())
            .with_check()
            .into_string();
        assert_eq!(
            later.parse::<AuthorityPublicKey>(),
            Err(KeyError::Version(2))
        );
    }

    #[test]
    fn a_generated_key_is_one() {
        let secret = AuthoritySecretKey::generate();
        assert_eq!(secret.reveal().parse(), Ok(secret));
    }
}

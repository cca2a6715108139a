//! What an operator can say about pages and API.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service::http::Address;

use super::connect;
use crate::Token;
use crate::auth::Guard;

/// Who sees the pages, and where they lead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    /// The secret that browsers give as password, and programs as bearer token; for the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// File with that secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Whether anybody may see everything where other machines can connect.
    pub open: bool,
    /// Where an explorer shows a block, with `{hash}` in it; empty for no links. The network's explorer if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_url: Option<String>,
    /// The name or address under which miners reach this machine; the one under which a page is asked for if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub miner_host: Option<String>,
}

impl WebConfig {
    /// Checks what can be checked without files.
    ///
    /// # Errors
    /// The key and what is wrong with it.
    pub(crate) fn validate(&self, address: Address) -> Result<(), (&'static str, &'static str)> {
        let has_token = self.token.is_some() || self.token_file.is_some();
        if self.token.is_some() && self.token_file.is_some() {
            return Err(("web.token", "set either this or web.token_file"));
        }
        if self.token.as_ref().is_some_and(|t| t.reveal().is_empty()) {
            return Err(("web.token", "is empty"));
        }
        if let Address::At(address) = address
            && !address.ip().is_loopback()
            && !has_token
            && !self.open
        {
            let problem = "has to be set where other machines can connect; or web.token_file, or web.open = true to show \
                 everything to everybody";
            return Err(("web.token", problem));
        }
        if let Some(host) = &self.miner_host
            && connect::without_port(host) != Some(host)
        {
            return Err((
                "web.miner_host",
                "must be a name or an address, IPv6 in brackets, without scheme and port",
            ));
        }
        let scheme = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        match self.block_url.as_deref() {
            None | Some("") => Ok(()),
            Some(url) if scheme(url) && url.contains("{hash}") => Ok(()),
            Some(_) => Err((
                "web.block_url",
                "must begin with https:// or http:// and have {hash} in it",
            )),
        }
    }

    pub(crate) fn guard(&self) -> Result<Guard, String> {
        let token = match &self.token_file {
            Some(file) => Some(Token::read(file)?),
            None => self.token.clone(),
        };
        Ok(Guard::new(token))
    }
}

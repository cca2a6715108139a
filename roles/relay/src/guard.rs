//! Who may work: lines of miners are held until it is sure that they name nobody else.
//!
//! Where everybody may work there is no guard, and no line is held. Where there is one, only whole lines are passed on, and
//! only those that can be read in one way: what a pool might understand otherwise than this relay could name anybody.

use std::fmt;
use std::sync::Arc;

use stratum_v1::{Fault, Method, Text, parse_request_strictly};

use crate::pattern::Pattern;

/// Names that may work.
#[derive(Debug)]
pub(crate) struct AllowList(Vec<Pattern>);

impl AllowList {
    /// None if everybody may.
    pub(crate) fn new(names: &[Pattern]) -> Option<Arc<Self>> {
        (!names.is_empty()).then(|| Arc::new(Self(names.to_vec())))
    }

    fn allows(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.fits(name))
    }
}

/// Guards one connection.
#[derive(Debug)]
pub(crate) struct Guard {
    allowed: Arc<AllowList>,
    /// The last name that may work, which most shares have.
    last: Option<Box<str>>,
    /// A line that has not ended.
    unfinished: Vec<u8>,
    max_line: usize,
}

/// Why a line is not passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It names somebody who is not on the list.
    Unlisted {
        /// The request's id, as JSON.
        id: String,
        name: String,
    },
    /// It cannot be read.
    Unreadable(Fault),
    /// It is longer than lines that are looked at.
    TooLong,
}

impl Refusal {
    /// Its name in metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unlisted { .. } => "worker-not-allowed",
            Self::Unreadable(_) => "unreadable-line",
            Self::TooLong => "oversized-line",
        }
    }

    /// The id to answer to, as JSON.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Unlisted { id, .. } => id,
            Self::Unreadable(_) | Self::TooLong => "null",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlisted { name, .. } => write!(f, "worker {name:?} may not work here"),
            Self::Unreadable(fault) => write!(f, "a line that cannot be read: {fault}"),
            Self::TooLong => f.write_str("a line that is too long to be read"),
        }
    }
}

impl Guard {
    pub(crate) fn new(allowed: Arc<AllowList>, max_line: usize) -> Self {
        Self {
            allowed,
            last: None,
            unfinished: Vec::new(),
            max_line,
        }
    }

    /// Appends to `out` what may be passed on of all that has come: the whole lines before the first that may not.
    pub(crate) fn admit(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.unfinished.is_empty() {
                self.judge(line)?;
                out.extend_from_slice(line);
            } else {
                let mut whole = std::mem::take(&mut self.unfinished);
                whole.extend_from_slice(line);
                self.judge(&whole)?;
                out.extend_from_slice(&whole);
            }
        }
        if self.unfinished.len() + bytes.len() > self.max_line {
            return Err(Refusal::TooLong);
        }
        self.unfinished.extend_from_slice(bytes);
        Ok(())
    }

    fn judge(&mut self, line: &[u8]) -> Result<(), Refusal> {
        if line.len() > self.max_line + 1 {
            return Err(Refusal::TooLong);
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let request =
            parse_request_strictly(line).map_err(|error| Refusal::Unreadable(error.fault))?;
        let name = match request.method {
            Method::Submit(submit) => submit.worker,
            Method::Authorize { user, .. } => user,
            _ => return Ok(()),
        };
        self.check(name, request.id.json())
    }

    fn check(&mut self, name: Text<'_>, id: &str) -> Result<(), Refusal> {
        if self.last.as_deref().is_some_and(|last| name == *last) {
            return Ok(());
        }
        let name = name.decode();
        // A pool written in C may take a name to end where a NUL is.
        if name.contains(char::is_control) || !self.allowed.allows(&name) {
            return Err(Refusal::Unlisted {
                id: id.to_owned(),
                name: name.into_owned(),
            });
        }
        self.last = Some(name.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guard() -> Guard {
        let allowed = AllowList::new(&[Pattern::new("acme.*")]).unwrap();
        Guard::new(allowed, 200)
    }

    const SUBSCRIBE: &str = "{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[]}\n";

    fn authorize(name: &str) -> String {
        format!("{{\"id\":\"a\",\"method\":\"mining.authorize\",\"params\":[\"{name}\",\"x\"]}}\n")
    }

    fn submit(name: &str) -> String {
        format!(
            "{{\"id\":4,\"method\":\"mining.submit\",\"params\":[\"{name}\",\"1\",\"00\",\"00000000\",\"00000000\"]}}\n"
        )
    }

    proptest! {
        #[test]
        fn lines_pass_until_one_names_somebody_else_however_they_are_cut(cuts in prop::collection::vec(0usize..60, 0..30)) {
            let good = [SUBSCRIBE, &authorize("acme.1"), &submit("acme.1"), "\r\n", &submit("acme.2")].concat();
            let stream = good.clone() + &authorize("other") + SUBSCRIBE;
            let (mut guard, mut out, mut rest) = (guard(), Vec::new(), stream.as_bytes());
            let mut refusal = Ok(());
            for cut in cuts.into_iter().chain([stream.len()]) {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                rest = later;
                refusal = guard.admit(now, &mut out);
                if refusal.is_err() {
                    break;
                }
            }
            prop_assert_eq!(String::from_utf8(out).unwrap(), good);
            prop_assert_eq!(refusal, Err(Refusal::Unlisted { id: "\"a\"".into(), name: "other".into() }));
        }
    }

    #[test]
    fn no_line_that_a_pool_could_read_otherwise_passes() {
        for line in [
            "not json\n".to_owned(),
            "{\"id\":[1],\"method\":\"mining.authorize\",\"params\":[\"other\"]}\n".to_owned(),
            "{\"id\":1,\"method\":\"mining.\\u0061uthorize\",\"params\":[\"other\"]}\n".to_owned(),
            "{\"id\":1,\"method\":\"mining.submit\",\"params\":[\"acme.1\"]}\n".to_owned(),
            authorize(&"a".repeat(300)),
            "x".repeat(201),
            authorize("acme"),
            authorize("\\u0061cme"),
            authorize("evil\\u0000acme.1").replace("evil", "acme.1"),
            r#"{"id":1,"method":"mining.authorize","params":["acme.1","x"],"p\u0061rams":["evil","x"]}"#.to_owned() + "\n",
            r#"{"id":1,"method":"mining.authorize","params":["acme.1","x"],"Params":["evil","x"]}"#.to_owned() + "\n",
            r#"{"id":1,"method":"mining.authorize","params":["acme.1","x"],"paramſ":["evil","x"]}"#.to_owned() + "\n",
            r#"{"id":1,"method":"mining.authorize","params":["evil","x"],"params":["acme.1","x"]}"#.to_owned() + "\n",
            r#"{"id":1,"id":2,"method":"mining.authorize","params":["acme.1","x"]}"#.to_owned() + "\n",
            r#"{"id":1,"method":"mining.ping","method":"mining.authorize","params":["acme.1","x"]}"#.to_owned() + "\n",
            r#"{"id":1,"result":null,"m\u0065thod":"mining.authorize","params":["evil","x"]}"#.to_owned() + "\n",
            r#"{"id":1,"result":null,"method":null,"params":["evil","x"]}"#.to_owned() + "\n",
            r#"{"id":1,"result":null,"command":"mining.authorize"}"#.to_owned() + "\n",
            r#"{"id":1,"method":"Mining.authorize","params":["evil","x"]}"#.to_owned() + "\n",
            r#"{"id":1,"method":" mining.submit","params":["evil","x"]}"#.to_owned() + "\n",
            r#"{"id":1,"method":"mining.authorized","params":["evil","x"]}"#.to_owned() + "\n",
        ] {
            let mut out = Vec::new();
            assert!(guard().admit(line.as_bytes(), &mut out).is_err(), "{line}");
            assert!(out.is_empty());
        }
        let mut out = Vec::new();
        guard()
            .admit(authorize("\\u0061cme.1").as_bytes(), &mut out)
            .unwrap();
        assert!(!out.is_empty());
        for line in [
            r#"{"id":1,"method":"mining.ping","worker":"acme.1","jsonrpc":"2.0"}"#,
            r#"{"id":1,"result":true,"error":null,"jsonrpc":"2.0"}"#,
            r#"{"id":1,"method":"mining.whatever","params":[]}"#,
        ] {
            let line = format!("{line}\n");
            guard().admit(line.as_bytes(), &mut out).unwrap();
            assert!(out.ends_with(line.as_bytes()));
        }
    }
}

//! Who may see pages and API: those who know the secret, if there is one.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use crate::Token;

/// The secret, to compare with. Without one all may see everything.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Option<Token>>);

impl Guard {
    /// Lets in who says this; all if there is none.
    #[must_use]
    pub fn new(token: Option<Token>) -> Self {
        Self(Arc::new(token))
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &*self.0 else { return true };
        let said = headers.get(AUTHORIZATION).and_then(secret);
        // In a time that does not tell how much of it was right.
        said.is_some_and(|said| said.ct_eq(token.reveal().as_bytes()).into())
    }
}

/// A bearer token, or the password of HTTP basic authentication, whatever the user's name is.
fn secret(value: &axum::http::HeaderValue) -> Option<Vec<u8>> {
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

/// To be asked before each request: answers 401 to those who are not let in.
pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    if guard.admits(request.headers()) {
        return next.run(request).await;
    }
    let ask = [(
        WWW_AUTHENTICATE,
        "Basic realm=\"Hashpool\", charset=\"UTF-8\"",
    )];
    (StatusCode::UNAUTHORIZED, ask, "The password is needed.\n").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(guard: &Guard, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        guard.admits(&headers)
    }

    #[test]
    fn who_knows_the_secret_is_let_in_by_either_way() {
        let guard = Guard::new(Some(Token::from("se:cret")));
        assert!(!guard.admits(&HeaderMap::new()));
        assert!(admits(&guard, "Bearer se:cret"));
        assert!(admits(
            &guard,
            &format!("basic {}", STANDARD.encode("anna:se:cret"))
        ));
        for wrong in [
            "Bearer",
            "Bearer secret",
            "Basic se:cret",
            "Digest se:cret",
            "Basic ",
        ] {
            assert!(!admits(&guard, wrong), "{wrong}");
        }
        assert!(!admits(
            &guard,
            &format!("Basic {}", STANDARD.encode("se:cret"))
        ));
    }

    #[test]
    fn without_a_secret_all_are_let_in() {
        assert!(Guard::new(None).admits(&HeaderMap::new()));
    }
}

//! Who may read the console.
//!
//! With `console.token`, everyone who knows the token: browsers ask for it as the password of any user (RFC 7617),
//! programs send it as a bearer token (RFC 6750). Without it, only this machine, and only while the gateway listens on
//! loopback and has no public address, because behind a proxy every request comes from here. Else there is no console.
//!
//! A website that lets its own name point to 127.0.0.1 (DNS rebinding) is refused by the name in `Host`.

use std::net::IpAddr;

use axum::{
    http::{
        HeaderMap, StatusCode,
        header::{HOST, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use chasqui_http::{
    Peer,
    token::{self, TokenHash},
};
use chasqui_settings::SettingsError;

use crate::Settings;

/// Least bytes of a token: a shorter one can be guessed.
const MIN_TOKEN: usize = 16;

/// Who may read.
#[derive(Debug)]
pub(crate) enum Access {
    /// Every program on this machine.
    ThisMachine,
    /// Those who have the token with this hash.
    Token(TokenHash),
}

impl Access {
    /// As the settings say; `None` where they allow no reader. `is_local`: only this machine can reach the gateway.
    pub(crate) fn of(settings: &Settings, is_local: bool) -> Result<Option<Self>, SettingsError> {
        let key = "console.token";
        match settings.token.read(key)? {
            Some(token) if token.expose().len() < MIN_TOKEN => {
                Err(SettingsError::invalid(key, format!("is shorter than {MIN_TOKEN} characters")))
            }
            Some(token) => Ok(Some(Access::Token(token::hash(token.expose())))),
            None if is_local => Ok(Some(Access::ThisMachine)),
            None => Ok(None),
        }
    }

    /// The answer to those who may not.
    pub(crate) fn refuse(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Option<Response> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match self {
            Access::ThisMachine => {
                let is_here = peer.is_some_and(|Peer(address)| address.ip().is_loopback()) && names_us(header(HOST));
                (!is_here).then(|| (StatusCode::FORBIDDEN, "Open this page as http://127.0.0.1\n").into_response())
            }
            Access::Token(expected) => {
                let is_known =
                    token::bearer_or_password(headers).is_some_and(|token| token::same(&token::hash(&token), expected));
                let ask = [(WWW_AUTHENTICATE, "Basic realm=\"Chasqui\", charset=\"UTF-8\"")];
                (!is_known).then(|| (StatusCode::UNAUTHORIZED, ask, "The password is console.token\n").into_response())
            }
        }
    }
}

/// Whether a `Host` is this machine, by number or as `localhost`.
fn names_us(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header::AUTHORIZATION};
    use base64::{Engine, prelude::BASE64_STANDARD};

    use super::*;

    fn status(access: &Access, peer: &str, name: axum::http::HeaderName, value: &str) -> u16 {
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]);
        let peer = Peer(peer.parse().unwrap());
        access.refuse(Some(&peer), &headers).map_or(200, |response| response.status().as_u16())
    }

    #[test]
    fn on_this_machine_only_this_machine_reads_and_only_by_its_own_name() {
        for (peer, host, expected) in [
            ("127.0.0.1:5", "127.0.0.1:8400", 200),
            ("127.0.0.1:5", "localhost", 200),
            ("[::1]:5", "[::1]:8400", 200),
            ("192.0.2.1:5", "127.0.0.1:8400", 403),
            ("127.0.0.1:5", "rebound.example.com:8400", 403),
            ("127.0.0.1:5", "127.0.0.1.example.com", 403),
            ("127.0.0.1:5", "", 403),
        ] {
            assert_eq!(status(&Access::ThisMachine, peer, HOST, host), expected, "{peer} {host}");
        }
        assert!(Access::ThisMachine.refuse(None, &HeaderMap::new()).is_some());
    }

    #[test]
    fn with_a_token_only_the_token_opens() {
        let access = Access::Token(token::hash("0123456789abcdef"));
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for (given, expected) in [
            ("Bearer 0123456789abcdef".to_owned(), 200),
            (basic("anyone:0123456789abcdef"), 200),
            (basic(":0123456789abcdef"), 200),
            (basic("0123456789abcdef:"), 401),
            (basic("0123456789abcdef"), 401),
            ("Bearer 0123456789abcdeg".to_owned(), 401),
            ("Basic ====".to_owned(), 401),
            ("0123456789abcdef".to_owned(), 401),
            (String::new(), 401),
        ] {
            assert_eq!(status(&access, "127.0.0.1:5", AUTHORIZATION, &given), expected, "{given}");
        }
    }
}

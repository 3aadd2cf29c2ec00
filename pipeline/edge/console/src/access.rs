//! Who may read the console: everyone who knows `console.token`. Browsers ask for it as the password of any user (RFC 7617),
//! programs send it as a bearer token (RFC 6750). Without a token there is no console.
//!
//! Being on this machine opens nothing: a proxy on this machine makes everybody look so. `chasqui up` makes a token for each
//! run and prints a link with it.
//!
//! A browser that knows the password sends it with every request, also with one that another website makes it send. So the
//! routes are guarded by [`Names`](chasqui_http::Names) too.

use axum::{
    http::{HeaderMap, StatusCode, header::WWW_AUTHENTICATE},
    response::{IntoResponse, Response},
};
use chasqui_http::token::{self, TokenHash};
use chasqui_settings::SettingsError;

use crate::Settings;

/// Least bytes of a token: a shorter one can be guessed.
const MIN_TOKEN: usize = 16;

/// Those who have the token with this hash.
#[derive(Debug)]
pub(crate) struct Access(TokenHash);

impl Access {
    /// As the settings say; `None` where they name no token.
    pub(crate) fn of(settings: &Settings) -> Result<Option<Self>, SettingsError> {
        let key = "console.token";
        match settings.token.read(key)? {
            Some(token) if token.expose().len() < MIN_TOKEN => {
                Err(SettingsError::invalid(key, format!("is shorter than {MIN_TOKEN} characters")))
            }
            token => Ok(token.map(|token| Access(token::hash(token.expose())))),
        }
    }

    /// The answer to those who may not.
    pub(crate) fn refuse(&self, headers: &HeaderMap) -> Option<Response> {
        let given = token::bearer_or_password(headers);
        let is_known = given.is_some_and(|token| token::same(&token::hash(&token), &self.0));
        let ask = [(WWW_AUTHENTICATE, "Basic realm=\"Chasqui\", charset=\"UTF-8\"")];
        (!is_known).then(|| (StatusCode::UNAUTHORIZED, ask, "The password is console.token\n").into_response())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header::AUTHORIZATION;
    use base64::{Engine, prelude::BASE64_STANDARD};
    use chasqui_settings::SecretSource;

    use super::*;

    fn access(token: &str) -> Result<Option<Access>, SettingsError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), token).unwrap();
        Access::of(&Settings { token: SecretSource { file: Some(file.path().to_owned()), env: None } })
    }

    #[test]
    fn only_the_token_opens() {
        let access = access("0123456789abcdef\n").unwrap().unwrap();
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for (given, expected) in [
            ("Bearer 0123456789abcdef".to_owned(), true),
            (basic("anyone:0123456789abcdef"), true),
            (basic(":0123456789abcdef"), true),
            (basic("0123456789abcdef:"), false),
            (basic("0123456789abcdef"), false),
            ("Bearer 0123456789abcdeg".to_owned(), false),
            ("Basic ====".to_owned(), false),
            ("0123456789abcdef".to_owned(), false),
            (String::new(), false),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, given.parse().unwrap())]);
            assert_eq!(access.refuse(&headers).is_none(), expected, "{given}");
        }
        assert_eq!(access.refuse(&HeaderMap::new()).unwrap().status(), StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn without_a_token_there_is_no_console_and_a_short_one_is_refused() {
        assert!(Access::of(&Settings { token: SecretSource::default() }).unwrap().is_none());
        assert_eq!(access("0123456789abcde").unwrap_err().key, "console.token");
    }
}

//! Our authentication token: signed seldom, used often.
//!
//! Apple refuses a token older than an hour, and answers `TooManyProviderTokenUpdates` to one younger than 20 minutes
//! that replaces another. So it is signed again after 40, or when Apple says that it has expired.
//!
//! Source: [Establishing a token-based connection to APNs](https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns).

use std::sync::{Mutex, PoisonError};

use chasqui_contract::Answer;
use chasqui_settings::SettingsError;
use jiff::{SignedDuration, Timestamp};
use reqwest::header::HeaderValue;
use serde::Serialize;

use super::Settings;
use crate::{Account, jwt::Signer, push};

/// A token serves this long.
const SERVES: SignedDuration = SignedDuration::from_mins(40);

/// Signs tokens and keeps the last one.
pub(super) struct Tokens {
    signer: Signer,
    key_id: String,
    team_id: String,
    last: Mutex<Option<(Timestamp, HeaderValue)>>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: i64,
}

impl Tokens {
    pub(super) fn new(account: &Account<'_>, settings: &Settings) -> Result<Self, SettingsError> {
        let signer = Signer::es256_pem(account.secret("key", &settings.key)?.expose())
            .map_err(|error| account.invalid("key", error.to_string()))?;
        let (key_id, team_id) = (settings.key_id.clone(), settings.team_id.clone());
        Ok(Tokens { signer, key_id, team_id, last: Mutex::new(None) })
    }

    /// The `Authorization` to use now; never `rejected`, which Apple has called expired. Of many calls that were told
    /// so, one signs.
    pub(super) fn get(&self, now: Timestamp, rejected: Option<&HeaderValue>) -> Result<HeaderValue, Box<Answer>> {
        // Nothing is left half done under this lock.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            // A clock that was set back would send a token from the future.
            Some((signed_at, token)) if (*signed_at..*signed_at + SERVES).contains(&now) && rejected != Some(token) => {
                Ok(token.clone())
            }
            _ => {
                let claims = Claims { iss: &self.team_id, iat: now.as_second() };
                let token = self.signer.sign(Some(&self.key_id), &claims).map_err(Answer::from)?;
                let token = push::credential(&format!("bearer {token}"))?;
                *last = Some((now, token.clone()));
                Ok(token)
            }
        }
    }
}

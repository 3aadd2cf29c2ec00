//! Access tokens for a service account: fetched once for all calls, kept for the hour that they hold.
//!
//! Guarantee: at most one fetch at a time; who waited for one that failed gets its answer and does not fetch as well.
//! A token is replaced in its last five minutes, and serves until then, also where replacing it fails. No message
//! is sent without a token, so that no failure here is ambiguous. A restart fetches anew.
//!
//! Source: [Using OAuth 2.0 for server to server applications](https://developers.google.com/identity/protocols/oauth2/service-account),
//! [RFC 7523](https://www.rfc-editor.org/rfc/rfc7523).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chasqui_contract::{Answer, Clock, Outcome};
use jiff::Timestamp;
use reqwest::{
    Method, Request,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;
use serde_json::Value;
use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::settings::Key;
use crate::{
    http::{Failure, Http, Reply},
    push,
};

/// What we ask to be allowed.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// How long an assertion holds, in seconds: Google's longest.
const ASSERTION_S: i64 = 3_600;
/// A token is replaced when it holds no longer than this.
const EARLY: Duration = Duration::from_secs(5 * 60);
/// A token that holds no longer than this is none: the request has to arrive.
const LATEST: Duration = Duration::from_secs(30);
/// Longest that a token is believed to hold.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Fetches tokens and keeps the last one.
pub(super) struct OAuth {
    key: Key,
    http: Http,
    clock: Arc<dyn Clock>,
    last: Mutex<Option<Token>>,
    /// Held while fetching; the last failure, and when it was known.
    fetching: AsyncMutex<Option<(Instant, Answer)>>,
}

#[derive(Clone)]
struct Token {
    authorization: HeaderValue,
    expires_at: Timestamp,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

impl OAuth {
    pub(super) fn new(key: Key, http: Http, clock: Arc<dyn Clock>) -> Self {
        OAuth { key, http, clock, last: Mutex::new(None), fetching: AsyncMutex::new(None) }
    }

    /// The `Authorization` to use now.
    ///
    /// # Errors
    /// [`Outcome::TryLater`] where the token endpoint is away, [`Outcome::Throttled`] where our own limit leaves no turn, [`Outcome::Misconfigured`] where it refuses the account.
    pub(super) async fn get(&self, deadline: Instant) -> Result<HeaderValue, Answer> {
        let asked = Instant::now();
        if let Some(token) = self.held(EARLY) {
            return Ok(token);
        }
        let usable = self.held(LATEST);
        let mut failure = match &usable {
            Some(token) => match self.fetching.try_lock() {
                Ok(turn) => turn,
                // Somebody is at it.
                Err(_) => return Ok(token.clone()),
            },
            None => tokio::time::timeout_at(deadline, self.fetching.lock())
                .await
                .map_err(|_| later(None, "no token came in time"))?,
        };
        // What somebody else got while this call waited, be it a token or not.
        if let Some(token) = self.held(LATEST).filter(|token| Some(token) != usable.as_ref()) {
            return Ok(token);
        }
        if let Some((known, answer)) = &*failure
            && *known >= asked
            && usable.is_none()
        {
            return Err(answer.clone());
        }
        // Where there is a token, half of the time is left to use it.
        let until = if usable.is_some() { asked + (deadline - asked) / 2 } else { deadline };
        match (self.fetch(until).await, usable) {
            (Ok(token), _) => {
                let authorization = token.authorization.clone();
                *self.last() = Some(token);
                Ok(authorization)
            }
            (Err(_), Some(token)) => Ok(token),
            (Err(answer), None) => {
                *failure = Some((Instant::now(), answer.clone()));
                Err(answer)
            }
        }
    }

    /// Forgets a token that FCM would not take.
    pub(super) fn forget(&self, rejected: &HeaderValue) {
        self.last().take_if(|token| token.authorization == rejected);
    }

    /// The last token, where it holds for longer than this.
    fn held(&self, longer_than: Duration) -> Option<HeaderValue> {
        let now = self.clock.now();
        let last = self.last();
        last.as_ref().filter(|token| token.expires_at > now + longer_than).map(|token| token.authorization.clone())
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Token>> {
        // Nothing is left half done under this lock.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, deadline: Instant) -> Result<Token, Answer> {
        let Key { email, key_id, signer, audience, token_url, .. } = &self.key;
        let now = self.clock.now();
        let iat = now.as_second();
        let claims = Claims { iss: email, scope: SCOPE, aud: audience, iat, exp: iat + ASSERTION_S };
        let assertion = signer.sign(Some(key_id), &claims)?;

        let mut request = Request::new(Method::POST, token_url.clone());
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form);
        // An assertion is base64url and dots: nothing to escape.
        let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
        *request.body_mut() = Some(format!("grant_type={grant}&assertion={assertion}").into());
        match self.http.exchange_by(deadline, request).await {
            Ok(reply) => Ok(token(&reply, now)?),
            Err(Failure::NotSent(words) | Failure::NoAnswer(words)) => Err(later(None, &words)),
            Err(busy @ Failure::Busy(_)) => Err(busy.into()),
        }
    }
}

/// What the token endpoint's answer means.
fn token(reply: &Reply, now: Timestamp) -> Result<Token, Box<Answer>> {
    let body: Value = reply.json();
    let status = reply.status.as_u16();
    let words = body["error_description"].as_str().unwrap_or_default();
    match (status, body["access_token"].as_str()) {
        (200, Some(token)) => {
            let holds = Duration::from_secs(body["expires_in"].as_u64().unwrap_or(3_600)).min(LONGEST);
            Ok(Token { authorization: push::credential(&format!("Bearer {token}"))?, expires_at: now + holds })
        }
        (200 | 408 | 429 | 500.., _) => {
            Err(later(reply.retry_after(now), &format!("the token endpoint answered {status} {words}")).into())
        }
        _ => {
            let code = body["error"].as_str().map_or_else(|| reply.code(), str::to_owned);
            let detail = format!("the token endpoint refuses the service account: {words}");
            Err(Answer::new(Outcome::Misconfigured, code, detail).into())
        }
    }
}

/// There is no access token now.
fn later(after: Option<Duration>, words: &str) -> Answer {
    Answer::new(Outcome::TryLater { after }, "access_token", words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, reply};

    #[test]
    fn every_answer_of_the_token_endpoint_has_its_meaning() {
        let later = Outcome::TryLater { after: None };
        for (status, body, expected, code) in [
            (400, r#"{"error":"invalid_grant","error_description":"x"}"#, Outcome::Misconfigured, "invalid_grant"),
            (401, r#"{"error":"invalid_client"}"#, Outcome::Misconfigured, "invalid_client"),
            (403, "<html>", Outcome::Misconfigured, "403"),
            (404, "", Outcome::Misconfigured, "404"),
            (429, "", later, "access_token"),
            (500, "", later, "access_token"),
            (503, r#"{"error":"internal_failure"}"#, later, "access_token"),
            (200, "<html>", later, "access_token"),
        ] {
            let answer = token(&reply(status, &[], body), at(0)).err().unwrap();
            assert_eq!((answer.outcome, answer.code.as_str()), (expected, code), "{status} {body}");
        }
    }

    #[test]
    fn a_token_holds_as_long_as_told_but_never_for_ever() {
        for (expires_in, expected) in [("3599", 3_599), ("18446744073709551615", 86_400), ("\"soon\"", 3_600)] {
            let body = format!(r#"{{"access_token":"t","expires_in":{expires_in}}}"#);
            let token = token(&reply(200, &[], body), at(0)).ok().unwrap();
            assert_eq!(token.expires_at, at(expected));
            assert!(token.authorization.is_sensitive());
        }
    }
}

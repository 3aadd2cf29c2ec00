//! Google's token endpoint for service accounts, and the access tokens it gave out.
//!
//! Source: "Using OAuth 2.0 for Server to Server Applications", developers.google.com/identity/protocols/oauth2/service-account.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use ring::signature::RSA_PKCS1_2048_8192_SHA256;
use serde_json::{Value, json};

use crate::{
    Accounts,
    exchange::{Accepted, Api, Reply, Request},
    jwt,
    script::{Fault, Trouble},
};

/// How long an access token is good for.
const LIFETIME: Duration = Duration::from_secs(3599);
/// Tokens remembered at most; a client that asks for more does not reuse them.
const MAX_TOKENS: usize = 10_000;
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SCOPES: [&str; 2] =
    ["https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"];

/// Access tokens and when they end. Shared with FCM.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Arc<Mutex<HashMap<String, Instant>>>);

impl Tokens {
    pub(crate) fn valid(&self, token: &str) -> bool {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(token).is_some_and(|end| *end > Instant::now())
    }

    fn add(&self, token: String) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, end| *end > Instant::now());
        if tokens.len() < MAX_TOKENS {
            tokens.insert(token, Instant::now() + LIFETIME);
        }
    }

    /// Every token given out so far is worth nothing from now on.
    pub(crate) fn revoke(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

pub(crate) struct Oauth {
    client_email: String,
    /// This endpoint's own address: the audience of assertions.
    audience: String,
    public_key: Vec<u8>,
    tokens: Tokens,
}

impl Oauth {
    pub(crate) fn new(accounts: &Accounts, url: &str, public_key: Vec<u8>, tokens: Tokens) -> Self {
        let client_email = accounts.fcm_client_email.clone();
        Oauth { client_email, audience: format!("{url}/token"), public_key, tokens }
    }

    fn judge(&self, request: &Request) -> Result<(), Reply> {
        if request.path != "/token" {
            return Err(Reply::empty(404, "404"));
        }
        if request.method != hyper::Method::POST || request.media_type() != "application/x-www-form-urlencoded" {
            return Err(refusal("invalid_request", "POST a form."));
        }
        let form = request.form();
        let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if field("grant_type") != Some(GRANT) {
            return Err(refusal("unsupported_grant_type", "Invalid grant_type"));
        }
        let assertion = field("assertion").ok_or_else(|| refusal("invalid_request", "Missing assertion"))?;
        let token = jwt::read(assertion, "RS256", &RSA_PKCS1_2048_8192_SHA256, &self.public_key)
            .ok_or_else(|| refusal("invalid_grant", "Invalid JWT Signature."))?;
        let claims = &token.claims;
        if claims["iss"] != *self.client_email {
            return Err(refusal("invalid_grant", "Invalid grant: account not found"));
        }
        if claims["aud"] != *self.audience {
            return Err(refusal("invalid_grant", "Invalid JWT: wrong audience."));
        }
        let now = Timestamp::now().as_second();
        let times = claims["iat"].as_i64().zip(claims["exp"].as_i64());
        let right = |(iat, exp): (i64, i64)| iat <= now + 60 && exp > now && exp > iat && exp - iat <= 3600;
        if !times.is_some_and(right) {
            let words = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.";
            return Err(refusal("invalid_grant", words));
        }
        let mut scopes = claims["scope"].as_str().unwrap_or_default().split(' ');
        if !scopes.any(|scope| SCOPES.contains(&scope)) {
            return Err(refusal("invalid_scope", "Invalid OAuth scope or ID token audience provided."));
        }
        Ok(())
    }
}

impl Api for Oauth {
    fn check(&self, request: &Request) -> Result<Accepted, Reply> {
        self.judge(request)?;
        let token = format!("ya29.c.{}", request.hex(48));
        self.tokens.add(token.clone());
        let body = json!({ "access_token": token, "expires_in": LIFETIME.as_secs(), "token_type": "Bearer" });
        Ok(Accepted {
            recipient: self.client_email.clone(),
            delivery_id: String::new(),
            message_id: String::new(),
            echo: Value::Null,
            reply: Reply::json(200, "ok", &body),
        })
    }

    fn fault(&self, fault: &Fault, _: &Request) -> Option<Reply> {
        let reply = match fault.code.as_str() {
            code @ ("invalid_grant" | "invalid_scope") => refusal(code, "As the script says."),
            code @ ("429" | "500" | "503") => {
                Reply::json(code.parse().ok()?, code, &json!({ "error": "internal_failure" }))
            }
            _ => return None,
        };
        Some(reply.retry_after(fault))
    }

    fn code(&self, trouble: Trouble) -> Option<&'static str> {
        Some(match trouble {
            Trouble::Refused | Trouble::Dead => "invalid_grant",
            Trouble::Busy => "429",
            Trouble::Down => "503",
        })
    }
}

fn refusal(error: &str, description: &str) -> Reply {
    Reply::json(400, error, &json!({ "error": error, "error_description": description }))
}

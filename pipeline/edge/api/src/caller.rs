//! Who asks: what a request shows of itself, held against the keys.
//!
//! Guarantee: neither an answer nor its time says whether there is a key of an id. What proves nothing is
//! [`Refused::Unknown`], whatever is wrong with it.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header::ORIGIN};
use chasqui_http::token;
use chasqui_schemas::app::{App, KeyId, Proof, Scope, Scopes};
use jiff::Timestamp;

use crate::keys::{Keys, Known};

/// Who asks, as their key proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose key it is.
    pub app: Arc<App>,
    /// Which key: for the trace.
    pub key: KeyId,
    /// What the key may be used for.
    pub scopes: Scopes,
    /// Whether what is submitted with it ends in the sandbox.
    pub test: bool,
}

/// Why a request is refused for who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not prove who asks.
    #[error("no valid key of an app came with the request: send one as `Authorization: Bearer …`")]
    Unknown,
    /// The key is good, and not for this.
    #[error("the key is not for this")]
    Forbidden,
}

impl Refused {
    /// 401 or 403.
    pub const fn status(self) -> StatusCode {
        match self {
            Refused::Unknown => StatusCode::UNAUTHORIZED,
            Refused::Forbidden => StatusCode::FORBIDDEN,
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750, section 3), which goes with a 401.
    pub const fn challenge(self) -> Option<&'static str> {
        match self {
            Refused::Unknown => Some("Bearer realm=\"chasqui\""),
            Refused::Forbidden => None,
        }
    }
}

impl Caller {
    /// Whether the key is for this.
    ///
    /// # Errors
    /// [`Refused::Forbidden`] where it is not.
    pub fn may(&self, scope: Scope) -> Result<(), Refused> {
        if self.scopes.contains(&scope) { Ok(()) } else { Err(Refused::Forbidden) }
    }
}

/// Who sent a request with these headers.
///
/// # Errors
/// [`Refused::Unknown`] where they prove nobody, [`Refused::Forbidden`] where a web page asks that the app does not name.
pub fn identify(keys: &Keys, headers: &HeaderMap, now: Timestamp) -> Result<Caller, Refused> {
    let shown = token::bearer(headers).ok_or(Refused::Unknown)?;
    let known = api_key(keys, shown).ok_or(Refused::Unknown)?;
    if known.key.expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Err(Refused::Unknown);
    }
    let is_named = |origin: &str| known.app.may.origins.iter().any(|named| named == origin);
    if headers.get_all(ORIGIN).iter().any(|origin| !origin.to_str().is_ok_and(is_named)) {
        return Err(Refused::Forbidden);
    }
    let key = known.id.clone();
    Ok(Caller { app: Arc::clone(&known.app), key, scopes: known.key.scopes.clone(), test: known.key.test })
}

/// The key that `chq_live_<id>_<secret>` or `chq_test_<id>_<secret>` proves.
fn api_key(keys: &Keys, shown: &str) -> Option<Arc<Known>> {
    let (test, rest) = match shown.strip_prefix("chq_live_") {
        Some(rest) => (false, rest),
        None => (true, shown.strip_prefix("chq_test_")?),
    };
    let (id, secret) = rest.split_once('_')?;
    let hash = token::hash(secret);
    let known = keys.find(id);
    // Compared with something where there is nothing, so that it takes as long.
    let stored = match known.as_ref().map(|known| &known.key.proof) {
        Some(Proof::Sha256(stored)) => stored.0,
        _ => [0; 32],
    };
    let proven = token::same(&hash, &stored);
    known.filter(|known| proven && known.key.test == test)
}

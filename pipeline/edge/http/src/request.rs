//! The bound of a request's time, and the answers that many handlers give.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_ENCODING, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

/// A request is answered within this time, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// When to come again after a 503, in seconds.
const COME_AGAIN_S: &str = "5";

/// Bounds a request's time, and says what holds for every answer.
pub async fn bounded(request: Request, next: Next) -> Response {
    let answered = timeout(REQUEST_TIMEOUT, next.run(request)).await;
    let mut response = answered.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response());
    for (name, value) in
        [(CACHE_CONTROL, "no-store"), (REFERRER_POLICY, "no-referrer"), (X_CONTENT_TYPE_OPTIONS, "nosniff")]
    {
        let (name, value): (HeaderName, HeaderValue) = (name, HeaderValue::from_static(value));
        response.headers_mut().insert(name, value);
    }
    response
}

/// Whether a body is compressed, or encoded in another way that we do not read. To take it for what it is not would lose
/// what it says; with 415 ([RFC 9110, 15.5.16](https://www.rfc-editor.org/rfc/rfc9110#section-15.5.16)) it comes again.
pub fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// There is no room now.
pub fn come_again() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, COME_AGAIN_S)]).into_response()
}

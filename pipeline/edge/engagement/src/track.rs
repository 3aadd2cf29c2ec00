//! Pixels, clicks, unsubscriptions: what a token in a link sets going.
//!
//! Guarantee: a request for a pixel is answered with one, whatever its token. A click leads where the link was
//! signed to lead, or nowhere; `links.click_days` after the submission, nowhere. Only a `POST` that says what RFC 8058 says
//! unsubscribes, and it is answered when that is stored.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Request, State},
    http::{
        HeaderMap, Method, StatusCode, Uri,
        header::{CONTENT_TYPE, LOCATION, USER_AGENT},
    },
    response::{IntoResponse, Response},
};
use chasqui_http::request::come_again;
use chasqui_links::{Link, Origin};
use chasqui_schemas::{Receipt, ReceiptKind, id, receipt::Actor};
use jiff::{SignedDuration, Timestamp};

use crate::{
    actor::{self, Seen},
    hit::Hit,
    pages,
    routes::App,
};

/// One transparent pixel.
const PIXEL: [u8; 43] = *b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";
/// Maximum bytes of an unsubscription's body: 26 bytes as a form, a few hundred as multipart.
pub(crate) const MAX_BODY: usize = 4 << 10;

/// `GET /t/o/{token}.gif`
pub(crate) async fn pixel(State(app): State<Arc<App>>, request: Request) -> Response {
    let token = last(request.uri());
    if let Some((origin, Link::Open)) = read(&app, token.strip_suffix(".gif").unwrap_or(token)) {
        let now = app.now();
        let seen = seen(&request, age(&origin, now), false);
        offer(&app, hit(&app, ReceiptKind::Opened, &origin, now, actor::judge(&seen), None));
    }
    ([(CONTENT_TYPE, "image/gif")], PIXEL).into_response()
}

/// `GET /t/c/{token}`
pub(crate) async fn click(State(app): State<Arc<App>>, request: Request) -> Response {
    let Some((origin, Link::Click { link, target })) = read(&app, last(request.uri())) else {
        return pages::missing();
    };
    let now = app.now();
    // The older a link, the more likely it is that somebody else has the host that it leads to.
    let days = app.links.as_ref().map_or(0, chasqui_links::Links::click_days);
    let age = age(&origin, now);
    if age > SignedDuration::from_hours(24 * i64::from(days)) {
        return pages::missing();
    }
    let burst = app.clicks.is_burst(origin.delivery_id, link, now);
    let seen = seen(&request, age, burst);
    let detail = Some(format!("link-{link}"));
    offer(&app, hit(&app, ReceiptKind::Clicked, &origin, now, actor::judge(&seen), detail));
    (StatusCode::FOUND, [(LOCATION, target)]).into_response()
}

/// `GET /t/u/{token}`
pub(crate) async fn confirm(State(app): State<Arc<App>>, uri: Uri) -> Response {
    match read(&app, last(&uri)) {
        Some((_, Link::Unsubscribe(opt_out))) => pages::confirm(&opt_out),
        _ => pages::missing(),
    }
}

/// `POST /t/u/{token}`
pub(crate) async fn unsubscribe(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let Some((origin, Link::Unsubscribe(opt_out))) = read(&app, last(&uri)) else { return pages::missing() };
    if !is_one_click(header(&headers, CONTENT_TYPE.as_str()).unwrap_or_default(), &body) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let mut hit = hit(&app, ReceiptKind::Unsubscribed, &origin, app.now(), Actor::Human, None);
    hit.opt_out = Some(opt_out.clone());
    match app.hits.store(&[hit]).await {
        Ok(()) => pages::done(&opt_out),
        Err(_) => come_again(),
    }
}

/// Whether a body says `List-Unsubscribe=One-Click`, in either of the two forms that RFC 8058, section 3.2, allows.
fn is_one_click(content_type: &str, body: &[u8]) -> bool {
    let (name, value) = pages::ONE_CLICK;
    if !content_type.trim_start().to_ascii_lowercase().starts_with("multipart/form-data") {
        return form_urlencoded::parse(body).any(|pair| pair == (name.into(), value.into()));
    }
    // One part with one short value: its lines say all there is.
    let Ok(text) = std::str::from_utf8(body) else { return false };
    let mut lines = text.lines().map(str::trim).skip_while(|line| !line.contains(&format!("name=\"{name}\"")));
    lines.by_ref().find(|line| line.is_empty()).is_some() && lines.next() == Some(value)
}

fn read(app: &App, token: &str) -> Option<(Origin, Link)> {
    app.links.as_ref()?.read(token)
}

/// Tokens are made of characters that stand for themselves in a path.
fn last(uri: &Uri) -> &str {
    uri.path().rsplit('/').next().unwrap_or_default()
}

fn seen(request: &Request, age: SignedDuration, burst: bool) -> Seen<'_> {
    /// Headers by which a fetch says that no person looks at it yet.
    const PREFETCH: [&str; 4] = ["purpose", "sec-purpose", "x-purpose", "x-moz"];
    let headers = request.headers();
    let says_so = |name: &&str| {
        let value = header(headers, name).unwrap_or_default().to_ascii_lowercase();
        value.contains("prefetch") || value.contains("preview")
    };
    Seen {
        prefetch: request.method() == Method::HEAD || PREFETCH.iter().any(says_so),
        user_agent: header(headers, USER_AGENT.as_str()),
        age,
        burst,
    }
}

/// How long ago it was submitted, by the notification's id.
fn age(origin: &Origin, now: Timestamp) -> SignedDuration {
    let submitted_at = Timestamp::from_millisecond(id::embedded_ms(origin.notification_id)).unwrap_or_default();
    now.duration_since(submitted_at)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A link outlives what is known of its notification: then nothing is left to report of.
fn offer(app: &App, hit: Hit) {
    if hit.receipt.is_some() {
        app.hits.offer(&hit);
    }
}

fn hit(app: &App, kind: ReceiptKind, origin: &Origin, at: Timestamp, by: Actor, detail: Option<String>) -> Hit {
    let Origin { notification_id, delivery_id, .. } = *origin;
    let is_known = app.check(at).check(None, notification_id, delivery_id).is_ok();
    let receipt = is_known.then(|| Receipt { at: Some(at), detail, ..Receipt::new(notification_id, delivery_id, by) });
    Hit { kind, channel: origin.channel, receipt, opt_out: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_one_click_body_count_and_nothing_else() {
        let form = "application/x-www-form-urlencoded";
        let multipart = "multipart/form-data; boundary=x";
        let part = "--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--\r\n";
        for (content_type, body, expected) in [
            (form, "List-Unsubscribe=One-Click", true),
            ("", "List-Unsubscribe=One-Click", true),
            (form, "a=b&List-Unsubscribe=One%2DClick", true),
            (multipart, part, true),
            ("Multipart/Form-Data; boundary=x", part, true),
            (form, "", false),
            (form, "List-Unsubscribe=", false),
            (form, "list-unsubscribe=one-click", false),
            (form, part, false),
            (multipart, "List-Unsubscribe=One-Click", false),
            (multipart, "name=\"List-Unsubscribe\"\r\n\r\nOther", false),
            (multipart, "name=\"Other\"\r\n\r\nOne-Click", false),
        ] {
            assert_eq!(is_one_click(content_type, body.as_bytes()), expected, "{content_type}: {body}");
        }
        assert!(!is_one_click(multipart, b"\xff"));
    }
}

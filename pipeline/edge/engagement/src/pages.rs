//! What people see: three small pages, without scripts, cookies or anything from elsewhere.

use axum::{
    http::{
        HeaderName, StatusCode,
        header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use chasqui_schemas::OptOut;

/// What RFC 8058, section 3.1, has a mailbox provider post; the form of [`confirm`] posts the same.
pub(crate) const ONE_CLICK: (&str, &str) = ("List-Unsubscribe", "One-Click");

const HEADERS: [(HeaderName, &str); 2] = [
    (CONTENT_TYPE, "text/html; charset=utf-8"),
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
    ),
];

/// The answer to links that are not ours and to paths that never were.
pub(crate) fn missing() -> Response {
    page(StatusCode::NOT_FOUND, "Not found", "<p>There is nothing at this address.</p>")
}

/// Asks whether to unsubscribe. A scanner that follows every link gets no further than this.
pub(crate) fn confirm(opt_out: &OptOut) -> Response {
    let (name, value) = ONE_CLICK;
    let what = what(opt_out);
    let form = format!(
        "<p>Stop {what}?</p>\n<form method=\"post\"><input type=\"hidden\" name=\"{name}\" value=\"{value}\">\
         <button type=\"submit\">Unsubscribe</button></form>"
    );
    page(StatusCode::OK, "Unsubscribe", &form)
}

/// It is done, or will be in a moment.
pub(crate) fn done(opt_out: &OptOut) -> Response {
    page(StatusCode::OK, "You are unsubscribed", &format!("<p>This stops {}.</p>", what(opt_out)))
}

fn what(opt_out: &OptOut) -> String {
    match opt_out {
        OptOut::Category { app, category, .. } => {
            format!("messages of the kind “{}” from {}", escape(category), escape(app))
        }
        OptOut::Address { .. } => "all messages to this address".to_owned(),
    }
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<title>{title}</title>\n\
         <style>body{{font:1.125rem/1.5 system-ui,sans-serif;max-width:32rem;margin:15vh auto;padding:0 1rem}}\
         button{{font:inherit;padding:.5rem 1rem}}</style>\n<main>\n<h1>{title}</h1>\n{body}\n</main>\n</html>\n"
    );
    (status, HEADERS, text).into_response()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        let opt_out = OptOut::Category { app: "a&b".into(), user: "u".into(), category: "<script>\"'".into() };
        assert_eq!(what(&opt_out), "messages of the kind “&lt;script&gt;&quot;&#39;” from a&amp;b");
    }
}

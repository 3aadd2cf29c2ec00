//! Rewrites the links of a message and adds a pixel, so that the gateway sees clicks and opens; makes the link to
//! unsubscribe.
//!
//! Guarantee: a recipient or category without tracking gets the message as it was written. Otherwise every http(s) link
//! of a mail's HTML part goes to the gateway, which redirects to exactly the old target, and a pixel stands at the end
//! of the HTML; nothing else changes. `url` stays as it is: it opens an app, which knows its own links and not ours, and
//! in a mail's text part it would stand beside the body's own. A link stays as it is too where it says
//! `clicktracking="off"` (the attribute that SendGrid reads, for links that an app opens), or where it cannot be rewritten
//! safely: one with characters outside ASCII or with character references that we do not know, one beyond the
//! [`MAX_LINKS`]th, one inside a comment (Outlook's conditional comments included).
//!
//! Pure: a message that is rendered again after a crash has the same links.

use std::{borrow::Cow, cell::Cell};

use chasqui_links::{Links, Origin};
use chasqui_schemas::{
    Channel, Notification, OptOut, bucket::address_key, delivery::Endpoint, record::Suppression, submission::Content,
};
use lol_html::{RewriteStrSettings, element, end, end_tag, html_content::ContentType, rewrite_str};

/// Maximum links of a message that are rewritten. Each makes the HTML some hundred bytes longer, and Gmail cuts a mail at
/// about 100 kB.
const MAX_LINKS: u16 = 200;

/// The attribute by which a link asks to stay as it is: `off`.
const OPT_OUT: &str = "clicktracking";

/// Links to the gateway, for one notification.
pub(crate) struct Tracking<'a> {
    /// `None` where there is no gateway.
    pub(crate) links: Option<&'a Links>,
    /// Whether category and recipient allow it.
    pub(crate) is_allowed: bool,
}

impl Tracking<'_> {
    /// The content, its links rewritten, and with a pixel where it has HTML.
    pub(crate) fn content(&self, origin: &Origin, content: Content) -> Content {
        let Some(links) = self.links.filter(|_| self.is_allowed) else { return content };
        let html = content.html.map(|text| html(links, origin, &text).unwrap_or(text));
        Content { html, ..content }
    }

    /// Where one POST unsubscribes the recipient of a mail (RFC 8058). A user is unsubscribed from the category. An inline
    /// recipient has no preferences, so the address goes to the suppression list. It does not depend on tracking.
    pub(crate) fn unsubscribe_url(
        &self,
        origin: &Origin,
        notification: &Notification,
        endpoint: &Endpoint,
    ) -> Option<String> {
        let is_mandatory = notification.policy.as_ref().is_some_and(|policy| policy.mandatory);
        if origin.channel != Channel::Email || is_mandatory {
            return None;
        }
        let opt_out = match notification.recipient.user() {
            Some(user) => OptOut::Category {
                app: notification.app.clone(),
                user: user.to_owned(),
                category: notification.request.category.clone(),
            },
            None => OptOut::Address {
                key: address_key(endpoint.address.text()),
                reason: Suppression::UNSUBSCRIBE.to_owned(),
            },
        };
        self.links?.unsubscribe(origin, &opt_out)
    }
}

/// The HTML with links rewritten and a pixel; `None` where the rewriter gives up on it.
fn html(links: &Links, origin: &Origin, text: &str) -> Option<String> {
    let pixel = format!(r#"<img src="{}" width="1" height="1" alt="" style="display:block">"#, links.open(origin));
    let next = Cell::new(1);
    // Shared by reference count, because the handler of an end tag must be `'static` while the others borrow.
    let is_placed = std::rc::Rc::new(Cell::new(false));
    let settings = RewriteStrSettings::new()
        .with_strict(false)
        .append_element_content_handler(element!("a[href], area[href]", |element| {
            if element.get_attribute(OPT_OUT).is_some_and(|value| value.trim().eq_ignore_ascii_case("off")) {
                element.remove_attribute(OPT_OUT);
                return Ok(());
            }
            let link = next.get();
            let target = element.get_attribute("href").filter(|_| link <= MAX_LINKS);
            let target = target.as_deref().and_then(|raw| decode(raw.trim()));
            if let Some(rewritten) = target.and_then(|target| links.click(origin, link, &target)) {
                element.set_attribute("href", &rewritten)?;
                next.set(link + 1);
            }
            Ok(())
        }))
        .append_element_content_handler(element!("body", |body| {
            let (pixel, is_placed) = (pixel.clone(), is_placed.clone());
            body.on_end_tag(end_tag!(move |end| {
                if !is_placed.replace(true) {
                    end.before(&pixel, ContentType::Html);
                }
                Ok(())
            }))
        }))
        .append_document_content_handler(end!(|end| {
            if !is_placed.replace(true) {
                end.append(&pixel, ContentType::Html);
            }
            Ok(())
        }));
    rewrite_str(text, settings).ok()
}

/// An attribute's value as a browser reads it; `None` where it holds a character reference that we do not know.
fn decode(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains('&') {
        return Some(raw.into());
    }
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let name = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'#').count();
        let (name, after) = rest.split_at(name);
        if let Some(after) = after.strip_prefix(';') {
            decoded.push(character(name)?);
            rest = after;
        } else if name.is_empty() || !name.starts_with('#') && after.starts_with('=') {
            // A query's `&a=b` is what it looks like. Elsewhere some old names count without a semicolon.
            decoded.push('&');
        } else {
            return None;
        }
    }
    decoded.push_str(rest);
    Some(decoded.into())
}

fn character(name: &str) -> Option<char> {
    let number = match name.strip_prefix('#') {
        Some(digits) => match digits.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => digits.parse(),
        },
        None => {
            return match name {
                "amp" => Some('&'),
                "lt" => Some('<'),
                "gt" => Some('>'),
                "quot" => Some('"'),
                "apos" => Some('\''),
                "sol" => Some('/'),
                "colon" => Some(':'),
                _ => None,
            };
        }
    };
    char::from_u32(number.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_browsers_read_them_or_not_at_all() {
        for (raw, expected) in [
            ("https://x/?a=b", Some("https://x/?a=b")),
            ("https:&#x2f;&#x2F;x&#47;a", Some("https://x/a")),
            ("https://x/?a=b&amp;c=d", Some("https://x/?a=b&c=d")),
            ("https://x/?a=b&c=d", Some("https://x/?a=b&c=d")),
            ("https://x/?a=b&copy=d", Some("https://x/?a=b&copy=d")),
            ("https://x/?a=b&", Some("https://x/?a=b&")),
            ("https://x/?a=b&&c=d", Some("https://x/?a=b&&c=d")),
            ("https://x/?a=&quot;&apos;&lt;&gt;", Some("https://x/?a=\"'<>")),
            ("https://x/?a=&copy;", None),
            ("https://x/?a=b&copy", None),
            ("https://x/?a=b&c", None),
            ("https://x/&#47", None),
            ("https://x/&#xffffff;", None),
            ("https://x/&#;", None),
            ("https://x/?a&averyverylongname=b", Some("https://x/?a&averyverylongname=b")),
        ] {
            assert_eq!(decode(raw).as_deref(), expected, "{raw}");
        }
    }
}

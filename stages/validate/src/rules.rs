//! Checks what a JSON Schema cannot say: relations between fields, sizes of whole objects, addresses, zones. What has several
//! spellings is brought to its normal form on the way.
//!
//! Rules read the raw value, so that they also work on a submission that breaks the schema. A value of the wrong type is
//! passed over here, because the schema reports it.
//!
//! Pure, so a crash changes nothing.

use std::io;

use chasqui_rules::{Permissions, permissions::refused_overrides};
use chasqui_schemas::{
    Channel, Reason,
    normal::{self, Normal},
    submission::{LAST_MOMENT, MAX_BYTES, MAX_CONTENT_BYTES, MAX_DATA_BYTES, MAX_EXTRA_BYTES, MAX_FAN_OUT_BYTES},
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{settings::Allowed, violations::Violations};

type Fields = Map<String, Value>;

/// What bounds a submission besides the contract.
pub(crate) struct Room<'a> {
    pub(crate) allowed: &'a Allowed,
    /// When JetStream stored it.
    pub(crate) stored_at: Timestamp,
}

/// Maximum characters of a category: as `submission.json` says.
const MAX_CATEGORY: usize = 64;

/// Adds every violation of the contract, and brings what is good to its normal form.
pub(crate) fn check(fields: &mut Fields, room: &Room<'_>, violations: &mut Violations) {
    for name in ["idempotency_key", "category", "template", "locale", "collapse_key", "transaction_id"] {
        check_name(fields, "", name, violations);
    }
    if text(fields, "id").is_some_and(|id| id.bytes().all(|b| matches!(b, b'0' | b'-'))) {
        violations.add("id", "must not be the nil UUID");
    }
    settle(fields, "", "locale", normal::locale::normal, violations);
    if !violations.name("category") {
        settle(fields, "", "category", category, violations);
    }
    check_message(fields, room, violations);
    check_times(fields, room, violations);
    check_fan_out(fields, violations);
    for (name, most) in [("data", MAX_DATA_BYTES), ("metadata", MAX_EXTRA_BYTES), ("overrides", MAX_EXTRA_BYTES)] {
        let size = fields.get(name).map_or(0, json_size);
        if size > most {
            violations.add(name, format_args!("takes {size} bytes as JSON; at most {most} are taken"));
        }
    }
    let recipients = fields.get_mut("recipients").and_then(Value::as_array_mut);
    for (index, recipient) in recipients.into_iter().flatten().enumerate() {
        if violations.are_enough() {
            break;
        }
        match recipient {
            Value::String(user) if unprintable(user) => {
                violations.add(format_args!("recipients[{index}]"), NO_CONTROL);
            }
            Value::String(user) if is_blank(user) => {
                violations.add(format_args!("recipients[{index}]"), "must not be blank");
            }
            Value::Object(recipient) => check_recipient(recipient, &format!("recipients[{index}]"), violations),
            _ => {}
        }
    }
}

/// Adds everything that the submission asks for and its app may not do, but for the category, which needs a look-up.
pub(crate) fn check_permissions(fields: &Fields, may: &Permissions, allowed: &Allowed, violations: &mut Violations) {
    if !may.inline {
        for (index, recipient) in fields.get("recipients").and_then(Value::as_array).into_iter().flatten().enumerate() {
            if recipient.as_object().is_some_and(|each| given(each, "email") || given(each, "phone")) {
                let what = "the app may not name addresses, only users";
                violations.add_not_allowed(Reason::InlineNotAllowed, format_args!("recipients[{index}]"), what);
            }
            if violations.are_enough() {
                break;
            }
        }
    }
    let Some(overrides) = fields.get("overrides").and_then(Value::as_object) else { return };
    for (reason, field, what) in refused_overrides(may, overrides, &allowed.vendors, &allowed.schemes) {
        match reason {
            Reason::Invalid => violations.add(field, what),
            reason => violations.add_not_allowed(reason, field, what),
        }
    }
}

const TOO_EXACT: &str = "has more than nine digits after the second's point: leave out the last ones";
const OUT_OF_RANGE: &str = "must lie between 1970 and 2262-04-11T23:47:16Z";
const NO_CONTROL: &str = "control characters are not allowed";

fn check_message(fields: &Fields, room: &Room<'_>, violations: &mut Violations) {
    match (given(fields, "template"), given(fields, "content")) {
        (false, false) => violations.add("submission", "either `template` or `content` is required"),
        (true, true) => violations.add("submission", "give either `template` or `content`, not both"),
        _ => {}
    }
    let Some(content) = fields.get("content").and_then(Value::as_object) else { return };
    let says = |name| {
        let blank = |value: &Value| value.as_str().is_some_and(|text| text.trim().is_empty());
        content.get(name).is_some_and(|value| !value.is_null() && !blank(value))
    };
    let (has_text, has_html) = (says("title") || says("body"), says("html"));
    // Where the category decides on the channels, render leaves out those that show nothing of it.
    let channels = fields.get("channels").and_then(Value::as_array).filter(|channels| !channels.is_empty());
    let by_mail = channels.is_none_or(|channels| channels.iter().any(|channel| channel == Channel::Email.as_str()));
    if !has_text && !has_html {
        violations.add("content", "says nothing: give `title`, `body` or `html`");
    } else if !has_text && !by_mail {
        let what = "has `html` alone, which none of `channels` shows: give `title` or `body`, or ask for `email`";
        violations.add("content", what);
    }
    let size: usize = content.values().filter_map(Value::as_str).map(str::len).sum();
    if size > MAX_CONTENT_BYTES {
        violations.add("content", format_args!("takes {size} bytes; at most {MAX_CONTENT_BYTES} are taken"));
    }
    if let Some(what) = text(content, "url").and_then(|url| room.allowed.schemes.refusal(url)) {
        violations.add("content.url", what);
    }
}

/// Every recipient gets a copy of what all share, at each stage, and for as long as `send_at` says.
fn check_fan_out(fields: &Fields, violations: &mut Violations) {
    let recipients = fields.get("recipients").and_then(Value::as_array).map_or(0, Vec::len);
    // So few copies of the largest submission fit, and nearly all submissions have no more.
    if recipients <= MAX_FAN_OUT_BYTES / MAX_BYTES {
        return;
    }
    let shared = ["content", "data", "metadata", "overrides"].into_iter().filter_map(|name| fields.get(name));
    let shared: usize = shared.map(json_size).sum();
    let together = recipients.saturating_mul(shared);
    if together > MAX_FAN_OUT_BYTES {
        let what = "bytes of content, data, metadata and overrides";
        let at_most = format_args!("{together} together, of {MAX_FAN_OUT_BYTES} at most: send fewer at a time");
        violations.add("recipients", format_args!("{recipients} recipients of {shared} {what} are {at_most}"));
    }
}

fn check_times(fields: &Fields, room: &Room<'_>, violations: &mut Violations) {
    let [send_at, expires_at] = ["send_at", "expires_at"].map(|name| {
        let moment = text(fields, name)?.parse::<Timestamp>();
        // What the schema takes and we cannot read is too exact, or a time beyond all calendars; the schema tells of all else.
        match &moment {
            Err(_) if violations.name(name) => {}
            Err(_) if is_too_exact(text(fields, name)?) => violations.add(name, TOO_EXACT),
            Ok(moment) if (Timestamp::UNIX_EPOCH..=LAST_MOMENT).contains(moment) => {}
            Err(_) | Ok(_) => violations.add(name, OUT_OF_RANGE),
        }
        moment.ok()
    });
    let horizon = room.allowed.send_at_horizon;
    let latest = room.stored_at.checked_add(horizon).unwrap_or(LAST_MOMENT);
    if send_at.is_some_and(|send_at| latest < send_at && send_at <= LAST_MOMENT) {
        let days = horizon.as_hours() / 24;
        violations.add(
            "send_at",
            format_args!("lies more than {days} days ahead (`submissions.max_send_at_days`): send it later"),
        );
    }
    if let (Some(send_at), Some(expires_at)) = (send_at, expires_at)
        && send_at >= expires_at
    {
        violations.add("expires_at", "must be later than `send_at`");
    }
}

/// Whether a time says more than nanoseconds.
fn is_too_exact(time: &str) -> bool {
    let fraction = time.split_once('.').map_or("", |(_, fraction)| fraction);
    fraction.bytes().take_while(u8::is_ascii_digit).count() > 9
}

fn check_recipient(recipient: &mut Fields, path: &str, violations: &mut Violations) {
    let address = given(recipient, "email") || given(recipient, "phone");
    match (given(recipient, "user"), address) {
        (false, false) => violations.add(path, "give `user`, or an address in `email` or `phone`"),
        (true, true) => violations.add(path, "give either `user` or an address, not both"),
        (true, false) => {
            for name in ["locale", "timezone"] {
                if given(recipient, name) {
                    violations
                        .add(format_args!("{path}.{name}"), "only beside an address; a user's own is in `contacts`");
                }
            }
        }
        (false, true) => {}
    }
    let inside = format!("{path}.");
    check_name(recipient, &inside, "user", violations);
    settle(recipient, &inside, "email", normal::mailbox::normal, violations);
    settle(recipient, &inside, "phone", normal::phone::normal, violations);
    settle(recipient, &inside, "locale", normal::locale::normal, violations);
    settle(recipient, &inside, "timezone", normal::zone::normal, violations);
}

/// Names go into headers, subjects, traces and terminals, where a control character could do harm.
fn check_name(fields: &Fields, path: &str, name: &str, violations: &mut Violations) {
    let Some(text) = text(fields, name) else { return };
    if unprintable(text) {
        violations.add(format_args!("{path}{name}"), NO_CONTROL);
    } else if is_blank(text) {
        violations.add(format_args!("{path}{name}"), "must not be blank");
    }
}

/// Puts a field's normal form in its place, so that whatever compares it later compares bytes.
fn settle(fields: &mut Fields, path: &str, name: &str, normal: Normal, violations: &mut Violations) {
    match text(fields, name).map(normal) {
        Some(Ok(normal)) => _ = fields.insert(name.to_owned(), normal.into()),
        Some(Err(problem)) => violations.add(format_args!("{path}{name}"), problem),
        None => {}
    }
}

/// A category in its one spelling, which may be longer than what was written.
fn category(name: &str) -> Result<String, &'static str> {
    let normal = normal::category(name);
    if normal.chars().count() > MAX_CATEGORY { Err("is longer than 64 characters") } else { Ok(normal) }
}

fn given(fields: &Fields, name: &str) -> bool {
    fields.get(name).is_some_and(|value| !value.is_null())
}

/// A field's text. Where the empty text is wrong, the schema says so.
fn text<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str().filter(|text| !text.is_empty())
}

fn is_blank(text: &str) -> bool {
    !text.is_empty() && text.trim().is_empty()
}

fn unprintable(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// Bytes of a value as compact JSON, counted without keeping them.
fn json_size(value: &Value) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting cannot fail, and neither can a value that came from JSON or MessagePack.
    _ = value.serialize(&mut serde_json::Serializer::new(&mut count));
    count.0
}

//! Decides whether a message is the user's.
//!
//! It is if it is for the user, or goes to one of the user's addresses. Messages to others that mention the user, in a
//! text or in a template's variables, are not.
//!
//! Pure, so a crash changes nothing.

use chasqui_schemas::{Delivery, Notification, OptOut, envelope, normal, notification::Recipient, record::Contacts};
use serde_json::Value;

use crate::commands::dead::unpack;

/// The user to look for.
#[derive(Debug)]
pub(super) struct Who {
    user: String,
    /// Mailboxes, phone numbers and device tokens, as they are compared.
    addresses: Vec<String>,
}

impl Who {
    pub(super) fn new(user: &str, contacts: &Contacts) -> Self {
        let tokens = contacts.devices.iter().map(|device| &device.token);
        let addresses = contacts.emails.iter().chain(&contacts.phones).chain(tokens);
        Who { user: user.to_owned(), addresses: addresses.map(|address| comparable(address)).collect() }
    }

    /// Whether the message is the user's; `None` where its bytes cannot be read.
    pub(super) fn is_in(&self, payload: &[u8], opt_out: Option<&str>) -> Option<bool> {
        let wished = opt_out.and_then(|json| serde_json::from_str::<OptOut>(json).ok());
        if let Some(OptOut::Category { user, .. }) = wished
            && user == self.user
        {
            return Some(true);
        }
        if let Ok(notification) = envelope::decode::<Notification>(payload) {
            return Some(self.gets(&notification));
        }
        if let Ok(Delivery { user, endpoint, .. }) = envelope::decode::<Delivery>(payload) {
            return Some(user.as_ref() == Some(&self.user) || self.has(endpoint.address.text()));
        }
        let document = serde_json::from_slice(payload).ok().or_else(|| unpack(payload));
        document.filter(|value: &Value| value.is_object() || value.is_array()).map(|value| self.is_recipient(&value))
    }

    fn gets(&self, notification: &Notification) -> bool {
        let of_inline = match &notification.recipient {
            Recipient::User(user) => return *user == self.user,
            Recipient::Inline(contacts) => contacts.emails.iter().chain(&contacts.phones),
        };
        of_inline.into_iter().any(|address| self.has(address))
    }

    /// Whether a rejected submission names the user: its fields may be spelled either way, and may hold anything.
    fn is_recipient(&self, submission: &Value) -> bool {
        let recipients = submission.get("recipients").and_then(Value::as_array);
        recipients.into_iter().flatten().any(|recipient| {
            let field = |name: &str| recipient.get(name).and_then(Value::as_str);
            let user = recipient.as_str().or_else(|| field("user")).or_else(|| field("userId"));
            user == Some(&self.user)
                || [field("email"), field("phone")].into_iter().flatten().any(|each| self.has(each))
        })
    }

    fn has(&self, address: &str) -> bool {
        self.addresses.contains(&comparable(address))
    }
}

fn comparable(address: &str) -> String {
    normal::address(address)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ada() -> Who {
        let contacts = json!({ "emails": ["ada@example.com"], "phones": ["+15551234567"] });
        Who::new("ada", &serde_json::from_value(contacts).unwrap())
    }

    fn is_in(value: &Value) -> Option<bool> {
        ada().is_in(value.to_string().as_bytes(), None)
    }

    #[test]
    fn a_submission_is_theirs_if_a_recipient_is_the_user_or_an_address() {
        for recipient in
            [json!("ada"), json!({"user": "ada"}), json!({"userId": "ada"}), json!({"email": "Ada@example.com"})]
        {
            assert_eq!(is_in(&json!({ "recipients": ["bob", recipient] })), Some(true));
        }
        assert_eq!(is_in(&json!({ "recipients": ["bob"], "data": { "friend": "ada" } })), Some(false));
        assert_eq!(is_in(&json!({ "recipients": "ada" })), Some(false));
    }

    #[test]
    fn an_opt_out_names_its_user() {
        let wish = json!({ "category": { "app": "shop", "user": "ada", "category": "news" } }).to_string();
        assert_eq!(ada().is_in(b"[]", Some(&wish)), Some(true));
        assert_eq!(ada().is_in(b"[]", Some(&wish.replace("ada", "bob"))), Some(false));
    }

    #[test]
    fn bytes_that_cannot_be_read_are_neither() {
        assert_eq!(ada().is_in(b"\xc1noise about ada", None), None);
    }
}

//! Renames fields that a producer spelled in camelCase, or as in the document of older producers.
//!
//! It renames only where the contract names fields: at the top and in recipients. Inside of `data`, `metadata` and
//! `overrides` the names are the producer's own.
//!
//! The older document is known by one of the names that only it has. It names one user, and becomes:
//!
//! | there | here |
//! |---|---|
//! | `userId` | the one of `recipients` |
//! | `notificationId` | `idempotency_key` |
//! | `serviceType` | `metadata.service_type`, a label in the trace |
//! | `categoryType` | `category` |
//! | `notificationType` | the one of `channels`, where it names a channel in any case; else `metadata.notification_type` |
//! | `templateType` | `template` |
//! | `notificationInfo` | with a template its variables: `data.title`, `data.content`; without one `content.title`, `content.body` |
//! | `metadata.deviceInfo` | `metadata.device_platform`, a label in the trace |
//! | `metadata.sendTime` | `send_at` |
//!
//! Pure, so a crash changes nothing.

use chasqui_schemas::Channel;
use serde_json::{Map, Value};

use crate::violations::Violations;

type Fields = Map<String, Value>;

/// Other spellings of the fields of a submission.
const SUBMISSION: &[(&str, &str)] = &[
    ("idempotencyKey", "idempotency_key"),
    ("templateType", "template"),
    ("sendAt", "send_at"),
    ("expiresAt", "expires_at"),
    ("collapseKey", "collapse_key"),
    ("transactionId", "transaction_id"),
    ("notificationId", "idempotency_key"),
    ("categoryType", "category"),
];
/// Other spellings of the fields of a recipient.
const RECIPIENT: &[(&str, &str)] = &[("userId", "user"), ("timeZone", "timezone")];
/// Names that only the older document has.
const OLDER: [&str; 6] =
    ["userId", "notificationId", "serviceType", "categoryType", "notificationType", "notificationInfo"];

/// Renames every such field. A field that is given in both spellings is a violation. Returns where the fields really stand:
/// pairs of pointers, the one after renaming and the one that the producer knows.
pub(crate) fn normalise(fields: &mut Fields, violations: &mut Violations) -> Vec<(String, String)> {
    let mut renaming = Renaming { violations, moved: Vec::new() };
    let is_older = OLDER.iter().any(|name| fields.contains_key(*name));
    renaming.rename(fields, SUBMISSION, "");
    if is_older {
        renaming.read_older(fields);
    }
    if let Some(Value::Array(recipients)) = fields.get_mut("recipients") {
        for (index, recipient) in recipients.iter_mut().enumerate() {
            if let Value::Object(recipient) = recipient {
                renaming.rename(recipient, RECIPIENT, &format!("recipients[{index}]."));
            }
        }
    }
    renaming.moved
}

struct Renaming<'a> {
    violations: &'a mut Violations,
    moved: Vec<(String, String)>,
}

impl Renaming<'_> {
    fn rename(&mut self, fields: &mut Fields, spellings: &[(&str, &str)], path: &str) {
        for (other, own) in spellings {
            let Some(value) = fields.remove(*other) else { continue };
            let inside = path.replace('[', "/").replace("].", "/");
            self.put(fields, path, (own, format!("/{inside}{own}")), (other, format!("/{inside}{other}")), value);
        }
    }

    /// Puts what stood in `other` into `own`, each with its pointer, unless something stands there.
    fn put(&mut self, fields: &mut Fields, path: &str, own: (&str, String), other: (&str, String), value: Value) {
        let ((own, own_pointer), (other, other_pointer)) = (own, other);
        if fields.get(own).is_some_and(|there| !there.is_null()) {
            self.violations.add(format_args!("{path}{own}"), format_args!("is there twice, also as `{other}`"));
        } else {
            fields.insert(own.to_owned(), value);
            self.moved.push((own_pointer, other_pointer));
        }
    }

    fn read_older(&mut self, fields: &mut Fields) {
        if let Some(user) = fields.remove("userId") {
            let (own, other) = (("recipients", "/recipients/0".to_owned()), ("userId", "/userId".to_owned()));
            self.put(fields, "", own, other, Value::Array(vec![user]));
        }
        let mut labels = match fields.remove("metadata") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(labels)) => labels,
            Some(other) => {
                // The schema says what is wrong with it.
                fields.insert("metadata".to_owned(), other);
                return self.read_info(fields);
            }
        };
        let label = |name: &str| format!("/metadata/{name}");
        if let Some(time) = labels.remove("sendTime").filter(|time| !time.is_null()) {
            let (own, other) = (("send_at", "/send_at".to_owned()), ("metadata.sendTime", label("sendTime")));
            self.put(fields, "", own, other, time);
        }
        if let Some(device) = labels.remove("deviceInfo").filter(|device| !device.is_null()) {
            let own = ("device_platform", label("device_platform"));
            self.put(&mut labels, "metadata.", own, ("deviceInfo", label("deviceInfo")), device);
        }
        let is_given = |value: &Value| !value.is_null();
        if let Some(service) = fields.remove("serviceType").filter(is_given) {
            let own = ("service_type", label("service_type"));
            self.put(&mut labels, "metadata.", own, ("serviceType", "/serviceType".to_owned()), service);
        }
        if let Some(kind) = fields.remove("notificationType").filter(is_given) {
            let other = ("notificationType", "/notificationType".to_owned());
            let channel = kind.as_str().and_then(|kind| kind.to_ascii_lowercase().parse::<Channel>().ok());
            match channel {
                Some(channel) => {
                    let own = ("channels", "/channels/0".to_owned());
                    self.put(fields, "", own, other, Value::Array(vec![channel.as_str().into()]));
                }
                None => {
                    let own = ("notification_type", label("notification_type"));
                    self.put(&mut labels, "metadata.", own, other, kind);
                }
            }
        }
        if !labels.is_empty() {
            fields.insert("metadata".to_owned(), Value::Object(labels));
        }
        self.read_info(fields);
    }

    fn read_info(&mut self, fields: &mut Fields) {
        let Some(mut info) = fields.remove("notificationInfo").filter(|info| !info.is_null()) else { return };
        let has_template = fields.get("template").is_some_and(|template| !template.is_null());
        let own = if has_template { "data" } else { "content" };
        if !has_template
            && let Value::Object(info) = &mut info
            && let Some(body) = info.remove("content")
        {
            let own = ("body", "/content/body".to_owned());
            self.put(info, "content.", own, ("content", "/notificationInfo/content".to_owned()), body);
        }
        let other = ("notificationInfo", "/notificationInfo".to_owned());
        self.put(fields, "", (own, format!("/{own}")), other, info);
    }
}

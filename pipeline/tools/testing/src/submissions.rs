//! Load: submissions as producers write them.

use serde_json::{Value, json};
use uuid::Uuid;

/// One mail to an address of the sandbox provider; `mailbox` selects what it does.
pub fn mail(id: Uuid, mailbox: &str) -> Value {
    json!({
        "id": id,
        "category": "test",
        "recipients": [{ "email": format!("{mailbox}@example.com") }],
        "channels": ["email"],
        "content": { "title": "A test", "body": format!("For {mailbox}") },
    })
}

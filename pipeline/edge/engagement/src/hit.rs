//! What a request becomes: a receipt, as one message.
//!
//! Guarantee: the same hit has the same message id, so that repeats within the stream's window are stored once. Later
//! repeats are stored and harmless: they have the same span, and the earliest time counts.

use chasqui_nats::Outgoing;
use chasqui_schemas::{Channel, OptOut, Receipt, ReceiptKind, header, id, subject};

/// Something that happened to a delivery.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hit {
    pub(crate) kind: ReceiptKind,
    pub(crate) channel: Channel,
    pub(crate) receipt: Receipt,
    /// What it switches off.
    pub(crate) opt_out: Option<OptOut>,
}

impl Hit {
    pub(crate) fn message(&self) -> Result<Outgoing, serde_json::Error> {
        let Hit { kind, channel, receipt, opt_out } = self;
        let opt_out = opt_out.as_ref().map(serde_json::to_string).transpose()?;
        // All that makes two hits different, but not their time: the same hit is reported again a moment later.
        let message_id = id::claim(&[
            "receipt",
            kind.as_str(),
            channel.as_str(),
            &receipt.notification_id.simple().to_string(),
            &receipt.delivery_id.simple().to_string(),
            receipt.by.as_str(),
            receipt.provider.as_deref().unwrap_or_default(),
            receipt.detail.as_deref().unwrap_or_default(),
            opt_out.as_deref().unwrap_or_default(),
        ]);
        Ok(Outgoing {
            subject: subject::receipt(*kind, *channel),
            message_id: Some(message_id),
            headers: opt_out.into_iter().map(|opt_out| (header::OPT_OUT, opt_out)).collect(),
            payload: serde_json::to_vec(receipt)?.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::receipt::Actor;
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_same_told_again_is_the_same_message_and_anything_else_is_another() {
        let receipt = Receipt {
            delivery_id: Uuid::from_u128(1),
            notification_id: Uuid::from_u128(2),
            at: Some(Timestamp::from_second(1).unwrap()),
            provider: None,
            vendor: None,
            detail: None,
            by: Actor::Human,
        };
        let hit = Hit { kind: ReceiptKind::Clicked, channel: Channel::Email, receipt: receipt.clone(), opt_out: None };
        let id = |hit: &Hit| hit.message().unwrap().message_id.unwrap();
        let later = Receipt { at: Some(Timestamp::from_second(2).unwrap()), ..receipt.clone() };
        assert_eq!(id(&hit), id(&Hit { receipt: later, ..hit.clone() }));
        let address = OptOut::Address { key: "k".into(), reason: "r".into() };
        let others = [
            Hit { kind: ReceiptKind::Opened, ..hit.clone() },
            Hit { channel: Channel::Push, ..hit.clone() },
            Hit { receipt: Receipt { by: Actor::Machine, ..receipt.clone() }, ..hit.clone() },
            Hit { receipt: Receipt { detail: Some("link-1".into()), ..receipt.clone() }, ..hit.clone() },
            Hit { receipt: Receipt { delivery_id: Uuid::from_u128(3), ..receipt.clone() }, ..hit.clone() },
            Hit { opt_out: Some(address), ..hit.clone() },
        ];
        for other in others {
            assert_ne!(id(&hit), id(&other), "{other:?}");
        }
        let message = hit.message().unwrap();
        assert_eq!(message.subject, "notify.receipt.clicked.email");
        assert_eq!(serde_json::from_slice::<Receipt>(&message.payload).unwrap(), receipt);
    }
}

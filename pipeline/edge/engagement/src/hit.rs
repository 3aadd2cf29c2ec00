//! What a request becomes: a receipt, as one message.
//!
//! Guarantee: the same hit has the same message id, so that repeats within the stream's window are stored once. Later
//! repeats are stored and harmless: they have the same span, and the earliest time counts.

use chasqui_nats::Outgoing;
use chasqui_schemas::{Channel, OptOut, Receipt, ReceiptKind, header, id, subject};

/// Something that happened to a delivery, or to an address.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hit {
    pub(crate) kind: ReceiptKind,
    pub(crate) channel: Channel,
    /// `None` where it is of no delivery of ours, and only switches something off.
    pub(crate) receipt: Option<Receipt>,
    /// What it switches off.
    pub(crate) opt_out: Option<OptOut>,
}

impl Hit {
    pub(crate) fn message(&self) -> Result<Outgoing, serde_json::Error> {
        let Hit { kind, channel, receipt, opt_out } = self;
        let opt_out = opt_out.as_ref().map(serde_json::to_string).transpose()?;
        let of = receipt.as_ref();
        let (notification, delivery) = of.map(|of| (of.notification_id, of.delivery_id)).unwrap_or_default();
        // All that makes two hits different, but not their time: the same hit is reported again a moment later.
        let message_id = id::claim(&[
            "receipt",
            kind.as_str(),
            channel.as_str(),
            &notification.simple().to_string(),
            &delivery.simple().to_string(),
            of.map(|of| of.by).unwrap_or_default().as_str(),
            of.and_then(|of| of.app.as_deref()).unwrap_or_default(),
            of.and_then(|of| of.provider.as_deref()).unwrap_or_default(),
            of.and_then(|of| of.detail.as_deref()).unwrap_or_default(),
            opt_out.as_deref().unwrap_or_default(),
        ]);
        Ok(Outgoing {
            subject: subject::receipt(*kind, *channel),
            message_id: Some(message_id),
            headers: opt_out.into_iter().map(|opt_out| (header::OPT_OUT, opt_out)).collect(),
            payload: receipt.as_ref().map_or_else(|| Ok(b"[]".to_vec()), serde_json::to_vec)?.into(),
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
        let at = Some(Timestamp::from_second(1).unwrap());
        let receipt = Receipt { at, ..Receipt::new(Uuid::from_u128(2), Uuid::from_u128(1), Actor::Human) };
        let (kind, channel) = (ReceiptKind::Clicked, Channel::Email);
        let hit = Hit { kind, channel, receipt: Some(receipt.clone()), opt_out: None };
        let with = |receipt: Receipt| Hit { receipt: Some(receipt), ..hit.clone() };
        let id = |hit: &Hit| hit.message().unwrap().message_id.unwrap();
        let later = Receipt { at: Some(Timestamp::from_second(2).unwrap()), ..receipt.clone() };
        assert_eq!(id(&hit), id(&with(later)));
        let address = OptOut::Address { key: "k".into(), reason: "r".into() };
        let others = [
            Hit { kind: ReceiptKind::Opened, ..hit.clone() },
            Hit { channel: Channel::Push, ..hit.clone() },
            with(Receipt { by: Actor::Machine, ..receipt.clone() }),
            with(Receipt { detail: Some("link-1".into()), ..receipt.clone() }),
            with(Receipt { delivery_id: Uuid::from_u128(3), ..receipt.clone() }),
            with(Receipt { app: Some("shop".into()), ..receipt.clone() }),
            Hit { receipt: None, ..hit.clone() },
            Hit { opt_out: Some(address), ..hit.clone() },
        ];
        for other in others {
            assert_ne!(id(&hit), id(&other), "{other:?}");
        }
        let message = hit.message().unwrap();
        assert_eq!(message.subject, "notify.receipt.clicked.email");
        assert_eq!(serde_json::from_slice::<Receipt>(&message.payload).unwrap(), receipt);
        assert_eq!(Hit { receipt: None, ..hit.clone() }.message().unwrap().payload, "[]");
    }
}

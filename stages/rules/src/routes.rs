//! Routes: which providers may carry a delivery, and in which order it meets them.
//!
//! Prioritize writes the first of the order into the delivery; where that one fails, send goes on with those after it.
//!
//! Guarantee: pure. The order follows from the delivery's id and the settings alone, so it comes out the same after a
//! crash and on every machine. Over many deliveries each provider comes first as often as its weight says, and where
//! one fails, its share falls to the others by their weights.

use std::collections::BTreeMap;

use chasqui_schemas::{Channel, Delivery, id, record::Platform};
use serde::Deserialize;

/// A provider in a list of settings: its name, or `{ name = "twilio", weight = 3 }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Spelling")]
pub struct Candidate {
    /// The provider.
    pub name: String,
    /// Its share, relative to the others'; 1 if not given. Zero stands by: it comes after all that have a share.
    pub weight: u32,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "a provider's name, or { name = \"…\", weight = … }")]
enum Spelling {
    Name(String),
    Weighted { name: String, weight: u32 },
}

impl From<Spelling> for Candidate {
    fn from(spelling: Spelling) -> Self {
        match spelling {
            Spelling::Name(name) => Candidate { name, weight: 1 },
            Spelling::Weighted { name, weight } => Candidate { name, weight },
        }
    }
}

/// The providers of every channel, for push of every platform.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes(pub BTreeMap<(Channel, Option<Platform>), Vec<Candidate>>);

impl Routes {
    /// The providers for a delivery in the order in which it should meet them; none where its road has none.
    pub fn order(&self, delivery: &Delivery) -> Vec<&str> {
        let road = (delivery.channel(), delivery.endpoint.address.platform());
        let Some(candidates) = self.0.get(&road) else { return Vec::new() };
        if let [only] = &candidates[..] {
            return vec![&only.name];
        }
        let id = delivery.id.to_string();
        let mut drawn: Vec<(f64, &str)> = candidates.iter().map(|each| (draw(&id, each), each.name.as_str())).collect();
        drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
        drawn.into_iter().map(|(_, name)| name).collect()
    }
}

/// Drawing without replacement, by weight: each waits an exponential time, the shorter the greater its weight
/// (Efraimidis and Spirakis, 2006). Adding or removing one candidate leaves the order of the others as it was.
fn draw(delivery: &str, candidate: &Candidate) -> f64 {
    if candidate.weight == 0 {
        return f64::INFINITY;
    }
    -(1.0 - id::fraction(&["route", delivery, &candidate.name])).ln() / f64::from(candidate.weight)
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::delivery::{Address, Endpoint};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn delivery(n: u128, address: Address) -> Delivery {
        let mut delivery: Delivery = serde_json::from_value(json!({
            "id": Uuid::from_u128(n), "notification_id": Uuid::nil(), "request_id": Uuid::nil(), "app": "shop",
            "category": "order", "template": "", "variant": "", "locale": "", "lane": "high", "content": {},
            "endpoint": {"id": "e", "address": {"phone": "+1"}}, "submitted_at": "2030-01-01T00:00:00Z", "attempt": 1,
        }))
        .unwrap();
        delivery.endpoint = Endpoint { id: "e".into(), address };
        delivery
    }

    fn sms(n: u128) -> Delivery {
        delivery(n, Address::Phone("+15550001111".into()))
    }

    fn routes(candidates: serde_json::Value) -> Routes {
        Routes(BTreeMap::from([((Channel::Sms, None), serde_json::from_value(candidates).unwrap())]))
    }

    fn shares(routes: &Routes, place: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for n in 0..10_000 {
            *shares.entry(routes.order(&sms(n))[place].to_owned()).or_default() += 1;
        }
        shares
    }

    #[test]
    fn a_candidate_is_a_name_or_a_name_with_a_weight() {
        let read: Vec<Candidate> = serde_json::from_value(json!(["a", {"name": "b", "weight": 3}])).unwrap();
        assert_eq!(read, [Candidate { name: "a".into(), weight: 1 }, Candidate { name: "b".into(), weight: 3 }]);
        let error = serde_json::from_value::<Candidate>(json!({"name": "b", "weigth": 3})).unwrap_err();
        assert!(error.to_string().contains("a provider's name"), "{error}");
    }

    #[test]
    fn weights_are_shares_and_the_order_never_changes() {
        let routes = routes(json!([{"name": "a", "weight": 6}, {"name": "b", "weight": 3}, "c"]));
        let first = shares(&routes, 0);
        assert!((5_800..6_200).contains(&first["a"]) && (2_800..3_200).contains(&first["b"]), "{first:?}");
        assert!((0..1_000).all(|n| routes.order(&sms(n)) == routes.order(&sms(n))));
    }

    #[test]
    fn what_one_cannot_take_falls_to_the_others_by_weight() {
        let routes = routes(json!([{"name": "a", "weight": 6}, {"name": "b", "weight": 3}, "c"]));
        let mut second = BTreeMap::<&str, usize>::new();
        for n in 0..10_000 {
            if let ["a", next, _] = routes.order(&sms(n))[..] {
                *second.entry(next).or_default() += 1;
            }
        }
        let share = second["b"] as f64 / (second["b"] + second["c"]) as f64;
        assert!((0.72..0.78).contains(&share), "{second:?}");
    }

    #[test]
    fn one_without_a_share_stands_by() {
        let routes = routes(json!([{"name": "spare", "weight": 0}, "a", "b"]));
        assert!((0..1_000).all(|n| routes.order(&sms(n))[2] == "spare"));
        assert_eq!(shares(&routes, 0).len(), 2);
    }

    #[test]
    fn a_new_candidate_takes_its_share_and_moves_nobody_else() {
        let (before, after) = (routes(json!(["a", "b"])), routes(json!(["a", "b", "c"])));
        for n in 0..1_000 {
            let rest: Vec<&str> = after.order(&sms(n)).into_iter().filter(|name| *name != "c").collect();
            assert_eq!(before.order(&sms(n)), rest);
        }
    }

    #[test]
    fn push_is_routed_by_platform() {
        let candidates = |name: &str| vec![Candidate { name: name.into(), weight: 1 }];
        let routes = Routes(BTreeMap::from([
            ((Channel::Push, Some(Platform::Ios)), candidates("apns")),
            ((Channel::Push, Some(Platform::Web)), candidates("webpush")),
        ]));
        let to = |platform| {
            let address = Address::Device { platform, token: "t".into(), registered_at: None };
            delivery(1, address)
        };
        assert_eq!(routes.order(&to(Platform::Ios)), ["apns"]);
        assert_eq!(routes.order(&to(Platform::Web)), ["webpush"]);
        assert!(routes.order(&to(Platform::Android)).is_empty());
        assert!(routes.order(&sms(1)).is_empty());
    }
}

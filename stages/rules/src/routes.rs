//! Routes: which accounts may carry a delivery, and in which order it meets them.
//!
//! Prioritize writes the first of the order into the delivery; where that one fails, send goes on with those after it.
//!
//! Guarantee: pure. The order follows from the delivery's id and the settings alone, so it comes out the same after a
//! crash and on every machine. Over many deliveries each account comes first as often as its weight says, and where
//! one fails, its share falls to the others by their weights.

use std::collections::BTreeMap;

use chasqui_schemas::{Channel, Delivery, delivery::SANDBOX, id, record::Platform};
use serde::Deserialize;

/// The manual of `[routes]`, with its defaults.
pub const DEFAULTS: &str = include_str!("../routes.toml");

/// `[routes]`, and `[apps.<name>.routes]`: the accounts of each channel, for push of each platform. A list that an app
/// does not name is the default's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "documented in routes.toml")]
pub struct RouteSettings {
    pub push: PushRoutes,
    pub sms: Option<Vec<Candidate>>,
    pub email: Option<Vec<Candidate>>,
    pub in_app: Option<Vec<Candidate>>,
}

/// The accounts of push, by platform.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "documented in routes.toml")]
pub struct PushRoutes {
    pub ios: Option<Vec<Candidate>>,
    pub android: Option<Vec<Candidate>>,
    pub web: Option<Vec<Candidate>>,
}

/// An account in a list of settings: its name, or `{ account = "twilio", weight = 3 }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Spelling")]
pub struct Candidate {
    /// The account.
    pub account: String,
    /// Its share, relative to the others'; 1 if not given. Zero stands by: it comes after all that have a share.
    pub weight: u32,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "an account's name, or { account = \"…\", weight = … }")]
enum Spelling {
    Name(String),
    Weighted { account: String, weight: u32 },
}

impl From<Spelling> for Candidate {
    fn from(spelling: Spelling) -> Self {
        match spelling {
            Spelling::Name(account) => Candidate { account, weight: 1 },
            Spelling::Weighted { account, weight } => Candidate { account, weight },
        }
    }
}

impl RouteSettings {
    fn list(&self, channel: Channel, platform: Option<Platform>) -> Option<&[Candidate]> {
        let list = match (channel, platform) {
            (Channel::Push, Some(Platform::Ios)) => &self.push.ios,
            (Channel::Push, Some(Platform::Android)) => &self.push.android,
            (Channel::Push, Some(Platform::Web)) => &self.push.web,
            (Channel::Push, None) => &None,
            (Channel::Sms, _) => &self.sms,
            (Channel::Email, _) => &self.email,
            (Channel::InApp, _) => &self.in_app,
        };
        list.as_deref()
    }
}

/// The routes of every app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    default: RouteSettings,
    /// Only those that have lists of their own.
    apps: BTreeMap<String, RouteSettings>,
}

/// One list of accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<'a> {
    /// Its name in the settings: `routes.push.ios`, `apps.shop.routes.sms`.
    pub key: String,
    /// The channel that it is for.
    pub channel: Channel,
    /// For push, the platform.
    pub platform: Option<Platform>,
    /// The accounts.
    pub candidates: &'a [Candidate],
}

impl Routes {
    /// The default, and the lists of apps that have their own.
    pub fn new(default: RouteSettings, apps: impl IntoIterator<Item = (String, RouteSettings)>) -> Self {
        let own = apps.into_iter().filter(|(_, routes)| *routes != RouteSettings::default());
        Routes { default, apps: own.collect() }
    }

    /// Every list that settings name.
    pub fn all(&self) -> Vec<Route<'_>> {
        const ROADS: [(&str, Channel, Option<Platform>); 6] = [
            ("push.ios", Channel::Push, Some(Platform::Ios)),
            ("push.android", Channel::Push, Some(Platform::Android)),
            ("push.web", Channel::Push, Some(Platform::Web)),
            ("sms", Channel::Sms, None),
            ("email", Channel::Email, None),
            ("in_app", Channel::InApp, None),
        ];
        let apps = self.apps.iter().map(|(app, routes)| (format!("apps.{app}.routes"), routes));
        let owners = std::iter::once(("routes".to_owned(), &self.default)).chain(apps);
        let lists = owners.flat_map(|(owner, routes)| {
            ROADS.into_iter().filter_map(move |(name, channel, platform)| {
                let candidates = routes.list(channel, platform)?;
                Some(Route { key: format!("{owner}.{name}"), channel, platform, candidates })
            })
        });
        lists.collect()
    }

    /// The accounts for deliveries of an app on a channel, for push to a platform; none where there is no list.
    fn candidates(&self, app: &str, channel: Channel, platform: Option<Platform>) -> &[Candidate] {
        let own = self.apps.get(app).and_then(|routes| routes.list(channel, platform));
        own.or_else(|| self.default.list(channel, platform)).unwrap_or_default()
    }

    /// The accounts for a delivery in the order in which it should meet them; none where its road has none. A test meets
    /// nobody but the sandbox.
    pub fn order(&self, delivery: &Delivery) -> Vec<&str> {
        if delivery.test {
            return vec![SANDBOX];
        }
        let (channel, platform) = (delivery.channel(), delivery.endpoint.address.platform());
        let candidates = self.candidates(&delivery.app, channel, platform);
        if let [only] = candidates {
            return vec![&only.account];
        }
        let id = delivery.id.to_string();
        let mut drawn: Vec<(f64, &str)> =
            candidates.iter().map(|each| (draw(&id, each), each.account.as_str())).collect();
        drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
        drawn.into_iter().map(|(_, account)| account).collect()
    }
}

/// Drawing without replacement, by weight: each waits an exponential time, the shorter the greater its weight
/// (Efraimidis and Spirakis, 2006). Adding or removing one candidate leaves the order of the others as it was.
fn draw(delivery: &str, candidate: &Candidate) -> f64 {
    if candidate.weight == 0 {
        return f64::INFINITY;
    }
    -(1.0 - id::fraction(&["route", delivery, &candidate.account])).ln() / f64::from(candidate.weight)
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::{delivery::Address, sample};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn delivery(n: u128, address: Address) -> Delivery {
        Delivery { id: Uuid::from_u128(n), ..sample::delivery().to(address) }
    }

    fn sms(n: u128) -> Delivery {
        delivery(n, Address::Phone("+15550001111".into()))
    }

    fn routes(candidates: serde_json::Value) -> Routes {
        Routes::new(serde_json::from_value(json!({ "sms": candidates })).unwrap(), [])
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
        let read: Vec<Candidate> = serde_json::from_value(json!(["a", {"account": "b", "weight": 3}])).unwrap();
        assert_eq!(read, [Candidate { account: "a".into(), weight: 1 }, Candidate { account: "b".into(), weight: 3 }]);
        let error = serde_json::from_value::<Candidate>(json!({"account": "b", "weigth": 3})).unwrap_err();
        assert!(error.to_string().contains("an account's name"), "{error}");
    }

    #[test]
    fn weights_are_shares_and_the_order_never_changes() {
        let routes = routes(json!([{"account": "a", "weight": 6}, {"account": "b", "weight": 3}, "c"]));
        let first = shares(&routes, 0);
        assert!((5_800..6_200).contains(&first["a"]) && (2_800..3_200).contains(&first["b"]), "{first:?}");
        assert!((0..1_000).all(|n| routes.order(&sms(n)) == routes.order(&sms(n))));
    }

    #[test]
    fn what_one_cannot_take_falls_to_the_others_by_weight() {
        let routes = routes(json!([{"account": "a", "weight": 6}, {"account": "b", "weight": 3}, "c"]));
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
        let routes = routes(json!([{"account": "spare", "weight": 0}, "a", "b"]));
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
    fn a_test_meets_the_sandbox_and_nobody_else() {
        let test = Delivery { test: true, ..sms(1) };
        for routes in [routes(json!(["twilio", "vonage"])), routes(json!([])), Routes::default()] {
            assert_eq!(routes.order(&test), [SANDBOX]);
        }
    }

    #[test]
    fn push_is_routed_by_platform() {
        let settings = json!({ "push": { "ios": ["apns"], "web": ["webpush"] } });
        let routes = Routes::new(serde_json::from_value(settings).unwrap(), []);
        let to = |platform| {
            let address = Address::Device { platform, token: "t".into(), registered_at: None };
            delivery(1, address)
        };
        assert_eq!(routes.order(&to(Platform::Ios)), ["apns"]);
        assert_eq!(routes.order(&to(Platform::Web)), ["webpush"]);
        assert!(routes.order(&to(Platform::Android)).is_empty());
        assert!(routes.order(&sms(1)).is_empty());
    }

    #[test]
    fn an_app_has_its_own_lists_and_else_the_defaults() {
        let settings = |value| serde_json::from_value::<RouteSettings>(value).unwrap();
        let default = settings(json!({ "sms": ["twilio"], "push": { "ios": ["apns"], "web": ["webpush"] } }));
        let crm = settings(json!({ "sms": ["twilio-crm"], "push": { "web": [] } }));
        let routes = Routes::new(default, [("crm".to_owned(), crm), ("shop".to_owned(), RouteSettings::default())]);
        let order = |app: &str, address: Address| {
            routes
                .order(&Delivery { app: app.into(), ..delivery(1, address) })
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let phone = || Address::Phone("+15550001111".into());
        let device = |platform| Address::Device { platform, token: "t".into(), registered_at: None };
        assert_eq!((order("shop", phone()), order("crm", phone())), (vec!["twilio".into()], vec!["twilio-crm".into()]));
        assert_eq!(order("crm", device(Platform::Ios)), ["apns"], "what it does not name is the default's");
        assert!(order("crm", device(Platform::Web)).is_empty(), "an empty list is its own");
        assert_eq!(order("shop", device(Platform::Web)), ["webpush"]);
        let keys: Vec<_> = routes.all().into_iter().map(|route| route.key).collect();
        assert_eq!(
            keys,
            ["routes.push.ios", "routes.push.web", "routes.sms", "apps.crm.routes.push.web", "apps.crm.routes.sms"]
        );
    }
}

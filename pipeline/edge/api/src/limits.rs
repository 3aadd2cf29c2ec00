//! How many recipients each app may address: a bucket of tokens per app, as its `rate` says.
//!
//! Guarantee: in any time an app addresses no more than `burst` and what `per_second` makes of that time, through this
//! process; several gateways share an app's rate by configuration. Nothing survives a restart: an app begins with its burst.

use std::num::NonZeroU32;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chasqui_schemas::{
    api::Refusal,
    app::{App, Rate},
};
use dashmap::DashMap;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::{InMemoryState, NotKeyed},
};

use crate::problem::Problem;

/// Of the IETF draft *RateLimit header fields for HTTP* (draft-ietf-httpapi-ratelimit-headers-10).
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// The buckets. One for each app that has a key, so there are few.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    buckets: DashMap<String, (Rate, Limiter)>,
}

impl Limits {
    /// Takes a place for each of `recipients`; answers with headers that say what is left.
    pub(crate) fn take(&self, app: &App, recipients: u32) -> Result<HeaderMap, Problem> {
        let Some((rate, quota)) = app.may.rate.and_then(|rate| Some((rate, quota(rate)?))) else {
            return Ok(HeaderMap::new());
        };
        let Some(asked) = NonZeroU32::new(recipients) else { return Ok(HeaderMap::new()) };
        let fresh = || (rate, RateLimiter::direct(quota).with_middleware());
        let mut bucket = self.buckets.entry(app.name.clone()).or_insert_with(fresh);
        // The operator has changed it.
        if bucket.0 != rate {
            *bucket = fresh();
        }
        match bucket.1.check_n(asked) {
            Ok(Ok(state)) => Ok(headers(rate, state.remaining_burst_capacity())),
            Ok(Err(early)) => {
                let wait = early.wait_time_from(DefaultClock::default().now()).as_secs() + 1;
                let detail = format!("{recipients} recipients are too many now: come again in {wait} s");
                let mut problem = Problem::new(Refusal::RateLimited, detail).again_after(wait);
                for (name, value) in &headers(rate, 0) {
                    problem = problem.with(name.clone(), value.clone());
                }
                Err(problem)
            }
            Err(_) => {
                let detail = format!("{recipients} recipients; the app may address {} at once: send fewer", rate.burst);
                Err(Problem::new(Refusal::TooManyAtOnce, detail))
            }
        }
    }
}

fn quota(rate: Rate) -> Option<Quota> {
    Some(Quota::per_second(NonZeroU32::new(rate.per_second)?).allow_burst(NonZeroU32::new(rate.burst)?))
}

fn headers(rate: Rate, remaining: u32) -> HeaderMap {
    // The window is the time in which an empty bucket is full again.
    let window = rate.burst.div_ceil(rate.per_second).max(1);
    let refill = (rate.burst - remaining.min(rate.burst)).div_ceil(rate.per_second);
    let policy = format!("\"recipients\";q={};w={window}", rate.burst);
    let limit = format!("\"recipients\";r={remaining};t={refill}");
    let pairs = [(POLICY, policy), (LIMIT, limit)];
    pairs.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::app::Permissions;

    use super::*;

    fn app(name: &str, rate: Option<Rate>) -> App {
        App { name: name.to_owned(), may: Permissions { rate, ..Permissions::default() } }
    }

    #[test]
    fn each_app_has_its_burst_and_then_waits() {
        let limits = Limits::default();
        let slow = Some(Rate { per_second: 1, burst: 100 });
        let (shop, bank) = (app("shop", slow), app("bank", slow));
        let left = limits.take(&shop, 60).unwrap();
        assert_eq!(left[&POLICY], "\"recipients\";q=100;w=100");
        assert_eq!(left[&LIMIT], "\"recipients\";r=40;t=60");
        let refused = limits.take(&shop, 60).unwrap_err();
        assert_eq!(refused.status(), 429);
        let headers = refused.into_response_headers();
        assert!((1..=61).contains(&headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap()), "{headers:?}");
        assert!(limits.take(&bank, 100).is_ok(), "one app's flood is its own");
        assert_eq!(limits.take(&bank, 101).unwrap_err().status(), 422, "it would never pass");
        let faster = Some(Rate { per_second: 5, burst: 200 });
        assert!(limits.take(&app("shop", faster), 200).is_ok(), "a changed rate holds at once");
        assert!(limits.take(&app("free", None), u32::MAX).unwrap().is_empty());
    }
}

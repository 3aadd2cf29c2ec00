//! What two stages, or a stage and a provider, must agree on. It knows only `schemas` and the ports of `contract`.
//!
//! | module | says |
//! |---|---|
//! | [`actor`] | whether a user agent is a person's: engagement and vendors' callbacks ask |
//! | [`consent`] | whether an endpoint may be used: filter asks first, send asks again before it tries what had to wait |
//! | [`routes`] | which accounts may carry a delivery, in which order: prioritize picks the first, send goes on to the next ones |

pub mod actor;
pub mod consent;
pub mod routes;

pub use routes::{Candidate, RouteSettings, Routes};

//! What two stages, or a stage and a provider, must agree on. Pure; it knows the words and the ports, and nothing else.
//!
//! | module | says |
//! |---|---|
//! | [`actor`] | whether a user agent is a person's: engagement and vendors' callbacks ask |
//! | [`consent`] | whether an endpoint may be used: filter asks first, send asks again before it tries what had to wait |
//! | [`routes`] | which accounts may carry a delivery, in which order: prioritize writes down the first, send goes on |

pub mod actor;
pub mod consent;
pub mod routes;

pub use routes::{Candidate, RouteSettings, Routes};

//! What two stages, or a stage and a provider, must agree on. It knows only `schemas` and the ports of `contract`.
//!
//! | module | says |
//! |---|---|
//! | [`actor`] | whether a user agent is a person's: engagement and vendors' callbacks ask |
//! | [`consent`] | whether an endpoint may be used: filter asks first, send asks again before it tries what had to wait |
//! | [`permissions`] | what an app may: validate asks at the door, enrich where it reads the category |
//! | [`routes`] | which accounts may carry a delivery, in which order: prioritize picks the first, send goes on to the next ones |
//! | [`schemes`] | where a link may lead: validate asks of what a submission says, render of what a template made |

pub mod actor;
pub mod consent;
pub mod permissions;
pub mod routes;
pub mod schemes;

pub use chasqui_schemas::app::Permissions;
pub use permissions::{Apps, Overridable, Vendors};
pub use routes::{Candidate, RouteSettings, Routes};
pub use schemes::Schemes;

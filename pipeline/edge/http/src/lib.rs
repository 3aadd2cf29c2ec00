//! A bounded HTTP server, and what its handlers share. It knows no business.
//!
//! | module | does |
//! |---|---|
//! | [`settings`] | `[gateway]` |
//! | [`server`] | connections, and their bounds |
//! | [`request`] | a request's time and body, and the answers that many give |
//! | [`token`] | who may: bearer and basic credentials, compared by their hash |

pub mod request;
pub mod server;
pub mod settings;
pub mod token;

pub use server::{Peer, serve};
pub use settings::Settings;

//! A bounded HTTP server, and what its handlers share. It knows no business.
//!
//! | module | does |
//! |---|---|
//! | [`settings`] | `[gateway]` |
//! | [`server`] | connections, and their bounds |
//! | `socket` | a connection whose other end must read what it asked for |
//! | [`budget`] | what each kind of route may use: bodies in memory, and requests at work |
//! | [`names`] | `Host` and `Origin`: whom a request takes us for, and on whose behalf a browser asks |
//! | [`request`] | a request's time, and the answers that many give |
//! | [`token`] | who may: bearer and basic credentials, compared by their hash |
//!
//! # How nobody starves
//! A client may make us wait in four ways: it says nothing, or sends its head, its body or its reading slowly. Each has a
//! deadline. But deadlines alone only say how many connections an attacker needs. So a connection that waits for its
//! client has no right to its place: when all places are taken, who comes gets the place of the one that has made us wait
//! the longest ([`server`]). Only requests that are complete and at work keep theirs, and of those each kind of route has
//! its own small share ([`budget`]), so that all kinds together cannot take every place.
//!
//! There is no bound by the peer's address. Behind a proxy all clients have the proxy's; without one an attacker has as many
//! as he likes; and headers that name the client are the client's own words.
//!
//! # Who is asked for what
//! What changes or shows data asks for a token, and is guarded by [`names`]. Where a connection comes from proves nothing:
//! with a proxy on this machine, everybody comes from this machine. Links and callbacks are not guarded by name. What they
//! may do is signed, in the link or over the body; no password or cookie that a browser would add is looked at; and they come
//! by names that we do not know: of mails sent years ago, of proxies and of vendors' relays.

pub mod budget;
pub mod names;
pub mod request;
pub mod server;
pub mod settings;
mod socket;
pub mod token;

pub use budget::Budget;
pub use names::Names;
pub use server::{Limits, serve};
pub use settings::Settings;

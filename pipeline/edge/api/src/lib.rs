//! The HTTP door for producers, under `/v1`.
//!
//! | module | does |
//! |---|---|
//! | [`caller`] | who asks: what a request shows of itself, held against the keys |
//! | [`keys`] | the keys of all apps, from the settings and from the bucket |

pub mod caller;
pub mod keys;

pub use caller::{Caller, Refused, identify};
pub use keys::Keys;

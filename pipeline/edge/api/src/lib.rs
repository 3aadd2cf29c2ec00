//! The HTTP door for producers, under `/v1`.
//!
//! | module | does |
//! |---|---|
//! | [`apps`] | apps in the bucket, and making their keys |
//! | [`caller`] | who asks: what a request shows of itself, held against the keys |
//! | [`keys`] | the keys of all apps, from the settings and from the bucket |
//! | [`signed`] | tokens that a key has signed |

pub mod apps;
pub mod caller;
pub mod keys;
pub mod signed;

pub use caller::{Caller, Refused, identify};
pub use keys::{Keys, NamedKeys};

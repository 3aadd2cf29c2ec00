//! A client that does right, and clients that do wrong, against the lab. Written from the vendors' documentation
//! too, and sharing nothing with the lab but the credentials.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod callbacks;
mod client;
mod failures;
mod mail;
mod push;
mod sms;

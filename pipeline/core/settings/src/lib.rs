//! What every part of Chasqui needs to read its settings: one way to spell a secret, one kind of address that
//! shows no login, one error, one way to layer.
//!
//! A part keeps its settings beside its code: a type `Settings`, and a TOML file that is both the manual and the
//! defaults (`nats.toml`, `send.toml`, …); there are no defaults in code. The binary lays those files under the
//! operator's own, reads one typed whole, and hands each part only what is its own.
//!
//! Guarantee: an unknown name, a value of the wrong type and a secret that cannot be read are errors that name the
//! setting. No `Debug`, log line or error shows what a secret holds.

mod error;
mod layers;
mod secret;
mod server_url;

pub use error::SettingsError;
pub use layers::{overlay, read};
pub use secret::{Secret, SecretSource};
pub use server_url::{ServerUrl, is_this_host, is_this_machine};

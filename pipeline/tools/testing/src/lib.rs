//! Development only: real servers and real worker processes per test, and the oracle that judges what they did.
//!
//! A [`House`] is what an operator runs: nats-server, ClickHouse, and any number of `chasqui serve` processes that
//! can be killed. Tests look at it from outside: through NATS as a producer does, through ClickHouse as an analyst
//! does, and into the sandbox provider's log, which is written by the call itself and knows nothing of traces; or, where
//! the real providers call the [`lab`], into its vendors' ledgers.
//!
//! Tests of one part, which need a nats-server and no more, start it with [`servers`].
//!
//! The binary is the one that cargo built beside the test; `make test` builds it first.

pub mod browser;
pub mod collector;
#[cfg(target_os = "linux")]
pub mod disk;
pub mod house;
pub mod oracle;
pub mod pages;
pub mod servers;
pub mod settings;
pub mod submissions;
pub mod vendors;

/// The vendors that tests send to.
pub use chasqui_lab as lab;
pub use collector::{Collector, Mood};
pub use house::{House, Worker};
pub use oracle::{Calls, Deliveries};

//! Development only: real servers and real worker processes per test, and the oracle that judges what they did.
//!
//! A [`TestInstall`] is what an operator runs: nats-server, ClickHouse, and any number of `chasqui serve` processes that
//! can be killed. Tests look at it from outside: through NATS as a producer does, through ClickHouse as an analyst
//! does, and into the sandbox provider's log, which the call itself writes and which knows nothing of traces; or, where
//! the real providers call the [`lab`], into its vendors' ledgers.
//!
//! Tests of one part, which need a server and no more, start it with [`servers`].
//!
//! The binaries are those that cargo built beside the test; `make test` builds them first.

pub mod browser;
pub mod collector;
pub mod compose;
pub mod confined;
#[cfg(target_os = "linux")]
pub mod disk;
pub mod install;
pub mod oracle;
pub mod pages;
pub mod raw;
pub mod servers;
pub mod settings;
pub mod submissions;
pub mod vendors;

/// The vendors that tests send to.
pub use chasqui_lab as lab;
pub use collector::{Collector, Mood};
pub use install::{TestInstall, Worker, alone};
pub use oracle::{Calls, Deliveries};
pub use raw::RawProducer;

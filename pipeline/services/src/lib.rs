//! Long-running work that is neither a stage nor HTTP.
//!
//! | module | does |
//! |---|---|
//! | [`monitor`] | watches the queues |
//! | [`owners`] | follows the contacts, so that an address leads to its users |
//! | [`receipts`] | makes trace events of receipts, and performs the opt-outs that they bring |

pub mod monitor;
pub mod owners;
pub mod receipts;

pub use monitor::{MonitorSettings, run_monitor};
pub use owners::run_owners;
pub use receipts::run_receipts;

//! Long-running work that is neither a stage nor HTTP.
//!
//! | module | does |
//! |---|---|
//! | [`monitor`] | watches the queues |
//! | [`receipts`] | makes trace events of receipts, and performs the opt-outs that they bring |

pub mod monitor;
pub mod receipts;

pub use monitor::{MonitorSettings, run_monitor};
pub use receipts::run_receipts;

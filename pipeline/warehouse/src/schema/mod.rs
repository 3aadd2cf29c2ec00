//! The tables: made and changed, and a user taken out of them.

pub(crate) mod ddl;
pub mod forget;
pub mod migrate;

//! `/v1/notifications`: submitting, one at a time or many, and reading what became of them.

mod batch;
mod document;
mod judge;
mod read;
mod submit;

pub(crate) use batch::submit_batch;
pub(crate) use read::{list, one};
pub(crate) use submit::submit_one;

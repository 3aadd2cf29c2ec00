//! chasqui-trace
pub mod span;

//! chasqui
fn main() {}

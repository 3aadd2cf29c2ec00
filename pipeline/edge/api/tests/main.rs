//! The tests of this crate that are a program of their own: one for all of them, which is linked once.

mod servers;

//! Tests on real servers. `make test-fast` leaves out every module that is called `servers`.

mod conformance;
mod directory;
mod ledger;
mod noise;
mod pepper;
mod support;

//! Tests on real servers. `make test-fast` leaves out every module that is called `servers`.

mod keys;
mod outage;
mod submit;
mod support;

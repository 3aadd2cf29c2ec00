//! Tests on real servers. `make test-fast` leaves out every module that is called `servers`.

mod login;
mod presence;
mod publisher;
mod release;
mod unreadable;

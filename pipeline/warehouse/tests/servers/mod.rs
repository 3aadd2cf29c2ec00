//! Tests on real servers. `make test-fast` leaves out every module that is called `servers`.

mod bench;
mod clickhouse;
mod queries;
mod schema;
mod states;
mod tls;

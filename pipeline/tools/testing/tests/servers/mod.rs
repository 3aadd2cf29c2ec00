//! Tests on real servers. `make test-fast` leaves out every module that is called `servers`.

mod accounts;
mod apps;
mod bad_input;
mod callbacks;
mod cases;
mod confined;
mod console;
mod console_noise;
mod crash;
mod dashboards;
mod drill;
mod engagement;
mod export;
#[cfg(target_os = "linux")]
mod floods;
mod flow;
mod forget;
mod fuzz;
mod http;
mod look;
mod monitor;
mod poison;
#[cfg(target_os = "linux")]
mod power_loss;
mod telemetry;

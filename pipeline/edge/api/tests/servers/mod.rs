//! The door in front of a real nats-server.

mod outage;
mod submit;
mod support;

//! Engagement: where recipients, apps and providers report over HTTP what became of a message.
//!
//! | path | who | answer |
//! |---|---|---|
//! | `GET /t/o/{token}.gif` | a mail program shows the mail | a pixel, whatever the token |
//! | `GET /t/c/{token}` | the recipient follows a link | 302 to the address that was signed into the link |
//! | `POST /t/u/{token}` | a mailbox provider's "unsubscribe" (RFC 8058), or the form of the page below | 200 |
//! | `GET /t/u/{token}` | the recipient, or a scanner | a page that asks; nothing happens yet |
//! | `POST /v1/receipts` | apps | 202 |
//! | `POST` or `GET /v1/callbacks/{account}` | vendors | 200 |
//! | `GET /healthz`, `/readyz` | probes | 200, or 503 where hits would be refused |
//!
//! What they report ends as messages on `notify.receipt.<kind>.<channel>`; the service `receipts` makes trace
//! events of them and performs the opt-outs ([`chasqui_schemas::OptOut`]).
//!
//! # While NATS is away
//! No request waits for it: hits go through a bounded queue in memory ([`hit_queue`]) to NATS, or to a bounded spool on
//! disk ([`chasqui_spool`]), from where they follow in order. `POST`s are answered when NATS or the spool has what they said,
//! durably; pixels and clicks are answered at once.
//!
//! # What is lost, and what is not
//! - What a `POST` was answered for with 2xx is never lost. When queue or spool are full, it is refused with 503, and the
//!   other side comes again.
//! - Opens and clicks are lost if the process is killed while they are still in memory, which with NATS or a disk at work
//!   is a few milliseconds; and when queue or spool are full. Those are counted (`chasqui_gateway_lost`).
//!
//! # What strangers may use
//! Links, receipts, callbacks and probes each have a [`Budget`](chasqui_http::Budget): one kind that is flooded is slow alone.
//! Receipts ask for an app's token before their body is read, and answer only to names of ours
//! ([`Names`](chasqui_http::Names)).
//!
//! # What strangers learn
//! Nothing. A token that we did not sign is answered without asking whether its ids exist; a pixel is answered with a
//! pixel; a wrong link and a path that never was have the same page. To make a token one needs the key.
//!
//! | module | does |
//! |---|---|
//! | [`settings`] | `[engagement]`, and which apps may report |
//! | `routes` | paths, and what their handlers share |
//! | `track` | pixels, clicks, unsubscriptions |
//! | `actor` | distinguishes people from machines, by everything that a hit shows |
//! | `reports` | `/v1/receipts` |
//! | `callbacks` | what vendors report, by the port [`Callbacks`](chasqui_contract::Callbacks) |
//! | `hit` | what a request becomes: one message |
//! | [`hit_queue`], [`chasqui_spool`] | the way to NATS |

mod actor;
mod callbacks;

mod hit;
pub mod hit_queue;
mod pages;
mod reports;
mod routes;
pub mod settings;

mod track;

pub use hit_queue::Carrier;
pub use routes::{Engagement, EngagementError, Known, Setup};
pub use settings::{Reporters, Settings};

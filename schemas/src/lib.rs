//! The public words of Chasqui: what producers, apps, operators and analysts see, and what stages exchange.
//!
//! Every subject, stream, consumer, bucket, header, metric, reason code, id and record has its one definition here, so
//! that a name never appears in the code as loose text. Pure data: no I/O, no clock, no randomness; what is computed
//! twice, an id after a crash for example, has the same result.
//!
//! JSON Schemas of the public types (`schemas/json`) and the pages in `docs/reference` are generated from this crate by
//! `UPDATE_SCHEMAS=1 cargo test -p chasqui-schemas`, and compared with it by its tests.
//!
//! | module | holds |
//! |---|---|
//! | [`submission`] | what a producer publishes |
//! | [`api`] | what the HTTP door says and hears |
//! | [`app`] | what an app may, and the keys that prove who asks |
//! | [`record`] | what the state buckets hold: contacts, preferences, templates, categories, suppressions |
//! | [`notification`], [`delivery`] | what travels between stages, in the [`envelope`] codec, long texts [`packed`] |
//! | [`door`] | what the HTTP door says of a submission beside its bytes |
//! | [`receipt`], [`opt_out`] | what providers, apps and recipients report afterwards |
//! | [`inbox`] | what an app reads of a user's inbox |
//! | [`trace`] | what ClickHouse keeps: one [`trace::TraceEvent`] per step |
//! | [`id`], [`pepper`] | how every id is derived, and the secret that keeps addresses out of them |
//! | [`clickhouse`] | the tables, and the migrations that make them |
//! | [`subject`], [`stream`], [`consumer`], [`bucket`], [`header`] | the names on the broker |
//! | [`permission`] | what each role of our own processes may do on the broker |
//! | [`lane`], [`channel`], [`stage`], [`reason`], [`metric`] | the [vocabularies](vocabulary!) |
//! | [`normal`] | the one normal form of addresses, languages, time zones, categories, device tokens |
//! | [`text`] | text from outside: without addresses, on one line, harmless for terminals |
//! | `sample` | one valid value of each, for tests |

pub mod api;
pub mod app;
pub mod bucket;
pub mod channel;
pub mod clickhouse;
pub mod collapse;
pub mod consumer;
pub mod delivery;
pub mod door;
pub mod envelope;
pub mod header;
pub mod hex;
pub mod id;
pub mod inbox;
pub mod key_claim;
pub mod lane;
pub mod metric;
pub mod normal;
pub mod notification;
pub mod opt_out;
pub mod packed;
pub mod pepper;
pub mod permission;
pub mod reason;
pub mod receipt;
pub mod record;
#[cfg(any(test, feature = "sample"))]
pub mod sample;
pub mod stage;
pub mod stream;
pub mod subject;
pub mod submission;
pub mod suppression;
pub mod text;
pub mod trace;
mod vocabulary;

pub use channel::Channel;
pub use delivery::Delivery;
pub use lane::Lane;
pub use notification::Notification;
pub use opt_out::OptOut;
pub use pepper::Pepper;
pub use reason::Reason;
pub use receipt::{Receipt, ReceiptKind};
pub use stage::Stage;
pub use vocabulary::UnknownWord;

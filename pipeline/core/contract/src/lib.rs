//! The contract between what a notification means (the stages) and how it moves (the runtime).
//!
//! A stage ([`Decide`]) is pure: a message in, a [`Decision`] out. It asks the world only through ports: [`Directory`],
//! [`AddressBook`], [`Ledger`], [`Newest`], [`Inbox`], [`Provider`], [`Clock`]. The runtime does what stages decide: it publishes,
//! traces and acknowledges. The gateway reads what vendors report through [`Callbacks`]. Nothing here does I/O.
//!
//! ```text
//! stages ──► contract ◄── runtime, stores, trace
//!               │
//!               ▼
//!            schemas
//! ```

pub mod address_book;
pub mod callbacks;
pub mod clock;
pub mod decide;
pub mod decision;
pub mod directory;
pub mod error;
pub mod inbox;
pub mod ledger;
pub mod message;
pub mod newest;
pub mod provider;

pub use address_book::AddressBook;
pub use callbacks::{AccountCallbacks, AddressFact, Callback, Callbacks, Refusal, Reported, SignedRequest};
pub use clock::{Clock, ManualClock, SystemClock};
pub use decide::Decide;
pub use decision::{Decision, Ended, Output, Verdict};
pub use directory::Directory;
pub use error::{Class, StoreError, with_sources};
pub use inbox::Inbox;
pub use ledger::{Book, Claim, Ledger};
pub use message::{Context, IncomingMessage, StageInput, Submitted};
pub use newest::Newest;
pub use provider::{Answer, Outcome, Provider, Shortened};

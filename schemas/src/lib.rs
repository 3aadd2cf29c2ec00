//! The words of Chasqui: what producers, stages, operators and analysts see.
//!
//! Every subject, stream, bucket, header, reason code, id and record has its one definition here, so that a
//! name never appears in the code as a loose string. Pure data: no I/O, no clock, no randomness; whatever is
//! computed twice (an id after a crash, say) comes out the same.
//!
//! | module | holds |
//! |---|---|
//! | [`submission`] | what a producer publishes |
//! | [`record`] | what the state buckets hold: contacts, preferences, templates, categories, suppressions |
//! | [`notification`], [`delivery`] | what travels between stages, in the [`envelope`] codec |
//! | [`receipt`], [`opt_out`] | what providers, apps and recipients report afterwards |
//! | [`trace`] | what ClickHouse keeps: one [`trace::TraceEvent`] per step |
//! | [`id`], [`pepper`] | how every id is derived, and the secret that keeps addresses out of them |
//! | [`clickhouse`] | the tables, and the migrations that make them |
//! | [`subject`], [`stream`], [`bucket`], [`header`] | the names on the broker |
//! | [`lane`], [`channel`], [`stage`], [`reason`] | the vocabularies |
//! | [`text`] | text from outside: without addresses, on one line, harmless for terminals |

pub mod bucket;
pub mod channel;
pub mod clickhouse;
pub mod delivery;
pub mod envelope;
pub mod header;
pub mod id;
pub mod lane;
pub mod notification;
pub mod opt_out;
pub mod pepper;
pub mod reason;
pub mod receipt;
pub mod record;
pub mod stage;
pub mod stream;
pub mod subject;
pub mod submission;
pub mod text;
pub mod trace;

pub use channel::Channel;
pub use delivery::Delivery;
pub use lane::Lane;
pub use notification::Notification;
pub use opt_out::OptOut;
pub use pepper::Pepper;
pub use reason::Reason;
pub use receipt::{Receipt, ReceiptKind};
pub use stage::Stage;

/// A word that is not in one of the vocabularies of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} `{word}`: expected one of {expected}")]
pub struct UnknownWord {
    /// Which vocabulary was asked, for example `lane`.
    pub kind: &'static str,
    /// The word that it does not hold.
    pub word: String,
    /// The words that it does hold, comma-separated.
    pub expected: String,
}

/// Finds `word` among `all`, where `as_str` spells each of them.
pub(crate) fn parse_word<T: Copy>(
    kind: &'static str,
    word: &str,
    all: &[T],
    as_str: fn(T) -> &'static str,
) -> Result<T, UnknownWord> {
    all.iter().copied().find(|&each| as_str(each) == word).ok_or_else(|| UnknownWord {
        kind,
        word: word.chars().take(64).collect(),
        expected: all.iter().map(|&each| as_str(each)).collect::<Vec<_>>().join(", "),
    })
}

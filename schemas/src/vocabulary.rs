//! Vocabularies: a closed list of words, each spelled once, with its meaning.

/// A word that is not in the vocabulary that was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} `{word}`: expected one of {expected}")]
pub struct UnknownWord {
    /// Which vocabulary was asked, for example `lane`.
    pub kind: &'static str,
    /// The word that it does not hold, cut to 64 characters.
    pub word: String,
    /// The words that it does hold, comma-separated.
    pub expected: String,
}

impl UnknownWord {
    /// `word` is none of the words `expected` of the vocabulary `kind`.
    pub fn new(kind: &'static str, word: &str, expected: &[&str]) -> Self {
        UnknownWord { kind, word: word.chars().take(64).collect(), expected: expected.join(", ") }
    }
}

/// Declares an enum whose variants are words: `Variant = "word": "What it means."`
///
/// It has `ALL`, `as_str`, `meaning`, `Display`, `FromStr` and serde's traits; all of them spell a variant as its word.
/// The meaning is the variant's documentation too, and its description in a JSON Schema.
#[macro_export]
macro_rules! vocabulary {
    (
        $(#[$about:meta])*
        pub enum $name:ident $kind:literal {
            $($(#[$note:meta])* $variant:ident = $word:literal: $meaning:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize,
        )]
        pub enum $name {
            $($(#[$note])* #[doc = $meaning] #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every word, in order.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// What the word means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)+
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::UnknownWord;

            fn from_str(word: &str) -> Result<Self, $crate::UnknownWord> {
                let known = Self::ALL.into_iter().find(|known| known.as_str() == word);
                known.ok_or_else(|| $crate::UnknownWord::new($kind, word, &Self::ALL.map(Self::as_str)))
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::{Channel, Lane, Reason, ReceiptKind, Stage, metric::Metric, receipt::Actor, trace};

    #[test]
    fn a_word_is_spelled_alike_everywhere_and_has_a_meaning() {
        macro_rules! check {
            ($($name:ty),+) => {$(
                for word in <$name>::ALL {
                    assert_eq!(word.as_str().parse(), Ok(word));
                    assert_eq!(serde_json::to_value(word).unwrap(), word.as_str());
                    assert_eq!(word.to_string(), word.as_str());
                    assert!(word.meaning().ends_with('.'), "{word}: {}", word.meaning());
                }
            )+};
        }
        check!(Lane, Channel, Stage, Reason, ReceiptKind, Metric, Actor, trace::State, trace::Status);
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_known_ones() {
        let error = "urgent".parse::<Lane>().unwrap_err();
        assert_eq!(error.to_string(), "unknown lane `urgent`: expected one of critical, high, normal, bulk");
    }
}

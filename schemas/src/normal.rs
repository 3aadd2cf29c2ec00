//! The one normal form of whatever has several spellings: addresses, languages, time zones, categories, device tokens.
//!
//! `+1 (555) 201-0199` and `+15552010199` are one phone, `ada@bücher.example` and `ada@xn--bcher-kva.example` one mailbox:
//! what compares them as they are written sends to an address that is suppressed. So every record and submission is brought
//! to the forms of this module when it is read, every key and hash is made of them, and all that follows compares bytes.
//!
//! Guarantee: pure. A normal form is its own normal form. What has none is an error in words that fit behind a
//! field's name, with the remedy. Any text is taken: no text makes a panic.
//!
//! | module | brings to its normal form |
//! |---|---|
//! | [`phone`] | phone numbers: E.164 |
//! | [`mailbox`] | mailboxes: the domain as A-labels |
//! | [`locale`] | language tags: canonical BCP 47; and finds the best of several |
//! | [`zone`] | time zones: names of the IANA database |
//! | [`token`] | device tokens: base64url, lower-case hexadecimal |

pub mod locale;
pub mod mailbox;
pub mod phone;
pub mod token;
pub mod zone;

use icu_normalizer::ComposingNormalizerBorrowed;

/// Brings a text to its normal form, or says what is wrong with it.
pub type Normal = fn(&str) -> Result<String, &'static str>;

/// A mailbox or phone number as it is compared and hashed: its normal form in lower case, because hardly any mail server
/// tells `Ada@` from `ada@`. What is neither (a short code, a word) is compared without case and surrounding blanks.
pub fn address(text: &str) -> String {
    let text = text.trim();
    let normal = if text.contains('@') { mailbox::normal(text) } else { phone::normal(text) };
    normal.as_deref().unwrap_or(text).to_lowercase()
}

/// A category's name: without surrounding blanks, in lower case, composed ([NFKC](https://www.unicode.org/reports/tr15/)).
/// An opt-out of `marketing` must hold for `Marketing`.
pub fn category(name: &str) -> String {
    if name.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()) {
        return name.to_owned();
    }
    let nfkc = ComposingNormalizerBorrowed::new_nfkc();
    // Composed once more, because lower case may decompose (`İ`).
    nfkc.normalize(&nfkc.normalize(name).to_lowercase()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_compare_by_their_normal_form() {
        for same in [
            &[
                "+15552010199",
                "+1 (555) 201-0199",
                "0015552010199",
                "+1\u{a0}555\u{a0}201\u{a0}0199",
                "tel:+1-555-201-0199",
            ][..],
            &["+442079460958", "+44 (0)20 7946 0958", "+4402079460958", "00 44 20 7946 0958"],
            &[
                "ada@xn--bcher-kva.example",
                "Ada@Bücher.example",
                "ada@BU\u{308}CHER.example.",
                " ada@XN--BCHER-KVA.example ",
            ],
            &["stop", " STOP "],
        ] {
            for each in same {
                assert_eq!(address(each), same[0], "{each}");
            }
        }
        assert_ne!(address("+15552010199"), address("+15552010198"));
    }

    #[test]
    fn a_category_has_one_spelling() {
        for each in ["marketing", "Marketing", " MARKETING\u{a0}", "ｍarketing"] {
            assert_eq!(category(each), "marketing", "{each}");
        }
        assert_eq!(category("Cafe\u{301}"), category("CAFÉ"));
        assert_ne!(category("a.b"), category("a-b"));
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own(text in "\\PC{0,40}", digits in "(\\+|00|\\+ ?\\(?)[0-9 ()./-]{0,20}", mail in "[a-zA-Z.ü]{1,9}@[a-zA-Zü.\u{3002}ß-]{1,20}") {
            for text in [&text, &digits, &mail] {
                let once = address(text);
                prop_assert_eq!(address(&once), once);
                let once = category(text);
                prop_assert_eq!(category(&once), once);
                let normals: &[Normal] = &[phone::normal, mailbox::normal, locale::normal, zone::normal];
                for normal in normals {
                    if let Ok(once) = normal(text) {
                        prop_assert_eq!(normal(&once), Ok(once));
                    }
                }
            }
        }
    }
}

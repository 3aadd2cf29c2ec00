//! Text from outside, made fit for where it goes: without addresses for traces, on one line for headers, harmless for
//! terminals.
//!
//! Pure. Guarantee: whatever of a provider's or a reporter's words reaches ClickHouse has gone through [`redact`], so
//! that "no addresses in ClickHouse" is one rule. Where it must guess, it hides too much.

use std::borrow::Cow;

use uuid::Uuid;

/// What stands where an address was.
pub const STAND_IN: &str = "[address]";
/// Digits from which a number may be somebody's: international phone numbers have at least seven.
const PHONE_DIGITS: usize = 7;
/// Characters of a device token, or of a mailbox's local part, that betray it. A shorter piece is likely to be a word.
const FRAGMENT: usize = 12;
/// Characters of an address that betray it at the very end of a text, where it was cut off. Forms of addresses that
/// are shorter (a short code, say) are not looked for either.
const MIN_FORM: usize = 4;

/// `text` on one line, with [`STAND_IN`] in place of whatever may be an address: the known `address` and its pieces,
/// mailboxes (and a URL's credentials, which look like one), and seven digits or more, whatever separates them. UUIDs
/// and the status codes of SMTP (`5.1.1`) stay.
pub fn redact(text: &str, address: Option<&str>) -> String {
    let mut kept: Vec<&str> = Vec::new();
    // Where the numbers began that the last words are, and how many digits they have together.
    let (mut first, mut together) = (0, 0);
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        let digits = word.chars().filter(|c| c.is_numeric()).count();
        if word.contains(['@', '＠']) || word.contains("%40") {
            kept.push(STAND_IN);
        } else if is_status(word) {
            kept.push(word);
        } else if word.chars().any(char::is_alphabetic) {
            let hidden = digits >= PHONE_DIGITS && !is_id(word, digits);
            kept.push(if hidden { STAND_IN } else { word });
        } else {
            // `+1 (555) 123-4567` is one number.
            kept.push(word);
            together += digits;
            if together >= PHONE_DIGITS {
                kept.truncate(first);
                kept.push(STAND_IN);
            }
            continue;
        }
        (first, together) = (kept.len(), 0);
    }
    let text = kept.join(" ");
    match address {
        Some(address) => without(&text, address),
        None => text,
    }
}

/// Words from outside for a message to people: letters and digits with blanks between them, so that nothing in it is a
/// link, a mention, markup or a control of whatever shows it. A point, a colon or a slash stays only between digits
/// (`5.1.1`), and what joins a name only within it (`INVALID_ARGUMENT`, `re-used`).
pub fn inert(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let after = rest.peek().copied().unwrap_or(' ');
        let within = |is: fn(&char) -> bool| is(&before) && is(&after);
        let stays = match c {
            c if c.is_alphanumeric() => true,
            '.' | ':' | '/' => within(char::is_ascii_digit),
            '_' | '-' | '\'' => within(char::is_ascii_alphanumeric),
            _ => false,
        };
        if stays {
            kept.push(c);
        } else if !kept.is_empty() && !kept.ends_with(' ') {
            kept.push(' ');
        }
        before = c;
    }
    kept.truncate(kept.trim_end().len());
    kept
}

/// A status code of RFC 3463, with or without SMTP's reply code before it: `5.1.1`, `(#5.7.606)`, `550-5.1.1`.
fn is_status(word: &str) -> bool {
    let word = word.trim_matches(|c: char| c.is_ascii_punctuation());
    let is_number = |part: &str, most: usize| part.len() <= most && part.bytes().all(|b| b.is_ascii_digit());
    let code = match word.split_once('-') {
        Some((reply, code)) if reply.len() == 3 && is_number(reply, 3) => code,
        Some(_) => return false,
        None => word,
    };
    let parts: Vec<&str> = code.split('.').collect();
    matches!(parts[..], ["2" | "4" | "5", subject, detail] if is_number(subject, 3) && is_number(detail, 3))
}

/// A UUID, alone or as the value of a key that is no number: ids of ours, and of most vendors.
fn is_id(word: &str, digits: usize) -> bool {
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let value = word.rsplit(['=', ':', '/']).next().unwrap_or(word);
    let own_digits = value.bytes().filter(u8::is_ascii_digit).count();
    // 32 hexadecimal digits may be much else, but for the versions that we make.
    let is_ours = |id: &Uuid| value.contains('-') || matches!(id.get_version_num(), 7 | 8);
    digits - own_digits < PHONE_DIGITS && Uuid::try_parse(value).is_ok_and(|id| is_ours(&id))
}

/// `text` without `address`, in whatever case, and without what betrays it.
fn without(text: &str, address: &str) -> String {
    let address = address.to_ascii_lowercase();
    // A mailbox's domain and the host of a push service identify no person.
    let betraying = match (address.rsplit_once('@'), address.split_once("://")) {
        (Some((local, _)), _) => local,
        (None, Some((_, rest))) => rest.split_once('/').map_or(rest, |(_, path)| path),
        (None, None) => &address,
    };
    // Providers drop the plus of a phone number.
    let mut forms = vec![address.as_str(), address.trim_start_matches('+')];
    forms.retain(|form| form.chars().count() >= MIN_FORM);
    let lower = text.to_ascii_lowercase();
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &lower[at..];
        let whole = forms.iter().filter(|form| rest.starts_with(**form)).map(|form| form.len());
        let cut_off = forms.iter().any(|form| form.starts_with(rest)) && rest.chars().count() >= MIN_FORM;
        let found = whole.chain(cut_off.then_some(rest.len())).chain(fragment(rest, betraying)).max();
        kept.push_str(if found.is_some() { STAND_IN } else { &text[at..at + c.len_utf8()] });
        at += found.unwrap_or(c.len_utf8());
    }
    kept
}

/// Bytes of the longest piece of `address` with which `rest` begins, if it betrays the address.
fn fragment(rest: &str, address: &str) -> Option<usize> {
    let ends = |from: usize| rest.char_indices().map(|(at, c)| at + c.len_utf8()).skip(from);
    let least = ends(FRAGMENT - 1).next()?;
    if !address.contains(&rest[..least]) {
        return None;
    }
    ends(FRAGMENT - 1).take_while(|end| address.contains(&rest[..*end])).last()
}

/// `text` on one line, for a header: control characters, line breaks among them, become blanks. At most `max`
/// characters, the last of them `…` where more was there.
pub fn one_line(text: &str, max: usize) -> Cow<'_, str> {
    plain(text, max, ' ')
}

/// `text` for a terminal: nothing in it steers the screen or turns the direction of reading. At most `max` characters,
/// the last of them `…` where more was there.
pub fn clean(text: &str, max: usize) -> String {
    plain(text, max, '\u{fffd}').into_owned()
}

fn plain(text: &str, max: usize, instead: char) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    // Bytes are at least as many as characters.
    let is_longer = text.len() > max && text.chars().nth(max).is_some();
    if !is_longer && !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let taken = if is_longer { max.saturating_sub(1) } else { max };
    let mut plain: String = text.chars().take(taken).map(|c| if steers(c) { instead } else { c }).collect();
    if is_longer && max > 0 {
        plain.push('…');
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    #[test]
    fn inert_words_are_no_link_no_markup_and_no_mention() {
        for (text, expected) in [
            ("550 5.1.1 no such user.", "550 5.1.1 no such user"),
            ("INVALID_ARGUMENT: bad `token`", "INVALID_ARGUMENT bad token"),
            ("<!channel> see <https://evil.example|this>", "channel see https evil example this"),
            ("*now* _or_ ~never~ at evil.example:443/login", "now or never at evil example 443 login"),
            ("a\u{202e}b\r\nBcc: c@d.example\u{7}", "a b Bcc c d example"),
            ("don't re-use 12:30 é 語", "don't re-use 12:30 é 語"),
            ("&lt;b&gt; [x](y) #ops", "lt b gt x y ops"),
            ("", ""),
        ] {
            assert_eq!(super::inert(text), expected);
        }
    }

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_go_and_what_explains_stays() {
        for (said, expected) in [
            ("5.1.1 <Bob@Example.com>: Recipient\r\naddress rejected", "5.1.1 [address] Recipient address rejected"),
            (
                "550 5.1.1 <ada@example.com> unknown, call +82-10-1234-5678",
                "550 5.1.1 [address] unknown, call [address]",
            ),
            ("call +1 (555) 123-4567 now", "call [address] now"),
            ("tel:+15551234567 or 555 12 34", "[address] or [address]"),
            ("https://user:secret@host/ and bob%40example.com", "[address] and [address]"),
            ("550-5.7.606 and (#5.1.10) after 451 4.7.1", "550-5.7.606 and (#5.1.10) after 451 4.7.1"),
            ("error 30003 after 3600 s", "error 30003 after 3600 s"),
            ("id=0190a1b2-0000-7000-8000-000000000001.", "id=0190a1b2-0000-7000-8000-000000000001."),
            ("trace 0190a1b2000070008000000000000001", "trace 0190a1b2000070008000000000000001"),
            ("5551234567=0190a1b2-0000-7000-8000-000000000001", "[address]"),
            ("token 0190a1b2000010008000000000000001", "token [address]"),
        ] {
            assert_eq!(redact(said, None), expected);
        }
    }

    #[test]
    fn a_known_address_goes_in_pieces_too() {
        let token = "fHk3-Zq:APA91bGx_abcdefghijklmnop";
        for (said, address, expected) in [
            ("no +491711234567 nor 491711234567", "+491711234567", "no [address] nor [address]"),
            ("short code 4711 refused", "4711", "short code [address] refused"),
            ("the token FHK3-zq:apa91b... is not known", token, "the token [address]... is not known"),
            ("not registered: fHk3", token, "not registered: [address]"),
            (
                "no user augusta.lovelace at mx.example.com",
                "augusta.lovelace@example.com",
                "no user [address] at mx.example.com",
            ),
            (
                "push.example.com: no /wpush/v2/gAAAAABk",
                "https://push.example.com/wpush/v2/gAAAAABkXY",
                "push.example.com: no /[address]",
            ),
        ] {
            assert_eq!(redact(said, Some(address)), expected);
        }
    }

    #[test]
    fn a_line_is_one_and_not_longer() {
        assert_eq!(one_line("one\r\ntwo", 80), "one  two");
        assert!(matches!(one_line("abc", 3), Cow::Borrowed("abc")));
        assert_eq!(
            (one_line("abcd", 3), one_line("äöüß", 4), one_line("a", 0)),
            ("ab…".into(), "äöüß".into(), "".into())
        );
        assert_eq!(clean("a\x1b[31mb\u{202e}", 80), "a\u{fffd}[31mb\u{fffd}");
        assert_eq!((clean("abc", 3), clean("abcd", 3)), ("abc".into(), "ab…".into()));
    }

    /// A phone number with whatever between its digits, and with how many digits.
    fn phone() -> impl Strategy<Value = String> {
        prop::collection::vec(("[0-9]", "[-. ()/+]{0,2}"), 7..16)
            .prop_map(|digits| digits.into_iter().map(|(digit, gap)| digit + &gap).collect())
    }

    proptest! {
        #[test]
        fn no_address_survives(before in ".{0,20}", token in "[a-z0-9:]{4,40}", after in ".{0,20}") {
            let redacted = redact(&format!("{before}{token}{after}"), Some(&token));
            prop_assume!(!STAND_IN.contains(&token));
            prop_assert!(!redacted.contains(&token), "{redacted}");
            prop_assert!(!redacted.contains('@'));
            prop_assert!(!redacted.chars().any(char::is_control));
        }

        #[test]
        fn no_piece_of_a_token_survives(token in "[a-zA-Z0-9_-]{20,64}", from in 0usize..8, length in 12usize..20) {
            let piece = &token[from..(from + length).min(token.len())];
            let redacted = redact(&format!("the token \"{piece}...\" is unknown"), Some(&token));
            prop_assert!(!redacted.contains(piece), "{redacted}");
        }

        #[test]
        fn no_phone_number_survives_whatever_separates_its_digits(phone in phone()) {
            prop_assume!(!phone.split(' ').any(is_status));
            let redacted = redact(&format!("cannot reach {phone} today"), None);
            let digits = redacted.chars().filter(char::is_ascii_digit).count();
            prop_assert!(digits < PHONE_DIGITS, "{redacted}");
        }

        #[test]
        fn no_mailbox_survives(local in "[a-z0-9._+-]{1,20}", domain in "[a-z0-9-]{1,20}\\.[a-z]{2,6}", quote in "[<\"'(\\[]{0,1}") {
            let redacted = redact(&format!("550 {quote}{local}@{domain}> unknown"), None);
            prop_assert_eq!(redacted, "550 [address] unknown");
        }

        #[test]
        fn once_is_enough(text in ".{0,60}", address in "[a-z0-9@.+]{0,20}") {
            let once = redact(&text, Some(&address));
            prop_assert_eq!(&redact(&once, None), &once);
        }

        #[test]
        fn ids_of_ours_stay(id in any::<[u8; 16]>()) {
            let id = uuid::Builder::from_custom_bytes(id).into_uuid();
            for text in [format!("delivery {id}"), format!("delivery={}", id.simple())] {
                prop_assert_eq!(redact(&text, None), text);
            }
        }

        #[test]
        fn a_terminal_obeys_nothing(text in any::<String>(), max in 0usize..20) {
            for plain in [clean(&text, max), one_line(&text, max).into_owned()] {
                prop_assert!(plain.chars().count() <= max && !plain.chars().any(char::is_control));
            }
        }
    }
}

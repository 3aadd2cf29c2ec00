//! Keeps addresses out of what a provider said, before it is stored or traced: relays love to quote them.

const STAND_IN: &str = "[address]";

/// `text` without `address`, without anything that looks like a mailbox, and without control characters.
pub(crate) fn without_address(text: &str, address: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let words = words.map(|word| if word.contains('@') { STAND_IN } else { word });
    let mut text = words.collect::<Vec<_>>().join(" ");
    // Providers drop the plus of a phone number.
    for form in [address, address.trim_start_matches('+')] {
        if form.len() > 3 {
            text = text.replace(form, STAND_IN);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quoted_mailbox_is_replaced() {
        let said = "5.1.1 <Bob@Example.com>: Recipient\r\naddress rejected";
        assert_eq!(without_address(said, "bob@example.com"), "5.1.1 [address] Recipient address rejected");
    }

    #[test]
    fn a_phone_number_is_replaced_with_and_without_its_plus() {
        assert_eq!(without_address("no +491711234567 nor 491711234567", "+491711234567"), "no [address] nor [address]");
    }

    proptest! {
        #[test]
        fn no_address_and_no_at_sign_survives(before in ".{0,20}", token in "[a-z0-9:]{4,40}", after in ".{0,20}") {
            let clean = without_address(&format!("{before}{token}{after}"), &token);
            prop_assume!(!STAND_IN.contains(&token));
            prop_assert!(!clean.contains('@'));
            prop_assert!(!clean.chars().any(char::is_control));
        }
    }
}

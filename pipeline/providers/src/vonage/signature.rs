//! Signed requests, instead of an account's secret in each of them.
//!
//! Source: [Signing Messages](https://developer.vonage.com/en/getting-started/concepts/signing-messages). The methods
//! by MD5, which Vonage has too, are not offered: MD5 is broken.
//!
//! Calls and callbacks are signed in the same way, by the same secret and method.

use chasqui_schemas::hex;
use chasqui_settings::Secret;
use ring::hmac;
use serde::Deserialize;

use crate::payload::Form;

/// The hash under the HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Method {
    Sha1,
    Sha256,
    Sha512,
}

/// Signs and verifies parameters.
#[derive(Debug)]
pub(super) struct Signing(hmac::Key);

impl Signing {
    pub(super) fn new(method: Method, secret: &Secret) -> Self {
        let algorithm = match method {
            Method::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Method::Sha256 => hmac::HMAC_SHA256,
            Method::Sha512 => hmac::HMAC_SHA512,
        };
        Signing(hmac::Key::new(algorithm, secret.expose().as_bytes()))
    }

    /// The value of `sig` for these parameters, `timestamp` among them, in hexadecimal.
    pub(super) fn sign(&self, form: &Form) -> String {
        hex::encode(hmac::sign(&self.0, signed(form).as_bytes()))
    }

    /// Whether `signature` is that of these parameters.
    pub(super) fn verifies(&self, form: &Form, signature: &[u8]) -> bool {
        hmac::verify(&self.0, signed(form).as_bytes(), signature).is_ok()
    }
}

/// What is signed: `&name=value` for each parameter in the order of names, with `&` and `=` in values replaced.
fn signed(form: &Form) -> String {
    let mut form: Vec<_> = form.iter().collect();
    form.sort();
    form.iter().map(|(name, value)| format!("&{name}={}", value.replace(['&', '='], "_"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(parameters: &[(&str, &str)]) -> Form {
        parameters.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect()
    }

    #[test]
    fn signatures_are_those_of_the_vendors_own_client() {
        // The test vectors of vonage-python-sdk (Apache-2.0).
        let form = form(&[("timestamp", "1461605396"), ("b", "2"), ("a", "1")]);
        for (method, expected) in [
            (Method::Sha1, "3e19a4e6880fdc2c1426bfd0587c98b9532f0210"),
            (Method::Sha256, "a321e824b9b816be7c3f28859a31749a098713d39f613c80d455bbaffae1cd24"),
            (
                Method::Sha512,
                "812a18f76680fa0fe1b8bd9ee1625466ceb1bd96242e4d050d2cfd9a7b40166c63ed26ec9702168781b6edcf1633db8ff95af9341701004eec3fcf9550572ee8",
            ),
        ] {
            assert_eq!(Signing::new(method, &Secret::from("secret")).sign(&form), expected, "{method:?}");
        }
    }

    #[test]
    fn no_value_can_pass_for_a_parameter() {
        let signing = Signing::new(Method::Sha256, &Secret::from("secret"));
        let sign = |text| signing.sign(&form(&[("text", text)]));
        assert_eq!(sign("a&to=1"), sign("a_to_1"));
        assert_ne!(sign("a"), sign("b"));
    }
}

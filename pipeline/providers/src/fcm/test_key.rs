//! RSA keys for the tests: ring signs with them and cannot make them. Textbook primes, good for nothing else.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use num_bigint::BigUint;
use ring::rand::{SecureRandom, SystemRandom};

/// A private key of 2,048 bits, PKCS #8 as PEM; made once, because it takes a second.
pub(crate) fn pem() -> &'static str {
    static PEM: LazyLock<String> = LazyLock::new(make);
    &PEM
}

fn make() -> String {
    let (a, b) = (prime(), prime());
    let (p, q) = if a > b { (a, b) } else { (b, a) };
    let one = BigUint::from(1u8);
    let (p1, q1, e) = (&p - &one, &q - &one, BigUint::from(65_537u32));
    let d = e.modinv(&(&p1 * &q1)).unwrap();
    let numbers =
        [BigUint::ZERO, &p * &q, e, d.clone(), p.clone(), q.clone(), &d % &p1, &d % &q1, q.modinv(&p).unwrap()];
    let pkcs1 = der(0x30, numbers.iter().flat_map(integer).collect());
    let rsa_encryption = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let pkcs8 = der(0x30, [integer(&BigUint::ZERO), rsa_encryption.to_vec(), der(4, pkcs1)].concat());
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8))
}

/// A number of 1,024 bits that is prime as far as Fermat can tell, which for one drawn at random is far enough.
fn prime() -> BigUint {
    let (one, two) = (BigUint::from(1u8), BigUint::from(2u8));
    loop {
        let mut bytes = [0; 128];
        SystemRandom::new().fill(&mut bytes).unwrap();
        // The product of two has 2,048 bits; e must have an inverse, and has where p - 1 is no multiple of it.
        bytes[0] |= 0xc0;
        bytes[127] |= 1;
        let n = BigUint::from_bytes_be(&bytes);
        let has_small_factor = (3u32..2_000).step_by(2).any(|small| &n % small == BigUint::ZERO);
        let e_divides = &n % 65_537u32 == one;
        if !has_small_factor && !e_divides && two.modpow(&(&n - &one), &n) == one {
            return n;
        }
    }
}

fn integer(number: &BigUint) -> Vec<u8> {
    let mut bytes = number.to_bytes_be();
    if bytes[0] >= 0x80 {
        bytes.insert(0, 0);
    }
    der(2, bytes)
}

fn der(tag: u8, content: Vec<u8>) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content].concat()
}

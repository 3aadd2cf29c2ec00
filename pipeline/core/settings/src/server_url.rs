//! Where a server is: its address, and apart from it the login that somebody wrote into it.
//!
//! Guarantee: [`ServerUrl::as_str`], `Display`, `Debug` and every error are without the login. It is taken out once, here,
//! where the setting is read, so that no code that prints an address has to think of it.

use std::{fmt, net::IpAddr};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::Secret;

/// The address of a server, or several of one cluster separated by commas; empty where there is none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerUrl {
    shown: String,
    login: Option<Login>,
}

/// What stood before the `@`. The user alone may be a token: it is as secret.
#[derive(Clone, PartialEq, Eq)]
struct Login {
    user: Secret,
    password: Option<Secret>,
}

impl ServerUrl {
    /// Reads an address. One without a scheme is NATS'.
    ///
    /// # Errors
    /// What is wrong with it, without any of it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut found = ServerUrl::default();
        for one in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (shown, login) = split(one)?;
            // A comma in a password ends an address too early: what comes before it would be taken for a host, and shown.
            if login.is_some() && !found.is_empty() && login != found.login {
                return Err("its servers have different logins: write one login, in the first address, and %2C for a \
                            comma in it");
            }
            found.login = found.login.or(login);
            found.shown = if found.shown.is_empty() { shown } else { format!("{},{shown}", found.shown) };
        }
        Ok(found)
    }

    /// A port of this machine.
    pub fn local(scheme: &str, port: u16) -> Self {
        ServerUrl { shown: format!("{scheme}://127.0.0.1:{port}"), login: None }
    }

    /// The same address, with this login.
    pub fn with_login(mut self, user: &str, password: &str) -> Self {
        self.login = Some(Login { user: Secret::exact(user), password: Some(Secret::exact(password)) });
        self
    }

    /// Without the login.
    pub fn as_str(&self) -> &str {
        &self.shown
    }

    /// Whether there is no address.
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Whether a login stood in it.
    pub fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// The user, or the token, that stood in it.
    pub fn user(&self) -> Option<&Secret> {
        self.login.as_ref().map(|login| &login.user)
    }

    /// The password that stood in it.
    pub fn password(&self) -> Option<&Secret> {
        self.login.as_ref()?.password.as_ref()
    }

    /// With the login: for another program that is to log in, and for nothing that is kept or printed.
    pub fn expose(&self) -> String {
        let Some(login) = &self.login else { return self.shown.clone() };
        let encoded = |secret: &Secret| utf8_percent_encode(secret.expose(), NON_ALPHANUMERIC).to_string();
        let password = login.password.as_ref().map(|password| format!(":{}", encoded(password))).unwrap_or_default();
        let before = format!("://{}{password}@", encoded(&login.user));
        self.shown.replace("://", &before)
    }

    /// Whether something that is sent there may be read on the way: the scheme has no TLS, and the host is not this machine.
    pub fn is_readable_on_the_way(&self) -> bool {
        let mut addresses = self.shown.split(',').filter_map(|one| Url::parse(one).ok());
        addresses.any(|url| matches!(url.scheme(), "http" | "nats" | "ws") && !is_this_machine(&url))
    }
}

/// Whether the address is of this machine, whose network nobody else reads.
pub fn is_this_machine(url: &Url) -> bool {
    is_this_host(url.host_str().unwrap_or_default())
}

/// Whether a host, by its name or its number, is this machine.
pub fn is_this_host(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Takes the login out of one address.
fn split(text: &str) -> Result<(String, Option<Login>), &'static str> {
    let wrong = "it is no address: write `scheme://host:port`";
    let whole = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
    let mut url = Url::parse(&whole).map_err(|_| wrong)?;
    if url.host_str().unwrap_or_default().is_empty() {
        return Err(wrong);
    }
    // What follows an `@` there may be the rest of a password, and a query may hold one too.
    if url.path().contains('@') || url.query().is_some() || url.fragment().is_some() {
        return Err(
            "it ends in something else than an address: in a login write %40 for @, %2F for /, %3F for ?, %23 for # \
                    and %2C for a comma, and write settings of their own for everything else",
        );
    }
    let decoded = |part: &str| percent_decode_str(part).decode_utf8().map(|text| Secret::exact(&text));
    let login = match (url.username(), url.password()) {
        ("", None) => None,
        (user, password) => Some(Login {
            user: decoded(user).map_err(|_| wrong)?,
            password: password.map(decoded).transpose().map_err(|_| wrong)?,
        }),
    };
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| wrong)?;
    let shown = url.as_str();
    Ok((if url.path() == "/" { shown.trim_end_matches('/') } else { shown }.to_owned(), login))
}

impl<'de> Deserialize<'de> for ServerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ServerUrl::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.shown, if self.login.is_some() { " with a login" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_login_is_apart_from_the_address() {
        for (text, shown, user, password) in [
            ("", "", None, None),
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222", None, None),
            ("broker", "nats://broker", None, None),
            ("ada:pw@broker:4222", "nats://broker:4222", Some("ada"), Some("pw")),
            ("tls://t0ken@broker:4222", "tls://broker:4222", Some("t0ken"), None),
            ("nats://a:p@x:1, nats://y:2", "nats://x:1,nats://y:2", Some("a"), Some("p")),
            ("https://a%40b:p%2F%20q@[::1]:8123/", "https://[::1]:8123", Some("a@b"), Some("p/ q")),
            ("http://proxy/clickhouse/", "http://proxy/clickhouse/", None, None),
        ] {
            let url = ServerUrl::parse(text).unwrap();
            let login = (url.user().map(Secret::expose), url.password().map(Secret::expose));
            assert_eq!((url.as_str(), login), (shown, (user, password)), "{text}");
            assert_eq!(ServerUrl::parse(&url.expose()).unwrap(), url);
        }
        for text in [
            "nats://a:p@x,nats://b:q@y",
            "nats://pass,word@x",
            "nats://a:1,word@x",
            "nats://",
            "http://x/?password=p",
            "nats://a:1/2@x",
            "http://a:1\\2@x",
        ] {
            assert!(ServerUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_crosses_a_machine_in_the_clear_is_told() {
        for (text, readable) in [
            ("http://127.0.0.1:8123", false),
            ("nats://127.9.9.9", false),
            ("nats://localhost:4222", false),
            ("http://[::1]:8123", false),
            ("http://[::ffff:127.0.0.1]:8123", false),
            ("https://clickhouse:8443", false),
            ("tls://broker", false),
            ("http://clickhouse:8123", true),
            ("nats://localhost.example", true),
            ("tls://a,nats://b", true),
            ("nats://10.0.0.1", true),
        ] {
            assert_eq!(ServerUrl::parse(text).unwrap().is_readable_on_the_way(), readable, "{text}");
        }
    }

    proptest! {
        /// Whatever a password holds, and however it breaks the address: nothing shows it.
        #[test]
        fn no_password_is_ever_shown(
            scheme in "nats|tls|http|https",
            before in ".{0,6}",
            password in "hunter.{0,8}2[a-z@:/?#%\\\\\\[\\]]{0,6}",
            after in "[/?#&=a-z]{0,6}",
        ) {
            for text in [
                format!("{scheme}://user:{before}{password}@host:4222{after}"),
                format!("{scheme}://{before}{password}@host:4222{after}"),
                format!("user:{before}{password}@host"),
                format!("{scheme}://a,{scheme}://user:{before}{password}@host:4222"),
            ] {
                let shown = match ServerUrl::parse(&text) {
                    Ok(url) => format!("{url} {url:?} {}", url.as_str()),
                    Err(problem) => problem.to_owned(),
                };
                prop_assert!(!shown.contains("hunter"), "{text:?} is shown as {shown:?}");
            }
        }
    }
}

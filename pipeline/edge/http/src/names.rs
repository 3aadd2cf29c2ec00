//! `Host` and `Origin`: whom a request takes us for, and on whose behalf a browser asks.
//!
//! Guarantee: what is guarded here answers only requests that name us, and none that a page of another origin makes a browser
//! send. A website that lets its own name point to us (DNS rebinding) is refused by `Host`; one that posts to us, or embeds
//! what we show, by `Origin` or `Sec-Fetch-Site`. A link from elsewhere may be followed: the page is for the one who follows.
//! This is no permission. Whoever is not a browser writes into these headers what he likes; tokens say who may.
//!
//! | a request names | is it us? |
//! |---|---|
//! | the host of `gateway.public_url`, or one of `gateway.hosts` | yes |
//! | this machine: `localhost`, `127.0.0.1`, `[::1]` | yes: no name of a website's can be one of these |
//! | the address to which it connected | yes, for the same reason |
//! | anything else, two hosts, or none | no |
//!
//! `Origin` must be the origin of `gateway.public_url`, or name the same host and port as `Host`: a proxy that changes `Host` is
//! the one of `public_url`. When browsers of apps may ask for more, the origins of those apps join here.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, Method, StatusCode, Uri,
        header::{HOST, ORIGIN},
        uri::Authority,
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use chasqui_settings::SettingsError;

use crate::{Settings, server::Connection};

/// Headers by which browsers say where a request comes from, and what for. No page can write them (W3C Fetch Metadata).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The names that are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    hosts: Vec<String>,
    /// Of `public_url`.
    origin: Option<String>,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Host,
    Origin,
}

impl Names {
    /// As the settings say.
    ///
    /// # Errors
    /// Names the setting that cannot be read.
    pub fn of(settings: &Settings) -> Result<Self, SettingsError> {
        let mut hosts = Vec::new();
        for host in &settings.hosts {
            match authority(host) {
                Some(name) if name.port().is_none() => hosts.push(bare(&name)),
                _ => {
                    return Err(SettingsError::invalid("gateway.hosts", format!("`{host}` is no name without a port")));
                }
            }
        }
        let mut origin = None;
        if !settings.public_url.is_empty() {
            let wrong = || SettingsError::invalid("gateway.public_url", "write it as `https://n.example.com`");
            let url: Uri = settings.public_url.parse().map_err(|_| wrong())?;
            let (scheme, name) = url.scheme_str().zip(url.authority()).ok_or_else(wrong)?;
            hosts.push(bare(name));
            origin = Some(format!("{scheme}://{name}").to_ascii_lowercase());
        }
        Ok(Names { hosts, origin })
    }

    /// Lets to `routes` only requests that name us and come from no other origin.
    pub fn around<S: Clone + Send + Sync + 'static>(self, routes: Router<S>) -> Router<S> {
        routes.route_layer(from_fn_with_state(Arc::new(self), pass))
    }

    /// `local`: the address to which the client connected.
    fn judge(&self, method: &Method, uri: &Uri, headers: &HeaderMap, local: Option<IpAddr>) -> Result<(), Refusal> {
        let host = sole(headers, HOST)?.and_then(authority).ok_or(Refusal::Host)?;
        // A request line may name a host too, and then that is the one that counts (RFC 9112, 3.2.2): let both be ours.
        if !self.is_ours(&host, local) || uri.authority().is_some_and(|name| !self.is_ours(name, local)) {
            return Err(Refusal::Host);
        }
        if let Some(origin) = sole(headers, ORIGIN)? {
            let origin = origin.to_ascii_lowercase();
            let named = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let is_same = named.is_some_and(|named| named.eq_ignore_ascii_case(host.as_str()));
            if !is_same && self.origin.as_deref() != Some(&origin) {
                return Err(Refusal::Origin);
            }
        }
        let [site, mode, dest] = [sole(headers, FETCH_SITE)?, sole(headers, FETCH_MODE)?, sole(headers, FETCH_DEST)?];
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let follows_link = is_read && mode == Some("navigate") && dest == Some("document");
        if follows_link || matches!(site, None | Some("same-origin" | "none")) { Ok(()) } else { Err(Refusal::Origin) }
    }

    fn is_ours(&self, named: &Authority, local: Option<IpAddr>) -> bool {
        let name = bare(named);
        match name.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(address) if address.is_loopback() || local.is_some_and(|local| local.to_canonical() == address) => true,
            _ => name == "localhost" || self.hosts.contains(&name),
        }
    }
}

/// The value of a header that may stand only once.
fn sole(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Refusal> {
    let refusal = if name == HOST { Refusal::Host } else { Refusal::Origin };
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| refusal),
        (Some(_), Some(_)) => Err(refusal),
    }
}

/// A host with or without a port.
fn authority(text: &str) -> Option<Authority> {
    text.parse().ok().filter(|name: &Authority| !name.as_str().contains('@'))
}

/// The host alone, without the brackets of IPv6.
fn bare(name: &Authority) -> String {
    name.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

async fn pass(State(names): State<Arc<Names>>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<Connection>().map(|connection| connection.local);
    match names.judge(request.method(), request.uri(), request.headers(), local) {
        Ok(()) => next.run(request).await,
        Err(Refusal::Host) => {
            let say = "This is no name of the gateway. gateway.public_url and gateway.hosts give it more.\n";
            (StatusCode::MISDIRECTED_REQUEST, say).into_response()
        }
        Err(Refusal::Origin) => (StatusCode::FORBIDDEN, "A page of another origin may not ask.\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn names(public_url: &str) -> Names {
        let hosts = vec!["chasqui".to_owned(), "Gateway.Internal".to_owned()];
        Names::of(&Settings { bind: String::new(), public_url: public_url.into(), hosts, connections: 1 }).unwrap()
    }

    /// What comes of a request with these headers, to the public address `https://n.example.com/x` by way of 192.0.2.1.
    fn judged(method: &Method, uri: &str, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(name, value);
        }
        let local = Some("::ffff:192.0.2.1".parse().unwrap());
        names("https://N.example.com/x").judge(method, &uri.parse().unwrap(), &all, local)
    }

    #[test]
    fn only_names_of_ours_are_answered() {
        for (host, expected) in [
            ("n.example.com", Ok(())),
            ("N.Example.com:443", Ok(())),
            ("localhost", Ok(())),
            ("LOCALHOST:8400", Ok(())),
            ("127.0.0.1:8400", Ok(())),
            ("127.9.9.9", Ok(())),
            ("[::1]:8400", Ok(())),
            ("[::ffff:127.0.0.1]:8400", Ok(())),
            ("192.0.2.1:8400", Ok(())),
            ("chasqui:8400", Ok(())),
            ("gateway.internal", Ok(())),
            ("", Err(Refusal::Host)),
            ("example.com", Err(Refusal::Host)),
            ("n.example.com.", Err(Refusal::Host)),
            ("n.example.com.evil.net", Err(Refusal::Host)),
            ("127.0.0.1.evil.net", Err(Refusal::Host)),
            ("localhost.evil.net:8400", Err(Refusal::Host)),
            ("192.0.2.2", Err(Refusal::Host)),
            ("0.0.0.0:8400", Err(Refusal::Host)),
            ("127.0.0.1@evil.net", Err(Refusal::Host)),
            ("evil.net@127.0.0.1", Err(Refusal::Host)),
            ("127.0.0.1, evil.net", Err(Refusal::Host)),
            ("127.0.0.1/evil", Err(Refusal::Host)),
            ("é", Err(Refusal::Host)),
        ] {
            for method in [Method::GET, Method::POST] {
                assert_eq!(judged(&method, "/ui", &[("host", host)]), expected, "{method} {host}");
            }
        }
        assert_eq!(judged(&Method::GET, "/ui", &[]), Err(Refusal::Host));
        let twice = [("host", "127.0.0.1"), ("host", "127.0.0.1")];
        assert_eq!(judged(&Method::GET, "/ui", &twice), Err(Refusal::Host));
        let here = [("host", "127.0.0.1")];
        assert_eq!(judged(&Method::GET, "http://evil.net/ui", &here), Err(Refusal::Host));
        assert_eq!(judged(&Method::GET, "http://localhost/ui", &here), Ok(()));
        assert_eq!(judged(&Method::GET, "http://localhost/ui", &[("host", "evil.net")]), Err(Refusal::Host));
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing_and_reads_nothing() {
        let (here, there) = ("127.0.0.1:8400", "n.example.com");
        for (host, origin, expected) in [
            (here, "http://127.0.0.1:8400", Ok(())),
            (there, "https://n.example.com", Ok(())),
            // The proxy changed the host.
            (here, "https://n.example.com", Ok(())),
            (here, "https://N.EXAMPLE.com", Ok(())),
            (here, "http://n.example.com", Err(Refusal::Origin)),
            (here, "http://127.0.0.1:3000", Err(Refusal::Origin)),
            (here, "http://127.0.0.1", Err(Refusal::Origin)),
            (here, "http://localhost:8400", Err(Refusal::Origin)),
            (here, "https://evil.net", Err(Refusal::Origin)),
            (there, "https://n.example.com.evil.net", Err(Refusal::Origin)),
            (there, "https://n.example.com:8443", Err(Refusal::Origin)),
            (here, "null", Err(Refusal::Origin)),
            (here, "", Err(Refusal::Origin)),
            (here, "file://", Err(Refusal::Origin)),
            (here, "chrome-extension://127.0.0.1:8400", Err(Refusal::Origin)),
            (here, "é", Err(Refusal::Origin)),
        ] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                let found = judged(&method, "/x", &[("host", host), ("origin", origin)]);
                assert_eq!(found, expected, "{method} {host} {origin}");
            }
        }
        let twice = [("host", there), ("origin", "https://n.example.com"), ("origin", "https://evil.net")];
        assert_eq!(judged(&Method::POST, "/x", &twice), Err(Refusal::Origin));
    }

    #[test]
    fn a_link_may_be_followed_and_nothing_else_comes_from_another_site() {
        let refused = Err(Refusal::Origin);
        for (site, mode, dest, get, post) in [
            ("same-origin", "cors", "empty", Ok(()), Ok(())),
            ("none", "navigate", "document", Ok(()), Ok(())),
            ("cross-site", "navigate", "document", Ok(()), refused),
            ("same-site", "navigate", "document", Ok(()), refused),
            ("cross-site", "navigate", "iframe", refused, refused),
            ("cross-site", "no-cors", "image", refused, refused),
            ("cross-site", "no-cors", "script", refused, refused),
            ("cross-site", "cors", "empty", refused, refused),
            ("same-site", "no-cors", "empty", refused, refused),
            ("anything", "cors", "empty", refused, refused),
        ] {
            let headers =
                [("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
            assert_eq!(judged(&Method::GET, "/ui", &headers), get, "GET {site} {mode} {dest}");
            assert_eq!(judged(&Method::POST, "/ui", &headers), post, "POST {site} {mode} {dest}");
        }
        let alone = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
        assert_eq!(judged(&Method::GET, "/ui", &alone), refused);
    }

    #[test]
    fn without_a_public_address_there_is_no_origin_but_the_host() {
        let names = names("");
        let headers = |origin| {
            HeaderMap::from_iter([
                (HOST, HeaderValue::from_static("chasqui:8400")),
                (ORIGIN, HeaderValue::from_static(origin)),
            ])
        };
        let judged = |origin| names.judge(&Method::POST, &Uri::from_static("/"), &headers(origin), None);
        assert_eq!(judged("http://chasqui:8400"), Ok(()));
        assert_eq!(judged("https://n.example.com"), Err(Refusal::Origin));
    }

    #[test]
    fn what_is_no_name_is_refused_by_its_setting() {
        let read = |public_url: &str, host: &str| {
            let hosts = vec![host.to_owned()];
            Names::of(&Settings { bind: String::new(), public_url: public_url.into(), hosts, connections: 1 })
        };
        assert!(read("https://n.example.com/chasqui", "10.0.0.5").is_ok());
        for host in ["", "chasqui:8400", "https://chasqui", "a@b", "a b"] {
            assert_eq!(read("", host).unwrap_err().key, "gateway.hosts", "{host}");
        }
        for url in ["n.example.com", "/path", "https://"] {
            assert_eq!(read(url, "x").unwrap_err().key, "gateway.public_url", "{url}");
        }
    }
}

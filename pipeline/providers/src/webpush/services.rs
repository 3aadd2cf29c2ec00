//! Which push services are called. Endpoints come from browsers, that is from anyone, and an endpoint is an address that
//! we call from inside our network.
//!
//! Guarantee: an endpoint is `https`, on a push service that is known or that the operator has named, and on its port. A
//! name is looked up here, and addresses that are not of the public network are dropped, so that no name leads inside,
//! whatever it resolves to at the moment. A look-up is cut off in time, and those that hang are bounded in number.
//!
//! Through a proxy, names are looked up by the proxy; what it lets through is the operator's.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use chasqui_settings::SettingsError;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use tokio::sync::Semaphore;

use super::settings::Settings;
use crate::Account;

/// The push services of the browsers: Chrome and most others, Firefox, Safari, Edge.
const KNOWN: [&str; 4] =
    ["fcm.googleapis.com", "*.push.services.mozilla.com", "*.push.apple.com", "*.notify.windows.com"];
/// Maximum time of a look-up.
const LOOKUP: Duration = Duration::from_secs(2);
/// Maximum look-ups at once: each takes a thread until the system gives up, which is later than we do.
const LOOKUPS: usize = 32;

/// The push services that may be called.
#[derive(Debug, Clone)]
pub(super) struct Services {
    hosts: Vec<Host>,
    /// Any host, any port, `http://` too: a lab.
    insecure: bool,
    private: bool,
}

/// A host, or with `*.` all below it, and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    name: String,
    below: bool,
    port: u16,
}

impl Host {
    /// Reads `push.example.com`, `*.push.example.com` or `push.example.com:8443`.
    fn read(text: &str) -> Option<Self> {
        let (name, below) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        // As in endpoints: lower case, and ASCII.
        let url = Url::parse(&format!("https://{name}")).ok()?;
        let bare = url.username().is_empty() && url.password().is_none() && url.path() == "/";
        let plain = bare && url.query().is_none() && url.fragment().is_none() && !name.ends_with('/');
        // All of a top-level domain would be anybody.
        let is_name = |name: &&str| !name.contains('*') && (!below || name.contains('.'));
        let name = url.host_str().filter(|_| plain).filter(is_name)?;
        Some(Host { name: name.to_owned(), below, port: url.port_or_known_default()? })
    }

    fn names(&self, host: &str) -> bool {
        match host.strip_suffix(&self.name) {
            Some("") => !self.below,
            Some(rest) => self.below && rest.ends_with('.'),
            None => false,
        }
    }
}

impl Services {
    /// The known ones, and those of the settings.
    pub(super) fn of(account: &Account<'_>, settings: &Settings) -> Result<Self, SettingsError> {
        let read = |text: &str| {
            let problem = format!("`{text}` is not a host: name it as `push.example.com` or `*.push.example.com`");
            Host::read(text).ok_or_else(|| account.invalid("hosts", problem))
        };
        let named = settings.hosts.iter().map(String::as_str);
        Ok(Services {
            hosts: KNOWN.into_iter().chain(named).map(read).collect::<Result<_, _>>()?,
            insecure: settings.allow_insecure_endpoints,
            private: settings.allow_insecure_endpoints || settings.allow_private_addresses,
        })
    }

    /// Why an endpoint is not called, if so; without any of it.
    pub(super) fn check(&self, endpoint: &Url) -> Result<(), &'static str> {
        if self.insecure && matches!(endpoint.scheme(), "https" | "http") {
            return Ok(());
        }
        if endpoint.scheme() != "https" {
            return Err("the endpoint is not an https address");
        }
        if !self.knows(endpoint) {
            return Err("the endpoint is not of a known push service: `hosts` of the account names others");
        }
        // A literal address is looked up by nobody.
        let address = endpoint.host_str().unwrap_or_default().trim_matches(['[', ']']).parse();
        if address.is_ok_and(|address: IpAddr| !self.reaches(address)) {
            return Err("the endpoint is inside a private network: `allow_private_addresses` lets it through");
        }
        Ok(())
    }

    /// Whether it is on a known push service, or one that the operator has named.
    pub(super) fn knows(&self, endpoint: &Url) -> bool {
        let (host, port) = (endpoint.host_str().unwrap_or_default(), endpoint.port_or_known_default());
        endpoint.scheme() == "https" && self.hosts.iter().any(|each| each.names(host) && port == Some(each.port))
    }

    fn reaches(&self, address: IpAddr) -> bool {
        self.private || is_public(address)
    }

    /// Looks names up so that no push service leads inside. Another name than theirs is a proxy's.
    pub(super) fn resolver(&self) -> Arc<dyn Resolve> {
        Arc::new(Resolver { services: self.clone(), lookups: Arc::new(Semaphore::new(LOOKUPS)) })
    }
}

/// Looks names up for a client.
struct Resolver {
    services: Services,
    lookups: Arc<Semaphore>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (services, lookups) = (self.services.clone(), self.lookups.clone());
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::time::timeout(LOOKUP, look_up(host, lookups));
            let found =
                found.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the look-up took too long"))?;
            let is_service = services.hosts.iter().any(|each| each.names(name.as_str()));
            let reached: Vec<SocketAddr> =
                found?.into_iter().filter(|address| !is_service || services.reaches(address.ip())).collect();
            if reached.is_empty() {
                return Err("the name leads to no public address".into());
            }
            Ok(Box::new(reached.into_iter()) as Addrs)
        })
    }
}

/// Asks the system. Its thread keeps its place among the look-ups also when nobody waits for it any more.
async fn look_up(host: String, lookups: Arc<Semaphore>) -> io::Result<Vec<SocketAddr>> {
    let place = lookups.acquire_owned().await.map_err(io::Error::other)?;
    let asking = tokio::task::spawn_blocking(move || {
        let found = (host.as_str(), 0).to_socket_addrs();
        drop(place);
        found.map(Iterator::collect)
    });
    asking.await.map_err(io::Error::other)?
}

/// Whether an address is of the public network.
/// Source: IANA's special-purpose registries, [RFC 6890](https://www.rfc-editor.org/rfc/rfc6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match a {
        // "This" network, loopback, private; multicast and what is reserved above.
        0 | 10 | 127 | 224.. => true,
        // Shared by carriers.
        100 => (64..128).contains(&b),
        169 => b == 254,
        172 => (16..32).contains(&b),
        // Protocols, documentation, 6to4 relays, private.
        192 => matches!((b, c), (0, 0 | 2) | (88, 99) | (168, _)),
        // Benchmarks, documentation.
        198 => matches!((b, c), (18 | 19, _) | (51, 100)),
        203 => (b, c) == (0, 113),
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, .., seventh, eighth] = address.segments();
    let carried = |high: u16, low: u16| is_public_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match (first, second) {
        // NAT64 carries an IPv4 address. Its other prefix is for networks of their own.
        (0x64, 0xff9b) => address.segments()[2..6] == [0; 4] && carried(seventh, eighth),
        // 6to4 carries one too.
        (0x2002, high) => carried(high, address.segments()[2]),
        // Teredo, benchmarks, ORCHID and the like; documentation.
        (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => false,
        // Global unicast. Loopback, mapped IPv4, unique local, link-local and multicast are outside of it.
        (0x2000..=0x3fff, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{account, settings},
        webpush::VENDOR,
    };

    fn services(more: &str) -> Result<Services, SettingsError> {
        Services::of(&account(&VENDOR), &settings(&VENDOR, &format!("public_key = ''\nsubject = ''\n{more}")))
    }

    fn takes(more: &str, endpoint: &str) -> bool {
        services(more).unwrap().check(&endpoint.parse().unwrap()).is_ok()
    }

    #[test]
    fn the_real_push_services_are_called_and_strangers_are_not() {
        for endpoint in [
            "https://fcm.googleapis.com/fcm/send/abc:def",
            "https://FCM.googleapis.com:443/wp/abc",
            "https://updates.push.services.mozilla.com/wpush/v2/abc",
            "https://web.push.apple.com/abc",
            "https://wns2-par02p.notify.windows.com/w/?token=abc",
        ] {
            assert!(takes("", endpoint), "{endpoint}");
        }
        for endpoint in [
            "http://fcm.googleapis.com/fcm/send/abc",
            "https://fcm.googleapis.com:8443/fcm/send/abc",
            "https://evil.fcm.googleapis.com/",
            "https://evilpush.apple.com/",
            "https://push.apple.com/",
            "https://web.push.apple.com.evil.example/",
            "https://fcm.googleapis.com./",
            "https://push.example.net/abc",
            "https://localhost/",
            "https://93.184.216.34/",
            "https://[2606:4700::1]/",
        ] {
            assert!(!takes("", endpoint), "{endpoint}");
            assert!(takes("allow_insecure_endpoints = true", endpoint), "{endpoint}");
        }
        assert!(!takes("allow_insecure_endpoints = true", "file:///etc/passwd"));
    }

    #[test]
    fn an_operator_names_others() {
        let more =
            "hosts = ['push.example.net', '*.push.example.org', 'Push.Example.com:8443', '10.0.0.7', '[fd00::7]']";
        for endpoint in
            ["https://push.example.net/", "https://a.b.push.example.org/", "https://push.example.com:8443/x"]
        {
            assert!(takes(more, endpoint), "{endpoint}");
        }
        for endpoint in ["https://a.push.example.net/", "https://push.example.org/", "https://push.example.com/"] {
            assert!(!takes(more, endpoint), "{endpoint}");
        }
        for endpoint in ["https://10.0.0.7/", "https://[fd00::7]/", "https://0xa.7/"] {
            assert!(!takes(more, endpoint), "{endpoint} is inside");
            assert!(takes(&format!("{more}\nallow_private_addresses = true"), endpoint), "{endpoint}");
        }
        for host in ["", "*", "*.", "*.com", "a b", "https://a.example", "a.example/x", "u@a.example", "a.example?x"] {
            let error = services(&format!("hosts = ['{host}']")).unwrap_err().to_string();
            assert!(error.starts_with("accounts.webpush.hosts: "), "{host}: {error}");
        }
    }

    #[test]
    fn only_addresses_of_the_public_network_are() {
        for address in ["93.184.216.34", "100.63.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1", "64:ff9b::808:808"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.0.0.5",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.5",
            "::ffff:93.184.216.34",
            "::7f00:1",
            "64:ff9b::a00:5",
            "64:ff9b:1::808:808",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:5::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn a_service_whose_name_leads_inside_has_no_address() {
        let resolve = async |more: &str| {
            let found = services(more).unwrap().resolver().resolve("localhost".parse().unwrap()).await;
            found.map(|addresses| addresses.map(|address| address.ip()).all(|ip| ip.is_loopback())).ok()
        };
        assert_eq!(resolve("hosts = ['localhost']").await, None);
        assert_eq!(resolve("hosts = ['localhost']\nallow_private_addresses = true").await, Some(true));
        assert_eq!(resolve("").await, Some(true), "no endpoint has this name, so it is a proxy's");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_that_does_not_end_is_cut_off() {
        let resolver = Resolver { services: services("").unwrap(), lookups: Arc::new(Semaphore::new(0)) };
        let found = resolver.resolve("fcm.googleapis.com".parse().unwrap()).await;
        assert!(found.err().unwrap().to_string().contains("took too long"));
    }
}

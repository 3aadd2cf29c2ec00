//! What a user agent says about who opened or followed something: a person, or a machine that fetches by itself.
//!
//! Pure. Engagement asks for what recipients fetch from us, vendors' callbacks for what vendors saw. A user agent alone
//! proves little; a caller that has more signs weighs them too.

use chasqui_schemas::receipt::Actor;

/// Maximum bytes of a user agent that are looked at: names of programs stand at its beginning.
const MAX_AGENT_BYTES: usize = 512;

/// Who a user agent says it is. Without one it is a machine: every browser and mail program sends one.
pub fn of_user_agent(agent: Option<&str>) -> Actor {
    /// Parts of names of programs that fetch by themselves.
    const MACHINES: [&str; 38] = [
        "bot",
        "crawl",
        "spider",
        "scan",
        "preview",
        "prefetch",
        "headless",
        "phantom",
        "monitor",
        "validator",
        "linkcheck",
        "urlcheck",
        "safelinks",
        "barracuda",
        "proofpoint",
        "mimecast",
        "symantec",
        "trendmicro",
        "fortinet",
        "sophos",
        "zscaler",
        "ironport",
        "messagelabs",
        "cloudmark",
        "facebookexternalhit",
        "whatsapp",
        "curl/",
        "wget/",
        "python",
        "go-http-client",
        "java/",
        "okhttp",
        "apache-httpclient",
        "libwww",
        "node-fetch",
        "axios",
        "ruby",
        "edge/12.246 mozilla/5.0",
    ];
    /// Browsers and mail programs begin with, or contain, one of these.
    const PEOPLE: [&str; 6] = ["mozilla/", "opera/", "outlook", "thunderbird", "microsoft office", "yahoomailproxy"];
    let Some(agent) = agent.map(str::trim).filter(|agent| !agent.is_empty()) else { return Actor::Machine };
    let agent = cut(agent).to_ascii_lowercase();
    if agent == "mozilla/5.0" || MACHINES.iter().any(|name| agent.contains(name)) {
        Actor::Machine
    } else if PEOPLE.iter().any(|name| agent.contains(name)) {
        Actor::Human
    } else {
        Actor::Unknown
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_AGENT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    const GMAIL: &str = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";
    const GMAIL_PREFETCH: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                                  Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0";
    const YAHOO: &str = "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html";

    #[test]
    fn agents_tell_what_they_tell() {
        for (agent, actor) in [
            (None, Actor::Machine),
            (Some("  "), Actor::Machine),
            (Some("Mozilla/5.0"), Actor::Machine),
            (Some(GMAIL_PREFETCH), Actor::Machine),
            (Some("Mozilla/5.0 (compatible; Googlebot/2.1)"), Actor::Machine),
            (Some("Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/120.0"), Actor::Machine),
            (Some("Barracuda Sentinel (EE)"), Actor::Machine),
            (Some("python-requests/2.31"), Actor::Machine),
            (Some("Go-http-client/2.0"), Actor::Machine),
            (Some("BingPreview/1.0b"), Actor::Machine),
            (Some(FIREFOX), Actor::Human),
            (Some(GMAIL), Actor::Human),
            (Some("Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.17328; Pro)"), Actor::Human),
            (Some("Thunderbird/128"), Actor::Human),
            (Some("SomethingElse/1.0"), Actor::Unknown),
            (Some(YAHOO), Actor::Human),
        ] {
            assert_eq!(of_user_agent(agent), actor, "{agent:?}");
        }
        assert_eq!(of_user_agent(Some(&format!("Mozilla/4 {}bot", "é".repeat(400)))), Actor::Human, "cut");
    }
}

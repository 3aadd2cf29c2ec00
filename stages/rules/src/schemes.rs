//! Where a tap may lead: `http`, `https`, and the schemes that an operator lists for the deep links of apps.
//!
//! `content.url`, a template's `url` and what stands for it in overrides reach apps, inboxes and service workers, which may
//! open whatever is there: `javascript:` would run in a page, `file:` would read.
//!
//! Pure.

/// The schemes that a link may have.
#[derive(Debug, Clone, Default)]
pub struct Schemes {
    /// In lower case, beside `http` and `https`.
    listed: Vec<String>,
}

impl Schemes {
    /// `listed` and http(s).
    ///
    /// # Errors
    /// Names the one that is no scheme, or that nobody may list.
    pub fn new(listed: &[String]) -> Result<Self, String> {
        /// They run or read where they are opened.
        const NEVER: [&str; 6] = ["javascript", "data", "file", "vbscript", "blob", "about"];
        let listed: Vec<String> = listed.iter().map(|scheme| scheme.to_ascii_lowercase()).collect();
        for scheme in &listed {
            let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
            if !is_scheme {
                return Err(format!("`{scheme}` is no scheme: name it without `:`, such as `myshop`"));
            }
            if NEVER.contains(&scheme.as_str()) {
                return Err(format!("`{scheme}:` runs or reads where it is opened, so it cannot be listed"));
            }
        }
        Ok(Schemes { listed })
    }

    /// Why a link may not lead to `url`, if so. An empty text is no link.
    pub fn refusal(&self, url: &str) -> Option<String> {
        if url.is_empty() {
            return None;
        }
        if url.chars().any(char::is_control) {
            return Some("control characters are not allowed".to_owned());
        }
        let begins = |start: &str| url.get(..start.len()).is_some_and(|part| part.eq_ignore_ascii_case(start));
        let is_listed = ["http://", "https://"].into_iter().any(begins)
            || self.listed.iter().any(|scheme| begins(scheme) && url[scheme.len()..].starts_with(':'));
        (!is_listed).then(|| "must begin with `https://`, `http://`, or a scheme that `links.schemes` lists".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_the_web_or_into_an_app_that_is_listed() {
        let schemes = Schemes::new(&["MyShop".to_owned()]).unwrap();
        for good in ["", "https://x", "HTTP://x/?a=b", "myshop://orders/7", "MYSHOP:orders", "https://ex.com/<a>"] {
            assert_eq!(schemes.refusal(good), None, "{good}");
        }
        for bad in [
            "javascript:alert(1)",
            "JaVaScRiPt:alert(1)",
            " javascript:alert(1)",
            "java\tscript:alert(1)",
            "\u{1}javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "intent://x",
            "myshopx://orders",
            "myshop",
            "http:/x",
            "//example.com",
            "/orders",
            "https\u{a0}://x",
        ] {
            assert!(schemes.refusal(bad).is_some(), "{bad:?}");
        }
        assert!(Schemes::default().refusal("myshop://orders/7").is_some());
    }

    #[test]
    fn what_runs_or_reads_cannot_be_listed() {
        for bad in ["javascript", "DATA", "file", "my shop", "myshop:", "", "7up"] {
            assert!(Schemes::new(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}

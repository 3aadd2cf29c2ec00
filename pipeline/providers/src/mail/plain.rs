//! From HTML to plain text, for readers that show no HTML, and for filters that distrust a mail without.
//!
//! Guarantee: takes any input, in time and space that grow with its length alone. No tree is built: the nesting of a
//! tree costs more than its length.

use std::borrow::Cow;

use html5gum::{DefaultEmitter, Token, Tokenizer};

/// The words of a document, one line per block, with the addresses of its links.
pub(super) fn text(html: &str) -> String {
    let mut emitter = DefaultEmitter::default();
    // What stands in `style`, `script` or `title` is no markup.
    emitter.naively_switch_states(true);
    let mut page = Page::default();
    for Ok(token) in Tokenizer::new_with_emitter(html, emitter) {
        match token {
            Token::StartTag(tag) => {
                let attribute = |name: &[u8]| tag.attributes.get(name).map(|value| String::from_utf8_lossy(value));
                match &tag.name[..] {
                    b"a" => page.link = attribute(b"href").map(|href| (page.text.len(), href.into_owned())),
                    b"img" => page.say(&attribute(b"alt").unwrap_or_default()),
                    name => page.begin(name),
                }
            }
            Token::EndTag(tag) => page.end(&tag.name),
            Token::String(text) => page.say(&String::from_utf8_lossy(&text)),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    /// Blank and line breaks due before the next word.
    blank: bool,
    breaks: usize,
    /// The next word begins an item of a list.
    item: bool,
    /// The element that is being left out.
    unseen: Option<Vec<u8>>,
    /// Where the text of the open link begins, and where it leads.
    link: Option<(usize, String)>,
}

impl Page {
    fn begin(&mut self, name: &[u8]) {
        match name {
            b"title" | b"style" | b"script" | b"noscript" | b"template" | b"textarea" | b"iframe" | b"noembed"
            | b"noframes"
                if self.unseen.is_none() =>
            {
                self.unseen = Some(name.to_vec());
            }
            b"br" => self.breaks = (self.breaks + 1).min(2),
            b"li" => {
                self.apart(name);
                self.item = true;
            }
            _ => self.apart(name),
        }
    }

    fn end(&mut self, name: &[u8]) {
        if self.unseen.as_deref() == Some(name) {
            self.unseen = None;
        }
        match (name, self.link.take()) {
            (b"a", Some((start, href))) => self.lead(start, &href),
            (_, link) => self.link = link,
        }
        self.apart(name);
    }

    /// What an element keeps its words apart by.
    fn apart(&mut self, name: &[u8]) {
        match name {
            b"p" | b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" | b"ul" | b"ol" | b"dl" | b"table" | b"blockquote"
            | b"pre" | b"hr" => self.breaks = 2,
            b"div" | b"li" | b"dt" | b"dd" | b"tr" | b"section" | b"article" | b"header" | b"footer" | b"main"
            | b"nav" | b"aside" | b"address" | b"figure" | b"figcaption" | b"center" | b"form" => {
                self.breaks = self.breaks.max(1);
            }
            b"td" | b"th" => self.blank = true,
            _ => {}
        }
    }

    fn say(&mut self, text: &str) {
        if self.unseen.is_some() {
            return;
        }
        self.blank |= text.starts_with(char::is_whitespace);
        let words = text.split_whitespace().map(|word| word.trim_matches(is_filler));
        for word in words.filter(|word| !word.is_empty()) {
            self.space();
            self.text.push_str(word);
            self.blank = true;
        }
        self.blank &= text.ends_with(char::is_whitespace) || text.is_empty();
    }

    /// Writes what is due before a word.
    fn space(&mut self) {
        match self.breaks {
            _ if self.text.is_empty() => {}
            0 if self.blank => self.text.push(' '),
            breaks => self.text.push_str(&"\n\n"[..breaks]),
        }
        if std::mem::take(&mut self.item) {
            self.text.push_str("* ");
        }
        (self.blank, self.breaks) = (false, 0);
    }

    /// Writes where a link leads, unless its text says so or it leads nowhere outside of the document.
    fn lead(&mut self, start: usize, href: &str) {
        let href = href.trim();
        if !["https://", "http://", "mailto:", "tel:"].iter().any(|scheme| href.starts_with(scheme)) {
            return;
        }
        let words = self.text.get(start..).unwrap_or_default().trim();
        if words.contains(href) {
            return;
        }
        let lead = if words.is_empty() { Cow::Borrowed(href) } else { Cow::Owned(format!("({href})")) };
        self.say(" ");
        self.say(&lead);
    }
}

/// What pads the preview of a mail: blanks without width, joiners and soft hyphens that join nothing.
fn is_filler(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200d}' | '\u{feff}' | '\u{ad}' | '\u{34f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_remain_and_the_links_with_them() {
        let html = r#"<!DOCTYPE html><html><head><title>Order</title><style>p { color: red }</style></head>
            <body><!-- <p>no</p> --><!--[if mso]><p>no</p><![endif]--><div style="display:none">Preview&zwnj;&nbsp;&zwnj;&nbsp;</div>
            <table><tr><td><img src="x.png" alt="Shop"></td><td>No.&nbsp;7</td></tr></table>
            <h1>Hello&comma; <b>A</b>da &amp; all</h1><p>Your order <a href="https://shop.example/o?a=1&amp;b=2">is
            here</a>.<br>Grüße — 注文</p><ul><li>One</li><li>Two</ul>
            <a href="https://shop.example/"><img src="y"></a> <a href="mailto:a@b.example">a@b.example</a> <a href="/up">up</a>
            <a href="https://x.example">https://x.example</a><script>if (a < b) { no() }</script></body></html>"#;
        let expected = "Preview\n\nShop No. 7\n\nHello, Ada & all\n\n\
            Your order is here (https://shop.example/o?a=1&b=2).\nGrüße — 注文\n\n* One\n* Two\n\n\
            https://shop.example/ a@b.example (mailto:a@b.example) up https://x.example";
        assert_eq!(text(html), expected);
    }

    #[test]
    fn a_document_without_words_has_no_text() {
        for html in
            ["", " \n", "<p>&nbsp;</p><br><br>", r#"<img src="x">"#, "<style>p{}", "<noscript><p>x</p></noscript>"]
        {
            assert_eq!(text(html), "", "{html}");
        }
    }

    #[test]
    fn deep_nesting_costs_no_more_than_its_length() {
        for tag in
            ["<div>", "<table><tr><td>", "<b><a href='https://x.example'>", "<ul><li>", "<!--", "&amp", "<a x=\""]
        {
            assert!(text(&tag.repeat(50_000)).len() <= 50_000 * 30, "{tag}");
        }
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(html in "(<|>|&|;|\"|/|a|p|br|li|href=|https://|style|!--|--|[ \n]|\\PC){0,60}") {
            let text = text(&html);
            prop_assert!(!text.starts_with(char::is_whitespace) && !text.contains("\n\n\n"), "{text:?}");
        }
    }
}

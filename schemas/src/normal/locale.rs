//! Language tags, canonical as [BCP 47](https://www.rfc-editor.org/rfc/rfc5646#section-4.5) and
//! [CLDR](https://www.unicode.org/reports/tr35/#Canonical_Unicode_Locale_Identifiers) have it: `iw` is `he`, `pt_br` is `pt-BR`.
//!
//! [`best`] finds what a reader can read best of what there is. Which script a language has where is known from CLDR's likely
//! subtags: `zh-TW` is written in traditional characters, so `zh-Hant` is nearer than `zh`.

use icu_locale::{
    LanguageIdentifier, Locale, LocaleCanonicalizer, LocaleExpander, LocaleFallbacker, fallback::LocaleFallbackConfig,
};

/// What is wrong with all that is no tag.
pub const PROBLEM: &str = "must be a BCP 47 language tag, such as pt-BR";

/// The tag in its canonical form. What POSIX writes (`pt_BR.UTF-8`) is understood too.
///
/// # Errors
/// It is none.
pub fn normal(text: &str) -> Result<String, &'static str> {
    read(text).map(|locale| locale.to_string()).ok_or(PROBLEM)
}

/// Of the tags that are offered the one that a reader of `wanted` reads best; `None` where there is none in the language.
///
/// Looked for are, in this order: the tag itself; what is nearer and nearer to the language alone, as CLDR has it
/// (`zh-TW`, `zh-Hant`; `es-MX`, `es-419`, `es`); the language in whatever script. A tag also stands for its likely
/// subtags: `pt-BR` for `pt`, and `zh-TW` for `zh-Hant`; but not for another region, `pt-BR` not for `pt-PT`.
pub fn best<'a>(wanted: &str, offered: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = read(wanted)?;
    let whole = wanted.to_string();
    let mut known: Vec<(&str, LanguageIdentifier)> = Vec::new();
    for tag in offered {
        let Some(locale) = read(tag) else { continue };
        if locale.to_string() == whole {
            return Some(tag);
        }
        // What has more to say than a language, a script and a region is only for who asks for it.
        if locale.extensions.is_empty() {
            known.push((tag, locale.id));
        }
    }
    let expander = LocaleExpander::new_extended();
    let likely = |id: &LanguageIdentifier| {
        let mut id = id.clone();
        expander.maximize(&mut id);
        id
    };
    let find = |candidate: &LanguageIdentifier, is_whole: bool| {
        let same = known.iter().find(|(_, id)| id == candidate);
        let stands_for = || {
            let may = is_whole || candidate.script.is_some() || candidate.region.is_some();
            let full = may.then(|| likely(candidate))?;
            known.iter().find(|(_, id)| id.language == candidate.language && likely(id) == full)
        };
        same.or_else(stands_for).map(|(tag, _)| *tag)
    };
    if let Some(found) = find(&wanted.id, true) {
        return Some(found);
    }
    let fallbacker = LocaleFallbacker::new();
    let mut nearer = fallbacker.for_config(LocaleFallbackConfig::default()).fallback_for((&wanted.id).into());
    while !nearer.get().is_unknown() {
        if let Some(found) = find(&nearer.get().into_locale().id, false) {
            return Some(found);
        }
        nearer.step();
    }
    find(&LanguageIdentifier::from(wanted.id.language), false)
}

/// A tag that can be read, in its canonical form.
fn read(text: &str) -> Option<Locale> {
    let text = text.trim_matches(' ');
    let tag = text.split(['.', '@']).next().unwrap_or_default().replace('_', "-");
    let mut locale = Locale::try_from_str(&tag).ok().or_else(|| Locale::try_from_str(extended(&tag)?).ok())?;
    LocaleCanonicalizer::new_extended().canonicalize(&mut locale);
    Some(locale)
}

/// `zh-yue-HK` as `yue-HK`: an extended language is the language
/// ([RFC 5646, 4.5](https://www.rfc-editor.org/rfc/rfc5646#section-4.5)).
fn extended(tag: &str) -> Option<&str> {
    let (_, rest) = tag.split_once('-')?;
    let language = rest.split('-').next().unwrap_or_default();
    (language.len() == 3 && language.bytes().all(|b| b.is_ascii_alphabetic())).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_one_form() {
        for (text, expected) in [
            ("pt-BR", "pt-BR"),
            ("PT_br", "pt-BR"),
            ("pt_BR.UTF-8", "pt-BR"),
            ("iw-IL", "he-IL"),
            ("iw", "he"),
            ("in", "id"),
            ("ji", "yi"),
            ("tl", "fil"),
            ("zh-TW", "zh-TW"),
            ("ZH-hant-tw", "zh-Hant-TW"),
            ("zh-cmn-Hans", "zh-Hans"),
            ("zh-yue-HK", "yue-HK"),
            ("de-x-phonebk", "de-x-phonebk"),
        ] {
            assert_eq!(normal(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "e", "english please", "-", "pt-", "pt--BR", "1234", "C"] {
            assert_eq!(normal(text), Err(PROBLEM), "{text}");
        }
    }

    #[test]
    fn the_nearest_text_is_chosen() {
        let table: [(&str, &[&str], Option<&str>); 22] = [
            ("zh-TW", &["zh", "zh-Hant"], Some("zh-Hant")),
            ("zh-HK", &["zh", "zh-Hant"], Some("zh-Hant")),
            ("zh-MO", &["zh-Hans", "zh-Hant"], Some("zh-Hant")),
            ("zh-Hant", &["zh", "zh-TW"], Some("zh-TW")),
            ("zh-HK", &["zh", "zh-TW"], Some("zh-TW")),
            ("zh-TW", &["zh-TW", "zh-Hant"], Some("zh-TW")),
            ("zh-CN", &["zh-Hant", "zh-Hans"], Some("zh-Hans")),
            ("zh-SG", &["zh-Hant", "zh"], Some("zh")),
            ("zh", &["zh-Hant", "zh-Hans"], Some("zh-Hans")),
            ("zh-TW", &["zh", "en"], Some("zh")),
            ("zh-TW", &["en"], None),
            ("sr-ME", &["sr-Cyrl", "sr-Latn"], Some("sr-Latn")),
            ("iw-IL", &["ar", "he"], Some("he")),
            ("he", &["iw"], Some("iw")),
            ("id", &["in"], Some("in")),
            ("es-MX", &["es", "es-419"], Some("es-419")),
            ("en-AU", &["en-US", "en-GB", "en"], Some("en")),
            ("nb", &["no", "en"], Some("no")),
            ("pt", &["pt-BR"], Some("pt-BR")),
            ("pt-PT", &["pt-BR"], None),
            ("de-AT-1901", &["de", "de-AT"], Some("de-AT")),
            ("de-AT", &["de-u-co-phonebk", "de"], Some("de")),
        ];
        for (wanted, offered, expected) in table {
            assert_eq!(best(wanted, offered.iter().copied()), expected, "{wanted} of {offered:?}");
        }
    }
}

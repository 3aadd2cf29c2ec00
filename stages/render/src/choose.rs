//! Chooses the text of a template: the variant by weight, the locale by fallback.
//!
//! Pure: the same notification always gets the same text of the same template.

use std::collections::BTreeMap;

use chasqui_schemas::{
    Channel, id,
    normal::locale,
    record::{DEFAULT_LOCALE, Template},
    submission::Content,
};
use uuid::Uuid;

/// The text that was chosen, and its place in the template.
#[derive(Debug, PartialEq)]
pub(crate) struct Source<'a> {
    /// The variant it belongs to; empty for the template's own.
    pub(crate) variant: &'a str,
    pub(crate) channel: Channel,
    /// As the template spells it.
    pub(crate) locale: &'a str,
    pub(crate) content: &'a Content,
}

/// Draws a variant, always the same for the same notification; empty where the template has none.
pub(crate) fn variant<'a>(template: &'a Template, key: &str, notification: Uuid) -> &'a str {
    let total: u64 = template.variants.values().map(|variant| u64::from(variant.weight)).sum();
    if total == 0 {
        return "";
    }
    let mut left = id::fraction(&["variant", &notification.to_string(), key]) * total as f64;
    let drawable = template.variants.iter().filter(|(_, variant)| variant.weight > 0);
    let mut last = "";
    for (name, variant) in drawable {
        last = name;
        left -= f64::from(variant.weight);
        if left < 0.0 {
            break;
        }
    }
    last
}

/// The text for a channel: the variant's, else the template's own.
pub(crate) fn source<'a>(
    template: &'a Template,
    variant: &'a str,
    channel: Channel,
    wanted: &str,
) -> Option<Source<'a>> {
    let variants = template.variants.get(variant).map(|each| (variant, &each.channels));
    variants.into_iter().chain([("", &template.channels)]).find_map(|(variant, channels)| {
        let (locale, content) = localized(channels.get(&channel)?, wanted)?;
        Some(Source { variant, channel, locale, content })
    })
}

/// The text that the reader reads best ([`locale::best`]), else `default`.
fn localized<'a>(locales: &'a BTreeMap<String, Content>, wanted: &str) -> Option<(&'a str, &'a Content)> {
    let known = |tag: &str| locales.get_key_value(tag).map(|(tag, content)| (tag.as_str(), content));
    known(wanted)
        .or_else(|| known(locale::best(wanted, locales.keys().map(String::as_str))?))
        .or_else(|| known(DEFAULT_LOCALE))
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::record::Variant;

    use super::*;

    fn locales(names: &[&str]) -> BTreeMap<String, Content> {
        names
            .iter()
            .map(|&name| (name.to_owned(), Content { body: Some(name.to_owned()), ..Content::default() }))
            .collect()
    }

    #[test]
    fn a_locale_falls_back_to_its_language_and_then_to_the_default() {
        let table: [(&[&str], &str, Option<&str>); 19] = [
            (&["ko-KR", "ko", "default"], "ko-KR", Some("ko-KR")),
            (&["ko", "default"], "ko-KR", Some("ko")),
            (&["default"], "ko-KR", Some("default")),
            (&["en"], "ko-KR", None),
            (&["en", "default"], "", Some("default")),
            (&["pt-BR"], "pt", Some("pt-BR")),
            (&["pt-BR", "default"], "pt-PT", Some("default")),
            (&["pt-BR"], "PT-br", Some("pt-BR")),
            (&["pt_BR"], "pt-BR", Some("pt_BR")),
            (&["pt-BR"], "pt_BR", Some("pt-BR")),
            (&["zh", "zh-Hant"], "zh-Hant-TW", Some("zh-Hant")),
            (&["zh", "zh-Hant"], "zh-Hans-CN", Some("zh")),
            (&["zh", "zh-Hant", "default"], "zh-TW", Some("zh-Hant")),
            (&["he", "default"], "iw-IL", Some("he")),
            (&["de-x", "de"], "de-x-phonebk", Some("de")),
            (&["k", "ko"], "kok", None),
            (&["default", "de"], "default", Some("default")),
            (&["en"], "-", None),
            (&[], "en", None),
        ];
        for (has, wanted, expected) in table {
            let locales = locales(has);
            assert_eq!(localized(&locales, wanted).map(|(locale, _)| locale), expected, "{wanted} of {has:?}");
        }
    }

    fn template(variants: &[(&str, u32)]) -> Template {
        Template {
            channels: BTreeMap::from([
                (Channel::Push, locales(&["default", "ko"])),
                (Channel::Sms, locales(&["default"])),
            ]),
            variants: variants
                .iter()
                .map(|&(name, weight)| {
                    let channels = BTreeMap::from([(Channel::Push, locales(&["en"]))]);
                    (name.to_owned(), Variant { weight, channels })
                })
                .collect(),
        }
    }

    #[test]
    fn a_variant_overrides_what_it_has_and_leaves_the_rest() {
        let template = template(&[("b", 1)]);
        let chosen =
            |channel, wanted| source(&template, "b", channel, wanted).map(|source| (source.variant, source.locale));
        assert_eq!(chosen(Channel::Push, "en-GB"), Some(("b", "en")));
        assert_eq!(chosen(Channel::Push, "ko"), Some(("", "ko")), "the variant has no text that the reader could read");
        assert_eq!(chosen(Channel::Sms, "en"), Some(("", "default")));
        assert_eq!(chosen(Channel::Email, "en"), None);
    }

    #[test]
    fn variants_are_drawn_by_weight_and_always_the_same() {
        let template = template(&[("a", 3), ("b", 1), ("never", 0)]);
        let mut drawn = BTreeMap::new();
        for n in 0..10_000u128 {
            let notification = Uuid::from_u128(n);
            let name = variant(&template, "key", notification);
            assert_eq!(variant(&template, "key", notification), name);
            *drawn.entry(name).or_insert(0) += 1;
        }
        assert_eq!(drawn.keys().copied().collect::<Vec<_>>(), ["a", "b"]);
        assert!((7_300..7_700).contains(&drawn["a"]), "{drawn:?}");
        let other = (0..100u128).filter(|&n| {
            variant(&template, "other", Uuid::from_u128(n)) != variant(&template, "key", Uuid::from_u128(n))
        });
        assert!(other.count() > 10, "templates draw independently");
    }

    #[test]
    fn without_weight_nothing_is_drawn() {
        assert_eq!(variant(&template(&[]), "key", Uuid::nil()), "");
        assert_eq!(variant(&template(&[("a", 0)]), "key", Uuid::nil()), "");
        assert_eq!(variant(&template(&[("a", u32::MAX), ("b", u32::MAX)]), "key", Uuid::nil()).len(), 1);
    }
}

//! The template engine and its limits.
//!
//! A template is a program that an operator wrote, and it runs on data that anybody may have written. So an undefined
//! variable is an error and never a gap in the text, HTML is escaped, data is never run, and each run has a budget of
//! instructions ([`FUEL`]), of depth, of output and of what filters make (`work`). There is no loader: a template can include
//! only texts of its own record, and can reach no file, no environment and no other notification. What HTML includes is
//! escaped as HTML, whatever part it was written as.
//!
//! Operators' work is bounded less: a template that joins a text to itself again and again by `set` statements takes ever
//! more memory, and one that repeats a text (`*`) up to 100 MB at a time. Operators who may write to `templates` are
//! trusted not to do that; data alone cannot cause it.
//!
//! Pure, so a crash changes nothing.

use std::{borrow::Cow, collections::BTreeMap, io};

use chasqui_schemas::{
    Channel,
    record::{Template, Violation},
    submission::{Content, MAX_CONTENT_BYTES},
};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context};

use crate::{
    choose::Source,
    values::{Data, Numbers},
    work,
};

/// Maximum instructions of one text. They take some milliseconds, which a real template never needs.
const FUEL: u64 = 100_000;
/// Maximum depth of macros and includes within each other: far below what a thread's stack holds.
const RECURSION: usize = 50;
/// Maximum characters of the template that an error quotes: enough to find the place.
const MAX_QUOTE: usize = 100;
/// The part that is HTML.
const HTML: &str = "html";

/// One template record, compiled.
pub(crate) struct Compiled {
    /// Every text, to be plain text.
    plain: Environment<'static>,
    /// Every text, to be part of HTML; only where the template has HTML. Escaping belongs to the text that is compiled, so a
    /// plain part that HTML includes would be let through as it is.
    html: Option<Environment<'static>>,
    /// The texts that do not compile, with the error. Each fails when it is used; the others work.
    broken: BTreeMap<String, String>,
}

impl Compiled {
    pub(crate) fn new(template: &Template) -> Self {
        let mut plain = environment(AutoEscape::None);
        let texts: Vec<Place<'_>> = places(template).collect();
        let mut html = texts.iter().any(|place| place.part == HTML).then(|| environment(AutoEscape::Html));
        let mut broken = BTreeMap::new();
        for place in texts {
            let name = name(place.variant, place.channel, place.locale, place.part);
            for environment in [Some(&mut plain), html.as_mut()].into_iter().flatten() {
                if let Err(error) = environment.add_template_owned(name.clone(), place.text.to_owned()) {
                    broken.insert(name.clone(), describe(&error, place.text));
                }
            }
        }
        Compiled { plain, html, broken }
    }

    /// Renders every part of a text. An error reads `part, line: what`.
    pub(crate) fn render(&self, source: &Source<'_>, data: &Data) -> Result<Content, String> {
        // The producer's own `locale`, if `data` has one, wins over ours.
        let locale = if source.locale == chasqui_schemas::record::DEFAULT_LOCALE { "" } else { source.locale };
        let variables = minijinja::value::merge_maps([data.variables.clone(), context! { locale }]);
        let mut left = MAX_CONTENT_BYTES;
        let mut content = Content::default();
        for (part, text) in parts(source.content) {
            let name = name(source.variant, source.channel, source.locale, part);
            if let Some(what) = self.broken.get(&name) {
                return Err(format!("{part}{what}"));
            }
            let mut output = Bounded { bytes: Vec::with_capacity(text.len() * 2), left };
            let compiled = self.html.as_ref().filter(|_| part == HTML).unwrap_or(&self.plain);
            // Only numbers like `100.00` need a formatter of their own: few notifications.
            let environment = match data.numbers.is_empty() {
                true => Cow::Borrowed(compiled),
                false => {
                    let mut own = compiled.clone();
                    let numbers = data.numbers.clone();
                    own.set_formatter(move |out, state, value| numbers.print(out, state, value));
                    Cow::Owned(own)
                }
            };
            let rendered = environment
                .get_template(&name)
                .and_then(|template| template.render_captured_to(variables.clone(), &mut output).map(drop));
            if let Err(error) = rendered {
                let what = match output.left {
                    0 => format!(": its texts take more than {MAX_CONTENT_BYTES} bytes"),
                    _ => describe(&error, text),
                };
                return Err(format!("{part}{what}"));
            }
            left = output.left;
            let rendered = String::from_utf8(output.bytes).map_err(|_| format!("{part}: is not UTF-8"))?;
            let place = match part {
                "title" => &mut content.title,
                "body" => &mut content.body,
                HTML => &mut content.html,
                _ => &mut content.url,
            };
            *place = Some(rendered);
        }
        Ok(content)
    }
}

/// An environment without texts, which escapes what is put into them as `escape` says.
fn environment(escape: AutoEscape) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(move |_| escape.clone());
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    // Without it, errors do not name the undefined variable. We print nothing else of the debug information.
    environment.set_debug(true);
    // The function `debug()` would print every variable, and so the recipient's data.
    environment.remove_global("debug");
    environment.set_formatter(|out, state, value| Numbers::default().print(out, state, value));
    work::bound_filters(&mut environment);
    environment
}

/// A text of a template, and where it stands.
struct Place<'a> {
    /// Empty for the template's own.
    variant: &'a str,
    channel: Channel,
    locale: &'a str,
    part: &'static str,
    text: &'a str,
}

/// Every text of a template.
fn places(template: &Template) -> impl Iterator<Item = Place<'_>> {
    let own = [("", &template.channels)];
    let variants = template.variants.iter().map(|(name, variant)| (name.as_str(), &variant.channels));
    let locales = own.into_iter().chain(variants).flat_map(|(variant, channels)| {
        channels.iter().flat_map(move |(channel, locales)| {
            locales.iter().map(move |(locale, content)| (variant, *channel, locale.as_str(), content))
        })
    });
    locales.flat_map(|(variant, channel, locale, content)| {
        parts(content).map(move |(part, text)| Place { variant, channel, locale, part, text })
    })
}

/// Refuses a template that could never be rendered: a text that does not compile, or that names a filter, test, function or
/// text that is not there. Which variables there will be is not known, so each text is run with none, as far as that goes.
///
/// # Errors
/// The first such text.
pub fn check(template: &Template) -> Result<(), Violation> {
    let mut compiled = Compiled::new(template);
    for environment in [Some(&mut compiled.plain), compiled.html.as_mut()].into_iter().flatten() {
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    }
    for Place { variant, channel, locale, part, text } in places(template) {
        let name = name(variant, channel, locale, part);
        let known = compiled.html.as_ref().filter(|_| part == HTML).unwrap_or(&compiled.plain);
        let problem = compiled.broken.get(&name).cloned().or_else(|| {
            let mut output = Bounded { bytes: Vec::new(), left: MAX_CONTENT_BYTES };
            let run = known.get_template(&name).and_then(|it| it.render_captured_to((), &mut output).map(drop));
            run.err().filter(is_for_ever).map(|error| describe(&error, text))
        });
        if let Some(problem) = problem {
            let variant = if variant.is_empty() { String::new() } else { format!("variants.{variant}.") };
            let field = format!("{variant}channels.{channel}.{locale}.{part}");
            // It reads `, line 3: what`.
            return Err(Violation { field, problem: problem.trim_start_matches([',', ':', ' ']).to_owned() });
        }
    }
    Ok(())
}

/// Whether no data could mend it.
fn is_for_ever(error: &Error) -> bool {
    use ErrorKind::{SyntaxError, TemplateNotFound, UnknownFilter, UnknownFunction, UnknownTest};
    let kinds = [SyntaxError, TemplateNotFound, UnknownFilter, UnknownFunction, UnknownTest];
    kinds.contains(&error.kind())
}

fn parts(content: &Content) -> impl Iterator<Item = (&'static str, &str)> {
    [("title", &content.title), ("body", &content.body), (HTML, &content.html), ("url", &content.url)]
        .into_iter()
        .filter_map(|(part, text)| Some((part, text.as_deref()?)))
}

/// The name under which a text is compiled, and may be included.
fn name(variant: &str, channel: Channel, locale: &str, part: &str) -> String {
    format!("{variant}/{channel}/{locale}/{part}")
}

/// An error in words: of the template's text, never of the data.
fn describe(error: &Error, text: &str) -> String {
    let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
    let detail = match error.kind() {
        // These details are made of names in the template.
        ErrorKind::UndefinedError
        | ErrorKind::SyntaxError
        | ErrorKind::UnknownFilter
        | ErrorKind::UnknownTest
        | ErrorKind::UnknownFunction => error.detail().map(str::to_owned),
        // The engine's own error has no detail; that of filters is ours.
        ErrorKind::OutOfFuel => {
            Some(error.detail().map_or_else(|| format!("more than {FUEL} instructions"), str::to_owned))
        }
        // Other details may quote a value, so quote the template instead.
        _ => error.range().and_then(|range| text.get(range)).map(|piece| format!("in `{piece}`")),
    };
    let detail = detail.map(|detail| format!(": {}", detail.chars().take(MAX_QUOTE).collect::<String>()));
    format!("{line}: {}{}", error.kind(), detail.unwrap_or_default())
}

/// Output of bounded size.
struct Bounded {
    bytes: Vec<u8>,
    left: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len()) {
            Some(left) => {
                self.left = left;
                self.bytes.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            None => {
                // Zero also marks this error, so that it is not taken for one of the template's own.
                self.left = 0;
                Err(io::Error::other("too long"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

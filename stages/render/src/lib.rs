//! Render: writes the message, one delivery per endpoint.
//!
//! Guarantee: a delivery holds the texts of the notification's own template, in the best locale that the template has,
//! with the notification's own data and nothing else. Data is never read as a template, and is escaped in HTML. Where the
//! text of a channel fails, the deliveries of that channel are given up and the others go on; where none is left, the
//! notification becomes a dead letter. Both say where and why without repeating the data. Time and size of rendering are
//! bounded.
//!
//! After a crash the same notification gives the same deliveries, because ids, variant and locale are derived from it.
//! Only a template that was changed in between is rendered as it is now.
//!
//! | module | does |
//! |---|---|
//! | `choose` | draws the variant by weight, and finds the locale by fallback |
//! | `engine` | compiles and runs templates within limits |
//! | `work` | bounds what filters make of the data |
//! | `cache` | keeps compiled templates |
//! | [`settings`] | `[render]` |
//! | `sms` | writes a text in GSM-7 where it can, and counts its segments |
//! | `values` | reads the data, and prints it as it was written |
//! | `track` | rewrites links so that clicks are counted, adds the pixel and the link to unsubscribe |

mod cache;
mod choose;
mod engine;
pub mod settings;
mod sms;
mod track;
mod values;
mod work;

use std::sync::Arc;

use chasqui_contract::{Decide, Decision, Directory, Ended, Output, StoreError, Verdict};
use chasqui_links::{Links, Origin};
use chasqui_rules::Schemes;
use chasqui_schemas::{
    Channel, Notification, Pepper, Reason,
    delivery::{Endpoint, Written},
    notification::{Json, Message},
    record::Template,
    submission::Content,
};
use compact_str::{CompactString, ToCompactString, format_compact};

use crate::{cache::Cache, engine::Compiled, track::Tracking, values::Data};
pub use crate::{engine::check, settings::Settings};

/// The render stage.
pub struct Render {
    directory: Arc<dyn Directory>,
    links: Option<Links>,
    pepper: Pepper,
    schemes: Schemes,
    sms_transliterate: bool,
    cache: Cache,
}

impl Render {
    /// Reads templates from `directory`; makes links to the gateway with `links`, where there is one. `pepper`: for ids. What
    /// templates make of `url` has one of `schemes`.
    pub fn new(directory: Arc<dyn Directory>, links: Option<Links>, pepper: Pepper, schemes: Schemes) -> Self {
        Render { directory, links, pepper, schemes, sms_transliterate: true, cache: Cache::default() }
    }

    /// As an operator has set it; [`Render::new`] has the defaults.
    pub fn configured(self, settings: &Settings) -> Self {
        Render { sms_transliterate: settings.sms_transliterate, ..self }
    }
}

impl Decide for Render {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Render;
    type Input = Notification;

    async fn decide(&self, notification: Notification) -> Result<Decision, StoreError> {
        let request = Arc::clone(&notification.request);
        let tracking = Tracking { links: self.links.as_ref(), is_allowed: self.may_track(&notification).await? };
        Ok(match &request.message {
            Message::Content(content) => {
                let content = match content.unpack() {
                    Ok(content) => content,
                    Err(damaged) => return Ok(Decision::dead(Reason::Undecodable, damaged.to_string())),
                };
                let locale = request.locale.as_deref().unwrap_or_default();
                let written = |_: Channel| Ok(Text { content: Content::clone(&content), locale: locale.to_owned() });
                self.deliver(&notification, "", &tracking, written)
            }
            Message::Template { key, data } => match self.directory.template(key).await? {
                None => Decision::dead(Reason::TemplateMissing, format!("there is no template `{key}`")),
                Some(template) => self.render(&notification, &template, key, data, &tracking),
            },
        })
    }
}

impl Render {
    fn render(
        &self,
        notification: &Notification,
        template: &Arc<Template>,
        key: &str,
        data: &Json,
        tracking: &Tracking<'_>,
    ) -> Decision {
        let compiled = self.cache.compiled(key, template);
        let variant = choose::variant(template, key, notification.id);
        let wanted = notification
            .request
            .locale
            .as_deref()
            .or_else(|| notification.contacts.as_ref().and_then(|contacts| contacts.locale.as_deref()))
            .unwrap_or_default();
        let data = match Data::new(data) {
            Ok(data) => data,
            Err(error) => return Decision::dead(Reason::Undecodable, format!("`data` is not JSON: {error}")),
        };
        let written = |channel| {
            let text = write(template, &compiled, key, variant, channel, wanted, &data)?;
            // Validate has checked the url of inline content. This one may be made of data.
            match text.content.url.as_deref().and_then(|url| self.schemes.refusal(url)) {
                Some(what) => Err(failed(format!("template `{key}`, {channel}, url: {what}"))),
                None => Ok(text),
            }
        };
        self.deliver(notification, variant, tracking, written)
    }

    /// One delivery per endpoint, with the text that `written` gives for its channel. Where that fails, the deliveries of
    /// that channel alone are given up.
    fn deliver(
        &self,
        notification: &Notification,
        variant: &str,
        tracking: &Tracking<'_>,
        written: impl Fn(Channel) -> Result<Text, NoText>,
    ) -> Decision {
        if notification.endpoints.is_empty() {
            return Decision::suppress(Reason::NoEndpoint);
        }
        let (mut deliveries, mut ended) = (Vec::with_capacity(notification.endpoints.len()), Vec::new());
        let (mut skipped, mut failures) = (Vec::new(), Vec::new());
        let mut attributes = Vec::new();
        let mut explain = |key: CompactString, value: CompactString| attributes.push((key, value));
        if !variant.is_empty() {
            explain("variant".into(), variant.into());
        }
        if tracking.links.is_some() {
            explain("tracking".into(), if tracking.is_allowed { "on" } else { "off" }.into());
        }
        for channel in Channel::ALL {
            let mut endpoints = notification.endpoints.iter().filter(|each| each.channel() == channel).peekable();
            if endpoints.peek().is_none() {
                continue;
            }
            let id_to =
                |endpoint: &Endpoint| self.pepper.delivery(&notification.app, notification.id, channel, &endpoint.id);
            let Fitted { content, locale, sms } = match written(channel).and_then(|text| self.fit(channel, text)) {
                Ok(fitted) => fitted,
                Err(NoText::Skipped(reason)) => {
                    explain(format_compact!("skipped.{channel}"), reason.as_str().into());
                    skipped.push((channel, reason));
                    continue;
                }
                Err(NoText::Failed(reason, detail)) => {
                    explain(format_compact!("dead.{channel}"), reason.as_str().into());
                    ended.extend(endpoints.map(|endpoint| {
                        let part = notification.part(id_to(endpoint), endpoint.clone());
                        Ended { reason, detail: detail.clone(), part }
                    }));
                    failures.push((reason, detail));
                    continue;
                }
            };
            if let Some(Sms { segments, is_transliterated }) = sms {
                explain("sms_segments".into(), segments.to_compact_string());
                if is_transliterated {
                    explain("sms_transliterated".into(), "true".into());
                }
            }
            if !locale.is_empty() {
                explain(format_compact!("locale.{channel}"), locale.as_str().into());
            }
            deliveries.extend(endpoints.map(|endpoint| {
                let delivery_id = id_to(endpoint);
                let origin = Origin { delivery_id, notification_id: notification.id, channel };
                let written = Written {
                    variant: variant.to_owned(),
                    locale: locale.clone(),
                    content: tracking.content(&origin, content.clone()),
                    sms_segments: sms.map_or(0, |sms| sms.segments),
                    unsubscribe_url: tracking.unsubscribe_url(&origin, notification, endpoint),
                };
                notification.delivery_to(delivery_id, endpoint.clone(), written)
            }));
        }
        if deliveries.is_empty() {
            return Decision { attributes, ..without_deliveries(notification, &failures, &skipped) };
        }
        let siblings = u16::try_from(deliveries.len()).unwrap_or(u16::MAX);
        deliveries.iter_mut().for_each(|delivery| delivery.siblings = siblings);
        attributes.push(("deliveries".into(), (deliveries.len() + ended.len()).to_compact_string()));
        let verdict = Verdict::Forward(deliveries.into_iter().map(Output::Delivery).collect());
        Decision { attributes, ended, ..Decision::new(verdict) }
    }

    /// The part of a message that a channel can show, as it shows it.
    fn fit(&self, channel: Channel, Text { content, locale }: Text) -> Result<Fitted, NoText> {
        let mut content = shown(channel, content).ok_or(NoText::Skipped(Reason::NothingToShow))?;
        if channel != Channel::Sms {
            return Ok(Fitted { content, locale, sms: None });
        }
        let plain = content.body.as_deref().and_then(sms::transliterated).filter(|_| self.sms_transliterate);
        let is_transliterated = plain.is_some();
        content.body = plain.or(content.body);
        let body = content.body.as_deref().unwrap_or_default();
        // It is not cut: what somebody needs, a code or a link, often stands at its end.
        let segments = sms::segments(body).ok_or_else(|| {
            let (most, length) = (sms::MAX_SEGMENTS, body.chars().count());
            NoText::Failed(
                Reason::TooLarge,
                format!("an SMS of {length} characters takes more than {most} segments: shorten its text"),
            )
        })?;
        Ok(Fitted { content, locale, sms: Some(Sms { segments, is_transliterated }) })
    }

    /// Whether category and recipient allow us to count opens and clicks. Preferences that cannot be read allow nothing.
    async fn may_track(&self, notification: &Notification) -> Result<bool, StoreError> {
        let by_category = notification.policy.as_ref().is_none_or(|policy| policy.tracking);
        if self.links.is_none() || !by_category {
            return Ok(false);
        }
        for user in notification.people() {
            match self.directory.preferences(user).await {
                Ok(preferences) if preferences.as_ref().is_none_or(|preferences| preferences.tracking) => {}
                Ok(_) | Err(StoreError::BadRecord { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// A message as it is written for one channel.
struct Text {
    content: Content,
    locale: String,
}

/// A message as one channel shows it.
struct Fitted {
    content: Content,
    locale: String,
    sms: Option<Sms>,
}

/// What a text costs as an SMS, and whether that was made less.
#[derive(Clone, Copy)]
struct Sms {
    segments: u16,
    is_transliterated: bool,
}

/// Why a channel gets nothing.
enum NoText {
    /// The message is not meant for it.
    Skipped(Reason),
    /// It has a text, which failed: in words that do not repeat the data.
    Failed(Reason, String),
}

fn failed(what: String) -> NoText {
    NoText::Failed(Reason::RenderFailed, what)
}

/// The end of a notification that becomes no delivery at all.
fn without_deliveries(
    notification: &Notification,
    failures: &[(Reason, String)],
    skipped: &[(Channel, Reason)],
) -> Decision {
    if let Some((reason, _)) = failures.first() {
        let details: Vec<&str> = failures.iter().map(|(_, detail)| detail.as_str()).collect();
        return Decision::dead(*reason, details.join("; "));
    }
    let message = match notification.request.message.template() {
        "" => "the content".to_owned(),
        key => format!("the template `{key}`"),
    };
    if skipped.iter().all(|(_, reason)| *reason == Reason::TemplateMissing) {
        return Decision::dead(Reason::TemplateMissing, format!("{message} has nothing for the recipient's channels"));
    }
    let channels: Vec<&str> = skipped.iter().map(|(channel, _)| channel.as_str()).collect();
    let what = format!("{message} has neither `title` nor `body` for {}: html alone is for email", channels.join(", "));
    Decision::dead(Reason::NothingToShow, what)
}

/// Renders one channel, where the template has something for it.
fn write(
    template: &Template,
    compiled: &Compiled,
    key: &str,
    variant: &str,
    channel: Channel,
    wanted: &str,
    data: &Data,
) -> Result<Text, NoText> {
    let source = choose::source(template, variant, channel, wanted).ok_or(NoText::Skipped(Reason::TemplateMissing))?;
    let content = compiled
        .render(&source, data)
        .map_err(|what| failed(format!("template `{key}`, {channel}, locale `{}`, {what}", source.locale)))?;
    Ok(Text { content, locale: source.locale.to_owned() })
}

/// The part of a message that a channel can show; `None` where it can show nothing.
fn shown(channel: Channel, content: Content) -> Option<Content> {
    let says = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.trim().is_empty());
    // A title becomes a header of an e-mail: a line break in it could begin another header.
    let title = content.title.map(|title| title.replace(char::is_control, " "));
    let content = Content { title, ..content };
    let fitted = match channel {
        Channel::Sms => {
            let body = [content.body, content.title].into_iter().find(says).flatten();
            let body = match (body, content.url) {
                (Some(body), Some(url)) if !body.contains(&url) => Some(format!("{}\n{url}", body.trim_end())),
                (body, _) => body,
            };
            Content { body, ..Content::default() }
        }
        Channel::Email => content,
        Channel::Push | Channel::InApp => Content { html: None, ..content },
    };
    (says(&fitted.title) || says(&fitted.body) || says(&fitted.html)).then_some(fitted)
}

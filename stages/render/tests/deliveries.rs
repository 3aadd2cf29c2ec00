//! Which deliveries a notification becomes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use chasqui_contract::{Decide, Decision, Ended, StoreError, Verdict};
use chasqui_render::{Render, Settings};
use chasqui_schemas::{
    Channel, Delivery, Lane, Notification, Reason,
    delivery::Endpoint,
    notification::Message,
    record::{Contacts, Template},
    sample,
    submission::Content,
};
use chasqui_stores::memory::MemoryDirectory;
use common::{
    dead, decide, deliveries, device, inbox, mailbox, notification, of_template, phone, reading, stage, template,
};
use futures::FutureExt;
use serde_json::json as j;

fn attribute(decision: &Decision, key: &str) -> Option<String> {
    decision.attributes.iter().find(|(each, _)| each == key).map(|(_, value)| value.to_string())
}

#[test]
fn every_endpoint_gets_a_delivery_with_all_that_a_provider_needs() {
    let stage = stage(template(j!({
        "push": {"default": {"title": "Hi {{ name }}", "body": "b", "url": "https://example.com/{{ name }}"}},
        "sms": {"default": {"body": "sms {{ name }}"}},
        "email": {"default": {"title": "t", "html": "<p>{{ name }}</p>"}},
        "in_app": {"default": {"body": "i"}}
    })));
    let endpoints = vec![device("a"), phone(), mailbox(), device("b"), inbox()];
    let input = of_template(j!({"name": "Ada"}), endpoints.clone());
    let decision = decide(&stage, input.clone());
    assert_eq!(attribute(&decision, "deliveries").as_deref(), Some("5"));
    assert_eq!(attribute(&decision, "locale.push").as_deref(), Some("default"));
    assert_eq!(attribute(&decision, "sms_segments").as_deref(), Some("1"));
    assert_eq!(decide(&stage, input.clone()), decision, "again, the same");
    let made = deliveries(decision);
    assert_eq!(made.len(), 5);
    for endpoint in endpoints {
        let delivery = made.iter().find(|each| each.endpoint == endpoint).unwrap();
        assert!(sample::pepper().is_of(&input.app, input.id, delivery.id), "it proves whose it is");
        assert_eq!(delivery.id, sample::pepper().delivery(&input.app, input.id, endpoint.channel(), &endpoint.id));
        assert_eq!((delivery.notification_id, delivery.request_id), (input.id, input.request.id));
        assert_eq!(
            (delivery.app.as_str(), delivery.category.as_str(), delivery.template.as_str()),
            ("shop", "order", "t")
        );
        assert_eq!((delivery.lane, delivery.category_lane), (Lane::High, Some(Lane::Bulk)));
        assert_eq!(
            (delivery.user.as_deref(), delivery.locale.as_str(), delivery.variant.as_str()),
            (Some("ada"), "default", "")
        );
        assert_eq!(delivery.expires_at, Some("2026-03-01T12:01:00Z".parse().unwrap()));
        assert_eq!(delivery.collapse_key.as_deref(), Some("c"));
        let collapse = delivery.collapse.as_ref().unwrap();
        assert_eq!((collapse.at_ms, delivery.siblings), (input.submitted_at.as_millisecond(), 5));
        assert_eq!(delivery.claim, input.claim);
        assert_eq!((delivery.attempt, delivery.pass, delivery.provider.as_str()), (1, 0, ""));
        assert_eq!(delivery.sms_segments, u16::from(endpoint.channel() == Channel::Sms));
    }
    let of = |channel| made.iter().find(|each| each.channel() == channel).unwrap().content.clone();
    assert_eq!(of(Channel::Push).url.as_deref(), Some("https://example.com/Ada"));
    assert_eq!(of(Channel::Sms), Content { body: Some("sms Ada".into()), ..Content::default() });
    assert_eq!(of(Channel::Email).html.as_deref(), Some("<p>Ada</p>"));
}

#[test]
fn a_channel_without_a_text_is_skipped_and_the_trace_says_so() {
    let stage = stage(template(
        j!({"push": {"default": {"body": "b"}}, "email": {"ko": {"body": "b"}}, "in_app": {"default": {"url": "https://example.com"}}}),
    ));
    let decision = decide(&stage, of_template(j!({}), vec![device("a"), phone(), mailbox(), inbox()]));
    for (channel, reason) in
        [(Channel::Sms, "template_missing"), (Channel::Email, "template_missing"), (Channel::InApp, "nothing_to_show")]
    {
        assert_eq!(attribute(&decision, &format!("skipped.{channel}")).as_deref(), Some(reason));
    }
    assert!(decision.ended.is_empty());
    assert_eq!(deliveries(decision).len(), 1);
}

/// What a decision gave up while the others went on.
fn ended(decision: &Decision) -> Vec<(Reason, &str, &Endpoint)> {
    decision.ended.iter().map(|each| (each.reason, each.detail.as_str(), &each.part.endpoints[0])).collect()
}

#[test]
fn a_text_that_fails_costs_its_own_channel_alone() {
    let texts = [
        (
            j!({"body": "Hi {{ name }}"}),
            "template `t`, push, locale `default`, body, line 1: undefined value: `name` is undefined",
        ),
        (
            j!({"body": "{{"}),
            "template `t`, push, locale `default`, body, line 1: syntax error: unexpected end of input, expected expression",
        ),
        (j!({"body": "b", "url": "javascript:alert(1)"}), "template `t`, push, url: "),
    ];
    let endpoints = vec![device("a"), mailbox(), device("b"), phone()];
    for (push, detail) in texts {
        let stage = stage(template(
            j!({"push": {"default": push}, "email": {"default": {"title": "t", "body": "b"}}, "sms": {"default": {"body": "b"}}}),
        ));
        let input = of_template(j!({}), endpoints.clone());
        let decision = decide(&stage, input.clone());
        assert_eq!(decide(&stage, input.clone()), decision, "again, the same");
        let [(a, said, first), (b, _, second)] = ended(&decision)[..] else { panic!("{decision:?}") };
        assert_eq!((a, b, first, second), (Reason::RenderFailed, Reason::RenderFailed, &endpoints[0], &endpoints[2]));
        assert!(said.starts_with(detail), "{said}");
        for Ended { part, .. } in &decision.ended {
            let id = sample::pepper().delivery(&input.app, input.id, Channel::Push, &part.endpoints[0].id);
            assert_eq!(part, &input.part(id, part.endpoints[0].clone()));
        }
        assert_eq!(attribute(&decision, "dead.push").as_deref(), Some("render_failed"));
        assert_eq!(attribute(&decision, "deliveries").as_deref(), Some("4"));
        let went_on: Vec<_> = deliveries(decision).iter().map(Delivery::channel).collect();
        assert_eq!(went_on, [Channel::Sms, Channel::Email]);
    }
}

#[test]
fn an_sms_over_the_limit_does_not_cost_the_mail() {
    let body = "Ваш код и ещё много слов. ".repeat(60);
    let decision = decide(&reading(MemoryDirectory::new()), inline(Content { body: Some(body), ..Content::default() }));
    let what = "an SMS of 1560 characters takes more than 10 segments: shorten its text";
    assert_eq!(ended(&decision), [(Reason::TooLarge, what, &phone())]);
    assert_eq!(deliveries(decision).len(), 3);
}

#[test]
fn a_part_that_is_written_anew_becomes_its_delivery_and_no_other() {
    let both = j!({"email": {"default": {"body": "b"}}, "sms": {"default": {"body": "{{ name }}"}}});
    let input = of_template(j!({}), vec![mailbox(), phone()]);
    let mut decision = decide(&stage(template(both)), input.clone());
    let part = decision.ended.remove(0).part;
    let repaired = stage(template(
        j!({"email": {"default": {"body": "b"}}, "sms": {"default": {"body": "{{ name|default('you') }}"}}}),
    ));
    let made = deliveries(decide(&repaired, part.clone()));
    assert_eq!((made.len(), Some(made[0].id), made[0].channel()), (1, part.delivery_id, Channel::Sms));
    let whole = deliveries(decide(&repaired, input));
    // Alone it holds what claim it has, of which a replay makes sure.
    let with_its_siblings = Delivery { siblings: 2, ..made[0].clone() };
    assert!(whole.contains(&with_its_siblings), "as if it had never failed");
}

#[test]
fn where_every_text_fails_the_notification_is_dead_and_all_is_said() {
    let stage =
        stage(template(j!({"push": {"default": {"body": "{{ a }}"}}, "email": {"default": {"body": "{{ b }}"}}})));
    let decision = decide(&stage, of_template(j!({}), vec![device("a"), mailbox(), phone()]));
    for (key, reason) in
        [("dead.push", "render_failed"), ("dead.email", "render_failed"), ("skipped.sms", "template_missing")]
    {
        assert_eq!(attribute(&decision, key).as_deref(), Some(reason));
    }
    assert!(decision.ended.is_empty(), "one dead letter for all");
    let (reason, detail) = dead(decision);
    assert_eq!(reason, Reason::RenderFailed);
    assert!(
        detail.contains("push") && detail.contains("`a`") && detail.contains("email") && detail.contains("`b`"),
        "{detail}"
    );
}

#[test]
fn nothing_for_any_channel_is_a_dead_letter() {
    let stage = stage(template(j!({"push": {"default": {"body": "b"}}})));
    let (reason, detail) = dead(decide(&stage, of_template(j!({}), vec![phone(), mailbox()])));
    assert_eq!(reason, Reason::TemplateMissing);
    assert_eq!(detail, "the template `t` has nothing for the recipient's channels");
}

#[test]
fn html_alone_goes_by_mail_and_says_what_is_the_case_elsewhere() {
    let html = || Content { html: Some("<p>".into()), title: Some(" ".into()), ..Content::default() };
    let of = |endpoints| decide(&reading(MemoryDirectory::new()), Notification { endpoints, ..inline(html()) });
    let (reason, detail) = dead(of(vec![device("a"), phone()]));
    let what = "the content has neither `title` nor `body` for push, sms: html alone is for email";
    assert_eq!((reason, detail.as_str()), (Reason::NothingToShow, what));
    let decision = of(vec![device("a"), mailbox()]);
    assert_eq!(attribute(&decision, "skipped.push").as_deref(), Some("nothing_to_show"));
    assert_eq!(deliveries(decision).len(), 1);

    let stage = stage(template(j!({"push": {"default": {"html": "<p>"}}, "email": {"ko": {"body": "b"}}})));
    let (reason, detail) = dead(decide(&stage, of_template(j!({}), vec![device("a"), mailbox()])));
    assert_eq!(reason, Reason::NothingToShow);
    assert!(detail.starts_with("the template `t` has neither `title` nor `body`"), "{detail}");
}

#[test]
fn an_unknown_template_is_a_dead_letter() {
    let stage = reading(MemoryDirectory::new());
    let (reason, detail) = dead(decide(&stage, of_template(j!({}), vec![phone()])));
    assert_eq!((reason, detail.as_str()), (Reason::TemplateMissing, "there is no template `t`"));
}

#[test]
fn no_endpoint_is_suppressed() {
    let stage = stage(template(j!({"push": {"default": {"body": "b"}}})));
    assert_eq!(decide(&stage, of_template(j!({}), vec![])).verdict, Verdict::Suppress(Reason::NoEndpoint));
}

#[test]
fn a_directory_that_fails_is_an_error_of_the_stage_and_not_of_the_message() {
    let directory = MemoryDirectory::new().with_bad_record::<Template>("t");
    directory.faults.fail_next(1);
    let stage = reading(directory);
    let ask = || stage.decide(of_template(j!({}), vec![phone()])).now_or_never().unwrap();
    assert!(matches!(ask(), Err(StoreError::Unavailable { .. })));
    assert!(matches!(ask(), Err(StoreError::BadRecord { .. })));
}

#[test]
fn the_submissions_locale_comes_before_the_contacts() {
    let stage = stage(template(
        j!({"push": {"ko": {"body": "안녕"}, "es": {"body": "hola"}, "default": {"body": "hello"}}, "sms": {"default": {"body": "{{ locale }}"}}}),
    ));
    let body = |of_request: Option<&str>, of_contacts: Option<&str>| {
        let mut input = of_template(j!({}), vec![device("a")]);
        Arc::make_mut(&mut input.request).locale = of_request.map(str::to_owned);
        input.contacts = Some(Contacts { locale: of_contacts.map(str::to_owned), ..Contacts::default() });
        let delivery = deliveries(decide(&stage, input)).remove(0);
        (delivery.locale, delivery.content.body.unwrap())
    };
    assert_eq!(body(Some("ko-KR"), Some("es")), ("ko".into(), "안녕".into()));
    assert_eq!(body(None, Some("es-MX")), ("es".into(), "hola".into()));
    assert_eq!(body(Some("fr"), Some("es")), ("default".into(), "hello".into()), "what was asked for, not what may do");
    assert_eq!(body(None, None), ("default".into(), "hello".into()));
}

#[test]
fn a_variant_is_rendered_named_and_always_the_same() {
    let record: Template = serde_json::from_value(j!({
        "channels": {"push": {"default": {"body": "own"}}, "email": {"default": {"body": "own"}}},
        "variants": {"a": {"weight": 1}, "b": {"weight": 1, "channels": {"push": {"default": {"body": "b"}}}}}
    }))
    .unwrap();
    let stage = stage(record);
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..50 {
        let mut input = of_template(j!({}), vec![device("a"), mailbox()]);
        input.id = uuid::Uuid::from_u128(n);
        let decision = decide(&stage, input.clone());
        assert_eq!(decision, decide(&stage, input));
        let variant = attribute(&decision, "variant").unwrap();
        let made = deliveries(decision);
        assert!(made.iter().all(|each| each.variant == variant));
        let body = |channel| made.iter().find(|each| each.channel() == channel).unwrap().content.body.clone().unwrap();
        assert_eq!(
            (body(Channel::Push).as_str(), body(Channel::Email).as_str()),
            (if variant == "b" { "b" } else { "own" }, "own")
        );
        seen.insert(variant);
    }
    assert_eq!(seen.len(), 2);
}

fn inline(content: Content) -> Notification {
    notification(Message::Content(content.into()), vec![device("a"), phone(), mailbox(), inbox()])
}

#[test]
fn inline_content_is_sent_as_it_is() {
    let content = Content {
        title: Some("{{ title }}".into()),
        body: Some("{% for x in y %} & <b>".into()),
        html: Some("<b>{{ html }}</b>".into()),
        url: Some("https://example.com/?a={{ b }}".into()),
    };
    let mut input = inline(content.clone());
    Arc::make_mut(&mut input.request).locale = Some("pt-BR".into());
    let made = deliveries(decide(&reading(MemoryDirectory::new()), input));
    assert_eq!(made.len(), 4);
    assert!(made.iter().all(|each| (each.template.as_str(), each.locale.as_str()) == ("", "pt-BR")));
    for each in made {
        let expected = match each.channel() {
            Channel::Email => content.clone(),
            Channel::Push | Channel::InApp => Content { html: None, ..content.clone() },
            Channel::Sms => {
                let body = content.body.iter().zip(&content.url).map(|(body, url)| format!("{body}\n{url}")).next();
                Content { body, ..Content::default() }
            }
        };
        assert_eq!(each.content, expected);
    }
}

#[test]
fn an_sms_without_a_body_says_its_title() {
    let made = deliveries(decide(
        &reading(MemoryDirectory::new()),
        inline(Content { title: Some("t".into()), ..Content::default() }),
    ));
    let sms = made.iter().find(|each| each.channel() == Channel::Sms).unwrap();
    assert_eq!(sms.content, Content { body: Some("t".into()), ..Content::default() });
}

#[test]
fn one_curly_apostrophe_costs_no_segments() {
    let text = "Don’t forget your papers. ".repeat(20);
    let input = || inline(Content { body: Some(text.clone()), ..Content::default() });
    let of = |stage: Render| deliveries(decide(&stage, Notification { endpoints: vec![phone()], ..input() })).remove(0);
    let plain = of(reading(MemoryDirectory::new()));
    assert_eq!((plain.content.body, plain.sms_segments), (Some(text.replace('’', "'")), 4));
    let as_it_is = of(reading(MemoryDirectory::new()).configured(&Settings { sms_transliterate: false }));
    assert_eq!((as_it_is.content.body, as_it_is.sms_segments), (Some(text.clone()), 8));
}

#[test]
fn an_sms_says_where_a_tap_leads() {
    let content = Content { body: Some("Hi ".into()), url: Some("https://a.b/".into()), ..Content::default() };
    let body = |content: Content| {
        let stage = reading(MemoryDirectory::new());
        deliveries(decide(&stage, Notification { endpoints: vec![phone()], ..inline(content) })).remove(0).content
    };
    assert_eq!(body(content.clone()).body.as_deref(), Some("Hi\nhttps://a.b/"));
    let said = Content { body: Some("see https://a.b/ now".into()), ..content };
    assert_eq!(body(said).body.as_deref(), Some("see https://a.b/ now"), "once");
}

#[test]
fn an_sms_longer_than_providers_take_is_a_dead_letter() {
    let stage = stage(template(j!({"sms": {"default": {"body": "{{ text }}"}}})));
    let of = |text: String| decide(&stage, of_template(j!({"text": text}), vec![phone()]));
    assert_eq!(deliveries(of("a".repeat(1_530)))[0].sms_segments, 10);
    let (reason, detail) = dead(of("a".repeat(1_531)));
    assert_eq!(
        (reason, detail.as_str()),
        (Reason::TooLarge, "an SMS of 1531 characters takes more than 10 segments: shorten its text")
    );
}

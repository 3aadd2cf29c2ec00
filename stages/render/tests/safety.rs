//! What a template and its data can and cannot do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, thread};

use chasqui_schemas::{Reason, submission::MAX_CONTENT_BYTES};
use chasqui_stores::memory::MemoryDirectory;
use common::{dead, decide, deliveries, device, email, mailbox, of_template, reading, stage, template, text};
use proptest::prelude::*;
use serde_json::json as j;

#[test]
fn html_is_escaped_and_plain_text_is_not() {
    let parts = j!({"title": "{{ x }}", "body": "{{ x }}", "html": "<p title=\"{{ x }}\">{{ x|safe }}</p>", "url": "https://example.com/{{ x }}"});
    let made = text(email(parts, j!({"x": "<a href='\"&'>"})));
    assert_eq!(made.title.as_deref(), Some("<a href='\"&'>"));
    assert_eq!(made.body.as_deref(), Some("<a href='\"&'>"));
    assert_eq!(made.html.as_deref(), Some("<p title=\"&lt;a href=&#x27;&quot;&amp;&#x27;&gt;\"><a href='\"&'></p>"));
    assert_eq!(made.url.as_deref(), Some("https://example.com/<a href='\"&'>"));
}

#[test]
fn a_channel_or_locale_named_html_does_not_change_escaping() {
    let stage = stage(template(j!({"email": {"html": {"body": "{{ x }}", "html": "{{ x }}"}}})));
    let mut input = of_template(j!({"x": "<"}), vec![mailbox()]);
    Arc::make_mut(&mut input.request).locale = Some("html".into());
    let made = deliveries(decide(&stage, input)).remove(0).content;
    assert_eq!((made.body.as_deref(), made.html.as_deref()), (Some("<"), Some("&lt;")));
}

#[test]
fn a_title_cannot_begin_another_header() {
    let made = text(email(
        j!({"title": "Hi {{ name }}", "body": "a\n{{ name }}"}),
        j!({"name": "Ada\r\nBcc: all@example.com\u{0}"}),
    ));
    assert_eq!(made.title.as_deref(), Some("Hi Ada  Bcc: all@example.com "));
    assert_eq!(made.body.as_deref(), Some("a\nAda\r\nBcc: all@example.com\u{0}"));
}

#[test]
fn data_is_never_read_as_a_template() {
    let hostile = "{{ secret }}{% for i in range(10) %}x{% endfor %}{% include '/email/default/title' %}{# #}";
    let made = text(email(
        j!({"title": "t", "body": "{{ x }} {{ y.z[0] }}"}),
        j!({"x": hostile, "y": {"z": [hostile]}, "secret": "s"}),
    ));
    assert_eq!(made.body, Some(format!("{hostile} {hostile}")));
}

#[test]
fn a_variable_that_is_missing_is_named_and_the_data_is_not() {
    let table = [
        ("{{ name }}", "template `t`, email, locale `default`, html, line 2: undefined value: `name` is undefined"),
        (
            "{{ order.total }}",
            "template `t`, email, locale `default`, html, line 2: undefined value: `order.total` is undefined",
        ),
        (
            "{% for i in items %}{{ i.price }}{% endfor %}",
            "template `t`, email, locale `default`, html, line 2: undefined value: `i.price` is undefined",
        ),
        (
            "{% if name %}x{% endif %}",
            "template `t`, email, locale `default`, html, line 2: undefined value: `name` is undefined",
        ),
        ("{{ secret + 1 }}", "template `t`, email, locale `default`, html, line 2: invalid operation: in `secret + 1`"),
        ("{{ secret|int }}", "template `t`, email, locale `default`, html, line 2: invalid operation: in `int`"),
        (
            "{{ order[secret] }}",
            "template `t`, email, locale `default`, html, line 2: undefined value: `order[...]` is undefined",
        ),
        ("{{ order|attr(secret) }}", "template `t`, email, locale `default`, html, line 2: undefined value"),
        (
            "{{ secret[0].x }}",
            "template `t`, email, locale `default`, html, line 2: undefined value: `secret[0].x` is undefined",
        ),
        ("{{ secret() }}", "template `t`, email, locale `default`, html, line 2: invalid operation: in `secret()`"),
        (
            "{{ order.nothing() }}",
            "template `t`, email, locale `default`, html, line 2: unknown method: in `.nothing()`",
        ),
        (
            "{% include secret %}",
            "template `t`, email, locale `default`, html, line 2: template not found: in `include secret`",
        ),
        (
            "{{ x|nofilter }}",
            "template `t`, email, locale `default`, html, line 2: unknown filter: filter nofilter is unknown",
        ),
        ("{{ debug() }}", "template `t`, email, locale `default`, html, line 2: unknown function: debug is unknown"),
        ("{% if %}", "template `t`, email, locale `default`, html, line 2: syntax error: unexpected end of block"),
        (
            "{% include 'file:///etc/passwd' %}",
            "template `t`, email, locale `default`, html, line 2: template not found: in `include 'file:///etc/passwd'`",
        ),
    ];
    for (source, expected) in table {
        let parts = j!({"title": "t", "html": format!("<p>\n{source}")});
        let (reason, detail) = dead(email(
            parts,
            j!({"secret": "hunter2", "order": {"id": "hunter2"}, "items": [{"n": "hunter2"}], "x": "hunter2"}),
        ));
        assert_eq!((reason, detail.as_str()), (Reason::RenderFailed, expected));
        assert!(!detail.contains("hunter2"));
    }
}

#[test]
fn a_default_makes_a_variable_optional() {
    let made = text(email(j!({"body": "Hi {{ name|default('you') }}{% if vip is defined %}!{% endif %}"}), j!({})));
    assert_eq!(made.body.as_deref(), Some("Hi you"));
}

#[test]
fn a_text_that_does_not_compile_costs_only_those_who_need_it() {
    let stage = stage(template(j!({"email": {"ko": {"body": "{{"}, "default": {"body": "ok"}}})));
    assert_eq!(text(decide(&stage, of_template(j!({}), vec![mailbox()]))).body.as_deref(), Some("ok"));
    let mut korean = of_template(j!({}), vec![mailbox()]);
    Arc::make_mut(&mut korean.request).locale = Some("ko".into());
    assert_eq!(dead(decide(&stage, korean)).0, Reason::RenderFailed);
}

#[test]
fn a_loop_without_end_runs_out_of_fuel() {
    let loops = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
    let (reason, detail) = dead(email(j!({"body": loops}), j!({})));
    assert_eq!(reason, Reason::RenderFailed);
    assert!(detail.ends_with("engine ran out of fuel: more than 100000 instructions"), "{detail}");
}

#[test]
fn data_makes_no_filter_work_without_end() {
    let (a, words) = ("a".repeat(32_000), vec!["a"; 16_000]);
    for source in [
        "{{ a|replace('a', b)|length }}",
        "{{ a|replace('', b)|length }}",
        "{{ [a]|map('replace', 'a', b)|list|length }}",
        "{{ words|join(b)|length }}",
        "{{ words|join(d=b)|length }}",
        "{{ 'a'|indent(many, true)|length }}",
        "{{ 'a'|indent(width=many, first=true)|length }}",
        "{{ wide|format(a)|length }}",
        "{{ starred|format(many, a)|length }}",
        "{{ again|format(x=a)|length }}",
        "{{ words|batch(many, 'x')|list|length }}",
        "{{ words|slice(many)|list|length }}",
        "{{ words|tojson(indent=many)|length }}",
        "{% for i in range(20000) %}{% set x = words|sort %}{% endfor %}",
        "{% for word in words %}{% set x = a|upper %}{% endfor %}",
    ] {
        let data = j!({"a": a, "b": a, "words": words, "many": 1_000_000_000_000_u64, "wide": "%999999999999s",
                       "starred": "%*s", "again": "%(x)s".repeat(5_000)});
        let (reason, detail) = dead(email(j!({"title": "t", "body": source}), data));
        assert_eq!(reason, Reason::RenderFailed);
        assert!(
            detail.ends_with("engine ran out of fuel: filters would read and make more than 16 MiB"),
            "{source}: {detail}"
        );
    }
}

#[test]
fn filters_work_on_all_the_data_that_there_may_be() {
    let data =
        j!({"words": vec!["word"; 8_000], "text": "x".repeat(60_000), "price": 7.5, "items": [{"n": "B"}, {"n": "a"}]});
    let source = "{{ words|sort|unique|join(', ') }} {{ text|replace('x', 'yy')|length }} {{ '%8.2f'|format(price) }}|\
                  {{ 'a\nb'|indent(2) }} {{ items|map(attribute='n')|map('lower')|sort|join('-') }} {{ {'k': [1]}|tojson }} \
                  {{ words|batch(3)|list|length }} {{ nothing|default('none') }} {{ items|sort(attribute='n')|first|items|list|length }}";
    let made = text(email(j!({"title": "t", "body": source}), data));
    assert_eq!(made.body.as_deref(), Some("word 120000     7.50|a\n  b a-b {\"k\": [1]} 2667 none 1"));
}

#[test]
fn what_html_includes_is_html() {
    let parts = j!({"title": "t", "body": "{% macro m(x) %}{{ x }}{% endmacro %}body {{ x }}",
                    "html": "<p>{% include '/email/default/body' %}{% from '/email/default/body' import m %}{{ m(x) }}</p>"});
    let made = text(email(parts, j!({"x": "<script>"})));
    assert_eq!(made.body.as_deref(), Some("body <script>"));
    assert_eq!(made.html.as_deref(), Some("<p>body &lt;script&gt;&lt;script&gt;</p>"));
}

#[test]
fn no_data_makes_a_link_that_runs_or_reads() {
    for x in ["javascript:alert(1)", " javascript:alert(1)", "data:text/html,x", "//example.com", "https://a\nb"] {
        let (reason, detail) = dead(email(j!({"title": "t", "url": "{{ x }}"}), j!({"x": x})));
        assert_eq!(reason, Reason::RenderFailed);
        assert!(detail.starts_with("template `t`, email, url: ") && !detail.contains("alert"), "{detail}");
    }
    let made = text(email(j!({"title": "t", "url": "{{ x }}"}), j!({"x": "https://example.com/a"})));
    assert_eq!(made.url.as_deref(), Some("https://example.com/a"));
}

#[test]
fn a_recursion_without_end_is_cut_off() {
    let own = "/email/default/body";
    for source in ["{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", &format!("{{% include '{own}' %}}")] {
        assert_eq!(dead(email(j!({"body": source}), j!({}))).0, Reason::RenderFailed);
    }
}

#[test]
fn output_is_bounded() {
    let many = "{% for i in range(10000) %}{{ x }}{% endfor %}";
    let (reason, detail) = dead(email(j!({"title": "t", "html": many}), j!({"x": "x".repeat(60_000)})));
    assert_eq!(reason, Reason::RenderFailed);
    assert_eq!(detail, "template `t`, email, locale `default`, html: its texts take more than 262144 bytes");
    let most = text(email(j!({"body": "{{ x }}"}), j!({"x": "x".repeat(MAX_CONTENT_BYTES)})));
    assert_eq!(most.body.unwrap().len(), MAX_CONTENT_BYTES);
}

#[test]
fn deeply_nested_data_renders() {
    let nested = (0..100).fold(j!("end"), |inner, _| j!([inner]));
    assert!(text(email(j!({"body": "{{ x }}"}), j!({"x": nested}))).body.unwrap().contains("end"));
}

#[test]
fn nobody_ever_gets_what_is_another_persons() {
    let stage = Arc::new(stage(template(j!({
        "push": {"default": {"title": "{{ secret }}", "body": "{% set kept = secret %}{{ kept }}"}},
        "email": {"default": {"title": "{{ secret }}", "html": "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(secret) }}{% if own is defined %}{{ own }}{% endif %}"}}
    }))));
    let threads: Vec<_> = (0..4u128)
        .map(|thread| {
            let stage = Arc::clone(&stage);
            thread::spawn(move || {
                for n in 0..500u128 {
                    let (who, secret) = (thread * 1_000 + n, format!("secret-{thread}-{n}."));
                    let mut data = j!({"secret": secret});
                    if n % 2 == 0 {
                        data["own"] = j!(secret);
                    }
                    let mut input = of_template(data, vec![device("a"), mailbox()]);
                    input.id = uuid::Uuid::from_u128(who);
                    for delivery in deliveries(decide(&stage, input)) {
                        let texts = [delivery.content.title, delivery.content.body, delivery.content.html];
                        let all = texts.into_iter().flatten().collect::<String>();
                        assert_eq!(all.replace(&secret, ""), "", "{all}");
                        assert_eq!(delivery.notification_id, uuid::Uuid::from_u128(who));
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

proptest! {
    #[test]
    fn a_warm_cache_changes_nothing(texts in prop::collection::vec("(\\{\\{ ?[ab] ?\\}\\}|\\{% if a %\\}|\\{% endif %\\}|[a-z<&{}%]|\n){0,8}", 1..4), a in ".*", b in ".*") {
        let warm = reading(texts.iter().enumerate().fold(MemoryDirectory::new(), |directory, (n, text)| {
            directory.with(&n.to_string(), template(j!({"email": {"default": {"title": text, "html": text}}})))
        }));
        for _ in 0..2 {
            for (n, text) in texts.iter().enumerate() {
                let cold = stage(template(j!({"email": {"default": {"title": text, "html": text}}})));
                let input = of_template(j!({"a": a, "b": b}), vec![mailbox()]);
                let mut same = input.clone();
                let chasqui_schemas::notification::Message::Template { key, .. } = &mut Arc::make_mut(&mut same.request).message else { panic!() };
                *key = n.to_string();
                let of_cold = format!("{:?}", decide(&cold, input)).replace("`t`", "`key`").replace("template: \"t\"", "");
                let of_warm = format!("{:?}", decide(&warm, same)).replace(&format!("`{n}`"), "`key`").replace(&format!("template: \"{n}\""), "");
                prop_assert_eq!(of_cold, of_warm);
            }
        }
    }

    #[test]
    fn any_template_with_any_data_gets_an_answer(source in "(\\{\\{|\\}\\}|\\{%|%\\}|if|for|in|end|set|macro|x|\\||\\.|\\(|\\)|'|[0-9]| |<|\\PC){0,24}", x in ".*") {
        let decision = email(j!({"title": source, "html": source}), j!({"x": x, "if": {"x": [x]}}));
        let answered = matches!(decision.verdict, chasqui_contract::Verdict::Forward(_) | chasqui_contract::Verdict::Dead { .. });
        prop_assert!(answered);
    }
}

#[test]
fn a_template_that_could_never_be_rendered_is_known_before_it_is_used() {
    let refused = |record: serde_json::Value| {
        chasqui_render::check(&serde_json::from_value(record).unwrap()).map_err(|wrong| wrong.to_string())
    };
    let of = |body: &str| j!({"channels": {"push": {"default": {"body": "b"}, "ko": {"title": "t", "body": body}}}});
    for (body, expected) in [
        ("{{ name", "channels.push.ko.body: "),
        ("a\n{% if x %}", "channels.push.ko.body: line 2: "),
        ("{{ name|upcase }}", "channels.push.ko.body: "),
        ("{% if x is prety %}{% endif %}", "channels.push.ko.body: "),
        ("{{ today() }}", "channels.push.ko.body: "),
        ("{% include '/push/ko/nothing' %}", "channels.push.ko.body: "),
    ] {
        let wrong = refused(of(body)).unwrap_err();
        assert!(wrong.starts_with(expected), "{body}: {wrong}");
    }
    let variant = j!({"channels": {}, "variants": {"b": {"weight": 1, "channels": {"email": {"de": {"html": "{{"}}}}}});
    assert!(refused(variant).unwrap_err().starts_with("variants.b.channels.email.de.html: "));
    for body in [
        "{{ name }}, {{ order.items[0].price|round(2) }} {{ name.upper() }}",
        "{% for item in items %}{{ item.name|title }}{% else %}{{ nothing|default('-') }}{% endfor %}",
        "{% include '/push/ko/title' %} {{ total / count }} {{ when|replace('a', 'b') }}",
        "{% include part %}",
    ] {
        assert_eq!(refused(of(body)), Ok(()), "{body}");
    }
}

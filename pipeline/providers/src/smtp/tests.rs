//! The provider against a real socket and a [scripted server](super::server).

use std::{io::Write as _, time::Duration};

use chasqui_contract::ManualClock;
use chasqui_schemas::Channel;
use mail_parser::MessageParser;

use super::{
    server::{GOOD, Script, Server, Turn},
    settings::Tls,
    *,
};
use crate::testing::{Ask, account, at, delivery_by, secret, settings};

const LATER: Outcome = Outcome::TryLater { after: None };

fn settings_of(server: &Server) -> Settings {
    Settings {
        host: server.address.ip().to_string(),
        port: server.address.port(),
        tls: Tls::None,
        from: "Shop <no-reply@shop.example>".into(),
        // Long enough for any machine: only tests of silence wait for it, and they set their own.
        timeout_ms: 20_000,
        pool_size: 2,
        ..settings(&VENDOR, "host = ''\nfrom = ''")
    }
}

/// To a server on `localhost` whose certificate is trusted, as long as the file is there.
fn trusting(server: &Server, tls: Tls) -> (Settings, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(server.certificate.as_bytes()).unwrap();
    let ca_file = Some(file.path().to_owned());
    (Settings { tls, host: "localhost".into(), ca_file, ..settings_of(server) }, file)
}

fn provider(settings: Settings) -> Smtp {
    Smtp::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(5)))).unwrap()
}

/// One mail to a server with this script.
async fn answer(script: Script) -> (Answer, server::Seen) {
    let server = Server::start(script).await;
    let silent = [script.greeting, script.data, script.message].iter().any(|turn| matches!(turn, Turn::Stall));
    let timeout_ms = if silent { 1_000 } else { 20_000 };
    let answer = provider(Settings { timeout_ms, ..settings_of(&server) }).send(&delivery_by(Channel::Email)).await;
    (answer, server.seen())
}

#[tokio::test]
async fn a_mail_arrives_whole() {
    let server = Server::start(GOOD).await;
    let mut delivery = delivery_by(Channel::Email);
    delivery.content.body = Some("Dear Ada,\n.\n..\n.hidden\nit is on its way — tomorrow.".into());
    delivery.content.html = Some("<p>on its way</p>".into());
    let answer = provider(settings_of(&server)).send(&delivery).await;

    assert_eq!(answer.outcome, Outcome::Accepted);
    assert_eq!(answer.code, "250");
    assert_eq!(answer.detail, "2.0.0 queued as 4711");
    assert_eq!(answer.message_id, format!("{}@shop.example", delivery.id));
    let seen = server.seen();
    assert!(seen.commands.contains(&"MAIL FROM:<no-reply@shop.example>".to_owned()), "{:?}", seen.commands);
    assert!(seen.commands.contains(&"RCPT TO:<ada@example.com>".to_owned()), "{:?}", seen.commands);
    let [message] = &seen.messages[..] else { panic!("{} messages", seen.messages.len()) };
    let parsed = MessageParser::default().parse(message).unwrap();
    assert_eq!(parsed.subject(), Some("Your order"));
    assert_eq!(parsed.message_id(), Some(answer.message_id.as_str()));
    let text = parsed.body_text(0).unwrap().replace("\r\n", "\n");
    assert_eq!(text.trim_end(), "Dear Ada,\n.\n..\n.hidden\nit is on its way — tomorrow.");
    assert_eq!(parsed.body_html(0).unwrap().trim_end(), "<p>on its way</p>");
}

#[tokio::test]
async fn refusals_are_classified_by_step() {
    use Turn::{Drop, Say, Stall};
    for (script, expected) in [
        (Script { greeting: Say("554 no service for you"), ..GOOD }, Outcome::Misconfigured),
        (Script { greeting: Say("421 too busy"), ..GOOD }, LATER),
        (Script { greeting: Drop, ..GOOD }, LATER),
        (Script { greeting: Stall, ..GOOD }, LATER),
        (Script { greeting: Say("HTTP/1.1 400 Bad Request"), ..GOOD }, LATER),
        (Script { mail: Say("550 5.7.1 not your address"), ..GOOD }, Outcome::Misconfigured),
        (Script { rcpt: Say("450 4.2.0 greylisted"), ..GOOD }, LATER),
        (Script { rcpt: Say("550 5.1.1 no such user"), ..GOOD }, Outcome::DeadEndpoint),
        (Script { rcpt: Say("552 5.2.2 mailbox full"), ..GOOD }, LATER),
        (Script { rcpt: Say("550 5.7.1 blocked"), ..GOOD }, Outcome::Refused),
        (Script { data: Say("421 4.3.2 closing"), ..GOOD }, LATER),
        (Script { data: Drop, ..GOOD }, LATER),
        (Script { data: Stall, ..GOOD }, LATER),
        (Script { message: Say("451 4.3.0 try again"), ..GOOD }, LATER),
        (Script { message: Say("550-5.7.1 spam\r\n550 5.7.1 really"), ..GOOD }, Outcome::Refused),
    ] {
        let (answer, seen) = answer(script).await;
        assert_eq!(answer.outcome, expected, "{script:?}: {answer:?}");
        assert!(seen.messages.is_empty() || !matches!(script.message, Turn::Drop | Turn::Stall));
    }
}

#[tokio::test]
async fn a_cut_once_the_message_is_out_is_ambiguous() {
    for script in [
        Script { message: Turn::Drop, ..GOOD },
        Script { message: Turn::Stall, ..GOOD },
        Script { message: Turn::Say("what?"), ..GOOD },
    ] {
        let (answer, seen) = answer(script).await;
        assert_eq!(answer.outcome, Outcome::NoAnswer, "{script:?}: {answer:?}");
        assert_eq!(seen.messages.len(), 1);
    }
    let (answer, _) = answer(Script { drop_within_message: true, ..GOOD }).await;
    assert_eq!(answer.outcome, Outcome::NoAnswer);
}

#[tokio::test]
async fn a_relay_that_is_away_is_tried_later() {
    let server = Server::start(GOOD).await;
    // A port that was just free: nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let away = Settings { port, ..settings_of(&server) };
    assert_eq!(provider(away).send(&delivery_by(Channel::Email)).await.outcome, LATER);
    let unknown = Settings { host: "no-such-host.invalid".into(), timeout_ms: 5_000, ..settings_of(&server) };
    assert_eq!(provider(unknown).send(&delivery_by(Channel::Email)).await.outcome, LATER);
}

#[tokio::test]
async fn a_relay_without_the_encryption_we_insist_on_is_a_configuration_error() {
    for tls in [Tls::Starttls, Tls::Wrapper] {
        let server = Server::start(GOOD).await;
        let settings = Settings { tls, ..settings_of(&server) };
        let answer = provider(settings).send(&delivery_by(Channel::Email)).await;
        assert_eq!(answer.outcome, Outcome::Misconfigured, "{tls:?}: {answer:?}");
        assert!(server.seen().messages.is_empty());
    }
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_a_configuration_error() {
    for tls in [Tls::Starttls, Tls::Wrapper] {
        let server = Server::encrypted(tls, GOOD).await;
        let settings = Settings { tls, host: "localhost".into(), ..settings_of(&server) };
        let answer = provider(settings).send(&delivery_by(Channel::Email)).await;
        assert_eq!(answer.outcome, Outcome::Misconfigured, "{tls:?}: {answer:?}");
        assert!(server.seen().messages.is_empty());
    }
}

#[tokio::test]
async fn a_mail_goes_encrypted_to_a_relay_we_trust() {
    for tls in [Tls::Starttls, Tls::Wrapper] {
        let server = Server::encrypted(tls, GOOD).await;
        let (settings, _file) = trusting(&server, tls);
        let smtp = provider(settings);
        for _ in 0..2 {
            let answer = smtp.send(&delivery_by(Channel::Email)).await;
            assert_eq!(answer.outcome, Outcome::Accepted, "{tls:?}: {answer:?}");
        }
        assert_eq!((server.seen().connections, server.seen().messages.len()), (1, 2));
    }
}

#[tokio::test]
async fn what_was_said_in_the_clear_never_counts_under_tls() {
    // Whoever is in between appends the whole conversation to the relay's reply (RFC 3207, 4.2).
    let injected =
        "220 go ahead\r\n250-evil\r\n250 AUTH PLAIN\r\n235 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 queued";
    let script = Script { starttls: Turn::Say(injected), message: Turn::Say("550 5.7.1 no"), ..GOOD };
    let server = Server::encrypted(Tls::Starttls, script).await;
    let (settings, _file) = trusting(&server, Tls::Starttls);
    let answer = provider(settings).send(&delivery_by(Channel::Email)).await;
    assert_eq!(answer.outcome, LATER, "{answer:?}");
    assert!(answer.detail.contains("in the clear"), "{answer:?}");
    assert!(!server.seen().commands.iter().any(|command| command.starts_with("MAIL")));
}

#[tokio::test]
async fn each_command_takes_its_own_codes_and_no_other() {
    use Turn::Say;
    for (script, expected) in [
        (Script { greeting: Say("250 ok"), ..GOOD }, LATER),
        (Script { ehlo: Say("220 relay.test"), ..GOOD }, LATER),
        (Script { ehlo: Say("250-relay.test\r\n354 AUTH PLAIN"), ..GOOD }, LATER),
        (Script { mail: Say("354 go"), ..GOOD }, LATER),
        (Script { rcpt: Say("235 welcome"), ..GOOD }, LATER),
        (Script { rcpt: Say("251 will forward"), ..GOOD }, Outcome::Accepted),
        (Script { data: Say("250 ok"), ..GOOD }, LATER),
        (Script { message: Say("354 go"), ..GOOD }, Outcome::NoAnswer),
        (Script { message: Say("251 forwarded"), ..GOOD }, Outcome::NoAnswer),
    ] {
        let (answer, seen) = answer(script).await;
        assert_eq!(answer.outcome, expected, "{script:?}: {answer:?}");
        assert_eq!(seen.messages.is_empty(), expected == LATER, "{script:?}");
    }
}

#[tokio::test]
async fn a_surplus_reply_counts_for_no_other_command() {
    // Before the message: it is not sent.
    for script in [
        Script { mail: Turn::Say("250 ok\r\n250 ok"), ..GOOD },
        Script { rcpt: Turn::Say("250 ok\r\n354 go\r\n250 queued"), ..GOOD },
        Script { data: Turn::Say("354 go\r\n250 queued"), message: Turn::Say("554 5.7.1 no"), ..GOOD },
    ] {
        let (answer, seen) = answer(script).await;
        assert_eq!((answer.outcome, seen.messages.len()), (LATER, 0), "{script:?}: {answer:?}");
    }
    // After it: the next mail has a connection of its own, and its own answer.
    let server = Server::start(Script { message: Turn::Say("250 ok\r\n250 ok"), ..GOOD }).await;
    let smtp = provider(settings_of(&server));
    assert_eq!(smtp.send(&delivery_by(Channel::Email)).await.outcome, Outcome::Accepted);
    server.follow(Script { message: Turn::Say("554 5.7.1 no"), ..GOOD });
    assert_eq!(smtp.send(&delivery_by(Channel::Email)).await.outcome, Outcome::Refused);
    assert_eq!(server.seen().connections, 2);
}

#[tokio::test]
async fn a_reply_is_bounded_in_lines_and_in_length() {
    let long = |text: String| Turn::Say(text.leak());
    for (turn, bound) in [
        (long("220-x\r\n".repeat(14_000)), "100 lines"),
        (long(format!("220 {}", "x".repeat(1_000_000))), "1024 bytes"),
    ] {
        let (answer, _) = answer(Script { greeting: turn, ..GOOD }).await;
        assert_eq!(answer.outcome, LATER);
        assert!(answer.detail.contains(bound), "{answer:?}");
    }
    // A hundred lines are allowed.
    let (answer, _) = answer(Script { greeting: long("220-x\r\n".repeat(99) + "220 x"), ..GOOD }).await;
    assert_eq!(answer.outcome, Outcome::Accepted, "{answer:?}");
}

#[tokio::test]
async fn an_unusable_authority_is_refused_by_name() {
    let server = Server::start(GOOD).await;
    let settings = Settings { tls: Tls::Wrapper, ca_file: Some("/nowhere/at/all".into()), ..settings_of(&server) };
    let error = Smtp::new(&account(&VENDOR), settings, Arc::new(ManualClock::new(at(5)))).err().unwrap();
    assert!(error.to_string().starts_with("accounts.smtp.ca_file"), "{error}");
}

#[tokio::test]
async fn a_password_is_used_and_never_told() {
    let (password, _file) = secret("hunter2");
    let account = |server: &Server| Settings {
        username: Some("chasqui".into()),
        password: password.clone(),
        ..settings_of(server)
    };

    let server = Server::start(GOOD).await;
    let answer = provider(account(&server)).send(&delivery_by(Channel::Email)).await;
    assert_eq!(answer.outcome, Outcome::Accepted);
    // Base64 of "\0chasqui\0hunter2".
    assert!(server.seen().commands.contains(&"AUTH PLAIN AGNoYXNxdWkAaHVudGVyMg==".to_owned()));

    // By the other way, where the relay knows no other.
    let login = "250-relay.test\r\n250 auth login cram-md5";
    server.follow(Script { ehlo: Turn::Say(login), auth: Turn::Say("334 VXNlcm5hbWU6"), ..GOOD });
    let answer = provider(account(&server)).send(&delivery_by(Channel::Email)).await;
    assert!(answer.detail.contains("250 is no answer"), "the script knows no LOGIN: {answer:?}");
    assert!(server.seen().commands.contains(&"Y2hhc3F1aQ==".to_owned()), "{:?}", server.seen().commands);

    server.follow(Script { ehlo: Turn::Say("250 relay.test"), ..GOOD });
    let answer = provider(account(&server)).send(&delivery_by(Channel::Email)).await;
    assert_eq!(answer.outcome, Outcome::Misconfigured, "{answer:?}");

    server.follow(Script { auth: Turn::Say("535 5.7.8 bad credentials"), ..GOOD });
    let answer = provider(account(&server)).send(&delivery_by(Channel::Email)).await;
    assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::Misconfigured, "535 5.7.8"));
    assert!(!format!("{answer:?}{:?}", account(&server)).contains("hunter2"));
}

#[tokio::test]
async fn connections_are_used_again_even_after_a_refusal() {
    let server = Server::start(Script { rcpt: Turn::Say("550 5.1.1 no such user"), ..GOOD }).await;
    let smtp = provider(settings_of(&server));
    assert_eq!(smtp.send(&delivery_by(Channel::Email)).await.outcome, Outcome::DeadEndpoint);
    server.follow(GOOD);
    for _ in 0..3 {
        assert_eq!(smtp.send(&delivery_by(Channel::Email)).await.outcome, Outcome::Accepted);
    }
    let seen = server.seen();
    assert_eq!((seen.connections, seen.messages.len()), (1, 3));
}

#[tokio::test]
async fn a_connection_cut_off_half_way_is_never_used_again() {
    let server = Server::start(Script { message: Turn::Stall, ..GOOD }).await;
    let mut smtp = provider(Settings { timeout_ms: 1_000, ..settings_of(&server) });
    let delivery = delivery_by(Channel::Email);
    // Once by the provider's own time-out, once dropped from outside: both leave a reply unread.
    assert_eq!(smtp.send(&delivery).await.outcome, Outcome::NoAnswer);
    smtp.timeout = Duration::from_secs(20);
    assert!(timeout(Duration::from_secs(1), smtp.send(&delivery)).await.is_err());
    server.follow(Script { rcpt: Turn::Say("550 5.1.1 no such user"), ..GOOD });
    assert_eq!(smtp.send(&delivery).await.outcome, Outcome::DeadEndpoint);
    assert_eq!(server.seen().connections, 3);
}

#[tokio::test]
async fn a_connection_that_spoke_out_of_turn_is_never_used_again() {
    let server = Server::start(Script { message: Turn::Say("what?\r\n250 a late reply"), ..GOOD }).await;
    let smtp = provider(settings_of(&server));
    assert_eq!(smtp.send(&delivery_by(Channel::Email)).await.outcome, Outcome::NoAnswer);
    server.follow(GOOD);
    assert_eq!(smtp.send(&delivery_by(Channel::Email)).await.outcome, Outcome::Accepted);
    assert_eq!(server.seen().connections, 2);
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_is_replaced() {
    let server = Server::start(GOOD).await;
    let smtp = provider(settings_of(&server));
    server.follow(Script { message: Turn::Say("250 2.0.0 ok\r\n421 4.4.2 idle too long"), ..GOOD });
    assert_eq!(smtp.send(&delivery_by(Channel::Email)).await.outcome, Outcome::Accepted);
    server.follow(GOOD);
    assert_eq!(smtp.send(&delivery_by(Channel::Email)).await.outcome, Outcome::Accepted);
    assert_eq!((server.seen().connections, server.seen().messages.len()), (2, 2));
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let server = Server::start(Script { message: Turn::Stall, ..GOOD }).await;
    let smtp = Arc::new(provider(settings_of(&server)));
    for _ in 0..2 {
        let smtp = smtp.clone();
        tokio::spawn(async move { smtp.send(&delivery_by(Channel::Email)).await });
    }
    while server.seen().messages.len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let third = timeout(Duration::from_millis(300), smtp.send(&delivery_by(Channel::Email))).await;
    assert!(third.is_err(), "both connections are in use");
    assert_eq!(server.seen().connections, 2);
}

#[tokio::test]
async fn an_address_beyond_ascii_needs_a_relay_that_takes_it() {
    let server = Server::start(GOOD).await;
    let to = crate::testing::delivery_to(chasqui_schemas::delivery::Address::Mailbox("zoë@example.com".into()));
    let smtp = provider(settings_of(&server));
    assert_eq!(smtp.send(&to).await.outcome, Outcome::Refused);

    server.follow(Script { ehlo: Turn::Say("250-relay.test\r\n250-8BITMIME\r\n250 SMTPUTF8"), ..GOOD });
    let answer = provider(settings_of(&server)).send(&to).await;
    assert_eq!(answer.outcome, Outcome::Accepted, "{answer:?}");
}

#[tokio::test]
async fn a_domain_beyond_ascii_and_a_quoted_name_go_to_every_relay() {
    let server = Server::start(GOOD).await;
    let smtp = provider(settings_of(&server));
    for (mailbox, expected) in [
        ("ada@bücher.example", "RCPT TO:<ada@xn--bcher-kva.example>"),
        (r#""a b"@example.com"#, r#"RCPT TO:<"a b"@example.com>"#),
    ] {
        let to = crate::testing::delivery_to(chasqui_schemas::delivery::Address::Mailbox(mailbox.into()));
        let answer = smtp.send(&to).await;
        assert_eq!(answer.outcome, Outcome::Accepted, "{mailbox}: {answer:?}");
        assert!(server.seen().commands.contains(&expected.to_owned()), "{:?}", server.seen().commands);
    }
    // No address begins a command of its own.
    for mailbox in ["\"a\r\nRSET\"@example.com", "a@example.com>\r\nRSET", "a@example.com> SIZE=1"] {
        let to = crate::testing::delivery_to(chasqui_schemas::delivery::Address::Mailbox(mailbox.into()));
        assert_eq!(smtp.send(&to).await.outcome, Outcome::Refused, "{mailbox}");
    }
}

#[tokio::test]
async fn other_channels_are_a_configuration_error() {
    let server = Server::start(GOOD).await;
    let answer = provider(settings_of(&server)).send(&delivery_by(Channel::Sms)).await;
    assert_eq!(answer.outcome, Outcome::Misconfigured);
    assert_eq!(server.seen().connections, 0);
}

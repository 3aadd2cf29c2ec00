//! The cases: each sends what somebody sent, and fails with what it sees where that is not right.

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use chasqui_schemas::{stream, subject};
use chasqui_testing::lab::PUBLIC_URL;
use chasqui_warehouse::{
    TraceTree,
    read::{reconstruct::Node, waterfall::outcome},
};
use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::world::{World, attribute, input, outcomes};

/// Maximum bytes of a push at APNs and FCM.
const MAX_PUSH: usize = 4_096;

pub(super) async fn refused_message(world: &World) -> Result<()> {
    let traces = world.send_file("01-fcm-invalid-argument").await?;
    ensure!(outcomes(&traces) == ["dead (provider_refused)"; 3], "{:?}", outcomes(&traces));
    for user in ["bug-fcm-1", "bug-fcm-2", "bug-fcm-3"] {
        let devices = world.contacts(user).await?["devices"].as_array().map_or(0, Vec::len);
        ensure!(devices == 1, "{user} has {devices} devices left");
    }
    Ok(())
}

pub(super) async fn null_in_data(world: &World) -> Result<()> {
    let mut submission = input("submissions/02-null.json")?;
    let seen = world.outcome_of(submission.clone()).await?;
    ensure!(seen == "dead (render_failed)", "null without a default: {seen}");
    submission["data"]["state"] = json!("packed");
    submission["data"]["order"] = json!("null-2");
    world.send(submission).await?;
    let mails = world.relay.mails_to("bug-mail@example.com");
    let mail = mails.iter().find(|mail| mail.text.contains("Order null-2")).context("no mail")?;
    ensure!(mail.text.contains("Hello there, your order is packed."), "{}", mail.text);
    Ok(())
}

pub(super) async fn bounces(world: &World) -> Result<()> {
    let status = world.call_back("04a-sendgrid-bounce-without-ids", None).await?;
    ensure!(status == 200, "a bounce without ids is answered {status}");
    let sent = world.send(World::mail("marketing", "gone04b@example.com")).await?;
    let status = world.call_back("04b-sendgrid-bounce-5.1.10", sent.first()).await?;
    ensure!(status == 200, "a bounce with 5.1.10 is answered {status}");
    let seen = world.outcome_of(World::mail("marketing", "not-found04@example.com")).await?;
    ensure!(seen == "bounced (dead_endpoint)", "a relay's 5.1.10: {seen}");
    for address in ["gone04@example.com", "gone04b@example.com", "not-found04@example.com"] {
        until_suppressed(world, address).await?;
    }
    Ok(())
}

/// What is reported takes effect a moment later.
async fn until_suppressed(world: &World, address: &str) -> Result<()> {
    let mut seen = String::new();
    for _ in 0..20 {
        seen = world.outcome_of(World::mail("marketing", address)).await?;
        if seen == "suppressed (address_suppressed)" {
            return Ok(());
        }
    }
    anyhow::bail!("the next mail to {address}: {seen}")
}

pub(super) async fn broken_event(world: &World) -> Result<()> {
    let sent = world.send(World::mail("marketing", "c@example.com")).await?;
    let status = world.call_back("05-sendgrid-batch-one-lone-surrogate", sent.first()).await?;
    ensure!(status == 200, "the batch is answered {status}");
    for address in ["leaves05@example.com", "spam05@example.com"] {
        until_suppressed(world, address).await?;
    }
    let seen = world.outcome_of(World::mail("marketing", "c@example.com")).await?;
    ensure!(seen == "sent", "the third: {seen}");
    Ok(())
}

pub(super) async fn spelt_numbers(world: &World) -> Result<()> {
    let records = input("records/contacts-one-by-one.json")?;
    let mut submission = input("submissions/06-phone.json")?;
    for user in ["bug-phone", "bug-phone-00", "bug-phone-nbsp"] {
        // Who cannot be written gets nothing either.
        match world.register(user, &records[user]).await {
            Err(refused) => ensure!(format!("{refused:#}").contains("phones"), "{refused:#}"),
            Ok(()) => {
                submission["recipients"] = json!([user]);
                let seen = world.outcome_of(submission.clone()).await?;
                ensure!(seen == "suppressed (address_suppressed)", "{}: {seen}", records[user]["phones"][0]);
            }
        }
    }
    let seen = world.outcome_of(input("submissions/06-phone-control.json")?).await?;
    ensure!(seen == "suppressed (address_suppressed)", "the number as it is on the list: {seen}");
    Ok(())
}

pub(super) async fn shared_tokens(world: &World) -> Result<()> {
    world.send_file("07-same-token-twice").await?;
    let calls = world.fcm.asked_about("bug-token-0004").len();
    ensure!(calls == 1, "{calls} calls for one token");
    let records = input("records/contacts-one-by-one.json")?;
    for user in ["bug-shared-a", "bug-shared-b"] {
        world.register(user, &records[user]).await?;
    }
    // Who has a token is known a moment later.
    let mut seen = Vec::new();
    for _ in 0..20 {
        let before = world.fcm.asked_about("For user a alone").len();
        seen = outcomes(&world.send_file("07-token-of-two-users").await?);
        if world.fcm.asked_about("For user a alone").len() == before {
            return Ok(());
        }
    }
    anyhow::bail!("a message for who had the token before still reaches it: {seen:?}")
}

pub(super) async fn old_subscriptions(world: &World) -> Result<()> {
    let good = ["08-good-1", "08-good-2", "08-good-3"];
    let (old, good) = tokio::try_join!(
        world.send_file("08-old-subscriptions"),
        try_join_all(good.iter().cycle().take(12).map(|name| world.send_file(name)))
    )?;
    let good = good.iter().flat_map(|traces| outcomes(traces)).collect::<Vec<_>>();
    ensure!(good == ["sent"; 12], "the good ones: {good:?}");
    ensure!(world.browsers.asked_about("/").len() == 12, "calls for the good ones");
    ensure!(outcomes(&old) == ["bounced (dead_endpoint)"; 25], "the old ones: {:?}", outcomes(&old));
    for number in 1..=25 {
        let contacts = world.contacts(&format!("bug-web-{number}")).await?;
        ensure!(contacts["devices"].as_array().is_none_or(Vec::is_empty), "bug-web-{number} keeps {contacts}");
    }
    Ok(())
}

pub(super) async fn burnt_key(world: &World) -> Result<()> {
    let first = world.send_file("09a-key-first").await?;
    ensure!(outcomes(&first) == ["dead (template_missing)"], "{:?}", outcomes(&first));
    let template = input("records/templates-repaired.json")?["bug.missing"].to_string();
    world.install.run(&["templates", "put", "bug.missing", &template]).await?;
    let again = world.send_file("09b-key-again").await?;
    ensure!(outcomes(&again) == ["sent"], "the corrected one under the same key: {:?}", outcomes(&again));
    let (same, other) = (world.send_file("09b-key-again").await?, world.send_file("09c-key-other-payload").await?);
    ensure!(outcomes(&same) == ["suppressed (duplicate)"], "the same again: {:?}", outcomes(&same));
    let told = |traces: &[TraceTree]| {
        let names = traces.iter().flat_map(TraceTree::steps).flat_map(|step| step.attributes.keys().cloned());
        (outcomes(traces), names.collect::<std::collections::BTreeSet<_>>())
    };
    ensure!(told(&other).0[0].starts_with("suppressed"), "other content under the key: {:?}", outcomes(&other));
    ensure!(told(&same) != told(&other), "other content under the key is told as the same: {:?}", told(&other));
    Ok(())
}

pub(super) async fn smuggled_mail(world: &World) -> Result<()> {
    for name in ["10-bare-cr", "10-bare-cr-in-data"] {
        let traces = world.send_file(name).await?;
        ensure!(outcomes(&traces) == ["sent"], "{name}: {:?}", outcomes(&traces));
    }
    for victim in ["bob@example.com", "victim@example.net"] {
        ensure!(world.relay.mails_to(victim).is_empty(), "a mail to {victim}");
    }
    Ok(())
}

pub(super) async fn one_bounce(world: &World) -> Result<()> {
    let first = world.send_file("12-dead-endpoint").await?;
    ensure!(outcomes(&first) == ["bounced (dead_endpoint)"], "{:?}", outcomes(&first));
    let code = world.send_file("12-otp-after").await?;
    ensure!(outcomes(&code) == ["sent"], "the code after it: {:?}", outcomes(&code));
    Ok(())
}

pub(super) async fn left_newsletter(world: &World) -> Result<()> {
    world.send_file("13a-guest-newsletter").await?;
    let mails = world.relay.mails_to("guest13@example.com");
    let text = &mails.first().context("no newsletter")?.text;
    // A header is folded where it is long.
    let header = text.split("List-Unsubscribe:").nth(1).context("no List-Unsubscribe")?;
    let link: String = header.split('>').next().unwrap_or_default().split_whitespace().collect();
    let path = link.trim_start_matches('<').strip_prefix(PUBLIC_URL).context("not our link")?;
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let status = world.post(path, form, "List-Unsubscribe=One-Click").await?;
    ensure!(status == 200, "the unsubscription is answered {status}");
    until_suppressed(world, "guest13@example.com").await?;
    let code = world.send_file("13b-guest-otp").await?;
    ensure!(outcomes(&code) == ["sent"], "a guest's code: {:?}", outcomes(&code));

    let sent = world.send_file("13c-user-otp").await?;
    let status = world.call_back("13-sendgrid-unsubscribe-user", sent.first()).await?;
    ensure!(status == 200, "an unsubscription at the vendor is answered {status}");
    until_suppressed(world, "bug-leaves@example.com").await?;
    let code = world.send_file("13c-user-otp").await?;
    ensure!(outcomes(&code) == ["sent"], "a user's code: {:?}", outcomes(&code));
    Ok(())
}

pub(super) async fn app_link(world: &World) -> Result<()> {
    const LINK: &str = "https://shop.example.com/orders/7";
    // The device's vendor refuses the message; what matters is what it was asked.
    world.send_file("14-universal-link").await?;
    let asked = world.fcm.asked_about("On its way");
    let asked = String::from_utf8_lossy(&asked.first().context("no push")?.body).into_owned();
    ensure!(asked.contains(LINK) && !asked.contains(PUBLIC_URL), "{asked}");
    world.send_file("14-universal-link-in-app").await?;
    let inbox = jetstream::new(world.install.nats.clone()).get_stream(stream::INBOX).await?;
    let message = inbox.get_last_raw_message_by_subject(&subject::inbox("bugs", "bug-fcm-1")).await?;
    let message: Value = serde_json::from_slice(&message.payload)?;
    ensure!(message["url"] == LINK, "{message}");
    Ok(())
}

pub(super) async fn plain_link(world: &World) -> Result<()> {
    world.send_file("15-plain-link").await?;
    let mails = world.relay.mails_to("bug-mail@example.com");
    let mail = mails.iter().find(|mail| mail.text.contains("See your order: ")).context("no mail")?;
    let plain = mail.text.split("See your order: ").nth(1).context("no text part")?.split("--").next();
    let links = 1 + plain.unwrap_or_default().trim_start_matches("https://").matches("https://").count();
    ensure!(links == 1, "{links} links: {}", mail.text);
    Ok(())
}

pub(super) async fn spelt_category(world: &World) -> Result<()> {
    let control = world.send_file("16-category-control").await?;
    ensure!(outcomes(&control) == ["suppressed (opted_out_category)"], "`marketing`: {:?}", outcomes(&control));
    let traces = world.send_file("16-category").await?;
    let seen = outcomes(&traces);
    ensure!(seen == ["suppressed (opted_out_category)"] || seen == ["rejected (invalid)"], "`Marketing`: {seen:?}");
    Ok(())
}

pub(super) async fn locales(world: &World) -> Result<()> {
    for (name, token, words) in [("17-zh", "bug-token-0006", "繁體"), ("17-iw", "bug-token-0007", "עברית")] {
        world.send_file(name).await?;
        let calls = world.fcm.asked_about(token);
        let asked = calls.first().context("no push")?.json();
        ensure!(asked.to_string().contains(words), "{name}: {}", asked["message"]["notification"]);
    }
    Ok(())
}

pub(super) async fn zones(world: &World) -> Result<()> {
    // Quiet hours that are now in India, and not now in UTC.
    let now = Timestamp::now().to_zoned(TimeZone::get("Asia/Kolkata")?);
    let hour = |minutes| anyhow::Ok((&now + SignedDuration::from_mins(minutes)).strftime("%H:%M").to_string());
    let quiet = json!({ "quiet_hours": { "start": hour(-60)?, "end": hour(60)? } }).to_string();
    world.install.run(&["preferences", "put", "bug-kolkata", &quiet]).await?;
    let mut submission = input("submissions/18-quiet.json")?;
    submission["recipients"] = json!(["bug-kolkata"]);
    let id = world.publish(submission).await?;
    let waits = |step: &&Node| step.reason == "quiet_hours";
    let traces = world
        .traces(id, |traces| traces.first().is_some_and(|tree| tree.has_ended() || tree.steps().iter().any(waits)));
    let traces = traces.await?;
    let tree = traces.first().context("no trace")?;
    ensure!(tree.steps().iter().any(waits), "Asia/Calcutta, in its quiet hours: {}", outcome(tree));

    let inline = world.send_file("18-zone-inline").await?;
    ensure!(outcomes(&inline) == ["sent"; 2], "Asia/Calcutta and US/Pacific inline: {:?}", outcomes(&inline));
    let records = input("records/contacts-one-by-one.json")?;
    for user in ["bug-utc9", "bug-windows"] {
        match world.register(user, &records[user]).await {
            Ok(()) => anyhow::bail!("{} is written", records[user]),
            Err(refused) => ensure!(format!("{refused:#}").contains("timezone"), "{refused:#}"),
        }
    }
    Ok(())
}

pub(super) async fn long_push(world: &World) -> Result<()> {
    let traces = world.send_file("22-long-push").await?;
    let tree = traces.first().context("no trace")?;
    let ends: Vec<&str> =
        tree.steps().iter().map(|step| step.state.as_str()).filter(|state| !state.is_empty()).collect();
    ensure!(ends == ["sent"; 2], "{ends:?} {}", tree.reason);
    for calls in [world.fcm.asked_about("bug-token-0009"), world.apns.asked_about("b0642")] {
        let bytes = calls.first().context("no push")?.body.len();
        ensure!(bytes <= MAX_PUSH + 1_000, "{bytes} bytes");
    }
    ensure!(attribute(tree, "shortened").is_some(), "the trace does not say that it was shortened");
    Ok(())
}

pub(super) async fn long_sms(world: &World) -> Result<()> {
    for name in ["23-sms-quotes-control", "23-sms-quotes", "23-sms-quotes-and-email"] {
        let traces = world.send_file(name).await?;
        let tree = traces.first().context("no trace")?;
        let segments = attribute(tree, "sms_segments");
        ensure!(segments == Some("5"), "{name}: {segments:?} segments, {}", outcome(tree));
    }
    // More than any SMS takes: the mail goes all the same.
    let mut submission = input("submissions/23-sms-quotes-and-email.json")?;
    let body = submission["content"]["body"].as_str().unwrap_or_default().repeat(3);
    submission["content"]["body"] = json!(body);
    submission["recipients"][0]["email"] = json!("alone23@example.com");
    let seen = world.outcome_of(submission).await?;
    ensure!(world.relay.mails_to("alone23@example.com").len() == 1, "the mail beside an SMS that is too long: {seen}");
    Ok(())
}

pub(super) async fn superseded(world: &World) -> Result<()> {
    let old = world.publish(input("submissions/24a-collapse-old.json")?).await?;
    let waits = |tree: &TraceTree| tree.steps().iter().any(|step| step.status == "retry");
    world.traces(old, |traces| traces.iter().any(waits)).await?;
    let mut device = world.contacts("bug-collapse").await?;
    device["devices"][0]["token"] = json!("bug-token-0008");
    world.register("bug-collapse", &device).await?;
    let new = world.send_file("24b-collapse-new").await?;
    ensure!(outcomes(&new) == ["sent"], "the newer: {:?}", outcomes(&new));
    let old = world.traces(old, |traces| traces.iter().any(TraceTree::has_ended)).await?;
    ensure!(outcomes(&old) == ["suppressed (superseded)"], "the older, after the newer: {:?}", outcomes(&old));
    Ok(())
}

pub(super) async fn reborn_device(world: &World) -> Result<()> {
    let mut record = input("records/contacts-one-by-one.json")?["bug-ios"].clone();
    // The vendor says: gone since the first of January 2026.
    for (registered_at, left) in [(None, 1), (Some("2026-02-01T00:00:00Z"), 1), (Some("2025-06-01T00:00:00Z"), 0)] {
        if let Some(at) = registered_at {
            record["devices"][0]["registered_at"] = json!(at);
        }
        world.register("bug-ios", &record).await?;
        world.send_file("27-ios").await?;
        let devices = world.contacts("bug-ios").await?["devices"].as_array().map_or(0, Vec::len);
        ensure!(devices == left, "registered {registered_at:?}: {devices} devices left");
    }
    Ok(())
}

pub(super) async fn far_away(world: &World) -> Result<()> {
    for name in ["2099-01-01-00", "2262-04-11-16", "2262-04-11-17", "2300-01-01-00"] {
        let traces = world.send_file(&format!("29-send-at-{name}")).await?;
        ensure!(outcomes(&traces) == ["rejected (invalid)"], "{name}: {:?}", outcomes(&traces));
    }
    Ok(())
}

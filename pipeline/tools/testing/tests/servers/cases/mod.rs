//! What went wrong for others, from the input to what must come of it: a table, and a function for each of its rows.
//!
//! `make cases` prints the table. The inputs lie beside this file, with the number of their case; everybody in them is
//! invented.

mod relay;
mod situations;
mod vendor;
mod world;

use anyhow::{Result, ensure};
use futures::future::{BoxFuture, join_all};

use self::{situations::*, world::World};

/// A case: its number, what is right, and what finds out.
type Case = (&'static str, &'static str, fn(&World) -> BoxFuture<'_, Result<()>>);

const CASES: &[Case] = &[
    ("01", "FCM refuses the message: dead, and the devices stay", |world| Box::pin(refused_message(world))),
    ("02", "null is the default's, and an error where there is none", |world| Box::pin(null_in_data(world))),
    ("04", "a bounce without ids is believed, 5.1.10 is as 5.1.1", |world| Box::pin(bounces(world))),
    ("05", "one event that cannot be read takes no other with it", |world| Box::pin(broken_event(world))),
    ("06", "a suppressed number is suppressed in every spelling", |world| Box::pin(spelt_numbers(world))),
    ("07", "one call for a token, which is who registered it last's", |world| Box::pin(shared_tokens(world))),
    ("08", "old subscriptions go, and harm no good one", |world| Box::pin(old_subscriptions(world))),
    ("09", "what was never sent burns no key; other content is marked", |world| Box::pin(burnt_key(world))),
    ("10", "text that speaks SMTP is one mail to one recipient", |world| Box::pin(smuggled_mail(world))),
    ("12", "a first 5.1.1 stops no mandatory message", |world| Box::pin(one_bounce(world))),
    ("13", "leaving a newsletter stops no mandatory message", |world| Box::pin(left_newsletter(world))),
    ("14", "a link that an app opens stays as it is", |world| Box::pin(app_link(world))),
    ("15", "a link stands in a mail's text once", |world| Box::pin(plain_link(world))),
    ("16", "`Marketing` is `marketing`, or refused", |world| Box::pin(spelt_category(world))),
    ("17", "zh-TW reads Traditional, iw reads Hebrew", |world| Box::pin(locales(world))),
    ("18", "old zone names are known, others refused when written", |world| Box::pin(zones(world))),
    ("22", "a long push is shortened, and the trace says so", |world| Box::pin(long_push(world))),
    ("23", "typography costs no segments; each channel ends alone", |world| Box::pin(long_sms(world))),
    ("24", "an older push does not replace a newer one", |world| Box::pin(superseded(world))),
    ("27", "a device that is younger than its death stays", |world| Box::pin(reborn_device(world))),
    ("29", "a `send_at` that nobody can wait for is refused", |world| Box::pin(far_away(world))),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_went_wrong_for_others_does_not_go_wrong_here() -> Result<()> {
    let world = World::start().await?;
    let judged = join_all(CASES.iter().map(|(number, right, judge)| {
        let judging = judge(&world);
        async move { (*number, *right, judging.await) }
    }));
    let mut wrong = Vec::new();
    println!("{:4} {:60} seen", "case", "right");
    for (number, right, judged) in judged.await {
        let seen = judged.map_or_else(|seen| format!("WRONG: {seen:#}"), |()| "as it should be".to_owned());
        println!("{number:4} {right:60} {seen}");
        if seen.starts_with("WRONG") {
            wrong.push(format!("{number} {right}: {seen}"));
        }
    }
    ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), world.install.worker_log());
    Ok(())
}

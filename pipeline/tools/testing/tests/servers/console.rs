//! The trace page in a real browser, on what the real pipeline did. Pictures of every view are left in
//! `target/tmp/ui`, to be looked at.

use std::path::Path;

use anyhow::{Context, ensure};
use chasqui_testing::{TestInstall, browser::Browser, oracle, settings::IMPATIENT};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};
use uuid::Uuid;

/// What a producer may write, and a browser would obey.
const HOSTILE: &str = "\"><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";

const TOKEN: &str = "0123456789abcdef0123";

/// The monitor's, which this worker may not have run long enough to show a queue that is behind.
const SAMPLES: &str =
    "INSERT INTO queue_metrics (sampled_at, stage, lane, channel, stream, consumer, pending, in_flight,
        redelivered, waiting, oldest_ms, bytes, in_per_s, out_per_s)
    SELECT now64(3) - number * 30, arrayJoin(['enrich', 'send']) AS stage, 'bulk', if(stage = 'send', 'sms', ''), 'test', 'test',
        if(stage = 'send', 4000 - number * 60, number % 3), 16, 2, 1, if(stage = 'send', 45000, 20), 1000, 120.5, 96.25
    FROM numbers(40)";

/// Text that is hard to read on what is behind it (WCAG 2.2, 1.4.3: 4.5 to 1).
const HARD_TO_READ: &str = r"(() => {
    const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const found = new Set();
    for (const element of document.querySelectorAll('body *')) {
        const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join('');
        if (!text || !element.getClientRects().length) continue;
        const style = getComputedStyle(element);
        const ink = parse(element instanceof SVGElement ? style.fill : style.color);
        const [a, b] = [light(ink), light(ground(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) found.add(`${text}: ${contrast.toFixed(2)}`);
    }
    return [...found];
})()";

/// One delivered at the third attempt and opened, one that nobody can get, one that waits for tomorrow, one that nobody
/// knows, one with words that bite.
async fn publish(install: &TestInstall, dir: &Path) -> anyhow::Result<Vec<Uuid>> {
    let contacts = json!({
        "ada": {
            "emails": ["ada-opens@example.com"], "locale": "en",
            "devices": [{"id": "phone", "platform": "android", "token": "fails-2-times-ada"}],
        },
        "bob": {"devices": [{"id": "phone", "platform": "ios", "token": "always-fails-bob"}]},
    });
    let path = dir.join("contacts.json");
    std::fs::write(&path, contacts.to_string())?;
    install.run(&["contacts", "import", &path.to_string_lossy()]).await?;
    let tomorrow = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let mut ids = Vec::new();
    for (user, lane, more) in [
        ("ada", "high", json!({"channels": ["push", "email", "in_app"]})),
        ("bob", "normal", json!({"channels": ["push"]})),
        ("ada", "bulk", json!({"channels": ["email"], "send_at": tomorrow})),
        ("nobody", "normal", json!({"channels": ["email"]})),
        ("ada", "normal", json!({"channels": ["in_app"], "transaction_id": HOSTILE, "idempotency_key": HOSTILE})),
    ] {
        let id = Uuid::now_v7();
        let mut submission = json!({
            "id": id, "category": "order", "recipients": [user],
            "content": {"title": "Your order", "body": "It is on its way."},
        });
        let fields = submission.as_object_mut().context("no object")?;
        fields.extend(more.as_object().cloned().unwrap_or_default());
        install.publish(&format!("notify.submit.{lane}.shop"), &id.to_string(), &submission).await?;
        ids.push(id);
    }
    Ok(ids)
}

/// What holds for every view, in both colour schemes and on a telephone; and its pictures.
async fn is_well_made(browser: &mut Browser, name: &str) -> anyhow::Result<()> {
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui");
    std::fs::create_dir_all(&pictures)?;
    for (scheme, width) in [("light", 1440), ("dark", 1440), ("light", 390), ("dark", 390)] {
        browser.look(width, scheme).await?;
        let wider = browser.eval("document.scrollingElement.scrollWidth - innerWidth").await?;
        ensure!(wider.as_i64() <= Some(0), "{name} is {wider} wider than {width}");
        let hard = browser.eval(HARD_TO_READ).await?;
        ensure!(hard == json!([]), "{name}, {scheme}: {hard}");
        browser.picture(&pictures.join(format!("{name}-{scheme}-{width}.png"))).await?;
    }
    browser.look(1440, "light").await?;
    let told = browser.accessible().await?;
    for role in ["banner", "main", "contentinfo", "navigation"] {
        ensure!(told.iter().filter(|each| each.role == role).count() == 1, "{name}: one {role} in {told:?}");
    }
    let to_act_on = ["link", "button", "textbox", "searchbox", "combobox", "DisclosureTriangle", "table", "region"];
    for each in told.iter().filter(|each| to_act_on.contains(&each.role.as_str())) {
        ensure!(!each.name.trim().is_empty(), "{name}: a {} without a name", each.role);
    }
    let headings = browser.eval("document.querySelectorAll('h1').length").await?;
    ensure!(headings == 1, "{name}: {headings} headings");
    let complaints = browser.complaints();
    ensure!(complaints.is_empty(), "{name}: {complaints:?}");
    Ok(())
}

async fn text(browser: &mut Browser, selector: &str) -> anyhow::Result<String> {
    let found = browser.eval(&format!("document.querySelector({})?.innerText ?? ''", json!(selector))).await?;
    Ok(found.as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_on_call_finds_out_what_happened_with_a_browser_and_a_keyboard() -> anyhow::Result<()> {
    let mut browser = Browser::start().await?;
    let dir = tempfile::tempdir()?;
    let port = chasqui_embedded::free_port()?;
    let settings = format!("{IMPATIENT}\n[engagement]\nspool_dir = '{}'", dir.path().join("spool").display());
    let install = TestInstall::start(&settings).await?;
    let address = format!("127.0.0.1:{port}");
    let guard = [("CHASQUI_CONSOLE__TOKEN__ENV", "UI_TOKEN"), ("UI_TOKEN", TOKEN)];
    let _worker = install.worker_with("", &[&[("CHASQUI_GATEWAY__BIND", address.as_str())][..], &guard].concat())?;
    let requests = publish(&install, dir.path()).await?;
    let opened = "SELECT count() AS n FROM deliveries WHERE opened_at IS NOT NULL";
    oracle::until(&install, "opened", opened, 1).await?;
    for (state, count) in [("delivered", 2), ("dead", 1), ("suppressed", 1), ("pending", 1)] {
        let sql = format!("SELECT count() AS n FROM notifications WHERE state = '{state}'");
        oracle::until(&install, state, &sql, count).await?;
    }
    let page = |path: &str| format!("http://{address}{path}");

    // Only the token opens, and a browser remembers it for all that belongs to the page.
    let mut connection = TcpStream::connect(&address).await?;
    connection.write_all(b"GET /ui HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    browser.open(&format!("http://on-call:{TOKEN}@{address}/ui")).await?;

    // The list, and what a search finds.
    browser.open(&page("/ui")).await?;
    is_well_made(&mut browser, "search").await?;
    ensure!(browser.eval("document.querySelectorAll('tbody tr').length").await? == 5);
    let list = text(&mut browser, "tbody").await?;
    for expected in ["delivered", "retries_exhausted", "unknown_user", "scheduled", "nobody", "bulk"] {
        ensure!(list.contains(expected), "{expected}: {list}");
    }
    for (q, rows) in [("ada", 3), ("bob", 1), (HOSTILE, 1), ("no-such-thing", 0)] {
        browser.eval(&format!("q.value = {}; void 0", json!(q))).await?;
        browser.eval("q.focus()").await?;
        browser.press_and_load("Enter").await?;
        let found = browser.eval("document.querySelectorAll('tbody tr').length").await?;
        ensure!(found == rows && browser.eval("q.value").await? == q, "{q}: {found}");
    }
    ensure!(text(&mut browser, ".empty").await?.contains("Nothing is known of that"));
    browser.open(&page("/ui?from=2020-01-01T00:00&to=2020-01-02T00:00")).await?;
    ensure!(browser.eval("document.querySelectorAll('tbody tr').length").await? == 0);
    browser.open(&page("/ui?state=dead")).await?;
    ensure!(browser.eval("document.querySelectorAll('tbody tr').length").await? == 1);

    // An id leads straight to the waterfall.
    browser.open(&page(&format!("/ui?q={}", requests[0]))).await?;
    is_well_made(&mut browser, "notification").await?;
    ensure!(browser.eval("location.pathname.startsWith('/ui/n/')").await? == true);
    let steps = text(&mut browser, ".steps").await?;
    for expected in ["enrich", "provider_transient", "send push via sandbox #3", "opened email", "render"] {
        ensure!(steps.contains(expected), "{expected}: {steps}");
    }
    let shown = browser.eval("document.querySelectorAll('.steps summary').length").await?;
    let known = "SELECT count() AS n FROM trace_events FINAL WHERE trace_id IN
        (SELECT replaceAll(toString(notification_id), '-', '') FROM notifications WHERE lane = 'high')";
    ensure!(shown == oracle::number(&install, known).await?, "{shown} steps");
    let outside = "[...document.querySelectorAll('.steps .work, .steps .wait')].filter((bar) => {
        const [own, all] = [bar.getBoundingClientRect(), bar.ownerSVGElement.getBoundingClientRect()];
        return own.left < all.left - 6 || own.right > all.right + 6;
    }).length";
    ensure!(browser.eval(outside).await? == 0, "bars outside of the drawing");

    // With the keyboard alone: from the top to the first step, to the third, and into it.
    browser.eval("document.activeElement.blur()").await?;
    let mut order = Vec::new();
    while browser.eval("document.activeElement.matches('.steps summary')").await? != true {
        ensure!(order.len() < 30, "{order:?}");
        browser.press("Tab").await?;
        order
            .push(browser.eval("(document.activeElement.ariaLabel ?? document.activeElement.innerText).trim()").await?);
    }
    let first: Vec<_> = order.iter().take(5).filter_map(Value::as_str).collect();
    ensure!(first == ["Skip to the content", "Chasqui", "Notifications", "Rates", "Queues"], "{order:?}");
    for key in ["ArrowDown", "ArrowDown", "ArrowUp", "ArrowDown", "Enter"] {
        browser.press(key).await?;
    }
    browser.until("document.querySelectorAll('.steps summary')[2].parentElement.open").await?;
    let attributes = text(&mut browser, ".steps details[open] .attributes").await?;
    ensure!(attributes.contains("stage") && attributes.contains("filter"), "{attributes}");
    browser.eval("document.getElementById('all').click()").await?;
    browser.until("[...document.querySelectorAll('.steps details')].every((step) => step.open)").await?;
    is_well_made(&mut browser, "notification-open").await?;

    // What was written to be obeyed is only shown.
    browser.open(&page(&format!("/ui?q={}", requests[4]))).await?;
    ensure!(text(&mut browser, ".facts").await?.contains(HOSTILE));
    ensure!(browser.eval("document.title").await? != "owned");
    ensure!(browser.eval("document.querySelectorAll('main img, main script').length").await? == 0);
    for (n, name) in [(1, "notification-dead"), (2, "notification-waits"), (3, "notification-suppressed")] {
        browser.open(&page(&format!("/ui?q={}", requests[n]))).await?;
        is_well_made(&mut browser, name).await?;
    }
    ensure!(text(&mut browser, ".why").await?.contains("The user has no record in contacts."));

    // Rates.
    browser.open(&page("/ui/rates?by=state&period=1h")).await?;
    let rates = text(&mut browser, "main").await?;
    for expected in ["delivered", "retries_exhausted", "By state", "Every attempt failed"] {
        ensure!(rates.contains(expected), "{expected}: {rates}");
    }
    for by in ["channel", "provider", "app", "category", "template", "variant", "locale", "lane"] {
        browser.open(&page(&format!("/ui/rates?by={by}&period=30d"))).await?;
        ensure!(browser.eval("document.querySelectorAll('table.rates').length").await? == 2, "{by}");
    }
    browser.open(&page("/ui/rates")).await?;
    is_well_made(&mut browser, "rates").await?;

    // Queues, and following them.
    // Now, because a sample that is a minute old counts for nothing.
    install.clickhouse.query(SAMPLES).execute().await?;
    browser.open(&page("/ui/queues")).await?;
    is_well_made(&mut browser, "queues").await?;
    let queues = text(&mut browser, "#live").await?;
    ensure!(queues.contains("behind") && queues.contains("4000"), "{queues}");
    install.clickhouse.query(&SAMPLES.replace("4000", "4321")).execute().await?;
    browser.eval("document.getElementById('follow').click()").await?;
    browser.until("document.getElementById('live').innerText.includes('4321')").await?;

    // What is not there, and what cannot be asked.
    for (path, expected) in [
        (format!("/ui/n/{}", Uuid::now_v7()), "Nothing is known of it"),
        ("/ui/n/no-id".to_owned(), "Nothing is known of it"),
        ("/ui?from=yesterday".to_owned(), "That cannot be looked up"),
        ("/ui/rates?by=user".to_owned(), "That cannot be looked up"),
    ] {
        browser.open(&page(&path)).await?;
        ensure!(text(&mut browser, "h1").await? == expected, "{path}");
        // Its own status is what the console complains of.
        browser.complaints();
    }
    is_well_made(&mut browser, "problem").await?;

    // While ClickHouse hangs there is a page that says so, and everything else is answered at once.
    browser.open(&page("/ui")).await?;
    let clickhouse = install.servers().clickhouse().and_then(|server| server.pid()).context("no ClickHouse")?;
    ensure!(Command::new("kill").args(["-STOP", &clickhouse.to_string()]).status().await?.success());
    let first = "Promise.race([...[1, 2, 3, 4].map((n) => fetch('/ui').then(() => 'ui')),
        fetch('/healthz').then(() => 'healthz')])";
    ensure!(browser.eval(first).await? == "healthz");
    browser.open(&page("/ui")).await?;
    ensure!(text(&mut browser, "h1").await? == "ClickHouse does not answer");
    Ok(())
}

//! `/ui`: what happened, for people with a browser and without Grafana. Read-only.
//!
//! | path | shows |
//! |---|---|
//! | `/ui` | notifications, found by any id, user, key or time |
//! | `/ui/n/{id}` | one notification: its facts, its deliveries, its waterfall |
//! | `/ui/rates` | what came of the deliveries, over time and by a dimension |
//! | `/ui/queues` | how full every queue is, and who works on it |
//!
//! Pages are made here, from templates that escape every value; there is one small script, and nothing from elsewhere.
//! Without the script everything can be seen too.
//!
//! Guarantee: whatever ClickHouse does, a page is answered within `PATIENCE`, and only `READERS` pages at once ask it;
//! links and receipts go another way and notice nothing. The queries may change nothing, and ClickHouse gives up when we do.
//! Nothing is kept here: there is nothing to lose in a crash.
//!
//! | module | does |
//! |---|---|
//! | `access` | who may read |
//! | `search`, `notification`, `rates`, `queues` | one page each |
//! | `axis` | where a time is on the waterfall |

mod access;
mod axis;
mod notification;
mod queues;
mod rates;
mod search;

use std::{borrow::Cow, collections::BTreeMap, error::Error, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, RawQuery, Request, State},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, RETRY_AFTER},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use chasqui_http::{Budget, Names};
use chasqui_settings::{SecretSource, SettingsError};
use chasqui_warehouse::WarehouseError;
use jiff::Timestamp;
use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::timeout};

use self::access::Access;

/// Maximum time to make a page; then a page says that ClickHouse does not answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Maximum seconds of one query.
const QUERY_S: &str = "6";
/// Maximum pages that ask ClickHouse at once; more wait for their turn.
const READERS: usize = 4;
/// Maximum bytes of memory of one query.
const QUERY_BYTES: &str = "1000000000";
/// Maximum characters of a query's parameter: no id or key is longer.
const MAX_PARAMETER: usize = 255;

const TEMPLATES: [(&str, &str); 6] = [
    ("layout.html", include_str!("pages/layout.html")),
    ("search.html", include_str!("pages/search.html")),
    ("notification.html", include_str!("pages/notification.html")),
    ("rates.html", include_str!("pages/rates.html")),
    ("queues.html", include_str!("pages/queues.html")),
    ("problem.html", include_str!("pages/problem.html")),
];

const HEADERS: [(HeaderName, &str); 3] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The manual of `[console]`, with every default.
pub const DEFAULTS: &str = include_str!("../console.toml");

/// `[console]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in console.toml")]
pub struct Settings {
    pub token: SecretSource,
}

/// The console cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// A setting cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A template cannot be read.
    #[error("a page of the console is faulty")]
    Template(#[from] minijinja::Error),
}

/// The routes of the console, over the tables behind `clickhouse`; `None` where the settings name no token.
///
/// # Errors
/// Where the token cannot be used, or a page is faulty.
pub fn open(
    settings: &Settings,
    gateway: &chasqui_http::Settings,
    clickhouse: clickhouse::Client,
) -> Result<Option<Router>, ConsoleError> {
    let Some(access) = Access::of(settings)? else { return Ok(None) };
    let names = Names::of(gateway)?;
    let routes = router(Console::new(access, clickhouse)?, Budget::of(gateway.connections, 0));
    Ok(Some(names.around(routes)))
}

/// What pages share.
struct Console {
    access: Access,
    clickhouse: clickhouse::Client,
    templates: Environment<'static>,
    turns: Semaphore,
}

/// What a request asks for, by name.
type Parameters = BTreeMap<String, String>;

/// What a request is answered with.
enum Page {
    Show(&'static str, Value),
    Elsewhere(String),
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Asked(Cow<'static, str>),
    #[error("{0}")]
    Missing(Cow<'static, str>),
    #[error("ClickHouse does not answer in time")]
    Late,
    #[error(transparent)]
    ClickHouse(#[from] clickhouse::error::Error),
    #[error(transparent)]
    Trace(#[from] WarehouseError),
}

impl Console {
    fn new(access: Access, clickhouse: clickhouse::Client) -> Result<Self, minijinja::Error> {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, source) in TEMPLATES {
            templates.add_template(name, source)?;
        }
        templates.add_filter("search", search::link);
        // 2: reading only, but the settings below and those of the views still apply.
        let limits = [
            ("readonly", "2"),
            ("max_execution_time", QUERY_S),
            ("max_memory_usage", QUERY_BYTES),
            ("cancel_http_readonly_queries_on_client_close", "1"),
        ];
        let clickhouse = limits.into_iter().fold(clickhouse, |client, (name, value)| client.with_setting(name, value));
        Ok(Console { access, clickhouse, templates, turns: Semaphore::new(READERS) })
    }

    async fn answer(&self, page: impl Future<Output = Result<Page, Problem>>) -> Response {
        let in_turn = async {
            // `None` is never, for the semaphore is not closed.
            let _turn = self.turns.acquire().await.ok();
            page.await
        };
        let problem = match timeout(PATIENCE, in_turn).await.unwrap_or(Err(Problem::Late)) {
            Ok(Page::Show(template, values)) => return self.show(StatusCode::OK, template, values),
            Ok(Page::Elsewhere(path)) => return (StatusCode::SEE_OTHER, [(LOCATION, path)]).into_response(),
            Err(problem) => problem,
        };
        let (status, title, hint) = match &problem {
            Problem::Asked(_) => (StatusCode::BAD_REQUEST, "That cannot be looked up", ""),
            Problem::Missing(_) => (
                StatusCode::NOT_FOUND,
                "Nothing is known of it",
                "What happened a second ago may not be here yet; what is older than the retention is forgotten.",
            ),
            Problem::Late | Problem::ClickHouse(_) | Problem::Trace(_) => {
                tracing::warn!(error = &problem as &dyn Error, "a page cannot be shown");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "ClickHouse does not answer",
                    "Notifications are sent all the same, and their traces wait in NATS until it is back.",
                )
            }
        };
        let what = match &problem {
            Problem::ClickHouse(_) | Problem::Trace(_) => "The reason is in the gateway's log.".to_owned(),
            said => said.to_string(),
        };
        let mut response =
            self.show(status, "problem.html", json!({ "view": "", "title": title, "what": what, "hint": hint }));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }

    fn show(&self, status: StatusCode, template: &str, values: Value) -> Response {
        let page = self.templates.get_template(template).and_then(|template| template.render(Serde(values)));
        match page {
            Ok(page) => (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response(),
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, template, "a page cannot be made");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

/// Whoever may not read takes no turn.
fn router(ui: Console, budget: Budget) -> Router {
    let ui = Arc::new(ui);
    let routes = Router::new()
        .route("/ui", get(search_page))
        .route("/ui/", get(search_page))
        .route("/ui/n/{id}", get(notification_page))
        .route("/ui/rates", get(rates_page))
        .route("/ui/queues", get(queues_page))
        .route("/ui/style.css", get(|| file("text/css; charset=utf-8", include_str!("pages/style.css"))))
        .route("/ui/script.js", get(|| file("text/javascript; charset=utf-8", include_str!("pages/script.js"))))
        .route("/ui/icon.svg", get(|| file("image/svg+xml", include_str!("pages/icon.svg"))));
    budget.around(routes).layer(middleware::from_fn_with_state(ui.clone(), guard)).with_state(ui)
}

async fn guard(State(ui): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let refusal = ui.access.refuse(request.headers());
    let mut response = match refusal {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn search_page(State(ui): State<Arc<Console>>, RawQuery(query): RawQuery) -> Response {
    ui.answer(async { search::page(&ui.clickhouse, &parameters(query)?, Timestamp::now()).await }).await
}

async fn notification_page(State(ui): State<Arc<Console>>, Path(id): Path<String>) -> Response {
    ui.answer(notification::page(&ui.clickhouse, &id)).await
}

async fn rates_page(State(ui): State<Arc<Console>>, RawQuery(query): RawQuery) -> Response {
    ui.answer(async { rates::page(&ui.clickhouse, &parameters(query)?, Timestamp::now()).await }).await
}

async fn queues_page(State(ui): State<Arc<Console>>) -> Response {
    ui.answer(queues::page(&ui.clickhouse, Timestamp::now())).await
}

async fn file(content_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, content_type)], text).into_response()
}

/// The parameters that say something.
fn parameters(query: Option<String>) -> Result<Parameters, Problem> {
    let query = query.unwrap_or_default();
    let pairs = form_urlencoded::parse(query.as_bytes());
    let pairs = pairs.map(|(name, value)| (name.into_owned(), value.trim().to_owned()));
    let parameters: Parameters = pairs.filter(|(_, value)| !value.is_empty()).collect();
    match parameters.iter().find(|(_, value)| value.chars().count() > MAX_PARAMETER) {
        Some((name, _)) => Err(Problem::Asked(format!("{name} is longer than {MAX_PARAMETER} characters").into())),
        None => Ok(parameters),
    }
}

/// What a reason means, for a page, which shows no Markdown; empty where the code is unknown.
fn meaning(reason: &str) -> String {
    chasqui_schemas::reason::meaning(reason).replace('`', "")
}

/// A time as pages show it, UTC.
fn moment(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn console(clickhouse: clickhouse::Client) -> Console {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef").unwrap();
        let token = SecretSource { file: Some(file.path().to_owned()), env: None };
        Console::new(Access::of(&Settings { token }).unwrap().unwrap(), clickhouse).unwrap()
    }

    #[test]
    fn every_template_can_be_read() {
        let ui = console(clickhouse::Client::default());
        assert_eq!(ui.show(StatusCode::OK, "no.html", json!({})).status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[tokio::test]
    async fn without_clickhouse_there_is_a_page_that_says_so() {
        // Nobody listens on port 1.
        let ui = console(clickhouse::Client::default().with_url("http://127.0.0.1:1"));
        let response = ui.answer(notification::page(&ui.clickhouse, "0198c0c0-0000-7000-8000-000000000000")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let page = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert!(String::from_utf8_lossy(&page).contains("ClickHouse does not answer"));
    }

    #[test]
    fn what_is_empty_is_not_asked_for_and_what_is_too_long_is_refused() {
        let asked = parameters(Some("q=+a%26b+&state=&from=".into())).unwrap();
        assert_eq!(asked, Parameters::from([("q".into(), "a&b".into())]));
        assert!(parameters(Some(format!("q={}", "é".repeat(255)))).is_ok());
        assert!(matches!(parameters(Some(format!("q={}", "é".repeat(256)))), Err(Problem::Asked(_))));
    }
}

//! Runs the vendors' lab as a process of its own, so that its work takes no processor time of the sender's process.
//!
//! The child is this program too, as `chasqui-dev lab`. Its first line says how to reach it. It answers each line that
//! names a vendor with the requests that the vendor received so far. It ends with its standard input, so no crash
//! leaves one behind.

use std::{
    io::{self, BufRead as _, Write as _},
    process::Stdio,
};

use anyhow::{Context, bail};
use chasqui_lab::{Lab, Script, Vendor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// Maximum requests of each vendor that the lab stores. The bare client repeats them in turn.
const KEEP: usize = 100;
/// Number of browsers that messages go to in turn.
const BROWSERS: usize = 100;

/// The child's first line: how to reach the lab.
#[derive(Serialize, Deserialize)]
pub(super) struct Reach {
    /// A settings file with the vendors' addresses and secrets.
    pub(super) settings: String,
    /// Push subscriptions, as browsers give them.
    pub(super) browsers: Vec<Value>,
}

/// The requests that a vendor received so far.
#[derive(Serialize, Deserialize)]
pub(super) struct Asked {
    /// Messages that it accepted.
    pub(super) accepted: usize,
    /// Requests to any vendor that its documentation does not allow.
    pub(super) wrong: usize,
    /// The first requests, whole.
    pub(super) requests: Vec<Request>,
}

/// A request as it arrived.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// The child; killed when dropped.
pub(super) struct Vendors {
    pub(super) reach: Reach,
    _child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Vendors {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find the program itself")?;
        let mut command = Command::new(program);
        command.arg("lab").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start the lab")?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the lab has no pipes");
        };
        let mut answers = BufReader::new(answers).lines();
        let reach = answers.next_line().await?.context("the lab did not start")?;
        Ok(Vendors { reach: serde_json::from_str(&reach)?, _child: child, questions, answers })
    }

    /// Asks the child which requests a vendor received so far.
    pub(super) async fn asked(&mut self, vendor: &str) -> anyhow::Result<Asked> {
        self.questions.write_all(format!("{vendor}\n").as_bytes()).await.context("the lab has ended")?;
        let answer = self.answers.next_line().await?.context("the lab has ended")?;
        Ok(serde_json::from_str(&answer)?)
    }
}

/// Runs the child, `chasqui-dev lab`.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let lab = Lab::start(Script { keep: KEEP, ..Script::default() }).await?;
    let browsers = (0..BROWSERS).map(|_| lab.subscribe("")).collect::<Result<_, _>>()?;
    let reach = Reach { settings: lab.settings().toml(), browsers };
    tokio::task::spawn_blocking(move || converse(&lab, &reach)).await?
}

fn converse(lab: &Lab, reach: &Reach) -> anyhow::Result<()> {
    write_line(reach)?;
    for name in io::stdin().lock().lines() {
        let name = name?;
        let vendor = Vendor::ALL.into_iter().find(|vendor| vendor.as_str() == name);
        write_line(&asked(lab, vendor.with_context(|| format!("there is no vendor `{name}`"))?))?;
    }
    Ok(())
}

fn asked(lab: &Lab, vendor: Vendor) -> Asked {
    let requests = lab.ledger().requests(vendor).into_iter().map(|kept| Request {
        method: kept.method.to_string(),
        url: format!("{}{}", lab.url(vendor), kept.path),
        headers: kept
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect(),
        body: kept.body.into(),
    });
    Asked {
        accepted: lab.ledger().accepted(vendor).len(),
        wrong: lab.ledger().wrong().len(),
        requests: requests.collect(),
    }
}

fn write_line(what: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, what)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

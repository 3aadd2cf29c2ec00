//! A headless Chromium, driven as its developer tools drive it (Chrome DevTools Protocol), over a pipe.
//!
//! The protocol is JSON, one message after another with a zero byte between them; what is needed of it is a dozen calls.
//! <https://chromedevtools.github.io/devtools-protocol/>. Debian's package `chromium` has to be there.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::install::PATIENCE;

/// The pipe is the third and fourth file of the process; the shell puts it there.
const START: &str = r#"exec chromium "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;

/// One browser with one tab. It is gone when dropped.
pub struct Browser {
    _process: Child,
    _profile: tempfile::TempDir,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Option<String>,
    calls: u64,
    loads: u64,
    complaints: Vec<String>,
}

/// An element as a screen reader gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accessible {
    /// Its ARIA role.
    pub role: String,
    /// Its name; empty where it has none.
    pub name: String,
}

impl Browser {
    /// Starts it.
    ///
    /// # Errors
    /// Fails where it is missing or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let found = Command::new("chromium").arg("--version").output().await;
        let found = found.is_ok_and(|output| output.status.success());
        ensure!(
            found,
            "there is no Chromium: `apt-get install chromium`, or another package with a command of that name"
        );
        let profile = tempfile::tempdir()?;
        let mut process = Command::new("sh")
            .args(["-c", START, "sh", "--headless=new", "--remote-debugging-pipe", "--no-first-run"])
            // Containers: no namespaces for its sandbox, and little shared memory. It sees nothing but our own pages.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = process.stdin.take().context("no pipe")?;
        let output = BufReader::new(process.stdout.take().context("no pipe")?);
        let mut browser = Browser {
            _process: process,
            _profile: profile,
            input,
            output,
            session: None,
            calls: 0,
            loads: 0,
            complaints: Vec::new(),
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await?["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(browser)
    }

    /// Calls a method and returns its result.
    ///
    /// # Errors
    /// Fails where the browser refuses, or does not answer.
    pub async fn call(&mut self, method: &str, parameters: Value) -> anyhow::Result<Value> {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.input.write_all(&bytes).await.context("the browser is gone")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut answer = self.next(deadline).await.with_context(|| method.to_owned())?;
            if answer["id"] == self.calls {
                ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].take());
            }
        }
    }

    /// The next message; what the page complains of in it is kept.
    async fn next(&mut self, deadline: Instant) -> anyhow::Result<Value> {
        let mut bytes = Vec::new();
        let left = deadline.saturating_duration_since(Instant::now());
        timeout(left, self.output.read_until(0, &mut bytes)).await.context("the browser does not answer")??;
        ensure!(bytes.pop() == Some(0), "the browser has ended");
        let message: Value = serde_json::from_slice(&bytes)?;
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Page.loadEventFired") => self.loads += 1,
            Some("Runtime.exceptionThrown") => self.complaints.push(parameters["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") => self.complaints.push(parameters["args"].to_string()),
            Some("Log.entryAdded") => self.complaints.push(parameters["entry"].to_string()),
            _ => {}
        }
        Ok(message)
    }

    /// Opens an address, and returns when the page and all that belongs to it is there.
    ///
    /// # Errors
    /// Fails where there is no page.
    pub async fn open(&mut self, url: &str) -> anyhow::Result<()> {
        let loads = self.loads;
        let answer = self.call("Page.navigate", json!({"url": url})).await?;
        if let Some(error) = answer["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        self.loaded(loads).await
    }

    /// Does what leads to another page, and waits for that.
    ///
    /// # Errors
    /// Fails where nothing is loaded.
    pub async fn press_and_load(&mut self, key: &str) -> anyhow::Result<()> {
        let loads = self.loads;
        self.press(key).await?;
        self.loaded(loads).await
    }

    async fn loaded(&mut self, before: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.loads == before {
            self.next(deadline).await?;
        }
        Ok(())
    }

    /// What an expression is worth on the page.
    ///
    /// # Errors
    /// Fails where it throws.
    pub async fn eval(&mut self, expression: &str) -> anyhow::Result<Value> {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", asked).await?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// Fails where that takes too long.
    pub async fn until(&mut self, expression: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(expression).await? != true {
            ensure!(Instant::now() < deadline, "never: {expression}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Presses a key: `Tab`, `Enter`, `ArrowDown`, `ArrowUp`.
    ///
    /// # Errors
    /// Fails on other keys.
    pub async fn press(&mut self, key: &str) -> anyhow::Result<()> {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "ArrowUp" => (38, ""),
            "ArrowDown" => (40, ""),
            _ => bail!("no such key: {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", event).await?;
        }
        Ok(())
    }

    /// How wide the window is, and which colours its owner likes.
    ///
    /// # Errors
    /// Fails where the browser refuses.
    pub async fn look(&mut self, width: u32, scheme: &str) -> anyhow::Result<()> {
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size).await?;
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", scheme).await?;
        Ok(())
    }

    /// Writes a picture of the whole page, as PNG.
    ///
    /// # Errors
    /// Fails where it cannot be written.
    pub async fn picture(&mut self, path: &Path) -> anyhow::Result<()> {
        let asked = json!({"format": "png", "captureBeyondViewport": true});
        let answer = self.call("Page.captureScreenshot", asked).await?;
        let data = answer["data"].as_str().context("no picture")?;
        Ok(std::fs::write(path, BASE64_STANDARD.decode(data)?)?)
    }

    /// What a screen reader gets of the page, in order.
    ///
    /// # Errors
    /// Fails where the browser refuses.
    pub async fn accessible(&mut self) -> anyhow::Result<Vec<Accessible>> {
        let answer = self.call("Accessibility.getFullAXTree", json!({})).await?;
        let nodes = answer["nodes"].as_array().context("no tree")?;
        let word = |node: &Value, key: &str| node[key]["value"].as_str().unwrap_or_default().to_owned();
        let exposed = nodes.iter().filter(|node| node["ignored"] != true);
        Ok(exposed.map(|node| Accessible { role: word(node, "role"), name: word(node, "name") }).collect())
    }

    /// What the page's console said since it was asked last: errors, blocked resources, exceptions.
    pub fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }
}

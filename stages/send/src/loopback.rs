//! A provider on this machine, for tests of clients: a real HTTP/1.1 server that records what it is asked and answers
//! by a script.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// What the server does with a request, once it has read it.
#[derive(Debug, Clone)]
pub(crate) enum Play {
    /// Status, headers (name and value), body.
    Answer(u16, Vec<(&'static str, &'static str)>, String),
    /// As the last one, after a while.
    Slow(Duration, u16, String),
    /// Closes the connection without a word.
    CutBefore,
    /// Closes it in the middle of the body.
    CutWithin,
}

impl Play {
    /// A status and a body.
    pub(crate) fn answer(status: u16, body: impl Into<String>) -> Self {
        Play::Answer(status, Vec::new(), body.into())
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method and path with query: `POST /sms/json`.
    pub(crate) line: String,
    /// By name in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str())
    }
}

/// The server; it ends with the runtime.
pub(crate) struct Loopback {
    /// `http://127.0.0.1:port`.
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Loopback {
    /// Plays `script`, one line per request; what comes after its end is answered with 599.
    pub(crate) async fn start(script: impl IntoIterator<Item = Play>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script: Arc<Mutex<VecDeque<Play>>> = Arc::new(Mutex::new(script.into_iter().collect()));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, script.clone(), seen.clone()));
            }
        });
        Loopback { url, requests }
    }

    /// What it was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    socket: TcpStream,
    script: Arc<Mutex<VecDeque<Play>>>,
    seen: Arc<Mutex<Vec<Request>>>,
) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            socket.read_line(&mut header).await?;
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
        let mut body = vec![0; length.parse().unwrap()];
        socket.read_exact(&mut body).await?;
        let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
        seen.lock().unwrap().push(Request { line, headers, body: String::from_utf8(body).unwrap() });

        let play = script.lock().unwrap().pop_front().unwrap_or(Play::answer(599, "the script is over"));
        let (status, headers, body) = match play {
            Play::Answer(status, headers, body) => (status, headers, body),
            Play::Slow(wait, status, body) => {
                tokio::time::sleep(wait).await;
                (status, Vec::new(), body)
            }
            Play::CutBefore => return Ok(()),
            Play::CutWithin => return socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{").await,
        };
        let mut answer = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
        socket.write_all(format!("{answer}\r\n{body}").as_bytes()).await?;
    }
}

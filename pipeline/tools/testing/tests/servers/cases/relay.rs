//! A mail relay that takes everything but what a case needs refused, and keeps what it took.
//!
//! It ends a message at a lone CR, a dot and a line break too, as some servers did: what smuggles a second message through
//! those is a second message here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A message that the relay took.
#[derive(Debug, Clone)]
pub(super) struct Mail {
    pub(super) recipients: Vec<String>,
    /// Headers and parts, their quoted-printable undone.
    pub(super) text: String,
}

#[derive(Debug, Default)]
struct Taken {
    mails: Vec<Mail>,
    /// The recipients that were refused once.
    refused: Vec<String>,
}

/// The relay, gone when dropped.
pub(super) struct Relay {
    pub(super) port: u16,
    taken: Arc<Mutex<Taken>>,
    _serving: JoinSet<()>,
}

impl Relay {
    pub(super) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let taken = Arc::new(Mutex::new(Taken::default()));
        let shared = Arc::clone(&taken);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let taken = Arc::clone(&shared);
                // A connection that breaks is the client's to repeat.
                sessions.spawn(async move { session(stream, &taken).await.ok() });
            }
        });
        Ok(Relay { port, taken, _serving: serving })
    }

    /// What it took for a recipient, in order.
    pub(super) fn mails_to(&self, recipient: &str) -> Vec<Mail> {
        let taken = lock(&self.taken);
        taken.mails.iter().filter(|mail| mail.recipients.iter().any(|to| to.contains(recipient))).cloned().collect()
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer to a recipient: `5.1.1` once to who is called so, `5.1.10` always.
fn answer(taken: &Mutex<Taken>, recipient: &str) -> &'static str {
    let mut taken = lock(taken);
    if recipient.contains("dead-endpoint") && !taken.refused.iter().any(|to| to == recipient) {
        taken.refused.push(recipient.to_owned());
        return "550 5.1.1 no such user";
    }
    if recipient.contains("not-found") {
        return "550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found by SMTP address lookup";
    }
    "250 2.0.0 ok"
}

async fn session(mut stream: TcpStream, taken: &Mutex<Taken>) -> std::io::Result<()> {
    stream.write_all(b"220 relay ESMTP\r\n").await?;
    let (mut rest, mut recipients, mut is_message) = (Vec::new(), Vec::new(), false);
    loop {
        if stream.read_buf(&mut rest).await? == 0 {
            return Ok(());
        }
        loop {
            if is_message {
                let ends = [&b"\r\n.\r\n"[..], b"\r.\r\n"];
                let ends = ends.into_iter().filter_map(|end| Some((find(&rest, end)?, end.len())));
                let Some((at, length)) = ends.min() else { break };
                let mail = Mail { recipients: std::mem::take(&mut recipients), text: readable(&rest[..at]) };
                lock(taken).mails.push(mail);
                rest.drain(..at + length);
                is_message = false;
                stream.write_all(b"250 2.0.0 taken\r\n").await?;
                continue;
            }
            let Some(end) = find(&rest, b"\n") else { break };
            let line = String::from_utf8_lossy(&rest[..end]).trim_end().to_owned();
            rest.drain(..=end);
            let reply = match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
                "EHLO" => "250-relay\r\n250 8BITMIME",
                "RCPT" => {
                    let reply = answer(taken, &line);
                    if reply.starts_with("250") {
                        recipients.push(line);
                    }
                    reply
                }
                "RSET" => {
                    recipients.clear();
                    "250 2.0.0 ok"
                }
                "DATA" => {
                    is_message = true;
                    "354 go ahead"
                }
                "QUIT" => "221 bye",
                _ => "250 2.0.0 ok",
            };
            stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Undoes quoted-printable, wherever it is.
fn readable(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| byte == b'=');
        let decoded = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match (code, decoded) {
            (Some(b"\r\n"), _) => rest = &tail[2..],
            (_, Some(decoded)) => {
                text.push(decoded);
                rest = &tail[2..];
            }
            _ => {
                text.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

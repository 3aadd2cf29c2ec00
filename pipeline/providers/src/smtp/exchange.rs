//! The conversation with a relay: commands, and the replies that each of them takes.
//!
//! Guarantee:
//! - A reply counts for the command before it. Each command takes its own codes and no other (RFC 5321, 4.3.2): 354
//!   lets a message go, 250 accepts it. What a relay says unasked ends the conversation before the next command goes
//!   out, because from then on replies would count for the wrong commands.
//! - Nothing that came in the clear counts under TLS (RFC 3207, 4.2).
//! - A reply is bounded: [`MAX_LINES`] of [`MAX_LINE`] bytes. Reading it never holds up other tasks.
//! - What goes out has no line break but CRLF, so that no text ends a message or begins a command (RFC 5321, 2.3.8).
//!
//! Why not lettre's client, which builds our mails: it keeps what it had read in the clear across STARTTLS, takes any
//! 2yz or 3yz as success, parses the whole reply again at each line, and reads a line without a bound.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, task::Poll};

use base64::{Engine, engine::general_purpose::STANDARD};
use chasqui_settings::Secret;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use super::{classify::Phase, message::Mail};
use crate::mail::enhanced_status;

/// Maximum bytes of a reply's line: twice what RFC 5321, 4.5.3.1.5 allows.
const MAX_LINE: usize = 1_024;
/// Maximum lines of a reply: relays list some twenty extensions, and explain a refusal in less.
const MAX_LINES: usize = 100;

/// A connection, encrypted or not.
type Socket = Either<TcpStream, TlsStream<TcpStream>>;

/// A conversation.
pub(super) struct Exchange {
    stream: BufReader<Socket>,
    extensions: Extensions,
}

/// What a relay says that it can, as far as we use it.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a keyword of its own")]
struct Extensions {
    starttls: bool,
    /// Addresses beyond ASCII (RFC 6531).
    smtputf8: bool,
    eight_bit_mime: bool,
    plain: bool,
    login: bool,
}

/// The account at the relay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: Secret,
}

/// When a connection is encrypted, and how.
pub(super) enum Encryption {
    /// Never.
    None,
    /// After a plain greeting; without it there is no conversation.
    Starttls(Arc<ClientConfig>, ServerName<'static>),
    /// From the first byte.
    Wrapper(Arc<ClientConfig>, ServerName<'static>),
}

/// A relay's reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// Its lines, joined by blanks; the enhanced status code that lines repeat stands once.
    pub(super) text: String,
}

/// Why a conversation went no further.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A reply that says no: 4yz or 5yz. The conversation may go on.
    #[error("{} {}", .0.code, .0.text)]
    Refused(Reply),
    /// The relay lacks what we insist on.
    #[error("the relay does not offer {0}")]
    Lacks(&'static str),
    /// What came is no reply to what was asked.
    #[error("the relay does not keep to SMTP: {0}")]
    Protocol(String),
    /// No encrypted connection came about.
    #[error("TLS")]
    Tls(#[source] io::Error),
    /// The connection failed.
    #[error("the connection failed")]
    Connection(#[from] io::Error),
}

impl Exchange {
    /// Connects, encrypts and logs in.
    pub(super) async fn open(
        address: (&str, u16),
        encryption: &Encryption,
        credentials: Option<&Credentials>,
    ) -> Result<Self, Failure> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let hello = hello(tcp.local_addr()?);
        let mut exchange = match encryption {
            Encryption::Wrapper(config, name) => Self::over(encrypt(tcp, config, name).await?),
            Encryption::None | Encryption::Starttls(..) => Self::over(Either::Left(tcp)),
        };
        exchange.expect(&[220]).await?;
        exchange.hello(&hello).await?;
        if let Encryption::Starttls(config, name) = encryption {
            exchange = exchange.starttls(config, name).await?;
            // What the relay said in the clear may be another's words (RFC 3207, 4.2).
            exchange.hello(&hello).await?;
        }
        if let Some(credentials) = credentials {
            exchange.log_in(credentials).await?;
        }
        Ok(exchange)
    }

    fn over(socket: Socket) -> Self {
        Exchange { stream: BufReader::with_capacity(MAX_LINE, socket), extensions: Extensions::default() }
    }

    /// Whether the relay can take such a mail: addresses beyond ASCII need SMTPUTF8 (RFC 6531), and 8BITMIME with it.
    pub(super) fn supports(&self, mail: &Mail) -> bool {
        mail.is_ascii() || self.extensions.smtputf8 && self.extensions.eight_bit_mime
    }

    async fn hello(&mut self, name: &str) -> Result<(), Failure> {
        let mut lines = Vec::new();
        self.command(&format!("EHLO {name}"), &[250], |line| lines.push(line.to_ascii_uppercase())).await?;
        self.extensions = Extensions::default();
        for line in &lines {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("STARTTLS") => self.extensions.starttls = true,
                Some("SMTPUTF8") => self.extensions.smtputf8 = true,
                Some("8BITMIME") => self.extensions.eight_bit_mime = true,
                Some("AUTH") => words.for_each(|mechanism| match mechanism {
                    "PLAIN" => self.extensions.plain = true,
                    "LOGIN" => self.extensions.login = true,
                    _ => {}
                }),
                _ => {}
            }
        }
        Ok(())
    }

    async fn starttls(mut self, config: &Arc<ClientConfig>, name: &ServerName<'static>) -> Result<Self, Failure> {
        if !self.extensions.starttls {
            return Err(Failure::Lacks("STARTTLS"));
        }
        self.ask("STARTTLS", &[220]).await?;
        if !self.stream.buffer().is_empty() {
            return Err(Failure::Protocol("it went on in the clear after its reply to STARTTLS".to_owned()));
        }
        match self.stream.into_inner() {
            Either::Left(tcp) => Ok(Self::over(encrypt(tcp, config, name).await?)),
            encrypted @ Either::Right(_) => Ok(Self::over(encrypted)),
        }
    }

    async fn log_in(&mut self, Credentials { username, password }: &Credentials) -> Result<(), Failure> {
        let password = password.expose();
        if self.extensions.plain {
            let response = STANDARD.encode(format!("\0{username}\0{password}"));
            self.ask(&format!("AUTH PLAIN {response}"), &[235]).await?;
        } else if self.extensions.login {
            self.ask("AUTH LOGIN", &[334]).await?;
            self.ask(&STANDARD.encode(username), &[334]).await?;
            self.ask(&STANDARD.encode(password), &[235]).await?;
        } else {
            return Err(Failure::Lacks("a way to log in that we know, AUTH PLAIN or LOGIN"));
        }
        Ok(())
    }

    /// Forgets an exchange that stopped half way.
    pub(super) async fn reset(&mut self) -> Result<(), Failure> {
        self.ask("RSET", &[250]).await.map(drop)
    }

    /// Names sender and recipient, and asks to send the message. After `Ok` nothing but the message may follow.
    pub(super) async fn begin(&mut self, mail: &Mail) -> Result<(), (Phase, Failure)> {
        let at = |phase| move |failure| (phase, failure);
        let Mail { from, to, .. } = mail;
        let parameters = if mail.is_ascii() { "" } else { " SMTPUTF8 BODY=8BITMIME" };
        self.ask(&format!("MAIL FROM:<{from}>{parameters}"), &[250]).await.map_err(at(Phase::Sender))?;
        self.ask(&format!("RCPT TO:<{to}>"), &[250, 251]).await.map_err(at(Phase::Recipient))?;
        self.ask("DATA", &[354]).await.map_err(at(Phase::Recipient))?;
        self.check_quiet().map_err(at(Phase::Recipient))
    }

    /// The message itself.
    pub(super) async fn message(&mut self, message: &[u8]) -> Result<Reply, (Phase, Failure)> {
        let at = |phase| move |failure| (phase, failure);
        self.write(&stuffed(message)).await.map_err(at(Phase::Message))?;
        // A relay that has spoken is not ready for the final dot, without which it must not deliver.
        self.check_quiet().map_err(|failure| match failure {
            Failure::Protocol(_) => (Phase::Recipient, failure),
            _ => (Phase::Message, failure),
        })?;
        self.write(b".\r\n").await.map_err(at(Phase::Message))?;
        self.expect(&[250]).await.map_err(at(Phase::Message))
    }

    async fn ask(&mut self, command: &str, accepted: &[u16]) -> Result<Reply, Failure> {
        self.command(command, accepted, |_| {}).await
    }

    async fn command(&mut self, command: &str, accepted: &[u16], line: impl FnMut(&str)) -> Result<Reply, Failure> {
        self.check_quiet()?;
        self.write(format!("{command}\r\n").as_bytes()).await?;
        self.reply(accepted, line).await
    }

    async fn expect(&mut self, accepted: &[u16]) -> Result<Reply, Failure> {
        self.reply(accepted, |_| {}).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// Fails where the relay has said something since its last reply, or has hung up.
    fn check_quiet(&mut self) -> Result<(), Failure> {
        // One poll that does not wait. Nothing sleeps on this waker: the next read polls with its own.
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut self.stream).poll_fill_buf(&mut cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok([])) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Poll::Ready(Ok(_)) => Err(Failure::Protocol("it spoke before it was asked".to_owned())),
            Poll::Ready(Err(error)) => Err(error.into()),
        }
    }

    /// Reads a reply, whose code must be among those `accepted`. `each` is called with the text of each line.
    async fn reply(&mut self, accepted: &[u16], mut each: impl FnMut(&str)) -> Result<Reply, Failure> {
        let mut reply: Option<Reply> = None;
        for _ in 0..MAX_LINES {
            let line = self.line().await?;
            let Some((code, last, text)) = parse(&line) else {
                return Err(Failure::Protocol("a line is no reply".to_owned()));
            };
            each(text);
            match &mut reply {
                None => reply = Some(Reply { code, text: text.to_owned() }),
                Some(reply) if reply.code != code => {
                    return Err(Failure::Protocol("the lines of a reply have different codes".to_owned()));
                }
                Some(reply) => reply.extend(text),
            }
            if let Some(reply) = reply.take_if(|_| last) {
                return match reply.code {
                    code if accepted.contains(&code) => Ok(reply),
                    400.. => Err(Failure::Refused(reply)),
                    code => Err(Failure::Protocol(format!("{code} is no answer to what was asked"))),
                };
            }
        }
        Err(Failure::Protocol(format!("a reply of more than {MAX_LINES} lines")))
    }

    /// A line, without its end. What is not UTF-8 is replaced.
    async fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        loop {
            let chunk = self.stream.fill_buf().await?;
            if chunk.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(chunk.len(), |end| end + 1);
            line.extend_from_slice(&chunk[..taken]);
            self.stream.consume(taken);
            if line.len() > MAX_LINE {
                return Err(Failure::Protocol(format!("a line of more than {MAX_LINE} bytes")));
            }
            if end.is_some() {
                return Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
            }
        }
    }
}

impl Reply {
    fn extend(&mut self, line: &str) {
        let status = self.text.split(' ').next().filter(|word| enhanced_status(word).is_some());
        let rest = status.and_then(|status| line.strip_prefix(status)).map_or(line, str::trim_start);
        self.text.push(' ');
        self.text.push_str(rest);
    }
}

/// A reply's line: its code, whether it is the last, its text (RFC 5321, 4.2).
fn parse(line: &str) -> Option<(u16, bool, &str)> {
    let (code, rest) = line.split_at_checked(3)?;
    let is_code = matches!(code.as_bytes(), [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']);
    let last = match rest.as_bytes().first() {
        None | Some(b' ') => true,
        Some(b'-') => false,
        Some(_) => return None,
    };
    Some((code.parse().ok().filter(|_| is_code)?, last, rest.get(1..).unwrap_or_default()))
}

/// A message as it goes over the wire: lines end in CRLF, and one that begins with a dot has another before it (RFC
/// 5321, 4.5.2).
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 64 + 2);
    let mut at_start = true;
    let mut bytes = message.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' | b'\n' => {
                if byte == b'\r' {
                    bytes.next_if_eq(&b'\n');
                }
                out.extend_from_slice(b"\r\n");
                at_start = true;
            }
            _ => {
                if byte == b'.' && at_start {
                    out.push(b'.');
                }
                out.push(byte);
                at_start = false;
            }
        }
    }
    if !at_start {
        out.extend_from_slice(b"\r\n");
    }
    out
}

async fn encrypt(tcp: TcpStream, config: &Arc<ClientConfig>, name: &ServerName<'static>) -> Result<Socket, Failure> {
    let connected = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await;
    Ok(Either::Right(connected.map_err(Failure::Tls)?))
}

/// Who we say that we are: this machine's name where it is a domain, else the address that we come from (RFC 5321,
/// 4.1.4).
fn hello(local: SocketAddr) -> String {
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let name = hostname::get().ok().and_then(|name| name.into_string().ok());
    match (name.filter(|name| name.contains('.') && name.split('.').all(is_label)), local) {
        (Some(name), _) => name,
        (None, SocketAddr::V4(address)) => format!("[{}]", address.ip()),
        (None, SocketAddr::V6(address)) => format!("[IPv6:{}]", address.ip()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_of_a_reply_is_parsed() {
        assert_eq!(parse("250-SIZE 10"), Some((250, false, "SIZE 10")));
        assert_eq!(parse("250 ok"), Some((250, true, "ok")));
        assert_eq!(parse("250"), Some((250, true, "")));
        for wrong in ["", "25", "2500 ok", "150 ok", "600 ok", "25x ok", "+50 ok", "250_ok", "２50 ok", "HTTP/1.1 400"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_status_that_lines_repeat_stands_once() {
        let joined = |lines: &[&str]| {
            let mut reply = Reply { code: 550, text: lines[0].to_owned() };
            lines[1..].iter().for_each(|line| reply.extend(line));
            reply.text
        };
        assert_eq!(joined(&["5.7.1 spam", "5.7.1 really"]), "5.7.1 spam really");
        assert_eq!(joined(&["no", "no such user"]), "no no such user");
    }

    proptest! {
        #[test]
        fn no_text_ends_a_message(text in "(\\.|\r|\n|\r\n|a|\u{e9}|MAIL FROM:<x>){0,60}") {
            let out = String::from_utf8(stuffed(text.as_bytes())).unwrap();
            prop_assert!(!out.replace("\r\n", "").contains(['\r', '\n']));
            prop_assert!(out.is_empty() || out.ends_with("\r\n"));
            prop_assert!(out.split("\r\n").all(|line| line != "."));
            let unstuffed: Vec<&str> = out.split("\r\n").map(|line| line.strip_prefix('.').unwrap_or(line)).collect();
            let (unstuffed, lines) = (unstuffed.join("\n"), text.replace("\r\n", "\n").replace('\r', "\n"));
            prop_assert_eq!(unstuffed.trim_end_matches('\n'), lines.trim_end_matches('\n'));
        }
    }
}

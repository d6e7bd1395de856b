//! The link: a client and a server whose octets are carried from one to the other.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use postroad::smtp::{Input, Output, TlsInfo, client, server};

use super::*;

struct Flow {
    octets: VecDeque<u8>,
    done: usize,
    cut: Option<usize>,
    one_by_one: bool,
}

impl Flow {
    fn new(cut: Option<usize>, one_by_one: bool) -> Self {
        Self { octets: VecDeque::new(), done: 0, cut, one_by_one }
    }

    /// Moves the next piece into `to`; false when there is none.
    fn deliver(&mut self, to: &mut BytesMut) -> bool {
        let mut count = self.octets.len();
        if let Some(cut) = self.cut
            && (self.done + 1..self.done + count).contains(&cut)
        {
            count = cut - self.done;
        }
        if self.one_by_one {
            count = count.min(1);
        }
        to.extend(self.octets.drain(..count));
        self.done += count;
        count > 0
    }
}

/// Runs until nothing moves; also tells how many octets went each way.
pub(super) fn run(setup: &Setup, travel: Travel) -> (Outcome, usize, usize) {
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    let now = Instant::now();
    let mut pair = Pair {
        now,
        client: client::Session::new(setup.client.clone(), now),
        server: server::Session::new(setup.server.clone(), now),
        to_server: Flow::new(
            if let Travel::CutToServer(at) = travel { Some(at) } else { None },
            matches!(travel, Travel::OneByOne),
        ),
        to_client: Flow::new(
            if let Travel::CutToClient(at) = travel { Some(at) } else { None },
            matches!(travel, Travel::OneByOne),
        ),
        at_server: BytesMut::new(),
        at_client: BytesMut::new(),
        messages: &setup.messages,
        begun: 0,
        given: 0,
        mail: String::new(),
        recipients: Vec::new(),
        body: Vec::new(),
        tls: [false; 2],
        outcome: Outcome::default(),
    };
    loop {
        pair.pump_server();
        pair.pump_client();
        if pair.to_client.deliver(&mut pair.at_client) {
            pair.client.handle(now, Input::Data(&mut pair.at_client));
        } else if pair.to_server.deliver(&mut pair.at_server) {
            pair.server.handle(now, Input::Data(&mut pair.at_server));
        } else if pair.tls == [true; 2] {
            pair.tls = [false; 2];
            assert!(pair.at_server.is_empty() && pair.at_client.is_empty());
            pair.server.handle(now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
            pair.client.handle(now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
        } else {
            break;
        }
    }
    pair.outcome.encrypted = pair.server.is_encrypted();
    (pair.outcome, pair.to_server.done, pair.to_client.done)
}

struct Pair<'a> {
    now: Instant,
    client: client::Session,
    server: server::Session,
    to_server: Flow,
    to_client: Flow,
    at_server: BytesMut,
    at_client: BytesMut,
    messages: &'a [Message],
    begun: usize,
    given: usize,
    mail: String,
    recipients: Vec<String>,
    body: Vec<u8>,
    tls: [bool; 2],
    outcome: Outcome,
}

impl Pair<'_> {
    fn pump_client(&mut self) {
        loop {
            if self.client.can_begin()
                && let Some(message) = self.messages.get(self.begun)
            {
                let mut mail = Mail::new(ReversePath::parse(message.from).unwrap());
                mail.body = message.kind;
                let to = message.to.iter().map(|to| Rcpt::new(ForwardPath::parse(to).unwrap())).collect();
                let size = message.content.len() as u64;
                self.client.begin(client::Transaction::new(mail, to, size)).unwrap();
                self.begun += 1;
                self.given = 0;
            }
            match self.client.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    self.to_server.octets.extend(&octets);
                    self.client.handle(self.now, Input::Sent(octets.len()));
                }
                Output::StartTls => self.tls[0] = true,
                Output::Event(client::Event::WantBody { .. }) => {
                    let message = &self.messages[self.begun - 1];
                    let rest = &message.content[self.given..];
                    if rest.is_empty() {
                        self.offered(|client| client.end_body());
                    } else {
                        let piece = &rest[..rest.len().min(message.chunk)];
                        self.given += piece.len();
                        let piece = Bytes::copy_from_slice(piece);
                        self.offered(|client| client.body(piece));
                    }
                }
                Output::Event(client::Event::Done { transaction, result }) => {
                    assert_eq!(transaction, self.outcome.results.len() as u64 + 1);
                    let lines = result.recipients.iter().map(|recipient| match recipient {
                        client::RecipientResult::Replied { phase, reply } => {
                            format!("{phase:?} {}", reply.code())
                        }
                        other => format!("{other:?}"),
                    });
                    self.outcome.results.push(lines.collect());
                    if self.outcome.results.len() == self.messages.len() {
                        self.client.quit(self.now);
                    }
                }
                Output::Event(client::Event::Failed(failure)) => {
                    self.outcome.failure = Some(format!("{failure:?}"));
                }
                Output::Event(_) => {}
                Output::Wait { .. } | Output::Closed => break,
            }
        }
    }

    /// Content that is no lines is refused, and nothing else is.
    fn offered(&mut self, give: impl FnOnce(&mut client::Session) -> Result<(), Misuse>) {
        assert!(matches!(give(&mut self.client), Ok(()) | Err(Misuse::LineEnd)));
    }

    fn pump_server(&mut self) {
        loop {
            if self.server.can_read_on() {
                self.server.handle(self.now, Input::Data(&mut self.at_server));
            }
            match self.server.poll() {
                Output::Send(octets) => {
                    self.to_client.octets.extend(&octets);
                    self.server.handle(self.now, Input::Sent(octets.len()));
                }
                Output::SendSecret(_) => panic!("a server has no secrets"),
                Output::StartTls => self.tls[1] = true,
                Output::Event(event) => self.host(event),
                Output::Wait { .. } if self.server.can_read_on() => {}
                Output::Wait { .. } | Output::Closed => break,
            }
        }
    }

    fn host(&mut self, event: server::Event) {
        use server::Event;
        let reply = |code: u16, subject, detail, text: &str| {
            let class = u8::try_from(code / 100).unwrap();
            Reply::new(code, EnhancedCode::new(class, subject, detail), text)
        };
        let answer = match event {
            Event::Auth(login) => {
                self.outcome.logins.push(format!(
                    "{} {}",
                    login.user(),
                    login.password().unwrap_or_default()
                ));
                if login.password() == Some("right") {
                    reply(235, 7, 0, "Welcome")
                } else {
                    reply(535, 7, 8, "Wrong")
                }
            }
            Event::Mail(mail) => {
                self.recipients.clear();
                self.mail = mail.from.to_string();
                if self.mail.contains("nobody") {
                    reply(550, 1, 0, "Not you")
                } else {
                    reply(250, 1, 0, "OK")
                }
            }
            Event::Rcpt(rcpt) => {
                let to = rcpt.to.to_string();
                if to.contains("nobody") {
                    reply(550, 1, 1, "Unknown")
                } else if to.contains("later") {
                    reply(450, 2, 0, "Later")
                } else {
                    self.recipients.push(to);
                    reply(250, 1, 5, "OK")
                }
            }
            Event::MessageStart => return self.body.clear(),
            Event::Body(octets) => return self.body.extend_from_slice(&octets),
            Event::MessageAborted => return self.body.clear(),
            Event::MessageEnd if self.body.starts_with(b"refuse") => reply(554, 7, 1, "Spam"),
            Event::MessageEnd => {
                let body = std::mem::take(&mut self.body);
                self.outcome.taken.push((self.mail.clone(), self.recipients.clone(), body));
                reply(250, 6, 0, "Taken")
            }
            _ => return,
        };
        self.server.respond(answer).unwrap();
    }
}

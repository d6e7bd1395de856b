//! Each session alone against arbitrary octets of its peer. The first three octets set options, the
//! fourth says how the rest is cut.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::params::{BodyKind, Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::sasl::Credentials;
use postroad::smtp::{Input, Output, TlsInfo, client, server};

use super::start;

/// A limit on what one input may make a session say or hold.
const MAX_OUTPUT: usize = 4 << 20;

/// A client session against arbitrary octets from the server.
pub fn client_session(data: &[u8]) {
    let [options, more, mail, cut, rest @ ..] = data else { return };
    let (options, more) = (*options, *more);
    let tls = match options & 3 {
        0 => client::TlsUse::Never,
        1 => client::TlsUse::IfOffered,
        2 => client::TlsUse::Required,
        _ => client::TlsUse::AlreadyOn,
    };
    let mut config = client::Config::new(EhloName::new("fuzz.test").expect("name"), tls);
    (config.pipelining, config.chunking, config.chain) =
        (options & 4 == 0, options & 8 == 0, options & 16 != 0);
    if options & 32 != 0 {
        config.credentials = Some(Credentials::new("ada", "s3cret"));
        config.auth_in_clear = options & 64 != 0;
    }
    config.window = usize::from(more & 7);
    let mut run = Client {
        session: client::Session::new(config, start()),
        now: start(),
        mail: *mail,
        prompt: more & 8 == 0,
        in_pieces: more & 16 != 0,
        given: 0,
        begun: 0,
        done: 0,
        failed: false,
    };
    let mut input = BytesMut::new();
    for (nth, piece) in rest.chunks(usize::from(*cut).max(1)).enumerate() {
        run.drive();
        input.extend_from_slice(piece);
        run.session.handle(run.now, Input::Data(&mut input));
        if more & 32 != 0 && nth % 8 == 7 {
            run.now += Duration::from_secs(200);
            run.session.handle(run.now, Input::Timeout);
        }
        if more & 64 != 0 && nth == 20 {
            run.session.reset();
        }
        if more & 128 != 0 && nth == 25 {
            run.session.quit(run.now);
        }
    }
    run.prompt = true;
    run.drive();
    run.now += Duration::from_secs(3600);
    run.session.handle(run.now, Input::Timeout);
    run.drive();
    run.session.handle(run.now, Input::Eof);
    run.drive();
    assert_eq!(run.begun, run.done, "each transaction has one result");
    assert!(run.session.is_closed());
}

struct Client {
    session: client::Session,
    now: Instant,
    mail: u8,
    prompt: bool,
    in_pieces: bool,
    given: usize,
    begun: u64,
    done: u64,
    failed: bool,
}

impl Client {
    fn drive(&mut self) {
        let mut said = 0;
        for _ in 0..10_000 {
            match self.session.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    assert!(!self.failed, "sent after the end");
                    said += octets.len();
                    assert!(said < MAX_OUTPUT, "a session that talks without end");
                    if self.prompt || said % 3 != 0 {
                        self.session.handle(self.now, Input::Sent(octets.len()));
                    }
                }
                Output::StartTls => {
                    self.session.handle(self.now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
                }
                Output::Event(client::Event::WantBody { .. }) => self.give(),
                Output::Event(client::Event::Done { transaction, result }) => {
                    assert_eq!(result.recipients.len(), 2);
                    self.done += 1;
                    assert_eq!(transaction, self.done, "in order");
                }
                Output::Event(client::Event::Failed(_)) => {
                    assert_eq!(self.begun, self.done, "each open transaction has its end first");
                    self.failed = true;
                }
                Output::Event(_) => {}
                Output::Wait { .. } | Output::Closed => {
                    if !self.session.can_begin() || self.begun > 50 || !self.begin() {
                        return;
                    }
                }
            }
        }
        panic!("a session that never waits");
    }

    fn give(&mut self) {
        let rest = &BODY[self.given..];
        let piece = if self.in_pieces { &rest[..rest.len().min(5)] } else { rest };
        self.given += piece.len();
        let _ = if piece.is_empty() {
            self.session.end_body()
        } else {
            self.session.body(Bytes::from_static(piece))
        };
    }

    fn begin(&mut self) -> bool {
        let to = |path| Rcpt::new(ForwardPath::parse(path).expect("path"));
        let mut mail = Mail::new(ReversePath::parse("a@b.test").expect("path"));
        mail.body = match self.mail & 3 {
            0 => BodyKind::EightBit,
            1 => BodyKind::Binary,
            _ => BodyKind::SevenBit,
        };
        (mail.smtputf8, mail.require_tls) = (self.mail & 4 != 0, self.mail & 8 != 0);
        let second = if self.mail & 16 != 0 { "gr\u{fc}n@d.test" } else { "e@d.test" };
        let size = BODY.len() as u64 + u64::from(self.mail & 96 == 96);
        let transaction = client::Transaction::new(mail, vec![to("c@d.test"), to(second)], size);
        self.given = 0;
        let begun = self.session.begin(transaction).is_ok();
        self.begun += u64::from(begun);
        begun
    }
}

/// A server session against arbitrary octets from the client.
pub fn server_session(data: &[u8]) {
    let [options, more, host, cut, rest @ ..] = data else { return };
    let (options, more) = (*options, *more);
    let mut now = start();
    let mut config = server::Config::new(EhloName::new("fuzz.test").expect("name"));
    config.max_message_size = if more & 1 == 0 { 100_000 } else { 50 };
    config.max_recipients = 3;
    (config.starttls, config.binary) = (options & 1 != 0, options & 2 != 0);
    config.auth = match options >> 2 & 3 {
        0 => server::AuthOffer::Never,
        1 => server::AuthOffer::UnderTls,
        _ => server::AuthOffer::Always,
    };
    let lmtp = options & 16 != 0;
    if lmtp {
        config.protocol = server::Protocol::Lmtp;
    }
    (config.require_tls, config.require_auth) = (options & 32 != 0, options & 64 != 0);
    config.refuse_early_talk = options & 128 != 0;
    if more & 2 != 0 {
        (config.max_errors, config.max_idle_commands, config.max_auth_failures) = (3, 5, 2);
    }
    let most = config.max_message_size as usize;
    let mut session = if more & 4 != 0 {
        server::Session::over_tls(config, TlsInfo::new("TLSv1.3", "X"), now)
    } else {
        server::Session::new(config, now)
    };
    let mut input = BytesMut::new();
    let mut run = Server { stored: 0, most, inside: false, host: *host, asked: 0, lmtp, over: false };
    run.drive(&mut session, now);
    for (nth, piece) in rest.chunks(usize::from(*cut).max(1)).enumerate() {
        input.extend_from_slice(piece);
        loop {
            session.handle(now, Input::Data(&mut input));
            run.drive(&mut session, now);
            if !session.can_read_on() {
                break;
            }
        }
        assert!(input.len() < 20_000, "a session that leaves more and more unread: {}", input.len());
        if more & 8 != 0 && nth % 16 == 15 {
            now += Duration::from_secs(100);
            session.handle(now, Input::Timeout);
        }
        if more & 16 != 0 && nth == 30 {
            session.shutdown(Reply::new(421, EnhancedCode::new(4, 3, 2), "going down"));
        }
        if more & 32 != 0 && nth == 40 {
            session.close(&Reply::new(421, EnhancedCode::new(4, 3, 2), "now"));
        }
    }
    session.handle(now, Input::Eof);
    run.drive(&mut session, now);
    assert!(run.over, "a session ends with its client");
    assert!(!run.inside, "a message that was begun was ended or aborted");
}

struct Server {
    stored: usize,
    most: usize,
    inside: bool,
    host: u8,
    asked: u32,
    lmtp: bool,
    over: bool,
}

impl Server {
    fn drive(&mut self, session: &mut server::Session, now: Instant) {
        for _ in 0..10_000 {
            match session.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    assert!(!self.over, "said after the end");
                    assert!(octets.len() < MAX_OUTPUT);
                    assert!(octets.ends_with(b"\r\n"), "replies are whole lines");
                    session.handle(now, Input::Sent(octets.len()));
                }
                Output::StartTls => {
                    session.handle(now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
                }
                Output::Event(event) => self.event(session, event),
                Output::Wait { .. } => return,
                Output::Closed => {
                    self.over = true;
                    return;
                }
            }
        }
        panic!("a session that never waits");
    }

    fn event(&mut self, session: &mut server::Session, event: server::Event) {
        let mut message = false;
        match event {
            server::Event::MessageStart => {
                assert!(!std::mem::replace(&mut self.inside, true), "two messages at once");
                self.stored = 0;
                return;
            }
            server::Event::Body(octets) => {
                assert!(self.inside && !octets.is_empty());
                self.stored += octets.len();
                assert!(self.stored <= self.most, "more content than the limit");
                return;
            }
            server::Event::MessageAborted => {
                return assert!(std::mem::take(&mut self.inside), "no message to abort");
            }
            // The question may be that of the next event.
            server::Event::Hello { .. } | server::Event::Quit => return,
            server::Event::MessageEnd => {
                assert!(std::mem::take(&mut self.inside), "no message to end");
                assert!(session.recipients() > 0, "a message for nobody");
                message = true;
            }
            _ => {}
        }
        if !session.is_paused() {
            return;
        }
        self.asked += 1;
        let code: u16 = match u32::from(self.host).rotate_left(self.asked) & 15 {
            0..=9 => 250,
            10..=11 => 450,
            12..=13 => 550,
            14 => 354,
            _ if self.asked > 9 => 421,
            _ => 250,
        };
        let reply = Reply::new(code, EnhancedCode::new(2, 0, 0), "as the host says\nin two lines");
        if message && self.lmtp {
            session.respond_each(&vec![reply; session.recipients()]).expect("it asked");
        } else {
            session.respond(reply).expect("it asked");
        }
    }
}

const BODY: &[u8] = b"Subject: x\r\n\r\n.dot\r\nend\r\n";

//! What the fuzz targets call. Plain functions, so that their corpus also runs as an ordinary test.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use postroad::message::Header;
use postroad::smtp::address::{Domain, EhloName, ForwardPath, Mailbox, ReversePath};
use postroad::smtp::data::{Decoder, Encoder};
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply, ReplyParser};
use postroad::smtp::{Input, Output, TlsInfo, client, server};

#[path = "fuzz_convert.rs"]
pub mod convert;

/// Takes any input and panics when something is wrong.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("client_session", client_session),
    ("server_session", server_session),
    ("client_against_server", client_against_server),
    ("values", values),
    ("content", content),
    ("header", header),
    ("conversion", convert::conversion),
];

/// A limit on what one input may make a session say or hold.
const MAX_OUTPUT: usize = 4 << 20;

/// A client session against arbitrary octets from the server. The first octet sets options, the
/// second how the rest is cut.
pub fn client_session(data: &[u8]) {
    let [options, cut, rest @ ..] = data else { return };
    let now = start();
    let tls = if options & 1 == 0 { client::TlsUse::Never } else { client::TlsUse::IfOffered };
    let mut config = client::Config::new(EhloName::new("fuzz.test").expect("name"), tls);
    config.pipelining = options & 2 == 0;
    config.chunking = options & 4 == 0;
    config.chain = options & 8 != 0;
    let mut session = client::Session::new(config, now);
    let mut input = BytesMut::new();
    let mut begun = 0;
    let mut done = 0;
    for piece in rest.chunks(usize::from(*cut).max(1)) {
        drive_client(&mut session, now, &mut begun, &mut done, options & 16 != 0);
        input.extend_from_slice(piece);
        session.handle(now, Input::Data(&mut input));
    }
    drive_client(&mut session, now, &mut begun, &mut done, true);
    session.handle(now + Duration::from_secs(3600), Input::Timeout);
    drive_client(&mut session, now, &mut begun, &mut done, true);
    session.handle(now, Input::Eof);
    drive_client(&mut session, now, &mut begun, &mut done, true);
    assert_eq!(begun, done, "each transaction has one result");
}

fn drive_client(session: &mut client::Session, now: Instant, begun: &mut u64, done: &mut u64, prompt: bool) {
    const BODY: &[u8] = b"Subject: x\r\n\r\n.dot\r\nend\r\n";
    let mut said = 0;
    for _ in 0..10_000 {
        match session.poll() {
            Output::Send(octets) | Output::SendSecret(octets) => {
                said += octets.len();
                assert!(said < MAX_OUTPUT, "a session that talks without end");
                if prompt || said % 3 != 0 {
                    session.handle(now, Input::Sent(octets.len()));
                }
            }
            Output::StartTls => {
                session.handle(now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
            }
            Output::Event(client::Event::WantBody { .. }) => {
                let _ = session.body(Bytes::from_static(BODY));
                let _ = session.end_body();
            }
            Output::Event(client::Event::Done { result, .. }) => {
                assert_eq!(result.recipients.len(), 2);
                *done += 1;
            }
            Output::Event(_) => {}
            Output::Wait { .. } | Output::Closed => {
                if !session.can_begin() || *begun > 50 {
                    return;
                }
                let to = |path| Rcpt::new(ForwardPath::parse(path).expect("path"));
                let mail = Mail::new(ReversePath::parse("a@b.test").expect("path"));
                let transaction =
                    client::Transaction::new(mail, vec![to("c@d.test"), to("e@d.test")], BODY.len() as u64);
                match session.begin(transaction) {
                    Ok(_) => *begun += 1,
                    Err(_) => return,
                }
            }
        }
    }
    panic!("a session that never waits");
}

/// A server session against arbitrary octets from the client.
pub fn server_session(data: &[u8]) {
    let [options, cut, rest @ ..] = data else { return };
    let now = start();
    let mut config = server::Config::new(EhloName::new("fuzz.test").expect("name"));
    config.max_message_size = 100_000;
    config.max_recipients = 3;
    config.starttls = options & 1 != 0;
    config.binary = options & 2 != 0;
    if options & 4 != 0 {
        config.auth = server::AuthOffer::Always;
    }
    if options & 8 != 0 {
        config.protocol = server::Protocol::Lmtp;
    }
    let mut session = server::Session::new(config, now);
    let mut input = BytesMut::new();
    let mut stored = Vec::new();
    drive_server(&mut session, now, *options, &mut stored);
    for piece in rest.chunks(usize::from(*cut).max(1)) {
        input.extend_from_slice(piece);
        loop {
            session.handle(now, Input::Data(&mut input));
            drive_server(&mut session, now, *options, &mut stored);
            if !session.can_read_on() {
                break;
            }
        }
        assert!(input.len() < 20_000, "a session that leaves more and more unread: {}", input.len());
    }
    session.handle(now, Input::Eof);
    drive_server(&mut session, now, *options, &mut stored);
}

fn drive_server(session: &mut server::Session, now: Instant, options: u8, stored: &mut Vec<u8>) {
    let refuse = options & 16 != 0;
    let ok = Reply::new(250, EnhancedCode::new(2, 0, 0), "ok");
    let no = Reply::new(550, EnhancedCode::new(5, 0, 0), "no");
    for _ in 0..10_000 {
        match session.poll() {
            Output::Send(octets) | Output::SendSecret(octets) => {
                assert!(octets.len() < MAX_OUTPUT);
                assert!(octets.ends_with(b"\r\n"), "replies are whole lines");
                session.handle(now, Input::Sent(octets.len()));
            }
            Output::StartTls => {
                session.handle(now, Input::TlsReady(TlsInfo::new("TLSv1.3", "X")));
            }
            Output::Event(event) => {
                match event {
                    server::Event::MessageStart => stored.clear(),
                    server::Event::Body(octets) => {
                        stored.extend_from_slice(&octets);
                        assert!(stored.len() <= 200_000, "more content than the limit");
                    }
                    _ => {}
                }
                if session.is_paused() {
                    let reply = if refuse && stored.len() % 2 == 1 { no.clone() } else { ok.clone() };
                    session.respond(reply).expect("it asked");
                }
            }
            Output::Wait { .. } | Output::Closed => return,
        }
    }
    panic!("a session that never waits");
}

/// The client session against the server session, each direction cut as the input says, some
/// connections broken. What the server took is what the client sent, whole, under its envelope.
pub fn client_against_server(data: &[u8]) {
    let [options, cuts @ ..] = data else { return };
    let now = start();
    let name = EhloName::new("fuzz.test").expect("name");
    let mut config = client::Config::new(name.clone(), client::TlsUse::Never);
    config.pipelining = options & 1 == 0;
    config.chunking = options & 2 == 0;
    config.chain = options & 4 != 0;
    config.window = 1 + usize::from(options >> 4 & 3);
    let mut client = client::Session::new(config, now);
    let mut server = server::Session::new(server::Config::new(name), now);
    let (mut to_server, mut to_client, mut at_server, mut at_client) =
        (BytesMut::new(), BytesMut::new(), BytesMut::new(), BytesMut::new());
    let mut begun = 0_u64;
    let mut delivered = 0_u64;
    let (mut taken, mut current) = (Vec::new(), Vec::new());
    let ok = Reply::new(250, EnhancedCode::new(2, 0, 0), "ok");
    let body = |number: u64| {
        format!("N: {number}\r\n\r\n.\r\n{}\r\n", "x.".repeat(usize::try_from(number).unwrap_or(0) * 7))
    };
    let cuts = cuts.iter().copied().chain(std::iter::repeat_n(255, 400));
    for cut in cuts {
        loop {
            match client.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    to_server.extend_from_slice(&octets);
                    client.handle(now, Input::Sent(octets.len()));
                }
                Output::Event(client::Event::WantBody { transaction }) => {
                    let octets = Bytes::from(body(transaction));
                    client.body(octets).and_then(|()| client.end_body()).expect("it asked");
                }
                Output::Event(client::Event::Done { result, .. }) => {
                    let client::RecipientResult::Replied { phase: client::Phase::Content, reply } =
                        &result.recipients[0]
                    else {
                        panic!("{result:?}")
                    };
                    assert!(reply.is_positive());
                    delivered += 1;
                }
                Output::Event(client::Event::Failed(failure)) => panic!("{failure:?}"),
                Output::Event(_) => {}
                Output::StartTls => panic!("TLS was not offered"),
                Output::Wait { .. } | Output::Closed => {
                    if !client.can_begin() || begun == 12 {
                        break;
                    }
                    let to = Rcpt::new(ForwardPath::parse(&format!("r{begun}@d.test")).expect("path"));
                    let mail = Mail::new(ReversePath::parse("a@b.test").expect("path"));
                    begun += 1;
                    let size = body(begun).len() as u64;
                    let number =
                        client.begin(client::Transaction::new(mail, vec![to], size)).expect("it can begin");
                    assert_eq!(number, begun, "transactions are counted from 1");
                }
            }
        }
        loop {
            match server.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    to_client.extend_from_slice(&octets);
                    server.handle(now, Input::Sent(octets.len()));
                }
                Output::Event(event) => {
                    match event {
                        server::Event::MessageStart => current.clear(),
                        server::Event::Body(octets) => current.extend_from_slice(&octets),
                        server::Event::MessageEnd => taken.push(std::mem::take(&mut current)),
                        _ => {}
                    }
                    if server.is_paused() {
                        server.respond(ok.clone()).expect("it asked");
                    }
                    server.handle(now, Input::Data(&mut at_server));
                }
                Output::StartTls => panic!("TLS was not offered"),
                Output::Wait { .. } | Output::Closed => break,
            }
        }
        let step = usize::from(cut) * usize::from(cut) + 1;
        let n = step.min(to_server.len());
        at_server.unsplit(to_server.split_to(n));
        server.handle(now, Input::Data(&mut at_server));
        let n = step.min(to_client.len());
        at_client.unsplit(to_client.split_to(n));
        client.handle(now, Input::Data(&mut at_client));
        if delivered == 12 {
            break;
        }
    }
    for (number, octets) in taken.iter().enumerate() {
        assert_eq!(*octets, body(number as u64 + 1).into_bytes());
    }
    assert!(delivered as usize <= taken.len());
}

/// Every value that is parsed from a peer: what parses prints to something that parses to the same.
pub fn values(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let printed = [
        Mailbox::parse(&text)
            .ok()
            .map(|v| (v.to_string(), Mailbox::parse(&v.to_string()).expect("again").to_string())),
        Domain::parse(&text)
            .ok()
            .map(|v| (v.to_string(), Domain::parse(v.as_str()).expect("again").to_string())),
        Mail::parse(&text)
            .ok()
            .map(|v| (v.to_string(), Mail::parse(&v.to_string()).expect("again").to_string())),
        Rcpt::parse(&text)
            .ok()
            .map(|v| (v.to_string(), Rcpt::parse(&v.to_string()).expect("again").to_string())),
    ];
    for (once, twice) in printed.into_iter().flatten() {
        assert_eq!(once, twice);
        assert!(!once.chars().any(char::is_control), "{once:?} could forge a command");
    }
    let mut parser = ReplyParser::default();
    let mut input = BytesMut::from(data);
    while let Ok(Some(reply)) = parser.next(&mut input) {
        assert!((200..600).contains(&reply.code()));
        let mut wire = BytesMut::new();
        reply.encode(&mut wire);
        let again = ReplyParser::default().next(&mut wire).expect("ours parses").expect("whole");
        assert_eq!(again.code(), reply.code());
    }
}

/// What the encoder writes, the decoder reads back; and what it writes can end no message early.
pub fn content(data: &[u8]) {
    let [cut, rest @ ..] = data else { return };
    let mut encoder = Encoder::new();
    let mut wire = BytesMut::new();
    for piece in rest.chunks(usize::from(*cut).max(1)) {
        encoder.encode(&Bytes::copy_from_slice(piece), |octets| wire.extend_from_slice(&octets));
    }
    wire.extend_from_slice(encoder.end());
    let body = &wire[..wire.len() - 3];
    assert!(wire.ends_with(b".\r\n"));
    assert!(!memmem(body, b"\r\n.\r\n") && !body.starts_with(b".\r\n"), "an end of data inside");
    for (at, octet) in body.iter().enumerate() {
        assert!(*octet != b'\n' || at > 0 && body[at - 1] == b'\r', "a bare LF");
        assert!(*octet != b'\r' || body.get(at + 1) == Some(&b'\n'), "a bare CR");
    }
    let mut decoder = Decoder::default();
    let mut decoded = Vec::new();
    let mut input = wire;
    loop {
        let before = input.len();
        let piece = decoder.decode(&mut input);
        decoded.extend_from_slice(&piece.octets);
        if piece.end {
            break;
        }
        assert!(input.len() < before, "the decoder missed the end");
    }
    assert!(!decoder.is_refused(), "what was written is not refused");
    assert!(input.is_empty());
    let mut expected = Vec::new();
    let mut octets = rest.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' => {
                octets.next_if_eq(&b'\n');
                expected.extend_from_slice(b"\r\n");
            }
            b'\n' => expected.extend_from_slice(b"\r\n"),
            other => expected.push(other),
        }
    }
    if !expected.is_empty() && !expected.ends_with(b"\r\n") {
        expected.extend_from_slice(b"\r\n");
    }
    assert_eq!(decoded, expected);
}

/// The header scanner on arbitrary octets.
pub fn header(data: &[u8]) {
    if let Ok(header) = Header::scan(data) {
        assert!(header.count("received") <= data.len());
        assert!(header.body_start().is_none_or(|at| at <= data.len()));
        let _ = header.first("from").map(|field| field.unfolded().len());
    }
}

fn memmem(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[allow(clippy::disallowed_methods, reason = "one reading; the sessions see only what is added to it")]
fn start() -> Instant {
    Instant::now()
}

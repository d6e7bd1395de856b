//! Values that a peer or an application gives, as text or octets.

use bytes::{Bytes, BytesMut};
use postroad::clock::{Rng, Timestamp};
use postroad::message::{Header, MessageId, Report, ReportKind, ReportRecipient};
use postroad::smtp::TlsInfo;
use postroad::smtp::address::{Domain, EhloName, Mailbox};
use postroad::smtp::capability::Capabilities;
use postroad::smtp::command::Command;
use postroad::smtp::data::{Decoder, Encoder, is_clean};
use postroad::smtp::params::{DeliverBy, Hold, MAX_ORCPT, Mail, OriginalRecipient, Priority, Rcpt, XText};
use postroad::smtp::reply::{EnhancedCode, Reply, ReplyParser};
use postroad::smtp::sasl::{self, Credentials, Decoy, Mechanism, Nonces};

use super::has;

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
    let _ = Command::parse(data);
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
    assert!(!has(body, b"\r\n.\r\n") && !body.starts_with(b".\r\n"), "an end of data inside");
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
    let nul_line = expected.starts_with(b"\0") || has(&expected, b"\r\n\0");
    assert_eq!(decoder.is_refused(), nul_line, "what was written is not refused for its line ends");
    assert!(input.is_empty());
}

/// The header scanner on arbitrary octets.
pub fn header(data: &[u8]) {
    if let Ok(header) = Header::scan(data) {
        assert!(header.count("received") <= data.len());
        assert!(header.body_start().is_none_or(|at| at <= data.len()));
        let _ = header.first("from").map(|field| field.unfolded().len());
    }
}

/// Replies and what they announce: what was understood of them is announced again and understood the
/// same.
pub fn replies(data: &[u8]) {
    let [cut, rest @ ..] = data else { return };
    let mut parser = ReplyParser::default();
    let mut input = BytesMut::new();
    for piece in rest.chunks(usize::from(*cut).max(1)) {
        input.extend_from_slice(piece);
        loop {
            match parser.next(&mut input) {
                Ok(Some(reply)) => understood(&reply),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(input.len() < 5000, "a parser that keeps a line without end");
    }
}

fn understood(reply: &Reply) {
    assert!((200..600).contains(&reply.code()));
    assert!(!reply.text().chars().any(|c| c.is_control() && c != '\n'));
    let mut wire = BytesMut::new();
    reply.encode(&mut wire);
    // The text may be cut by limits that it had with its codes; the code may not change.
    if let Ok(Some(again)) = ReplyParser::default().next(&mut wire) {
        assert_eq!(again.code(), reply.code());
    }
    let caps = Capabilities::parse(reply);
    assert_eq!(Capabilities::parse(&caps.to_reply("mx.test")), caps);
}

/// Parameters of MAIL and RCPT, alone and together.
pub fn params(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(value) = XText::decode(&text, MAX_ORCPT) {
        assert_eq!(XText::new(value.as_str(), 3 * MAX_ORCPT).as_ref(), Ok(&value));
    }
    if let Ok(value) = XText::new(&text, MAX_ORCPT) {
        assert_eq!(XText::decode(&value.to_string(), MAX_ORCPT), Ok(value));
    }
    if let Ok(Some(value)) = OriginalRecipient::parse(&text) {
        let printed = value.to_string();
        // What needed no `+XX` may have had one.
        assert_eq!(OriginalRecipient::parse(&printed), Ok(Some(value)));
    }
    if let Ok(value) = DeliverBy::parse(&text) {
        assert_eq!(DeliverBy::parse(&value.to_string()), Ok(value));
    }
    if let Ok(value) = Hold::parse_time(&text) {
        assert_eq!(Hold::parse_time(value.to_string().trim_start_matches("HOLDUNTIL=")), Ok(value));
    }
    if let Ok(value) = Hold::parse_interval(&text) {
        assert_eq!(Hold::parse_interval(value.to_string().trim_start_matches("HOLDFOR=")), Ok(value));
    }
    if let Ok(value) = Priority::parse(&text) {
        assert_eq!(Priority::parse(&value.to_string()), Ok(value));
    }
    for line in [format!("<a@b.test> {text}"), format!("<> {text}")] {
        if let Ok(value) = Mail::parse(&line) {
            assert_eq!(Mail::parse(&value.to_string()), Ok(value));
        }
        if let Ok(value) = Rcpt::parse(&line) {
            assert_eq!(Rcpt::parse(&value.to_string()), Ok(value));
        }
    }
}

/// The lines of an AUTH exchange, by every mechanism, in both roles; and the same octets as what a user
/// typed.
pub fn auth(data: &[u8]) {
    let [which, rest @ ..] = data else { return };
    let mechanism = Mechanism::ALL[usize::from(which & 7)];
    let tls = TlsInfo::new("TLSv1.3", "X");
    let (nonces, decoy) = (Nonces::fixed("rOprNGfwEbeRWgbNEkqO"), Decoy::new([1; 32]));
    let ours = Credentials::new("ada", "s3cret");
    let lines = rest.split(|octet| *octet == b'\n').take(8);
    if which & 8 == 0 {
        let Some(mut exchange) = sasl::client::Exchange::new(mechanism, &ours, None, &nonces) else { return };
        let _ = exchange.initial(usize::from(which & 16) * 30);
        for line in lines {
            let Ok(answer) = exchange.challenge(line) else { break };
            assert!(answer.iter().all(|octet| octet.is_ascii_alphanumeric() || b"+/=".contains(octet)));
        }
        let owes = matches!(mechanism, Mechanism::ScramSha256 | Mechanism::ScramSha256Plus);
        assert!(
            !owes || exchange.succeeded().is_err(),
            "a server that does not know the password is believed"
        );
    } else {
        let Some(mut exchange) = sasl::server::Exchange::new(mechanism, Some(&tls), which & 16 != 0) else {
            return;
        };
        let mut step = exchange.begin(None);
        for line in lines {
            if let Ok(sasl::server::Step::Keys) = step {
                step = exchange.keys(None, &nonces, &decoy);
            }
            match step {
                Ok(sasl::server::Step::Login(login)) => {
                    assert!(!login.user().is_empty() && !login.user().contains('\0'));
                    assert!(!login.password().is_some_and(|password| password.contains('\0')));
                    let proven = matches!(login.evidence(), sasl::Evidence::Proven);
                    assert!(!proven, "nobody has a password here");
                    return;
                }
                Ok(_) => step = exchange.answer(line),
                Err(_) => return,
            }
        }
    }
    let typed = String::from_utf8_lossy(rest);
    let (user, password) = typed.split_once('/').unwrap_or((&typed, ""));
    let typed = Credentials::new(user, password);
    if let Some(mut exchange) = sasl::client::Exchange::new(mechanism, &typed, None, &nonces)
        && let Some(answer) = exchange.initial(usize::MAX)
    {
        assert!(answer.iter().all(|octet| octet.is_ascii_alphanumeric() || b"+/=".contains(octet)));
    }
}

/// A PROXY header: never more missing than it may be long, and what is whole stays so whatever follows.
pub fn proxy(data: &[u8]) {
    use postroad::server::proxy::{MAX_V2, Parsed, parse};
    let whole = parse(data);
    for cut in 0..data.len().min(MAX_V2 + 2) {
        match parse(&data[..cut]) {
            Ok(Parsed::Missing(count)) => assert!(count > 0 && cut + count <= MAX_V2),
            Ok(Parsed::Whole { length, .. }) => {
                assert!(length <= cut);
                assert_eq!(parse(&data[..cut]), whole);
            }
            Err(error) => assert_eq!(whole, Err(error)),
        }
    }
}

/// A report about arbitrary octets, with what a host said taken from them: whole lines, one header, each
/// part's fields once.
pub fn report(data: &[u8]) {
    let [kind, rest @ ..] = data else { return };
    let text = String::from_utf8_lossy(rest);
    let at = Timestamp::from_millis(1_790_000_000_000);
    let (said, told) = text.split_once('/').unwrap_or((&text, "x"));
    let mut rcpt = Rcpt::parse("<ada@b.test>").expect("path");
    rcpt.orcpt = OriginalRecipient::new("rfc822", said).ok();
    let what = match kind >> 1 & 3 {
        0 => ReportKind::Failure,
        1 => ReportKind::Delay { until: at },
        2 => ReportKind::Success,
        _ => ReportKind::Relayed,
    };
    let mut recipient = ReportRecipient::new(what, rcpt, EnhancedCode::new(5, 1, 1), told);
    recipient.reply = Some(Reply::plain(550, said));
    let name = EhloName::new("mx.b.test").expect("name");
    let sender = if kind & 1 == 0 { "s@a.test" } else { "gr\u{fc}n@a.test" };
    let sender = Mailbox::parse(sender).expect("mailbox");
    let id = MessageId::new(at, &Rng::seeded(1));
    let mut report = Report::new(id, name, sender, at, at, vec![recipient]);
    report.original = Bytes::copy_from_slice(rest);
    report.original_size = rest.len() as u64 + u64::from(kind >> 3 & 1);
    let octets = report.build();
    assert!(is_clean(&octets) && !octets.contains(&0));
    let header = Header::scan(&octets).expect("a header");
    assert!(!header.is_broken() && header.count("Content-Type") == 1 && header.count("To") == 1);
    let boundary = format!("\r\n--=_{id}_");
    let parts = octets.windows(boundary.len()).filter(|window| *window == boundary.as_bytes()).count();
    // Text, status, the message or its header if there is one, and the end.
    assert!((3..=4).contains(&parts) || has(rest, b"--=_"), "{parts} parts");
}

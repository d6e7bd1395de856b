//! Our client delivers to mail servers of other people, which hand on what they got to a server of
//! ours: in clear by DATA, over STARTTLS and over implicit TLS with a login by whatever they offer.
//! What arrives at the far end is what was sent, below what each hop writes on top.
//!
//! | hop | clear | STARTTLS | implicit | AUTH | BDAT | 8BITMIME | SMTPUTF8 | 25 MB |
//! |---|---|---|---|---|---|---|---|---|
//! | Postfix | x | x | x | x | x | x | x | x |
//! | Exim | x | x | x | x | x | x | x | x |
//! | OpenSMTPD | x | broken | broken | | | x | | x |
//! | aiosmtpd | x | x | x | x | | x | x | x |
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod kit;

#[path = "interop/far.rs"]
mod far;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::clock::SystemClock;
use postroad::hop::{Host, Refused, Require, TlsStart};
use postroad::message::Content;
use postroad::net::connect::TcpConnect;
use postroad::net::tls::{ClientTls, TlsOptions};
use postroad::net::{ClientOptions, Connection, Dialer, OpenError, Quirks, TraceLine};
use postroad::smtp::address::{Domain, EhloName, ForwardPath, ReversePath};
use postroad::smtp::client::{BeginError, Feature, Phase, RecipientResult, Transaction};
use postroad::smtp::params::{BodyKind, Mail, Rcpt};
use postroad::smtp::sasl::Credentials;

use far::{Far, Kind, Letter, PASSWORD, Papers, USER, assert_same};
use kit::peers::{Aiosmtpd, Duties, Exim, OpenSmtpd, Postfix};
use kit::process::wait_until;

/// How our client goes to a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Without TLS, by DATA.
    Clear,
    /// STARTTLS with a certificate that is verified.
    StartTls,
    /// TLS from the first octet, and a login.
    Implicit,
}

/// The dialogue, line by line.
type Trace = Arc<Mutex<Vec<String>>>;

async fn open(
    to: SocketAddr,
    papers: &Papers,
    way: Way,
    require: Require,
) -> (Result<Connection, OpenError>, Trace) {
    let trace = Trace::default();
    let mut options = ClientOptions::new(EhloName::new("client.test").unwrap());
    options.longest_wait = Some(Duration::from_secs(30));
    options.session.chunking = way != Way::Clear;
    options.session.credentials = (way == Way::Implicit).then(|| Credentials::new(USER, PASSWORD));
    let seen = Arc::clone(&trace);
    options.trace = Some(Arc::new(move |line: TraceLine<'_>| seen.lock().unwrap().push(line.to_string())));
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    let trust = trust.trust_pem(&std::fs::read(papers.ca()).unwrap()).unwrap();
    let tls = ClientTls::new(trust, Arc::new(SystemClock)).unwrap();
    let dialer = Dialer::new(options, Arc::new(TcpConnect::new()), tls, Arc::new(SystemClock));
    let mut host = Host::new(Domain::parse("localhost").unwrap(), to.port()).with_addresses(vec![to.ip()]);
    host.tls_start = if way == Way::Implicit { TlsStart::Implicit } else { TlsStart::StartTls };
    (dialer.open(&Arc::new(host), postroad::smtp::Protocol::Smtp, require, Quirks::default()).await, trace)
}

fn transaction(letter: &Letter) -> Transaction {
    let mut mail = Mail::new(ReversePath::parse(&letter.from).unwrap());
    mail.smtputf8 = letter.kind == Kind::Utf8;
    if !letter.octets.is_ascii() {
        mail.body = BodyKind::EightBit;
    }
    let to = vec![Rcpt::new(ForwardPath::parse(&letter.to).unwrap())];
    Transaction::new(mail, to, letter.octets.len() as u64)
}

/// Sends each letter on one connection, as many in flight as it bears; every one is accepted.
async fn send(connection: &mut Connection, letters: &[Letter], what: &str) {
    let mut next = letters.iter();
    let mut done = 0;
    while done < letters.len() {
        while connection.can_begin() {
            let Some(letter) = next.next() else { break };
            let begun = connection.begin(transaction(letter), Content::Whole(letter.octets.clone()));
            begun.unwrap_or_else(|error| panic!("{what} {:?}: {error:?}", letter.kind));
        }
        let Some((_, result)) = connection.next_done().await else {
            panic!("{what}: {:?}", connection.failure());
        };
        match &result.recipients[..] {
            [RecipientResult::Replied { phase: Phase::Content, reply }] if reply.is_positive() => done += 1,
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// Takes what a hop wrote on top off: fields of trace and nothing else.
fn below_trace<'a>(arrived: &'a [u8], letter: &Letter, what: &str) -> &'a [u8] {
    let on_top = arrived.len().saturating_sub(letter.octets.len());
    let (trace, rest) = arrived.split_at(on_top);
    let names: Vec<_> = String::from_utf8_lossy(trace)
        .lines()
        .filter(|line| !line.starts_with([' ', '\t']))
        .map(|line| line.split(':').next().unwrap().to_ascii_lowercase())
        .collect();
    assert!(names.iter().all(|name| name == "received"), "{what}: {names:?}");
    rest
}

/// Every kind of letter that a hop can carry; the large one by DATA and by BDAT, and not again.
fn letters(utf8: bool, way: Way) -> Vec<Letter> {
    let kinds = [Kind::Dots, Kind::EightBit, Kind::Utf8, Kind::Large];
    let wanted = |kind: &Kind| match kind {
        Kind::Utf8 => utf8,
        Kind::Large => way != Way::Implicit,
        _ => true,
    };
    kinds.into_iter().filter(wanted).map(Letter::new).collect()
}

fn duties(far: &Far, papers: &Papers) -> Duties {
    let (certificate, key) = papers.pair();
    Duties { next: far.address(), certificate, key, user: USER.into(), password: PASSWORD.into() }
}

/// Sends every letter every way through a hop, and looks at what it hands on.
async fn pass_through(
    name: &str,
    far: &Far,
    papers: &Papers,
    ways: &[(Way, SocketAddr)],
    utf8: bool,
    log: impl Fn() -> String,
) {
    for (way, address) in ways {
        let what = format!("{name} {way:?}");
        let letters = letters(utf8, *way);
        let require = if *way == Way::Clear { Require::Cleartext } else { Require::Verified };
        let (opened, trace) = open(*address, papers, *way, require).await;
        let mut connection = opened
            .unwrap_or_else(|error| panic!("{what}: {error:?}\n{:#?}\n{}", trace.lock().unwrap(), log()));
        assert_eq!(connection.capabilities().smtputf8, utf8, "{what}");
        send(&mut connection, &letters, &what).await;
        // DATA on the first way; elsewhere BDAT where it is offered, and one who offers it takes it.
        let bdat = trace.lock().unwrap().iter().any(|line| line.starts_with("C: BDAT"));
        assert_eq!(bdat, *way != Way::Clear, "{what}");
        connection.quit();
        tokio::task::block_in_place(|| {
            wait_until(&format!("{what} hands on"), || far.count() >= letters.len());
        });
        let arrived = far.take();
        assert_eq!(arrived.len(), letters.len(), "{what}");
        assert!(arrived.iter().all(|got| got.mail.from.mailbox().is_some()), "{what}: it bounced\n{}", log());
        for letter in &letters {
            let what = format!("{what} {:?}", letter.kind);
            let id = format!("Message-ID: <{:?}@a.test>", letter.kind);
            let found = arrived
                .iter()
                .find(|got| got.octets.windows(id.len()).take(4096).any(|window| window == id.as_bytes()));
            let got = found.unwrap_or_else(|| panic!("{what}: not there"));
            assert_same(below_trace(&got.octets, letter, &what), &letter.octets, &what);
            assert_eq!(got.mail.from.to_string(), format!("<{}>", letter.from), "{what}");
            assert_eq!(got.to, [format!("<{}>", letter.to)], "{what}");
            assert!(letter.kind != Kind::Utf8 || got.mail.smtputf8, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postfix_takes_from_us_it_hands_on_octet_for_octet() {
    let (papers, far) = (Papers::new(), Far::exchange().await);
    let Some(postfix) = Postfix::with(&duties(&far, &papers)) else { return };
    let ways = [
        (Way::Clear, postfix.address()),
        (Way::StartTls, postfix.address()),
        (Way::Implicit, postfix.implicit()),
    ];
    pass_through("Postfix", &far, &papers, &ways, true, || postfix.log()).await;
    let logins = postfix.log().matches("sasl_username=ada").count();
    assert!(logins > 0, "{}", postfix.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exim_takes_from_us_it_hands_on_octet_for_octet() {
    let (papers, far) = (Papers::new(), Far::exchange().await);
    let Some(exim) = Exim::with(&duties(&far, &papers)) else { return };
    let ways =
        [(Way::Clear, exim.address()), (Way::StartTls, exim.address()), (Way::Implicit, exim.implicit())];
    pass_through("Exim", &far, &papers, &ways, true, || exim.log()).await;
    assert!(exim.log().contains(" A=plain "), "{}", exim.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opensmtpd_takes_from_us_it_hands_on_octet_for_octet() {
    let (papers, far) = (Papers::new(), Far::exchange().await);
    let Some(opensmtpd) = OpenSmtpd::with(&duties(&far, &papers)) else { return };
    let ways = [(Way::Clear, opensmtpd.address())];
    pass_through("OpenSMTPD", &far, &papers, &ways, false, || opensmtpd.log()).await;
    // It knows nothing of SMTPUTF8: such a letter does not even begin.
    let (opened, _) = open(opensmtpd.address(), &papers, Way::Clear, Require::Cleartext).await;
    let letter = Letter::new(Kind::Utf8);
    let begun = opened.unwrap().begin(transaction(&letter), Content::Whole(letter.octets.clone()));
    assert_eq!(begun, Err(BeginError::Lacks(Feature::SmtpUtf8)));
}

/// Debian 12's OpenSMTPD offers STARTTLS and fails each handshake with an alert, because it does not
/// go together with OpenSSL 3: a fault that is met on the Internet.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_whose_tls_is_broken_gets_opportunistic_mail_in_clear_and_no_verified_mail() {
    let (papers, far) = (Papers::new(), Far::exchange().await);
    let Some(opensmtpd) = OpenSmtpd::with(&duties(&far, &papers)) else { return };
    let (opened, trace) = open(opensmtpd.address(), &papers, Way::StartTls, Require::Opportunistic).await;
    let mut connection = opened.unwrap();
    assert!(trace.lock().unwrap().contains(&"C: STARTTLS".to_owned()), "TLS was tried");
    if connection.seen().tls.is_some() {
        // A newer one, which can.
        return;
    }
    let letter = Letter::new(Kind::Dots);
    send(&mut connection, std::slice::from_ref(&letter), "opportunistic").await;
    tokio::task::block_in_place(|| wait_until("OpenSMTPD hands on", || far.count() == 1));
    let (opened, trace) = open(opensmtpd.address(), &papers, Way::StartTls, Require::Verified).await;
    assert!(
        matches!(opened, Err(OpenError::Handshake(_) | OpenError::Refused(Refused::NotVerified(_)))),
        "{opened:?}"
    );
    assert!(!trace.lock().unwrap().iter().any(|line| line.starts_with("C: MAIL")), "{trace:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_aiosmtpd_takes_from_us_is_what_was_sent() {
    let (papers, far) = (Papers::new(), Far::exchange().await);
    let Some(server) = Aiosmtpd::with(&duties(&far, &papers)) else { return };
    for (way, address) in [
        (Way::Clear, server.address()),
        (Way::StartTls, server.address()),
        (Way::Implicit, server.implicit()),
    ] {
        let what = format!("aiosmtpd {way:?}");
        let letters = letters(true, way);
        let require = if way == Way::Clear { Require::Cleartext } else { Require::Verified };
        let (opened, trace) = open(address, &papers, way, require).await;
        let mut connection = opened.unwrap_or_else(|error| panic!("{what}: {error:?} {trace:#?}"));
        send(&mut connection, &letters, &what).await;
        let kept = server.take();
        assert_eq!(kept.len(), letters.len(), "{what}");
        for (kept, letter) in kept.iter().zip(&letters) {
            let what = format!("{what} {:?}", letter.kind);
            assert_same(&kept.octets, &letter.octets, &what);
            let lines: Vec<_> = kept.envelope.lines().collect();
            let login = if way == Way::Implicit { USER } else { "-" };
            assert_eq!((lines[0], lines[1], lines[3]), (login, &*letter.from, &*letter.to), "{what}");
            assert_eq!(lines[2].contains("SMTPUTF8"), letter.kind == Kind::Utf8, "{what}: {lines:?}");
            assert_eq!(lines[2].contains("8BITMIME"), !letter.octets.is_ascii(), "{what}: {lines:?}");
        }
    }
}

//! Signing as a whole: what is signed, by whom, and that it does not depend on how a message is cut. Other
//! people's verifiers are asked in `tests/dkim.rs`.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use proptest::prelude::*;

use super::*;
use crate::message::header::{Field, Header};
use crate::smtp::address::Domain;

const RSA: &[u8] = include_bytes!("../../../tests/fixtures/dkim/rsa.pem");
const RSA_PKCS1: &[u8] = include_bytes!("../../../tests/fixtures/dkim/rsa-pkcs1.pem");
const ED25519: &[u8] = include_bytes!("../../../tests/fixtures/dkim/ed25519.pem");
pub(in crate::message) const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

pub(in crate::message) fn key(pem: &[u8]) -> SigningKey {
    SigningKey::from_pem(pem).unwrap()
}

pub(in crate::message) fn ed25519() -> SigningKey {
    key(ED25519)
}

pub(in crate::message) fn rsa() -> SigningKey {
    key(RSA)
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn selector(name: &str) -> Selector {
    Selector::parse(name).unwrap()
}

fn both() -> Identity {
    Identity::new(domain("a.test")).key(selector("rsa"), rsa()).key(selector("ed"), ed25519())
}

fn small(name: &str) -> Identity {
    Identity::new(domain(name)).key(selector("ed"), ed25519())
}

fn fields(signer: &Signer, message: &[u8]) -> Result<String, Unsigned> {
    match signer.sign(message, NOW).unwrap() {
        Signed::Fields(fields) => Ok(String::from_utf8(fields.to_vec()).unwrap()),
        Signed::Not(why) => Err(why),
    }
}

/// Which of a message's signatures hold.
fn verdicts(message: &[u8], key: impl Fn(&str) -> KeyRecord) -> Vec<bool> {
    let header = Header::scan(message).unwrap();
    let all: Vec<Field<'_>> = header.fields().collect();
    let body = header.body_start().and_then(|at| message.get(at..)).unwrap_or_default();
    let signatures = all.iter().filter(|field| field.is(NAME)).map(|field| Signature::parse(*field).unwrap());
    signatures.map(|found| found.holds(&all, body, &key(found.selector), NOW)).collect()
}

fn records(name: &str) -> KeyRecord {
    if name == "rsa" { rsa().record().clone() } else { ed25519().record().clone() }
}

#[test]
fn the_example_of_the_rfc_holds_and_nothing_that_was_changed_does() {
    // RFC 8463 A.3
    let message = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\nDKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n date : message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3\r\n DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz\r\n dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=\r\nFrom: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\nSubject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\nMessage-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\nHi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
    let ed = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let rsa = "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";
    let key = |name: &str| KeyRecord::parse(if name == "test" { rsa } else { ed }.as_bytes()).unwrap();
    assert_eq!(verdicts(message.as_bytes(), key), [true, true]);
    for (from, to) in
        [("dinner", "supper"), ("game.  Are", "game. are"), ("Joe.\r\n", "Joe\r\n"), ("joe@", "jim@")]
    {
        assert_eq!(verdicts(message.replace(from, to).as_bytes(), key), [false, false], "{from}");
    }
    for (from, to) in
        [("game.  Are", "game. \tAre"), ("Joe.\r\n", "Joe. \r\n\r\n"), ("Subject: Is", "SUBJECT:\r\n Is ")]
    {
        assert_eq!(verdicts(message.replace(from, to).as_bytes(), key), [true, true], "{from}");
    }
}

#[test]
fn each_key_signs_and_each_signature_holds() {
    let signer = Signer::new([both()]).unwrap();
    let message = "From: Ada <ada@a.test>\r\nTo: b@b.test\r\nSubject: x\r\n\r\nhello \r\n\r\n";
    let signed = fields(&signer, message.as_bytes()).unwrap();
    assert!(
        signed.starts_with("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=a.test; s=rsa;"),
        "{signed}"
    );
    assert!(
        signed.contains("\r\nDKIM-Signature: v=1; a=ed25519-sha256;") && signed.contains("t=1767225600;")
    );
    assert!(signed.lines().all(|line| line.len() <= 78) && !signed.contains("x=") && !signed.contains("l="));
    let whole = format!("{signed}Received: from x\r\n{message}");
    assert_eq!(verdicts(whole.as_bytes(), records), [true, true]);
    for (from, to) in [
        ("hello", "hallo"),
        ("To: b", "To: c"),
        ("Subject: x\r\n", ""),
        ("\r\n\r\nhello", "\r\nFrom: c@d.test\r\n\r\nhello"),
        ("\r\n\r\nhello", "\r\nCc: c@d.test\r\n\r\nhello"),
        ("\r\n\r\nhello", "\r\nContent-Type: text/html\r\n\r\nhello"),
    ] {
        assert_eq!(
            verdicts(whole.replacen(from, to, 1).as_bytes(), records),
            [false, false],
            "{from:?} {to:?}"
        );
    }
}

#[test]
fn the_fields_of_an_unsubscription_are_signed_and_trace_is_not() {
    let signer = Signer::new([small("a.test")]).unwrap();
    let message = "From: a@a.test\r\nList-Unsubscribe: <https://a.test/u>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nReceived: from y\r\nX-Mailer: z\r\n\r\n";
    let signed = fields(&signer, message.as_bytes()).unwrap().replace("\r\n ", "");
    for name in ["From:From:", ":List-Unsubscribe:List-Unsubscribe:", ":List-Unsubscribe-Post:", ":Cc:"] {
        assert!(signed.contains(name), "{name}: {signed}");
    }
    for name in ["Received", "X-Mailer", "Return-Path", "List-Id", "Sender:"] {
        assert!(!signed.contains(name), "{name}: {signed}");
    }
}

#[test]
fn the_from_field_chooses_who_signs() {
    let mut wide = small("wide.test");
    wide.subdomains = true;
    let signer =
        Signer::new([small("a.test"), wide, small("deep.wide.test"), small("xn--bcher-kva.test")]).unwrap();
    for (from, by) in [
        ("From: x@a.test\r\n", Ok("d=a.test;")),
        ("From: x@A.Test, y@a.test\r\n", Ok("d=a.test;")),
        ("From: x@b.wide.test\r\n", Ok("d=wide.test;")),
        ("From: x@c.b.wide.test\r\n", Ok("d=wide.test;")),
        ("From: x@deep.wide.test\r\n", Ok("d=deep.wide.test;")),
        ("From: x@b\u{fc}cher.test\r\n", Ok("d=xn--bcher-kva.test;")),
        // One that has its own keys, and does not lend them.
        ("From: x@y.deep.wide.test\r\n", Ok("d=wide.test;")),
        ("From: x@sub.a.test\r\n", Err(Unsigned::NoKey)),
        ("From: x@a.test.evil.test\r\n", Err(Unsigned::NoKey)),
        ("From: x@a.test, y@evil.test\r\n", Err(Unsigned::NoKey)),
        ("From: x@[192.0.2.1]\r\n", Err(Unsigned::NoKey)),
        ("From: x@a.test\r\nFrom: y@a.test\r\n", Err(Unsigned::From)),
        ("From: nobody\r\n", Err(Unsigned::From)),
        ("Sender: x@a.test\r\n", Err(Unsigned::From)),
        ("From: x@a.test\r\nno field\r\n", Err(Unsigned::Header)),
        ("From: x@a.test\nTo: y@b.test\r\n", Err(Unsigned::Header)),
    ] {
        let signed = fields(&signer, format!("{from}Subject: s\r\n\r\nbody\r\n").as_bytes());
        match by {
            Ok(tag) => {
                assert!(signed.as_ref().is_ok_and(|signed| signed.contains(tag)), "{from}: {signed:?}")
            }
            Err(why) => assert_eq!(signed, Err(why), "{from}"),
        }
    }
    assert_eq!(fields(&signer, b""), Err(Unsigned::From));
    assert_eq!(fields(&signer, b"\r\nFrom: x@a.test\r\n\r\n"), Err(Unsigned::From));
}

#[test]
fn a_header_without_end_is_not_kept() {
    let signer = Signer::new([small("a.test")]).unwrap();
    let mut hasher = signer.hasher();
    hasher.update(b"From: x@a.test\r\n");
    for _ in 0..64 * 1024 {
        hasher.update(b"X: 678\r\n");
        assert!(hasher.kept() <= crate::message::MAX_HEADER + 2);
    }
    assert_eq!(hasher.kept(), 0);
    assert_eq!(hasher.finish(b"").unsigned(), Some(Unsigned::Header));
    let often = format!("From: x@a.test\r\n{}\r\n", "List-Id: x\r\n".repeat(11));
    assert_eq!(fields(&signer, often.as_bytes()), Err(Unsigned::Header));
}

#[test]
fn what_a_key_has_signed_it_does_not_sign_again() {
    let one = Signer::new([small("a.test")]).unwrap();
    let message = "From: x@a.test\r\n\r\nbody\r\n";
    let signed = fields(&one, message.as_bytes()).unwrap() + message;
    assert_eq!(fields(&one, signed.as_bytes()), Err(Unsigned::Already));
    let more = fields(&Signer::new([both()]).unwrap(), signed.as_bytes()).unwrap();
    assert!(more.contains("s=rsa;") && !more.contains("s=ed;"), "{more}");
}

#[test]
fn what_is_asked_of_an_identity_is_in_its_signatures() {
    let mut identity = small("a.test");
    (identity.header, identity.body) = (Canon::Simple, Canon::Simple);
    identity.valid_for = Some(Duration::from_secs(60));
    identity.agent = Some(domain("news.a.test"));
    let signer = Signer::new([identity]).unwrap();
    let message = "From: x@a.test\r\nSubject: a\r\n\tb  c\r\n\r\nbody \r\n\r\n";
    let signed = fields(&signer, message.as_bytes()).unwrap();
    for tag in ["c=simple/simple;", "t=1767225600;", "x=1767225660;", "i=@news.a.test;"] {
        assert!(signed.contains(tag), "{tag}: {signed}");
    }
    let whole = signed + message;
    assert_eq!(verdicts(whole.as_bytes(), records), [true]);
    assert_eq!(verdicts(whole.replace("body \r\n", "body\r\n").as_bytes(), records), [false]);
    assert_eq!(verdicts(whole.replace("a\r\n\tb", "a\r\n b").as_bytes(), records), [false]);
}

#[test]
fn keys_are_read_in_each_form_and_what_is_none_is_refused() {
    let v2 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    assert_eq!(SigningKey::from_pkcs8(v2.as_ref()).unwrap().kind(), KeyType::Ed25519);
    assert_eq!(key(RSA).record(), key(RSA_PKCS1).record());
    assert_eq!(key(ED25519).kind(), KeyType::Ed25519);
    for (pem, error) in [
        (&include_bytes!("../../../tests/fixtures/dkim/rsa-1024.pem")[..], KeyError::TooSmall),
        (include_bytes!("../../../tests/fixtures/dkim/ec.pem"), KeyError::Kind),
        (b"", KeyError::Absent),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", KeyError::Malformed),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n", KeyError::Absent),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", KeyError::Absent),
    ] {
        assert_eq!(SigningKey::from_pem(pem).unwrap_err(), error, "{}", pem.escape_ascii());
    }
}

#[test]
fn nothing_secret_is_shown() {
    for (shown, is) in [
        (format!("{:?}", key(ED25519)), "SigningKey { kind: Ed25519, .. }"),
        (format!("{:?}", Signer::new([small("a.test")]).unwrap()), "Signer { domains: [\"a.test\"] }"),
    ] {
        assert_eq!(shown, is);
    }
}

#[test]
fn what_is_published_is_read_back_and_fits_the_strings_of_a_record() {
    for record in both().dns_records() {
        let name = record.name.split('.').next().unwrap();
        assert_eq!(&*record.name, format!("{name}._domainkey.a.test"));
        assert!(record.strings().all(|string| (1..=255).contains(&string.len())));
        assert_eq!(record.strings().collect::<String>(), &*record.text);
        assert_eq!(KeyRecord::parse(record.text.as_bytes()), Ok(records(name)));
        let line = record.to_string();
        assert!(line.starts_with(&format!("{name}._domainkey.a.test. IN TXT ( \"v=DKIM1; k=")), "{line}");
        assert_eq!(line.matches('"').count(), 2 * record.strings().count());
    }
}

#[test]
fn records_of_other_things_are_told_apart_from_damaged_ones() {
    for (text, error) in [
        ("v=DKIM1; p=", RecordError::Revoked),
        ("p=", RecordError::Revoked),
        ("v=DKIM1; k=dsa; p=YQ==", RecordError::Unknown),
        ("v=DKIM1; h=sha1; p=YQ==", RecordError::Unknown),
        ("v=DKIM1; s=tlsrpt; p=YQ==", RecordError::Unknown),
        ("v=DKIM2; p=YQ==", RecordError::Malformed),
        ("p=YQ==; v=DKIM1", RecordError::Malformed),
        ("v=DKIM1", RecordError::Malformed),
        ("v=spf1 -all", RecordError::Malformed),
        ("v=DKIM1; p=*", RecordError::Malformed),
    ] {
        assert_eq!(KeyRecord::parse(text.as_bytes()), Err(error), "{text}");
    }
    for text in ["p=YQ==", "v=DKIM1; h=sha1 : sha256; s=*; t=s; n=x y; p=Y Q = =;"] {
        assert_eq!(KeyRecord::parse(text.as_bytes()).unwrap().to_string(), "v=DKIM1; k=rsa; p=YQ==");
    }
}

#[test]
fn identities_that_cannot_sign_are_refused() {
    let twice = small("a.test").key(selector("ED"), ed25519());
    let many = (0..MAX_KEYS).fold(small("a.test"), |all, n| all.key(selector(&format!("s{n}")), ed25519()));
    let mut foreign = small("a.test");
    foreign.agent = Some(domain("nota.test"));
    for (identities, error) in [
        (vec![Identity::new(domain("a.test"))], SignerError::Keys),
        (vec![many], SignerError::Keys),
        (vec![twice], SignerError::Selector),
        (vec![small("a.test"), small("A.test")], SignerError::Twice),
        (vec![small("[192.0.2.1]")], SignerError::Domain),
        (vec![foreign], SignerError::Domain),
    ] {
        assert_eq!(Signer::new(identities).unwrap_err(), error);
    }
    for text in ["", ".", "a.", "-a", "a-", "a b", "a_b", "\u{e4}", &"a".repeat(64), &["a"; 51].join(".")] {
        assert_eq!(Selector::parse(text), Err(SelectorError), "{text}");
    }
    assert_eq!(Selector::parse("Mail.2026-x").unwrap().as_str(), "mail.2026-x");
}

#[test]
fn a_changed_copy_is_signed_again_only_where_we_signed_the_original() {
    let signer = Signer::new([both()]).unwrap();
    let message = "From: x@a.test\r\nDKIM-Signature: v=1; a=rsa-sha256; d=b.test; s=s; h=From; bh=YQ==; b=YQ==\r\n\r\ngr\u{fc}n\r\n";
    let copy = message.replace("gr\u{fc}n", "gr=C3=BCn");
    let signed = fields(&signer, message.as_bytes()).unwrap();
    let original = format!("{signed}{message}");
    let changed = format!("{signed}{copy}");
    let renewed = signer.renew(original.as_bytes(), changed.as_bytes(), NOW).unwrap().unwrap();
    let front = String::from_utf8(renewed.header.to_vec()).unwrap();
    assert!(front.contains("d=b.test") && front.matches("d=a.test").count() == 2, "{front}");
    let whole = front
        .replace("DKIM-Signature: v=1; a=rsa-sha256; d=b.test; s=s; h=From; bh=YQ==; b=YQ==\r\n", "")
        + &changed[renewed.replaces..];
    assert!(whole.ends_with("\r\n\r\ngr=C3=BCn\r\n"));
    assert_eq!(verdicts(whole.as_bytes(), records), [true, true]);
    // Nobody signs for those who only say that we have.
    for (from, to) in [("gr\u{fc}n", "blue"), ("x@a.test", "y@a.test"), (&*signed, "")] {
        let forged = original.replace(from, to);
        assert_ne!(forged, original);
        assert_eq!(signer.renew(forged.as_bytes(), changed.as_bytes(), NOW), Ok(None), "{forged}");
    }
}

#[test]
fn what_was_added_to_a_message_since_is_not_signed_with_it() {
    let signer = Signer::new([both()]).unwrap();
    let message = "From: x@a.test\r\nList-Id: <l.a.test>\r\n\r\ngr\u{fc}n\r\n";
    let signed = fields(&signer, message.as_bytes()).unwrap();
    for (added, renewed) in [
        ("", true),
        // These are not signed at all.
        ("Received: by c.test\r\nX-Spam: no\r\n", true),
        ("List-Unsubscribe: <https://evil.test>\r\n", false),
        ("Sender: evil@evil.test\r\n", false),
    ] {
        let original = format!("{added}{signed}{message}");
        assert_eq!(verdicts(original.as_bytes(), records), [true, true], "the old signatures hold");
        let copy = original.replace("gr\u{fc}n", "gr=C3=BCn");
        let found = signer.renew(original.as_bytes(), copy.as_bytes(), NOW).unwrap();
        assert_eq!(found.is_some(), renewed, "{added}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_signature_does_not_depend_on_how_a_message_is_cut(
        header in "(Subject: [a-z ]{0,9}(\r\n [a-z]{1,5}){0,2}\r\n|To:\t?[a-z@.]{0,9}\r\n){0,4}",
        body in "([ab \t]|\r\n|[a-z]{60,66}){0,30}",
        cuts in proptest::collection::vec(1_usize..40, 0..40),
        split in 0_usize..3,
    ) {
        let mut identity = small("a.test");
        identity.header = if split == 0 { Canon::Simple } else { Canon::Relaxed };
        identity.body = if split == 1 { Canon::Simple } else { Canon::Relaxed };
        let signer = Signer::new([identity]).unwrap();
        let message = format!("From: x@a.test\r\n{header}\r\n{body}");
        let whole = fields(&signer, message.as_bytes()).unwrap();
        for pieces in [vec![1; message.len()], cuts] {
            let mut hasher = signer.hasher();
            let mut rest = message.as_bytes();
            for cut in pieces {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                hasher.update(piece);
                rest = tail;
            }
            hasher.update(rest);
            let signed = hasher.finish(b"").sign(NOW).unwrap().into_fields();
            prop_assert_eq!(&signed[..], whole.as_bytes());
        }
        // What is put in front later is as if it had been there.
        let mut hasher = signer.hasher();
        hasher.update(message.as_bytes());
        let late = hasher.finish(b"Cc: y@b.test\r\nReceived: z\r\n").sign(NOW).unwrap().into_fields();
        let early = fields(&signer, format!("Cc: y@b.test\r\nReceived: z\r\n{message}").as_bytes()).unwrap();
        prop_assert_eq!(&late[..], early.as_bytes());
        prop_assert_eq!(verdicts(format!("{whole}{message}").as_bytes(), records), [true]);
    }
}

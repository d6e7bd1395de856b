//! Chains that are sealed and verified here, and each way in which one can be broken.

use super::*;
use crate::message::dkim::tests::{NOW, ed25519, rsa};
use crate::message::dkim::{Selector, SigningKey};
use crate::message::field::FieldError;

const MESSAGE: &str = "From: x@a.test\r\nTo: y@b.test\r\nSubject: s\r\nDKIM-Signature: v=1\r\n\r\nbody\r\n";

fn sealer(name: &str, key: SigningKey) -> Sealer {
    Sealer::new(name.parse().unwrap(), Selector::parse("arc").unwrap(), key)
}

fn key(name: &str) -> Option<KeyRecord> {
    match name {
        "arc._domainkey.rsa.test" => Some(rsa().record().clone()),
        "arc._domainkey.ed.test" => Some(ed25519().record().clone()),
        _ => None,
    }
}

fn status(message: &str) -> ChainStatus {
    verify(message.as_bytes(), NOW, key)
}

fn sealed(message: &str, by: &Sealer) -> String {
    let fields = by.seal(message.as_bytes(), "mx.test; spf=pass; dkim=none; dkim=none", status(message), NOW);
    String::from_utf8(fields.unwrap().to_vec()).unwrap() + message
}

fn chain(length: usize) -> String {
    let sealers = [sealer("rsa.test", rsa()), sealer("ed.test", ed25519())];
    (0..length).fold(MESSAGE.to_owned(), |message, at| {
        sealed(&format!("Received: from hop {at}\r\n{message}"), &sealers[at % 2])
    })
}

#[test]
fn a_chain_of_several_hosts_holds() {
    assert_eq!(status(MESSAGE), ChainStatus::None);
    for length in 1..=4 {
        let message = chain(length);
        assert_eq!(status(&message), ChainStatus::Pass, "{message}");
        assert!(message.starts_with(&format!("ARC-Seal: i={length}; ")), "{message}");
        let names = needed_keys(message.as_bytes());
        assert_eq!(names.len(), length.min(2));
        assert!(names.iter().all(|name| key(name).is_some()));
        assert!(message.lines().all(|line| line.len() <= 78), "{message}");
    }
}

#[test]
fn whatever_is_changed_breaks_it() {
    let message = chain(3);
    for (from, to) in [
        ("body", "b0dy"),
        ("Subject: s", "Subject: t"),
        ("spf=pass", "spf=fail"),
        ("cv=none", "cv=pass"),
        ("i=2; mx.test", "i=2; my.test"),
        ("d=ed.test", "d=rsa.test"),
        ("s=arc", "s=gone"),
        ("\r\n\r\nbody", "\r\nFrom: z@a.test\r\n\r\nbody"),
    ] {
        let changed = message.replacen(from, to, 1);
        assert_ne!(changed, message, "{from}");
        assert_eq!(status(&changed), ChainStatus::Fail, "{from}");
    }
}

#[test]
fn sets_that_are_no_chain_fail() {
    let message = chain(2);
    let header = Header::scan(message.as_bytes()).unwrap();
    let of = |name: &str, number: &str| {
        let found = header.fields().find(|field| {
            field.is(name) && field.value.trim_ascii().starts_with(format!("i={number};").as_bytes())
        });
        String::from_utf8(found.unwrap().raw.to_vec()).unwrap()
    };
    for name in ["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"] {
        for number in ["1", "2"] {
            let field = of(name, number);
            assert_eq!(status(&message.replace(&field, "")), ChainStatus::Fail, "without {field}");
            assert_eq!(status(&format!("{field}{message}")), ChainStatus::Fail, "twice {field}");
            for other in ["0", "3", "51", "999", "x", ""] {
                let odd = field.replacen(&format!("i={number};"), &format!("i={other};"), 1);
                assert_eq!(status(&message.replace(&field, &odd)), ChainStatus::Fail, "{odd}");
            }
        }
    }
    let with_h = of("ARC-Seal", "2").replacen("a=", "h=From; a=", 1);
    assert_eq!(status(&message.replace(&of("ARC-Seal", "2"), &with_h)), ChainStatus::Fail);
}

#[test]
fn a_failed_chain_is_sealed_once_more_and_that_is_its_end() {
    let broken = chain(2).replace("body", "b0dy");
    assert_eq!(status(&broken), ChainStatus::Fail);
    let by = sealer("ed.test", ed25519());
    let told = sealed(&broken, &by);
    assert!(told.starts_with("ARC-Seal: i=3;") && told.contains("cv=fail"), "{told}");
    assert_eq!(status(&told), ChainStatus::Fail);
    let again = by.seal(told.as_bytes(), "mx.test; arc=fail", ChainStatus::Fail, NOW);
    assert_eq!(again, Err(SealError::Final));
    assert!(needed_keys(told.as_bytes()).is_empty());
}

#[test]
fn a_chain_has_fifty_sets_and_no_more() {
    let by = sealer("ed.test", ed25519());
    let message = (0..MAX_SETS).fold(MESSAGE.to_owned(), |message, _| sealed(&message, &by));
    assert_eq!(status(&message), ChainStatus::Pass);
    let more = by.seal(message.as_bytes(), "mx.test; none", ChainStatus::Pass, NOW);
    assert_eq!(more, Err(SealError::Full));
}

#[test]
fn what_cannot_be_sealed_is_refused() {
    let by = sealer("ed.test", ed25519());
    for (message, results, status, error) in [
        (MESSAGE, "mx.test; none", ChainStatus::Pass, SealError::Status),
        (MESSAGE, "mx.test; none", ChainStatus::Fail, SealError::Status),
        (&chain(1), "mx.test; none", ChainStatus::None, SealError::Status),
        (MESSAGE, "mx.test; a\r\nX: y", ChainStatus::None, SealError::Results(FieldError::Value)),
        (MESSAGE, " ", ChainStatus::None, SealError::Results(FieldError::Value)),
        ("no field\r\n\r\n", "mx.test; none", ChainStatus::None, SealError::Broken),
    ] {
        assert_eq!(by.seal(message.as_bytes(), results, status, NOW), Err(error), "{message}");
    }
}

//! Signatures and chains over arbitrary messages.

use std::sync::OnceLock;

use postroad::clock::Timestamp;
use postroad::message::arc::{self, ChainStatus, Sealer};
use postroad::message::dkim::{Canon, Identity, KeyRecord, Selector, Signed, Signer, SigningKey};
use postroad::message::{Header, Sign};

/// What is signed does not depend on how it is cut and holds; what is sealed holds; what comes from others
/// is judged without a panic.
pub fn dkim(data: &[u8]) {
    let [how, rest @ ..] = data else { return };
    if let Ok(record) = KeyRecord::parse(rest) {
        assert_eq!(KeyRecord::parse(record.to_string().as_bytes()), Ok(record));
    }
    signed(*how, rest);
    let domain = if how & 1 == 0 { "relaxed.test" } else { "simple.test" };
    signed(*how, &[format!("From: x@{domain}\r\n").as_bytes(), rest].concat());
    sealed(rest);
}

fn signed(how: u8, message: &[u8]) {
    let signer = signer();
    let whole = signer.sign(message, NOW).expect("a signature");
    let mut hasher = signer.hasher();
    message.chunks(usize::from(how / 2).max(1)).for_each(|piece| hasher.update(piece));
    assert_eq!(hasher.finish(b"").sign(NOW).expect("a signature"), whole, "it depends on the cuts");
    let Signed::Fields(fields) = whole else { return };
    let header = Header::scan(&fields).expect("a header");
    assert_eq!((header.octets(), header.count("DKIM-Signature")), (&fields[..], 1));
    let message = [&fields, message].concat();
    let Ok(Some(renewed)) = signer.renew(&message, &message, NOW) else {
        panic!("what we signed does not hold")
    };
    // What was not changed is signed as before. Of the rest only what says that we signed it may go.
    let header = Header::scan(&message).expect("a header");
    let kept = Header::scan(&renewed.header).expect("a header");
    let mut kept = kept.fields().skip(1).peekable();
    for field in header.fields().skip(1) {
        assert!(kept.next_if(|kept| kept.raw == field.raw).is_some() || field.is("DKIM-Signature"));
    }
    assert!(renewed.header.starts_with(&fields) && kept.next().is_none());
    assert_eq!(renewed.replaces, header.octets().len());
}

fn sealed(message: &[u8]) {
    let look_up = |name: &str| (name == "arc._domainkey.seal.test").then(|| key().record().clone());
    assert!(arc::needed_keys(message).len() <= arc::MAX_SETS + 1);
    let status = arc::verify(message, NOW, look_up);
    static SEALER: OnceLock<Sealer> = OnceLock::new();
    let sealer =
        SEALER.get_or_init(|| Sealer::new("seal.test".parse().expect("a domain"), selector(), key()));
    if let Ok(fields) = sealer.seal(message, "mx.test; none", status, NOW) {
        let again = arc::verify(&[&fields, message].concat(), NOW, look_up);
        let holds = if status == ChainStatus::Fail { ChainStatus::Fail } else { ChainStatus::Pass };
        assert_eq!(again, holds);
    }
}

fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| {
        let of = |domain: &str, canon| {
            let mut identity = Identity::new(domain.parse().expect("a domain")).key(selector(), key());
            (identity.header, identity.body) = (canon, canon);
            identity
        };
        Signer::new([of("relaxed.test", Canon::Relaxed), of("simple.test", Canon::Simple)]).expect("a signer")
    })
}

fn key() -> SigningKey {
    SigningKey::from_pem(include_bytes!("../fixtures/dkim/ed25519.pem")).expect("a key")
}

fn selector() -> Selector {
    Selector::parse("arc").expect("a selector")
}

const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

//! A digest tells whether two submissions are the same message, however often they were built.
//!
//! What is invented anew at each build does not count: Date, Message-ID, and the boundaries of multiparts,
//! which count by their order alone. Everything else does: the envelope with its parameters, every other
//! field, every octet of the body. What cannot be taken apart (too deep, too many parts, malformed) counts as
//! it is. Digests are stored, so what is hashed must stay the same for ever.

use sha2::{Digest, Sha256};

use super::convert::{Boundary, Kind, MAX_DEPTH, MAX_PARTS, Structure};
use super::header::{Field, Header};
use super::submission::Submission;

impl Submission {
    /// A digest of what it stands for: the same for two builds of the same message, another for any other
    /// sender, recipient, parameter, field or body. How it is to be handled does not count.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut writer = Writer { hash: Sha256::new(), boundaries: 0, parts: 0 };
        writer.piece(self.mail.to_string().as_bytes());
        for rcpt in &self.recipients {
            writer.piece(rcpt.to_string().as_bytes());
        }
        writer.mark(b'.');
        writer.head(&self.head);
        writer.part(&self.content, Place { outer: true, digest: false, depth: 0 });
        writer.hash.finalize().into()
    }
}

struct Writer {
    hash: Sha256,
    boundaries: u32,
    parts: usize,
}

/// Where a part stands.
#[derive(Clone, Copy)]
struct Place {
    /// It is the message, whose Date and Message-ID may be ours.
    outer: bool,
    /// It is a message unless it says otherwise.
    digest: bool,
    depth: usize,
}

impl Writer {
    /// Octets with their length, so that no two rows of pieces are alike.
    fn piece(&mut self, octets: &[u8]) {
        self.hash.update((octets.len() as u64).to_be_bytes());
        self.hash.update(octets);
    }

    /// What stands between pieces. No piece looks like it: a length of so much does not exist.
    fn mark(&mut self, mark: u8) {
        self.hash.update([0xff; 8]);
        self.hash.update([mark]);
    }

    /// Fields in front of the content.
    fn head(&mut self, head: &[u8]) {
        match Header::scan(head) {
            Ok(header) if !header.is_broken() => {
                header.fields().filter(|field| !is_ours(field)).for_each(|field| self.piece(field.raw));
            }
            _ => self.piece(head),
        }
        self.mark(b'/');
    }

    fn part(&mut self, octets: &[u8], place: Place) {
        self.parts += 1;
        let header = Header::scan(octets).ok().filter(|header| !header.is_broken());
        let bounded = self.parts <= MAX_PARTS && place.depth <= MAX_DEPTH;
        let Some(header) = header.filter(|_| bounded) else { return self.piece(octets) };
        let kind = Structure::of(&header, place.digest).map(|structure| structure.kind);
        let boundary = match &kind {
            Ok(Kind::Multipart { boundary, .. }) => Some(boundary.as_slice()),
            _ => None,
        };
        for field in header.fields() {
            match boundary {
                _ if place.outer && is_ours(&field) => {}
                Some(boundary) if field.is("Content-Type") => self.kind(field.raw, boundary),
                _ => self.piece(field.raw),
            }
        }
        self.mark(b'/');
        let body = header.body_start().and_then(|start| octets.get(start..)).unwrap_or_default();
        let within = Place { outer: false, digest: false, depth: place.depth + 1 };
        match kind {
            Ok(Kind::Multipart { boundary, digest }) => {
                self.multipart(body, &boundary, Place { digest, ..within });
            }
            Ok(Kind::Message) => self.part(body, within),
            _ => self.piece(body),
        }
    }

    /// A Content-Type with a boundary. Its length decides where the field is folded, so white space does not
    /// count.
    fn kind(&mut self, field: &[u8], boundary: &[u8]) {
        let plain = |octets: &[u8]| -> Vec<u8> {
            octets.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect()
        };
        match memchr::memmem::find(field, boundary) {
            Some(at) => {
                let (front, rest) = field.split_at_checked(at).unwrap_or((field, &[]));
                self.piece(&plain(front));
                self.mark(b'=');
                self.piece(&plain(rest.get(boundary.len()..).unwrap_or_default()));
            }
            // Quoted in a way that hides it.
            None => self.piece(field),
        }
    }

    fn multipart(&mut self, body: &[u8], boundary: &[u8], place: Place) {
        self.boundaries += 1;
        let number = self.boundaries;
        let boundary = Boundary::new(boundary);
        let (mut from, mut first) = (0, true);
        while let Some(delimiter) = boundary.next(body, from) {
            let octets = body.get(from..delimiter.start).unwrap_or_default();
            if first {
                self.piece(octets)
            } else {
                self.part(octets, place)
            }
            self.mark(if delimiter.closes { b'!' } else { b'-' });
            self.hash.update(number.to_be_bytes());
            (from, first) = (delimiter.end, false);
            if delimiter.closes {
                first = true;
                break;
            }
        }
        let rest = body.get(from..).unwrap_or_default();
        if first { self.piece(rest) } else { self.part(rest, place) }
    }
}

/// Whether it is a field that is added where it is missing.
fn is_ours(field: &Field<'_>) -> bool {
    field.is("Date") || field.is("Message-ID")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use mail_builder::MessageBuilder;
    use mail_builder::mime::MimePart;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Rng, Timestamp};
    use crate::message::{Envelope, IntoSubmission, MessageId, RawMessage, SubmitContext};
    use crate::smtp::address::EhloName;

    /// Built at another time, under another id.
    fn built(n: u64, message: impl IntoSubmission) -> Submission {
        let now = Timestamp::from_millis(1_790_000_000_000 + n * 1_000);
        let id = MessageId::new(now, &Rng::seeded(n));
        message.into_submission(&SubmitContext::new(EhloName::new("us.test").unwrap(), now, id)).unwrap()
    }

    fn mail() -> MessageBuilder<'static> {
        MessageBuilder::new()
            .from("shop@a.test")
            .to("ada@b.test")
            .subject("Your order")
            .text_body("Hello")
            .html_body("<p>Hello</p>")
            .attachment("text/plain", "bill.txt", "1 EUR")
    }

    fn raw(octets: &str) -> [u8; 32] {
        let envelope = Envelope::parse("a@a.test", ["x@b.test"]).unwrap();
        built(1, RawMessage::new(envelope, octets.to_owned())).digest()
    }

    #[test]
    fn two_builds_of_a_message_have_one_digest() {
        let nested = || {
            let parts = vec![
                MimePart::new("text/plain", "one"),
                MimePart::new("multipart/mixed", vec![MimePart::new("text/plain", "two")]),
            ];
            mail().body(MimePart::new("multipart/mixed", parts))
        };
        let (first, second) = (built(1, mail()), built(2, mail()));
        assert_ne!(first.content, second.content, "the builder invents boundaries");
        assert_eq!(first.digest(), second.digest());
        assert_eq!(built(1, nested()).digest(), built(2, nested()).digest());
        // In another thread, where the builder draws from somewhere else.
        let third = thread::spawn(|| built(3, mail()).digest()).join().unwrap();
        assert_eq!(first.digest(), third);
    }

    #[test]
    fn any_change_is_another_digest() {
        let same = built(1, mail()).digest();
        for other in [
            mail().subject("Your orders"),
            mail().to("eve@b.test"),
            mail().cc("eve@b.test"),
            mail().bcc("eve@b.test"),
            mail().from("shop@c.test"),
            mail().text_body("Hello!"),
            mail().html_body("<p>Hello!</p>"),
            mail().attachment("text/plain", "more.txt", ""),
            mail().header("X-Any", mail_builder::headers::text::Text::new("x")),
        ] {
            let mut other = other;
            // What was set twice counts as set last.
            let mut seen = std::collections::HashSet::new();
            other.headers.reverse();
            other.headers.retain(|(name, _)| seen.insert(name.to_string()));
            other.headers.reverse();
            assert_ne!(built(1, other.clone()).digest(), same, "{other:?}");
        }
        let mut asked = built(1, mail());
        asked.mail.require_tls = true;
        assert_ne!(asked.digest(), same);
        // Stored digests must be found again by later versions.
        let hex: String =
            raw("Subject: x\r\n\r\nHi.\r\n").iter().take(4).map(|o| format!("{o:02x}")).collect();
        assert_eq!(hex, "5bd5574a");
    }

    #[test]
    fn only_boundaries_change_places_with_one_another() {
        let multipart = |boundary: &str, body: &str| {
            raw(&format!("Content-Type: multipart/mixed; boundary={boundary}\r\n\r\n{body}"))
        };
        let same = multipart("aa", "--aa\r\n\r\none\r\n--aa--\r\n");
        assert_eq!(multipart("bbbb", "--bbbb\r\n\r\none\r\n--bbbb--\r\n"), same);
        for (boundary, body) in [
            ("aa", "--aa\r\n\r\ntwo\r\n--aa--\r\n"),
            ("aa", "--aa\r\n\r\none\r\n--aa\r\n"),
            ("aa", "--aa\r\n\r\none\r\n--aa\r\n--aa--\r\n"),
            ("aa", "--aa\r\n\r\none\r\n--aa--\r\nbehind\r\n"),
            ("aa", "before\r\n--aa\r\n\r\none\r\n--aa--\r\n"),
            ("bb", "--aa\r\n\r\none\r\n--aa--\r\n"),
            ("aa; x=y", "--aa\r\n\r\none\r\n--aa--\r\n"),
        ] {
            assert_ne!(multipart(boundary, body), same, "{boundary} {body:?}");
        }
        // A Date within a part is the caller's.
        let dated = |date: &str| multipart("b", &format!("--b\r\nDate: {date}\r\n\r\none\r\n--b--\r\n"));
        assert_ne!(dated("x"), dated("y"));
        assert_eq!(raw("Date: x\r\nMessage-ID: <y>\r\n\r\nz\r\n"), raw("date: z\r\n\r\nz\r\n"));
        assert_ne!(raw("Subject: a\r\n\r\nb\r\n"), raw("\r\nSubject: a\r\n\r\nb\r\n"));
    }

    proptest! {
        #[test]
        fn a_digest_is_of_what_was_meant(
            subject in "[ -~é]{0,80}", body in "[ -~é\n]{0,200}", parts in 0_usize..4, changed in 0_usize..4,
        ) {
            let message = |change: Option<usize>| {
                let more = |at| if change == Some(at) { "x" } else { "" };
                let mut message = MessageBuilder::new()
                    .from("shop@a.test")
                    .to(format!("{}ada@b.test", more(0)))
                    .subject(format!("x{subject}{}", more(1)))
                    .text_body(format!("{}{body}", more(2)));
                if parts & 1 != 0 {
                    message = message.html_body(body.clone());
                }
                if parts & 2 != 0 || change == Some(3) {
                    message = message.attachment("image/png", "x.png", format!("{body}{}", more(3)).into_bytes());
                }
                message
            };
            let digest = built(1, message(None)).digest();
            prop_assert_eq!(built(2, message(None)).digest(), digest);
            prop_assert_ne!(built(1, message(Some(changed))).digest(), digest);
        }

        #[test]
        fn any_octets_have_a_digest(octets in "(Content-Type: multipart/mixed; boundary=a\r\n|\r\n|--a|--|x|: ){0,20}") {
            prop_assert_eq!(raw(&octets), raw(&octets));
        }
    }
}

//! Smuggling: no content that comes in is two messages for us, and no content that leaves is two
//! messages for anybody (CVE-2023-51764, CVE-2023-51765, CVE-2023-51766 and their kin).
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

#[path = "smuggling/inbound.rs"]
mod inbound;
#[path = "smuggling/outbound.rs"]
mod outbound;
#[path = "smuggling/receivers.rs"]
mod receivers;

/// All that ends a line or a message for somebody, and one octet that does not.
pub const ALPHABET: [u8; 5] = [b'\r', b'\n', b'.', 0, b'x'];

/// Every string over the alphabet of this length.
pub fn strings(length: u32) -> impl Iterator<Item = Vec<u8>> {
    (0..5_usize.pow(length))
        .map(move |number| (0..length).map(|place| ALPHABET[number / 5_usize.pow(place) % 5]).collect())
}

/// The ends of data that one program or another has taken for one, by who did or was tried with it.
pub const KNOWN: [(&str, &str); 23] = [
    ("LF.LF: Exim, sendmail", "\n.\n"),
    ("LF.CRLF: Postfix, sendmail", "\n.\r\n"),
    ("CR.CR: Cisco", "\r.\r"),
    ("CR.CRLF", "\r.\r\n"),
    ("CR.LF", "\r.\n"),
    ("LF.CR", "\n.\r"),
    ("CRLF.LF: Exim", "\r\n.\n"),
    ("CRLF.CR", "\r\n.\r"),
    ("CRLF.CR CRLF", "\r\n.\r\r\n"),
    ("LF LF.CRLF", "\n\n.\r\n"),
    ("LF LF.LF", "\n\n.\n"),
    ("CR CR LF.CR CR LF: qmail's kin", "\r\r\n.\r\r\n"),
    ("LF CR.LF CR", "\n\r.\n\r"),
    ("CRLF NUL.CRLF", "\r\n\0.\r\n"),
    ("CRLF.NUL CRLF", "\r\n.\0\r\n"),
    ("CRLF.CR NUL LF", "\r\n.\r\0\n"),
    ("CR NUL LF.CRLF", "\r\0\n.\r\n"),
    ("CRLF NUL.NUL CRLF", "\r\n\0.\0\r\n"),
    ("LF NUL.LF", "\n\0.\n"),
    ("NUL LF.LF", "\0\n.\n"),
    ("CR.NUL CR", "\r.\0\r"),
    ("CRLF.CRLF before it is undone: a doubled dot", "\r\n..\r\n"),
    ("blank behind the dot", "\r\n. \r\n"),
];

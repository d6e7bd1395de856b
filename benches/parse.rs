//! What is read and written for each message, piece by piece: replies, commands, addresses, and the dots
//! of DATA.
//!
//! `cargo bench --bench parse`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by panicking"
)]
#![allow(missing_docs, reason = "not a library")]

use bytes::{Bytes, BytesMut};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use postroad::smtp::address::{Domain, ForwardPath, Mailbox};
use postroad::smtp::command::Command;
use postroad::smtp::data::{Decoder, Encoder};
use postroad::smtp::reply::{Reply, ReplyParser};

fn main() {
    divan::main();
}

/// The most frequent one.
const SHORT_REPLY: &[u8] = b"250 2.1.5 Ok\r\n";
const LONG_REPLY: &[u8] = b"250-mx.example.net at your service\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
    250-STARTTLS\r\n250-ENHANCEDSTATUSCODES\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n";

#[divan::bench(sample_size = 1000)]
fn reply_to_rcpt(bencher: Bencher<'_, '_>) {
    reply(bencher, SHORT_REPLY);
}

#[divan::bench(sample_size = 1000)]
fn reply_to_ehlo(bencher: Bencher<'_, '_>) {
    reply(bencher, LONG_REPLY);
}

fn reply(bencher: Bencher<'_, '_>, octets: &[u8]) {
    bencher
        .with_inputs(|| BytesMut::from(octets))
        .bench_refs(|input| -> Reply { ReplyParser::default().next(input).unwrap().unwrap() });
}

#[divan::bench(args = [
    "EHLO mail.example.com",
    "MAIL FROM:<someone@example.com> SIZE=10240 BODY=8BITMIME",
    "RCPT TO:<someone.else@example.net>",
    "BDAT 10240 LAST",
    "RSET",
], sample_size = 1000)]
fn command(line: &str) -> Command {
    Command::parse(black_box(line.as_bytes())).unwrap()
}

#[divan::bench(args = ["someone@example.com", "\"some one\"@[192.0.2.1]", "jürgen@bücher.example"], sample_size = 1000)]
fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(black_box(text)).unwrap()
}

#[divan::bench(sample_size = 1000)]
fn forward_path() -> ForwardPath {
    ForwardPath::parse(black_box("someone@example.com")).unwrap()
}

#[divan::bench(args = ["mx.example.com", "bücher.example"], sample_size = 1000)]
fn domain(text: &str) -> Domain {
    Domain::parse(black_box(text)).unwrap()
}

/// Lines of mail in octets: text, in which one line of `dots` begins with a dot; 0 for none.
fn content(octets: usize, dots: usize) -> Bytes {
    let line = |number: usize| -> &[u8] {
        if dots > 0 && number.is_multiple_of(dots) {
            b".The quick brown fox jumps over the lazy dog. 0123456789 abcdefghijkl\r\n"
        } else {
            b"The quick brown fox jumps over the lazy dog. 0123456789 abcdefghijklm\r\n"
        }
    };
    let mut content: Vec<u8> = (0..octets / 71).flat_map(|number| line(number).iter().copied()).collect();
    content.extend_from_slice(b"\r\n");
    content.into()
}

/// Octets, and one line of how many begins with a dot.
const CONTENTS: [(usize, usize); 4] = [(10_240, 0), (10_240, 20), (1 << 20, 0), (1 << 20, 20)];

#[divan::bench(args = CONTENTS)]
fn encode_data(bencher: Bencher<'_, '_>, (octets, dots): (usize, usize)) {
    let content = content(octets, dots);
    bencher.counter(BytesCount::new(content.len())).bench(|| {
        let mut encoder = Encoder::new();
        let mut sent = 0;
        encoder.encode(black_box(&content), |piece| sent += black_box(piece).len());
        sent + encoder.end().len()
    });
}

#[divan::bench(args = CONTENTS)]
fn decode_data(bencher: Bencher<'_, '_>, (octets, dots): (usize, usize)) {
    let content = content(octets, dots);
    let mut wire = BytesMut::new();
    let mut encoder = Encoder::new();
    encoder.encode_into(&content, &mut wire);
    wire.extend_from_slice(encoder.end());
    bencher.counter(BytesCount::new(content.len())).with_inputs(|| BytesMut::from(&wire[..])).bench_refs(
        |input| {
            let mut decoder = Decoder::default();
            let mut taken = 0;
            loop {
                let piece = decoder.decode(input);
                taken += black_box(&piece.octets).len();
                if piece.end {
                    return taken;
                }
            }
        },
    );
}

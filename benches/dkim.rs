//! What a signature costs beside the raw signature and the hash of the same octets, in one run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a benchmark that cannot run should end"
)]

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use divan::Bencher;
use divan::counter::BytesCount;
use postroad::clock::Timestamp;
use postroad::message::dkim::{Identity, Selector, Signer, SigningKey};

fn main() {
    divan::main();
}

/// Octets in a message.
const SIZES: [usize; 2] = [10 << 10, 1 << 20];
const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

fn rsa() -> RsaKeyPair {
    RsaKeyPair::generate(KeySize::Rsa2048).unwrap()
}

fn signer(pkcs8: &[u8]) -> Signer {
    let key = SigningKey::from_pkcs8(pkcs8).unwrap();
    let identity = Identity::new("a.test".parse().unwrap()).key(Selector::parse("mail").unwrap(), key);
    Signer::new([identity]).unwrap()
}

fn rsa_signer() -> Signer {
    signer(AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa()).unwrap().as_ref())
}

fn ed25519_signer() -> Signer {
    signer(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref())
}

/// Text as people write it, or an attachment.
fn message(size: usize, line: &str) -> Vec<u8> {
    let mut message = b"Received: from client.a.test by mx.a.test; Thu, 1 Jan 2026 00:00:00 +0000\r\n\
        Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nFrom: Ada <ada@a.test>\r\nTo: Bob <bob@b.test>\r\n\
        Subject: What it costs\r\nMessage-ID: <1@a.test>\r\nMIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\
        List-Unsubscribe: <https://a.test/u/1>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n"
        .to_vec();
    while message.len() < size {
        message.extend_from_slice(line.as_bytes());
    }
    message
}

fn text(size: usize) -> Vec<u8> {
    message(
        size,
        "The quick brown fox jumps over the lazy dog, and goes on to do it again. Then it sleeps.\r\n",
    )
}

fn sign(bencher: Bencher<'_, '_>, signer: &Signer, message: &[u8]) {
    bencher
        .counter(BytesCount::from(message.len()))
        .bench_local(|| signer.sign(message, NOW).unwrap().into_fields());
}

#[divan::bench(args = SIZES)]
fn rsa_2048(bencher: Bencher<'_, '_>, size: usize) {
    sign(bencher, &rsa_signer(), &text(size));
}

#[divan::bench(args = SIZES)]
fn rsa_2048_raw(bencher: Bencher<'_, '_>, size: usize) {
    let (key, message) = (rsa(), text(size));
    let mut signature = vec![0; key.public_modulus_len()];
    bencher.counter(BytesCount::from(message.len())).bench_local(|| {
        let hash = digest(&SHA256, &message);
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), hash.as_ref(), &mut signature).unwrap();
    });
}

#[divan::bench(args = SIZES)]
fn ed25519(bencher: Bencher<'_, '_>, size: usize) {
    sign(bencher, &ed25519_signer(), &text(size));
}

/// Indented, so that white space has to be evened out all along.
#[divan::bench(args = SIZES)]
fn ed25519_of_html(bencher: Bencher<'_, '_>, size: usize) {
    let line = "        <td class=\"row\">  <a href=\"https://a.test/\">one</a>\t</td>\r\n";
    sign(bencher, &ed25519_signer(), &message(size, line));
}

#[divan::bench(args = SIZES)]
fn ed25519_of_base64(bencher: Bencher<'_, '_>, size: usize) {
    sign(bencher, &ed25519_signer(), &message(size, &("QUJD".repeat(19) + "\r\n")));
}

#[divan::bench(args = SIZES)]
fn ed25519_raw(bencher: Bencher<'_, '_>, size: usize) {
    let key = Ed25519KeyPair::generate().unwrap();
    let message = text(size);
    bencher.counter(BytesCount::from(message.len())).bench_local(|| {
        let hash = digest(&SHA256, &message);
        key.try_sign(hash.as_ref()).unwrap()
    });
}

#[divan::bench(args = SIZES)]
fn not_ours(bencher: Bencher<'_, '_>, size: usize) {
    let message = String::from_utf8(text(size)).unwrap().replace("@a.test", "@c.test").into_bytes();
    sign(bencher, &ed25519_signer(), &message);
}

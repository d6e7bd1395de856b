//! A small reader of MIME, apart from the crate's own: what the leaves of a message decode to.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use base64::Engine as _;

/// The decoded bodies of a message that are not made of others, in order.
pub fn leaves(entity: &[u8]) -> Vec<Vec<u8>> {
    let (head, body) = match find(entity, b"\r\n\r\n") {
        _ if entity.starts_with(b"\r\n") => (&b""[..], &entity[2..]),
        Some(at) => (&entity[..at], &entity[at + 4..]),
        None => (entity, &b""[..]),
    };
    let head = String::from_utf8_lossy(head).replace("\r\n ", " ").replace("\r\n\t", " ");
    let field = |name: &str| {
        let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let kind = field("Content-Type").unwrap_or_default();
    if let Some(boundary) = kind.split("boundary=\"").nth(1).and_then(|rest| rest.split('"').next()) {
        return parts(body, boundary).iter().flat_map(|part| leaves(part)).collect();
    }
    if kind.starts_with("message/rfc822") {
        return leaves(body);
    }
    match field("Content-Transfer-Encoding").unwrap_or_default().as_str() {
        "base64" => {
            let text: Vec<u8> = body.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
            vec![base64::engine::general_purpose::STANDARD.decode(text).unwrap()]
        }
        "quoted-printable" => vec![unquoted(body)],
        _ => vec![body.to_vec()],
    }
}

fn parts(body: &[u8], boundary: &str) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<&[u8]>> = Vec::new();
    let mut open = false;
    for line in split(body) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches([' ', '\t']);
        if text == format!("--{boundary}") {
            parts.push(Vec::new());
            open = true;
        } else if text == format!("--{boundary}--") {
            break;
        } else if open {
            parts.last_mut().unwrap().push(line);
        }
    }
    parts.iter().map(|lines| lines.join(&b"\r\n"[..])).collect()
}

fn split(mut body: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(at) = find(body, b"\r\n") {
        lines.push(&body[..at]);
        body = &body[at + 2..];
    }
    lines.push(body);
    lines
}

fn unquoted(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body;
    while let Some((octet, tail)) = rest.split_first() {
        rest = tail;
        if *octet != b'=' {
            out.push(*octet);
        } else if let Some(tail) = tail.strip_prefix(b"\r\n") {
            rest = tail;
        } else {
            out.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        }
    }
    out
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

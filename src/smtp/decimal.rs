//! Decimal numbers without the machinery of formatting, which costs more than they do: every reply, date and
//! address of a session passes here.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use bytes::{BufMut, BytesMut};

/// The digits of a number, at least so many of them, written into `room`.
fn decimal(number: u64, least: usize, room: &mut [u8; DIGITS]) -> &[u8] {
    let mut rest = number;
    let mut from = room.len();
    for (at, place) in room.iter_mut().enumerate().rev() {
        *place = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        from = at;
        if rest == 0 && DIGITS - at >= least {
            break;
        }
    }
    room.get(from..).unwrap_or_default()
}

/// Appends the digits of a number to text, at least so many of them.
pub(crate) fn push_number(to: &mut String, number: u64, least: usize) {
    let digit = |number: u64| char::from(b'0' + u8::try_from(number % 10).unwrap_or_default());
    // Most of them are parts of a code, of an address or of a time.
    match number {
        0..10 if least <= 1 => to.push(digit(number)),
        0..100 if least <= 2 => to.extend([digit(number / 10), digit(number)]),
        100..1000 if least <= 3 => to.extend([digit(number / 100), digit(number / 10), digit(number)]),
        _ => to.extend(decimal(number, least, &mut [0; DIGITS]).iter().map(|digit| char::from(*digit))),
    }
}

/// Appends the digits of a number to octets.
pub(crate) fn put_number(to: &mut BytesMut, number: u64) {
    to.put_slice(decimal(number, 1, &mut [0; DIGITS]));
}

/// Appends an address as it stands in an address literal (RFC 5321 §4.1.3).
pub(crate) fn push_literal(to: &mut String, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            to.push('[');
            push_dotted(to, v4);
            to.push(']');
        }
        // Writing into a string does not fail.
        IpAddr::V6(v6) => drop(write!(to, "[IPv6:{v6}]")),
    }
}

/// Appends an address as it stands in a literal, without what stands around it.
fn push_dotted(to: &mut String, address: Ipv4Addr) {
    let [a, b, c, d] = address.octets();
    push_number(to, a.into(), 1);
    for octet in [b, c, d] {
        to.push('.');
        push_number(to, octet.into(), 1);
    }
}

/// The most that a number has.
const DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_the_formatter_writes_it() {
        for number in [0, 7, 9, 10, 55, 99, 100, 255, 1_000, 65_535, u64::MAX - 1, u64::MAX] {
            for least in [0, 1, 2, 3, 4, 20] {
                let mut text = String::from("x");
                push_number(&mut text, number, least);
                assert_eq!(text, format!("x{number:0least$}"));
            }
            let mut octets = BytesMut::new();
            put_number(&mut octets, number);
            assert_eq!(octets, number.to_string());
        }
        for address in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST] {
            let mut text = String::new();
            push_literal(&mut text, address.into());
            assert_eq!(text, format!("[{address}]"));
        }
        assert_eq!(decimal(1, 99, &mut [0; DIGITS]), format!("{:020}", 1).as_bytes());
    }
}

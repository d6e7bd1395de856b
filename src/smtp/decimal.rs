//! Decimal numbers without the machinery of formatting, which costs more than they do: every reply, date and
//! address of a session passes here.

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};

/// The digits of a number, at least so many of them, written into `room`.
pub(crate) fn decimal(number: u64, least: usize, room: &mut [u8; DIGITS]) -> &str {
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
    room.get(from..).and_then(|digits| str::from_utf8(digits).ok()).unwrap_or_default()
}

/// Appends the digits of a number to text, at least so many of them.
pub(crate) fn push_number(to: &mut String, number: u64, least: usize) {
    to.push_str(decimal(number, least, &mut [0; DIGITS]));
}

/// Appends the digits of a number to octets.
pub(crate) fn put_number(to: &mut BytesMut, number: u64) {
    to.put_slice(decimal(number, 1, &mut [0; DIGITS]).as_bytes());
}

/// An address as it stands in a literal.
pub(crate) fn dotted(address: Ipv4Addr) -> String {
    let mut text = String::with_capacity("255.255.255.255".len());
    for (before, octet) in ["", ".", ".", "."].into_iter().zip(address.octets()) {
        text.push_str(before);
        push_number(&mut text, octet.into(), 1);
    }
    text
}

/// The most that a number has.
pub(crate) const DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_the_formatter_writes_it() {
        for number in [0, 7, 10, 255, 1_000, 65_535, u64::MAX - 1, u64::MAX] {
            assert_eq!(decimal(number, 1, &mut [0; DIGITS]), number.to_string());
            assert_eq!(decimal(number, 4, &mut [0; DIGITS]), format!("{number:04}"));
        }
        for address in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST] {
            assert_eq!(dotted(address), address.to_string());
        }
        assert_eq!(decimal(1, 99, &mut [0; DIGITS]), format!("{:020}", 1));
    }
}

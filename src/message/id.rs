//! The id of a message: 16 octets in UUIDv7 layout, so that ids sort by time and fit a `uuid` column.

use std::fmt;
use std::str::FromStr;

use crate::clock::{Rng, Timestamp};

/// The id of a message, unique without coordination. Shown as 26 letters and digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(u128);

/// Crockford's base 32: no letters that are read for digits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl MessageId {
    /// The length of its text.
    pub(crate) const TEXT: usize = 26;

    /// A new id: 48 bits of wall time in milliseconds, then 74 random bits.
    #[must_use]
    pub fn new(now: Timestamp, rng: &Rng) -> Self {
        Self::from_parts(now, u128::from(rng.bits()) << 64 | u128::from(rng.bits()))
    }

    /// An id made from another one and a number: the same again for the same two. A report's id is
    /// derived from what it reports on, so that doing it over makes no second report.
    #[must_use]
    pub fn derived(self, round: u32, entry: u32) -> Self {
        // FNV-1a over both: spread, not secrecy, is wanted, and it must never change.
        let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
        for octet in self.0.to_be_bytes().into_iter().chain(round.to_be_bytes()).chain(entry.to_be_bytes()) {
            hash = (hash ^ u128::from(octet)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        Self::from_parts(self.time(), hash)
    }

    fn from_parts(time: Timestamp, random: u128) -> Self {
        let millis = u128::from(time.as_millis() & 0xffff_ffff_ffff);
        // RFC 9562 §5.7: time, version 7, 12 bits, variant 10, 62 bits.
        let high = (random >> 64) & 0x0fff;
        let low = random & 0x3fff_ffff_ffff_ffff;
        Self(millis << 80 | 7 << 76 | high << 64 | 0b10 << 62 | low)
    }

    /// When the id was made.
    #[must_use]
    pub fn time(self) -> Timestamp {
        Timestamp::from_millis(u64::try_from(self.0 >> 80).unwrap_or_default())
    }

    /// The 16 octets, as in a UUID.
    #[must_use]
    pub const fn to_octets(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From the 16 octets.
    #[must_use]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(octets))
    }

    /// Its text, which is written several times for each message.
    fn text(self) -> [u8; Self::TEXT] {
        let mut text = [b'0'; Self::TEXT];
        let mut rest = self.0;
        // In halves that fit a register.
        for part in text.rchunks_mut(12) {
            let mut low = u64::try_from(rest & ((1 << 60) - 1)).unwrap_or_default();
            rest >>= 60;
            for place in part.iter_mut().rev() {
                let digit = usize::try_from(low & 31).unwrap_or_default();
                *place = ALPHABET.get(digit).copied().unwrap_or(b'0');
                low >>= 5;
            }
        }
        text
    }

    /// Appends its text.
    pub(crate) fn push_to(self, to: &mut String) {
        to.push_str(std::str::from_utf8(&self.text()).unwrap_or_default());
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the 26 characters of a message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message id")]
pub struct NotAnId;

impl FromStr for MessageId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if text.len() != Self::TEXT {
            return Err(NotAnId);
        }
        let mut value = 0_u128;
        for (at, byte) in text.bytes().enumerate() {
            let digit = ALPHABET.iter().position(|a| *a == byte.to_ascii_lowercase()).ok_or(NotAnId)?;
            // 26 digits hold 130 bits: the first may only fill three.
            if at == 0 && digit > 7 {
                return Err(NotAnId);
            }
            value = value << 5 | digit as u128;
        }
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_survive_their_text() {
        let rng = Rng::seeded(3);
        let ids: Vec<_> =
            (1..200).map(|n| MessageId::new(Timestamp::from_millis(1_790_000_000_000 + n), &rng)).collect();
        let texts: Vec<_> = ids.iter().map(ToString::to_string).collect();
        assert!(ids.is_sorted() && texts.is_sorted());
        for (id, text) in ids.iter().zip(&texts) {
            assert_eq!(text.parse(), Ok(*id));
            assert_eq!(MessageId::from_octets(id.to_octets()), *id);
        }
        assert_eq!(ids[4].time(), Timestamp::from_millis(1_790_000_000_005));
    }

    #[test]
    fn a_derived_id_is_the_same_again_and_differs_by_round() {
        let id = MessageId::new(Timestamp::from_millis(5), &Rng::seeded(1));
        assert_eq!(id.derived(1, 0), id.derived(1, 0));
        assert_ne!(id.derived(1, 0), id.derived(2, 0));
        assert_ne!(id.derived(1, 0), id.derived(1, 1));
        assert_ne!(id.derived(1, 0), id);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "x",
            "zzzzzzzzzzzzzzzzzzzzzzzzzz",
            "0000000000000000000000000u",
            "000000000000000000000000000",
        ] {
            assert_eq!(text.parse::<MessageId>(), Err(NotAnId), "{text}");
        }
    }
}

//! A rewritten sender is what a host that forwards puts in the place of the original one (the Sender
//! Rewriting Scheme, SRS).
//!
//! Whoever forwards a message under its original sender fails that domain's SPF. So the forwarder becomes
//! the sender, and packs the original into the local part, to which it sends back what comes back:
//!
//! - `ada@one.test` becomes `SRS0=hash=day=one.test=ada@us`;
//! - what another forwarder has made of it, `SRS0=…@them`, becomes `SRS1=hash=them==…@us`. However many
//!   forward after that, an address names only the first of them and the last, and a return takes two steps.
//!
//! The hash is over what stands behind it, so that nobody can send through us to whom he likes; the day
//! ends what a stolen address is good for. Both are read by nobody but us. Case counts for neither, since
//! there are hosts that fold it.
//!
//! ```
//! use postroad::clock::Timestamp;
//! use postroad::message::Srs;
//! use postroad::smtp::address::{Domain, ReversePath};
//!
//! let now = Timestamp::from_millis(1_790_000_000_000);
//! let srs = Srs::new(Domain::parse("forward.example")?, &[b"at least 16 secret octets"])?;
//! let sender = ReversePath::parse("ada@example.org")?;
//! let ours = srs.forward(&sender, now)?; // the sender of what goes on
//! assert!(ours.to_string().ends_with("=example.org=ada@forward.example>"));
//! let back = srs.reverse(ours.mailbox().unwrap(), now)?; // the recipient of what comes back
//! assert_eq!(back.to_string(), "ada@example.org");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::clock::Timestamp;
use crate::smtp::address::{Domain, Mailbox, ReversePath};

/// Rewrites senders, and finds the original again.
///
/// Keep its keys as long as mail may come back, and over restarts. They are wiped from memory on drop and
/// never shown by `Debug`.
#[derive(Clone)]
pub struct Srs {
    domain: Domain,
    /// The states of the hash behind each key.
    keys: Vec<Hmac<Sha256>>,
    max_days: u32,
}

/// Why an address is not rewritten, or leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SrsError {
    /// No key, or one of fewer than 16 octets.
    #[error("SRS needs a key of at least 16 octets")]
    Key,
    /// The rewritten local part would have more than 64 octets (RFC 5321 §4.5.3.1.1). Send the message on
    /// under an address of your own instead, or give it back; under its original sender it fails SPF.
    #[error("the sender is too long to be rewritten")]
    TooLong,
    /// The address is not at our domain, or does not begin with `SRS0` or `SRS1`.
    #[error("the address is none that was rewritten here")]
    NotOurs,
    /// It begins as a rewritten address does, and then is none.
    #[error("the rewritten address is malformed")]
    Malformed,
    /// The hash does not fit: it was not made here, or not by one of these keys, or not left as it was.
    #[error("the hash of the rewritten address is wrong")]
    Hash,
    /// It was made too long ago, or by a clock that is ahead by more than a day.
    #[error("the rewritten address is too old")]
    Expired,
}

impl Srs {
    /// Rewrites to addresses at `domain`, whose mail must come to us and whose SPF record must name us. The
    /// first key signs, all of them verify: a new one goes to the front, and the old one goes when what it
    /// signed is too old.
    ///
    /// # Errors
    /// [`SrsError::Key`] without a key of at least 16 octets, or with a shorter one among them.
    pub fn new(domain: Domain, keys: &[&[u8]]) -> Result<Self, SrsError> {
        if keys.is_empty() || keys.iter().any(|key| key.len() < MIN_KEY) {
            return Err(SrsError::Key);
        }
        let keys = keys.iter().map(|key| Hmac::new_from_slice(key).map_err(|_| SrsError::Key));
        Ok(Self { domain, keys: keys.collect::<Result<_, _>>()?, max_days: 21 })
    }

    /// The same with another number of days after which an address leads nowhere. Default: 21, which is
    /// four times as long as hosts try. At most 1,000, as the day that is written down comes again after
    /// 1,024.
    #[must_use]
    pub fn with_max_days(self, days: u32) -> Self {
        Self { max_days: days.min(1000), ..self }
    }

    /// The domain of the rewritten addresses.
    #[must_use]
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The sender to forward a message under. The null sender stays what it is, and so does an address at
    /// our own domain.
    ///
    /// # Errors
    /// [`SrsError::TooLong`]
    pub fn forward(&self, sender: &ReversePath, now: Timestamp) -> Result<ReversePath, SrsError> {
        let ReversePath::Mailbox(sender) = sender else { return Ok(ReversePath::Null) };
        if *sender.domain() == self.domain {
            return Ok(sender.clone().into());
        }
        let (local, domain) = (unquoted(sender.local()), sender.domain().as_str());
        let again = match Kind::of(&local) {
            // As the first forwarder has it, whatever mark it puts behind its `SRS0`.
            Some((Kind::First, rest)) => Some((domain, rest)),
            // The one that made this steps out of the way. What does not read is an address like others.
            Some((Kind::Again, rest)) => rest.get(1..).and_then(again_parts).map(|(_, to, rest)| (to, rest)),
            None => None,
        };
        let local = match again {
            Some((first, rest)) => {
                format!("SRS1={}={first}={rest}", self.sign(Kind::Again, &[first, rest])?)
            }
            None => {
                let day = stamp(now);
                let hash = self.sign(Kind::First, &[&day, domain, &local])?;
                format!("SRS0={hash}={day}={domain}={local}")
            }
        };
        let local = quoted(&local);
        // A hop may refuse what is longer, and then what comes back is lost.
        if local.len() > MAX_LOCAL {
            return Err(SrsError::TooLong);
        }
        let rewritten = Mailbox::parse(&format!("{local}@{}", self.domain));
        rewritten.map(ReversePath::from).map_err(|_| SrsError::TooLong)
    }

    /// Whether this looks like an address that was rewritten here: [`Srs::reverse`] says whether it is.
    #[must_use]
    pub fn is_rewritten(&self, address: &Mailbox) -> bool {
        *address.domain() == self.domain && Kind::of(&unquoted(address.local())).is_some()
    }

    /// Where mail to a rewritten address goes: to the original sender, or to the forwarder that knows it.
    ///
    /// # Errors
    /// [`SrsError`]. Refuse such a recipient as one that does not exist: 550 5.1.1.
    pub fn reverse(&self, address: &Mailbox, now: Timestamp) -> Result<Mailbox, SrsError> {
        if *address.domain() != self.domain {
            return Err(SrsError::NotOurs);
        }
        let local = unquoted(address.local());
        let (kind, rest) = Kind::of(&local).ok_or(SrsError::NotOurs)?;
        let rest = rest.get(1..).ok_or(SrsError::Malformed)?;
        let original = match kind {
            Kind::First => {
                let mut parts = rest.splitn(4, '=');
                let mut part = || parts.next().ok_or(SrsError::Malformed);
                let (hash, day, domain, local) = (part()?, part()?, part()?, part()?);
                self.check(hash, kind, &[day, domain, local])?;
                // Only what we have signed can be too old.
                let age = age(day, now).ok_or(SrsError::Malformed)?;
                if age > self.max_days && age != AHEAD {
                    return Err(SrsError::Expired);
                }
                format!("{}@{domain}", quoted(local))
            }
            Kind::Again => {
                let (hash, first, rest) = again_parts(rest).ok_or(SrsError::Malformed)?;
                self.check(hash, kind, &[first, rest])?;
                format!("{}@{first}", quoted(&format!("SRS0{rest}")))
            }
        };
        Mailbox::parse(&original).map_err(|_| SrsError::Malformed)
    }

    fn sign(&self, kind: Kind, parts: &[&str]) -> Result<String, SrsError> {
        self.keys.first().map(|key| hash(key, kind, parts)).ok_or(SrsError::Key)
    }

    /// In a time that tells neither how much of the hash fits nor which key does.
    fn check(&self, given: &str, kind: Kind, parts: &[&str]) -> Result<(), SrsError> {
        let given = given.to_ascii_uppercase();
        let mut fits = Choice::from(0);
        for key in &self.keys {
            fits |= hash(key, kind, parts).as_bytes().ct_eq(given.as_bytes());
        }
        if fits.into() { Ok(()) } else { Err(SrsError::Hash) }
    }
}

impl fmt::Debug for Srs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Srs").field("domain", &self.domain).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Rewritten once.
    First,
    /// Rewritten by one after the first.
    Again,
}

impl Kind {
    /// The kind, and the rest with the mark in front, which is another one elsewhere.
    fn of(local: &str) -> Option<(Self, &str)> {
        let (tag, rest) = local.split_at_checked(4)?;
        let kind = match () {
            () if tag.eq_ignore_ascii_case("SRS0") => Self::First,
            () if tag.eq_ignore_ascii_case("SRS1") => Self::Again,
            () => return None,
        };
        rest.starts_with(['=', '+', '-']).then_some((kind, rest))
    }
}

/// `hash=first=rest`, where the rest begins with a mark.
fn again_parts(text: &str) -> Option<(&str, &str, &str)> {
    let (hash, rest) = text.split_once('=')?;
    let (first, rest) = rest.split_once('=')?;
    (!first.is_empty() && rest.starts_with(['=', '+', '-'])).then_some((hash, first, rest))
}

fn hash(key: &Hmac<Sha256>, kind: Kind, parts: &[&str]) -> String {
    let mut mac = key.clone();
    mac.update(if kind == Kind::First { b"0" } else { b"1" });
    for part in parts {
        // No part of an address has this octet, so that no two lists of parts read the same.
        mac.update(&[0]);
        mac.update(part.to_ascii_lowercase().as_bytes());
    }
    let mac = mac.finalize().into_bytes();
    mac.iter().take(HASH).map(|octet| digit(u32::from(*octet))).collect()
}

/// The day in two digits.
fn stamp(now: Timestamp) -> String {
    let day = day(now);
    [digit(day >> 5), digit(day)].iter().collect()
}

fn day(now: Timestamp) -> u32 {
    u32::try_from(now.as_secs() / 86_400 % u64::from(DAYS)).unwrap_or_default()
}

/// How many days ago a stamp was made, within one round of them.
fn age(stamp: &str, now: Timestamp) -> Option<u32> {
    let value = |octet: u8| {
        let at = ALPHABET.iter().position(|digit| *digit == octet.to_ascii_uppercase())?;
        u32::try_from(at).ok()
    };
    let &[high, low] = stamp.as_bytes() else { return None };
    Some((day(now) + DAYS - (value(high)? << 5 | value(low)?)) % DAYS)
}

fn digit(bits: u32) -> char {
    let at = usize::try_from(bits & 31).unwrap_or_default();
    ALPHABET.get(at).copied().map_or('A', char::from)
}

/// A local part without what makes it a quoted string (RFC 5321 §4.1.2).
fn unquoted(local: &str) -> String {
    let Some(inner) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return local.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

/// A local part, as a quoted string where it must be one.
fn quoted(text: &str) -> String {
    if Mailbox::parse(&format!("{text}@x")).is_ok_and(|mailbox| mailbox.local() == text)
        && !text.starts_with('"')
    {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// RFC 4648 §6: no two digits that differ in case only.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Characters of the hash: 30 bits. To guess one takes a thousand million recipients, all refused, and
/// wins one address to send to; more would leave less room for the sender.
const HASH: usize = 6;
/// As many days as two digits can tell apart.
const DAYS: u32 = 1024;
/// Of tomorrow: made by another host of ours, whose clock is ahead.
const AHEAD: u32 = DAYS - 1;
/// RFC 2104 §3 wants half of the hash's length at least.
const MIN_KEY: usize = 16;
/// RFC 5321 §4.5.3.1.1
const MAX_LOCAL: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn at(day: u64) -> Timestamp {
        Timestamp::from_millis(day * DAY + 5)
    }

    fn srs(domain: &str) -> Srs {
        Srs::new(domain.parse().unwrap(), &[format!("the secret key of {domain}").as_bytes()]).unwrap()
    }

    fn forward(srs: &Srs, sender: &str, now: Timestamp) -> Mailbox {
        srs.forward(&ReversePath::parse(sender).unwrap(), now).unwrap().mailbox().unwrap().clone()
    }

    #[test]
    fn what_was_rewritten_leads_back_to_the_sender() {
        let (us, now) = (srs("us.test"), at(20_700));
        for sender in [
            "ada@one.test",
            "ada+tag=x=y@one.test",
            "=@one.test",
            "\"a b\"@one.test",
            "\"a\\\"\\\\@b\"@one.test",
            "gr\u{fc}n@one.test",
            "ada@b\u{fc}cher.test",
            "ada@[192.0.2.1]",
            "ada@[IPv6:2001:db8::1]",
            "SRS2=x@one.test",
            "SRS1=x@one.test", // malformed, so an address like others
            "srs@one.test",
        ] {
            let ours = forward(&us, sender, now);
            assert_eq!(ours.domain().as_str(), "us.test", "{sender}");
            assert!(us.is_rewritten(&ours) && ours.local().len() <= 64, "{ours}");
            assert_eq!(us.reverse(&ours, now), Ok(sender.parse().unwrap()), "{ours}");
        }
    }

    #[test]
    fn the_null_sender_and_our_own_addresses_stay() {
        let us = srs("us.test");
        for sender in ["", "ada@us.test", "SRS0=AAAA=BB=one.test=ada@us.test"] {
            let sender = ReversePath::parse(sender).unwrap();
            assert_eq!(us.forward(&sender, at(1)), Ok(sender.clone()));
        }
    }

    #[test]
    fn a_return_through_any_number_of_forwarders_takes_two_steps() {
        let (first, second, third) = (srs("first.test"), srs("second.test"), srs("third.test"));
        let now = at(20_700);
        let one = forward(&first, "ada@one.test", now);
        let two = forward(&second, &one.to_string(), now);
        let three = forward(&third, &two.to_string(), now);
        for (by, address) in [(&second, &two), (&third, &three)] {
            assert!(address.local().starts_with("SRS1=") && address.local().contains("=first.test=="));
            assert_eq!(by.reverse(address, now), Ok(one.clone()), "{address}");
        }
        assert_eq!(two.local().len(), three.local().len());
        assert_eq!(first.reverse(&one, now), Ok("ada@one.test".parse().unwrap()));
        // Others put another mark there, which is theirs to read.
        let theirs: Mailbox = "SRS0+abc=de=one.test=ada@first.test".parse().unwrap();
        let ours = forward(&second, &theirs.to_string(), now);
        assert_eq!(second.reverse(&ours, now), Ok(theirs));
    }

    #[test]
    fn case_that_was_folded_on_the_way_does_not_count() {
        let (us, now) = (srs("us.test"), at(20_700));
        for sender in ["Ada@one.test", "SRS0=abc=de=one.test=ada@first.test"] {
            let ours = forward(&us, sender, now);
            for folded in [ours.to_string().to_lowercase(), ours.to_string().to_uppercase()] {
                let back = us.reverse(&folded.parse().unwrap(), now).unwrap();
                assert_eq!(back.to_string().to_lowercase(), sender.to_lowercase());
            }
        }
    }

    #[test]
    fn what_was_changed_or_made_elsewhere_is_refused() {
        let (us, now) = (srs("us.test"), at(20_700));
        let other = Srs::new("us.test".parse().unwrap(), &[b"another secret key"]).unwrap();
        for sender in ["ada@one.test", "SRS0=abc=de=one.test=ada@first.test"] {
            let ours = forward(&us, sender, now);
            assert_eq!(other.reverse(&ours, now), Err(SrsError::Hash));
            let local = ours.local();
            for at in 0..local.len() {
                // Another digit in each place; the marks and the tag make it malformed or none of ours.
                let changed =
                    [&local[..at], if &local[at..=at] == "Q" { "R" } else { "Q" }, &local[at + 1..]].concat();
                let changed: Mailbox = format!("{changed}@us.test").parse().unwrap();
                assert!(us.reverse(&changed, now).is_err(), "{changed}");
            }
        }
        for (address, error) in [
            ("SRS0=@us.test", SrsError::Malformed),
            ("SRS0=a=b=c@us.test", SrsError::Malformed),
            ("SRS1=a=b@us.test", SrsError::Malformed),
            ("SRS1=a==b@us.test", SrsError::Malformed),
            ("SRS1=a=b=c@us.test", SrsError::Malformed),
            ("SRS0=AAAAAA=BB=one.test=ada@us.test", SrsError::Hash),
            ("SRS0==BB=one.test=ada@us.test", SrsError::Hash),
            ("SRS1=AAAAAA=first.test==x@us.test", SrsError::Hash),
            ("SRS0@us.test", SrsError::NotOurs),
            ("ada@us.test", SrsError::NotOurs),
            ("SRS0=AAAAAA=BB=one.test=ada@them.test", SrsError::NotOurs),
        ] {
            assert_eq!(us.reverse(&address.parse().unwrap(), now), Err(error), "{address}");
        }
    }

    #[test]
    fn an_address_is_good_for_three_weeks_also_where_days_begin_again() {
        let us = srs("us.test");
        for made in [20_700, 1023, 1024, 2047] {
            let ours = forward(&us, "ada@one.test", at(made));
            for (later, good) in [(-2, false), (-1, true), (0, true), (21, true), (22, false), (1000, false)]
            {
                let now = at(made.checked_add_signed(later).unwrap());
                let back = us.reverse(&ours, now);
                assert_eq!(back.is_ok(), good, "{made} {later}");
                assert!(good || back == Err(SrsError::Expired));
            }
            let longer = us.clone().with_max_days(100).reverse(&ours, at(made + 100));
            assert!(longer.is_ok());
        }
    }

    #[test]
    fn an_older_key_still_verifies_and_a_new_one_signs() {
        let (old, new) = (&b"the key of last year"[..], &b"the key of this year"[..]);
        let keyed = |keys: &[&[u8]]| Srs::new("us.test".parse().unwrap(), keys).unwrap();
        let (before, both, after) = (keyed(&[old]), keyed(&[new, old]), keyed(&[new]));
        let made_before = forward(&before, "ada@one.test", at(9));
        let made_now = forward(&both, "ada@one.test", at(9));
        assert!(both.reverse(&made_before, at(9)).is_ok() && after.reverse(&made_now, at(9)).is_ok());
        assert_eq!(after.reverse(&made_before, at(9)), Err(SrsError::Hash));
        for keys in [&[][..], &[&b"fifteen octets."[..]], &[new, b"short"]] {
            assert_eq!(Srs::new("us.test".parse().unwrap(), keys).err(), Some(SrsError::Key));
        }
        assert_eq!(format!("{both:?}"), "Srs { domain: us.test, .. }");
    }

    #[test]
    fn what_does_not_fit_into_a_local_part_is_an_error() {
        let us = srs("us.test");
        // `SRS0=hash=da=one.test=` has 24 octets.
        for (letters, fits) in [(40, true), (41, false), (200, false)] {
            let sender = ReversePath::parse(&format!("{}@one.test", "a".repeat(letters))).unwrap();
            let ours = us.forward(&sender, at(9));
            assert_eq!(ours.is_ok(), fits, "{ours:?}");
            assert!(fits || ours == Err(SrsError::TooLong));
        }
    }
}

//! The chain that came with a message: its sets in order, and whether they hold.

use super::{ChainStatus, MAX_SETS};
use crate::clock::Timestamp;
use crate::message::dkim::{Canon, KeyRecord, KeyType, Signature, Tags, append_own, key_name, unsigned};
use crate::message::header::{Field, Header};

/// The fields of one host.
#[derive(Debug)]
pub(super) struct Set<'a> {
    results: Field<'a>,
    message: Field<'a>,
    seal: Field<'a>,
    seals: Seal<'a>,
}

/// What a seal says.
#[derive(Debug)]
struct Seal<'a> {
    kind: KeyType,
    domain: &'a str,
    selector: &'a str,
    status: ChainStatus,
    signature: Vec<u8>,
}

/// There are fields of a chain, and they make none.
#[derive(Debug)]
pub(super) struct Broken;

/// What a header holds of a chain.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    /// Oldest first.
    pub(super) sets: Result<Vec<Set<'a>>, Broken>,
    /// The highest number that is one.
    pub(super) highest: usize,
    /// The newest seal says that the chain failed.
    pub(super) is_final: bool,
}

impl<'a> Chain<'a> {
    pub(super) fn read(header: &Header<'a>) -> Self {
        let mut places: Vec<[Option<Field<'a>>; 3]> = Vec::new();
        let (mut sound, mut highest) = (true, 0);
        for field in header.fields() {
            let Some(kind) = NAMES.iter().position(|name| field.is(name)) else { continue };
            let Some(number) = instance(&field).filter(|number| (1..=MAX_SETS).contains(number)) else {
                sound = false;
                continue;
            };
            highest = highest.max(number);
            if places.len() < number {
                places.resize(number, [None; 3]);
            }
            match places.get_mut(number - 1).and_then(|set| set.get_mut(kind)) {
                Some(place @ None) => *place = Some(field),
                // A second of its kind.
                _ => sound = false,
            }
        }
        let newest = places.last().and_then(|[.., seal]| seal.as_ref());
        let status = newest.and_then(|field| Tags::parse(field.value)).and_then(|tags| status(&tags));
        let is_final = status == Some(ChainStatus::Fail);
        let whole = places.into_iter().enumerate().map(|(at, [results, message, seal])| {
            let (results, message, seal) = (results?, message?, seal?);
            let seals = Seal::parse(&seal)?;
            let expected = if at == 0 { ChainStatus::None } else { ChainStatus::Pass };
            (seals.status == expected).then_some(Set { results, message, seal, seals })
        });
        let sets = whole.collect::<Option<Vec<_>>>().filter(|_| sound).ok_or(Broken);
        Self { sets, highest, is_final }
    }
}

impl<'a> Seal<'a> {
    fn parse(field: &Field<'a>) -> Option<Self> {
        let tags = Tags::parse(field.value)?;
        // RFC 8617 §4.1.3: what it is about is fixed.
        if tags.get("h").is_some() {
            return None;
        }
        Some(Self {
            kind: KeyType::of_algorithm(tags.text("a")?)?,
            domain: tags.text("d").filter(|text| !text.is_empty())?,
            selector: tags.text("s").filter(|text| !text.is_empty())?,
            status: status(&tags)?,
            signature: tags.octets("b")?,
        })
    }
}

fn status(tags: &Tags<'_>) -> Option<ChainStatus> {
    let named = tags.text("cv")?;
    [ChainStatus::None, ChainStatus::Pass, ChainStatus::Fail]
        .into_iter()
        .find(|status| status.as_str().eq_ignore_ascii_case(named))
}

/// The number of a field's set. Only the first tag is looked at: results are no list of tags.
fn instance(field: &Field<'_>) -> Option<usize> {
    let number = if field.is(RESULTS) {
        let first = field.value.split(|b| *b == b';').next()?.trim_ascii();
        let (name, number) = first.split_at_checked(memchr::memchr(b'=', first)?)?;
        (name.trim_ascii() == b"i").then_some(number.get(1..)?.trim_ascii())?
    } else {
        Tags::parse(field.value)?.get("i")?
    };
    let digits = number.len() <= 3 && number.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(number).ok().filter(|_| digits)?.parse().ok()
}

impl Set<'_> {
    /// Appends its three fields as seals are about them (RFC 8617 §5.1.1).
    pub(super) fn append(&self, out: &mut Vec<u8>) {
        for field in [&self.results, &self.message, &self.seal] {
            Canon::Relaxed.field(field.raw, out);
        }
    }
}

/// The keys of the newest signature and of all seals.
pub(super) fn key_names(sets: &[Set<'_>]) -> Vec<Box<str>> {
    let newest = sets.last().and_then(|set| Signature::parse(set.message));
    let mut names: Vec<_> =
        newest.map(|newest| key_name(newest.selector, newest.domain)).into_iter().collect();
    for Seal { domain, selector, .. } in sets.iter().rev().map(|set| &set.seals) {
        let name = key_name(selector, domain);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// RFC 8617 §5.2: the newest signature, then all seals.
pub(super) fn hold(
    sets: &[Set<'_>],
    header: &Header<'_>,
    body: &[u8],
    now: Timestamp,
    key: &mut dyn FnMut(&str) -> Option<KeyRecord>,
) -> bool {
    let Some(newest) = sets.last().and_then(|set| Signature::parse(set.message)) else { return false };
    let fields: Vec<Field<'_>> = header.fields().collect();
    // RFC 8617 §4.1.2: no signature is about the fields of the chain.
    if NAMES.iter().any(|name| newest.covers(name))
        || !key(&key_name(newest.selector, newest.domain))
            .is_some_and(|record| newest.holds(&fields, body, &record, now))
    {
        return false;
    }
    let mut about = Vec::new();
    sets.iter().all(|set| {
        Canon::Relaxed.field(set.results.raw, &mut about);
        Canon::Relaxed.field(set.message.raw, &mut about);
        let before = about.len();
        append_own(Canon::Relaxed, &unsigned(&set.seal), &mut about);
        let seal = &set.seals;
        let holds = key(&key_name(seal.selector, seal.domain))
            .is_some_and(|key| key.kind() == seal.kind && key.verifies(&about, &seal.signature));
        about.truncate(before);
        Canon::Relaxed.field(set.seal.raw, &mut about);
        holds
    })
}

pub(super) const RESULTS: &str = "ARC-Authentication-Results";
pub(super) const MESSAGE: &str = "ARC-Message-Signature";
pub(super) const SEAL: &str = "ARC-Seal";
/// In the order in which a seal is about them.
const NAMES: [&str; 3] = [RESULTS, MESSAGE, SEAL];

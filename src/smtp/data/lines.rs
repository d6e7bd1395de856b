//! Whether line ends are whole, for every octet that comes or goes.

use std::sync::LazyLock;

use memchr::{memchr, memmem::Finder};

/// Whether CR and LF stand only in pairs (RFC 5321 §2.3.8).
///
/// Some ten gigabytes a second: two views of the same octets, one shifted by one, are compared
/// without a branch, which compiles to vector instructions. Kept out of its callers, where it was
/// seen not to.
#[must_use]
#[inline(never)]
pub fn is_clean(octets: &[u8]) -> bool {
    let (Some(first), Some(last)) = (octets.first(), octets.last()) else { return true };
    let next = octets.get(1..).unwrap_or_default();
    *first != b'\n'
        && *last != b'\r'
        && octets.chunks(STEP).zip(next.chunks(STEP)).all(|(a, b)| pairs(a, b) == 0)
}

/// Not 0 when some octet of `these` is CR and the one behind it not LF, or the reverse.
fn pairs(these: &[u8], behind: &[u8]) -> u8 {
    these
        .iter()
        .zip(behind)
        .fold(0, |bad, (this, behind)| bad | (u8::from(*this == b'\r') ^ u8::from(*behind == b'\n')))
}

/// Whether a line behind the first begins with NUL.
pub(super) fn has_nul_line(octets: &[u8]) -> bool {
    // Content has no NUL as a rule, and one octet is found faster than three.
    memchr(0, octets).is_some() && NUL_LINE.find(octets).is_some()
}

static NUL_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\0"));
/// Between two looks at the result: enough to keep vector units busy, and a bad message ends early.
const STEP: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_line_end_is_found_wherever_it_stands() {
        let clean = b"a line\r\n".repeat(2000);
        assert!(is_clean(&clean) && is_clean(b"") && is_clean(b"x"));
        for at in (0..clean.len()).step_by(7) {
            for bad in [b'\r', b'\n'] {
                let mut octets = clean.clone();
                // Over a CR or LF it may make the line end that is there already.
                if octets[at] != bad {
                    octets[at] = bad;
                    assert!(!is_clean(&octets), "{bad} at {at}");
                }
            }
        }
        assert!(!is_clean(b"\n") && !is_clean(b"\r") && !is_clean(b"a\r\n\n") && !is_clean(b"\r\r\n"));
    }
}

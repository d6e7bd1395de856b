//! Random histories that can be had again: a seed is a history.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "every test file uses a part of the kit, and a test fails by panicking"
)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use postroad::clock::Rng;

/// Plays `count` histories, each of its own seed; one that fails says how to play it alone.
pub fn histories(count: u64, play: impl Fn(&Rng)) {
    if let Some(seed) = std::env::var_os(SEED) {
        return play(&Rng::seeded(seed.to_str().unwrap().parse().unwrap()));
    }
    for seed in 0..count {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| play(&Rng::seeded(seed)))) {
            eprintln!("history {seed} failed; alone it runs with {SEED}={seed}");
            resume_unwind(panic);
        }
    }
}

/// Below `bound`, which is not 0.
pub fn below(rng: &Rng, bound: usize) -> usize {
    rng.below(bound as u64) as usize
}

/// Once in `n` times.
pub fn one_in(rng: &Rng, n: u64) -> bool {
    rng.below(n) == 0
}

/// One of these.
pub fn pick<T: Clone>(rng: &Rng, of: &[T]) -> T {
    of[below(rng, of.len())].clone()
}

/// `octets` in pieces: whole, one by one, or cut anywhere.
pub fn pieces<'a>(rng: &Rng, octets: &'a [u8]) -> Vec<&'a [u8]> {
    let mut rest = octets;
    let mut pieces = Vec::new();
    let most = pick(rng, &[1, 3, 20, usize::MAX]);
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(1 + below(rng, rest.len().min(most)));
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

const SEED: &str = "POSTROAD_SEED";

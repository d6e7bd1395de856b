//! Stories drawn from a seed.

use postroad::clock::Rng;

use crate::platter::mix;
use crate::story::{Call, Letter, Place, Teller};

/// Draws stories.
#[derive(Debug)]
pub struct Draw {
    rng: Rng,
    next: u64,
}

impl Draw {
    /// Letters get numbers from `first` on.
    pub fn new(seed: u64, first: u64) -> Self {
        Self { rng: Rng::seeded(mix(seed)), next: first }
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.rng.below(n)
    }

    fn letter(&mut self) -> Letter {
        let size = match self.rng.below(12) {
            0 => 0,
            // More than one piece of a body; and of a segment much.
            1 => 260_000 + self.rng.below(300_000),
            2..5 => 5_000 + self.rng.below(30_000),
            _ => self.rng.below(2_000),
        };
        self.next += 1;
        let entries = if self.rng.below(4) == 0 { 3 } else { 1 };
        Letter { n: self.next, size: usize::try_from(size).unwrap(), entries }
    }

    /// What callers do at once.
    pub fn round(&mut self, teller: &Teller) -> Vec<Call> {
        let mut places = teller.places();
        (0..=self.rng.below(4)).map(|_| self.call(&mut places)).collect()
    }

    fn call(&mut self, places: &mut Vec<Place>) -> Call {
        let what = self.rng.below(100);
        let place = (what < 45 && !places.is_empty()).then(|| {
            let at = usize::try_from(self.rng.below(places.len() as u64)).unwrap();
            places.swap_remove(at)
        });
        match (place, what) {
            (Some(place), ..30) => {
                let report = (what < 7).then(|| self.letter());
                Call::Remove { place, report }
            }
            (Some(place), _) => Call::Retry { place, due: self.rng.below(1000) },
            (None, 90..) => Call::Stage(Letter { size: 80_000 + what as usize * 4_000, ..self.letter() }),
            (None, 85..) => Call::GiveUp(Letter { size: 300_000, ..self.letter() }),
            (None, _) => Call::Enqueue((0..=self.rng.below(3)).map(|_| self.letter()).collect()),
        }
    }
}

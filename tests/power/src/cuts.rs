//! Cutting the power at every place of a record, with every choice of what had reached the disk, or with
//! as many as there is time for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use postroad::message::MessageId;

use crate::disk::Step;
use crate::platter::{Image, Keep, Platter, mix};
use crate::story::{Call, Known, Letter, check, letters};

/// What happened on a disk, and what is known of it.
#[derive(Debug, Clone)]
pub struct Record {
    /// What was there before.
    pub image: Image,
    pub known: Known,
    pub calls: Vec<Call>,
    pub steps: Vec<Step>,
}

/// How thoroughly a record is cut.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Up to so many loose steps, every subset of them is tried.
    pub exhaustive: usize,
    /// Where there are more: so many times all steps up to one, and as often all but one.
    pub single: usize,
    /// So many random choices besides, with torn writes and old octets in holes.
    pub random: u64,
    pub seed: u64,
}

/// How a disk may be found.
#[derive(Debug, Clone, Copy)]
enum Choice {
    /// The steps whose bits are set.
    Subset(u64),
    /// All before this one.
    Prefix(usize),
    /// All but this one.
    Without(usize),
    /// All before this one, and of that a part.
    Torn(usize, u64),
    Random(u64),
}

impl Choice {
    fn keep(self, n: usize) -> Keep {
        let when = |kept| if kept { Keep::All } else { Keep::Nothing };
        match self {
            Self::Subset(bits) => when(bits >> n & 1 == 1),
            Self::Prefix(len) => when(n < len),
            Self::Without(missing) => when(n != missing),
            Self::Torn(at, seed) if n == at => Keep::Torn(seed),
            Self::Torn(at, _) => when(n < at),
            Self::Random(seed) => match mix(seed ^ (n as u64) << 32) % 8 {
                // Each seed leans another way: mostly kept, mostly lost, mostly torn.
                roll if roll < seed % 8 => Keep::All,
                7 => Keep::Torn(seed ^ n as u64),
                _ => Keep::Nothing,
            },
        }
    }

    fn image(self, platter: &Platter) -> Image {
        let hole = match self {
            Self::Random(seed) | Self::Torn(_, seed) if seed & 1 == 1 => 0xa5,
            _ => 0,
        };
        platter.image(hole, |n| self.keep(n))
    }
}

/// Counts of what was tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    /// Places where the power was cut.
    pub cuts: usize,
    /// Disks that were looked at.
    pub disks: usize,
}

/// Where the power can be cut in a record so that the disk found differs: before whatever makes steps
/// durable, and at the end. (Between two of those, what may be found after an earlier cut may also be found
/// after the later one, and then more was acknowledged.)
fn places(record: &Record) -> Vec<(Platter, Known)> {
    let mut platter = Platter::new(record.image.clone());
    let mut known = record.known.clone();
    let mut places = Vec::new();
    for step in &record.steps {
        match step {
            Step::Sync { .. } | Step::FailedSync { .. } | Step::SyncDirectory { .. } => {
                places.push((platter.clone(), known.clone()));
            }
            Step::Note(note) => known.note(*note, &record.calls),
            _ => {}
        }
        platter.step(step);
    }
    places.push((platter, known));
    places
}

/// Cuts the power in a record and looks at what is left each time.
///
/// # Errors
/// The first disk that does not hold what it must.
pub fn cut(record: &Record, effort: Effort) -> Result<Tried, String> {
    let letters = letters(&record.calls);
    let mut tried = Tried::default();
    for (at, (platter, known)) in places(record).into_iter().enumerate() {
        let choices = choices(&platter, effort, at);
        tried.cuts += 1;
        tried.disks += choices.len();
        look(record, &platter, &known, &letters, &choices)
            .map_err(|(choice, why)| format!("cut {at} of {effort:?}, {choice:?}:\n{why}"))?;
    }
    Ok(tried)
}

/// An image that may be found somewhere in the record, with what is known then: to go on from.
pub fn somewhere(record: &Record, seed: u64) -> (Image, Known) {
    let mut places = places(record);
    let place = usize::try_from(mix(seed) % places.len() as u64).unwrap();
    let (platter, known) = places.swap_remove(place);
    (Choice::Random(seed).image(&platter), known)
}

fn choices(platter: &Platter, effort: Effort, at: usize) -> Vec<Choice> {
    let loose = platter.loose();
    let mut choices = Vec::new();
    if loose <= effort.exhaustive {
        choices.extend((0..1 << loose).map(Choice::Subset));
    } else {
        // Evenly, and each time elsewhere.
        let each = |end: usize| {
            let stride = end.div_ceil(effort.single.max(1)).max(1);
            let first = usize::try_from(mix(effort.seed ^ at as u64) % stride as u64).unwrap_or_default();
            (first..end).step_by(stride).take(effort.single)
        };
        choices.push(Choice::Prefix(loose));
        choices.extend(each(loose).map(Choice::Prefix));
        choices.extend(each(loose - 1).map(Choice::Without));
    }
    let seeds = (0..effort.random).map(|n| mix(effort.seed ^ (at as u64) << 40 ^ n));
    let writes: Vec<_> = (0..loose).filter(|n| platter.is_write(*n)).collect();
    for (n, seed) in seeds.enumerate() {
        if n % 3 == 0 && !writes.is_empty() {
            choices.push(Choice::Torn(writes[n / 3 % writes.len()], seed));
        } else if loose > 0 {
            choices.push(Choice::Random(seed));
        }
    }
    choices
}

fn look(
    record: &Record,
    platter: &Platter,
    known: &Known,
    letters: &HashMap<MessageId, Letter>,
    choices: &[Choice],
) -> Result<(), (Choice, String)> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        while let Some(choice) = choices.get(next.fetch_add(1, Ordering::Relaxed)) {
            let dir = fast_folder();
            choice.image(platter).write(dir.path()).unwrap();
            let result = runtime.block_on(check(dir.path(), known, &record.calls, letters));
            if let Err(why) = result {
                failed.lock().unwrap().get_or_insert((*choice, why));
                next.store(choices.len(), Ordering::Relaxed);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(choices.len() / 4 + 1);
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    failed.into_inner().unwrap().map_or(Ok(()), Err)
}

/// A folder in memory where there is one: what a disk may lose is decided here, and not by it.
pub fn fast_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { PathBuf::from(memory) } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("power-").tempdir_in(place).unwrap()
}

//! Long simulations: how much is simulated in what time, and whether all of it keeps the promises.
//!
//! ```sh
//! cargo bench --all-features --bench simulation
//! SIMULATION=shorter SIMULATION_SEEDS=0..100000 cargo bench --all-features --bench simulation
//! SIMULATION='month messages=200000' SIMULATION_SEEDS=0..1 cargo bench --all-features --bench simulation
//! ```
//!
//! - `SIMULATION`: `usual` (default: what `SimulationOptions::new` says), `shorter` (few messages and hosts, so
//!   more seeds), `month` (30 days, 100,000 messages, something wrong at every tenth host), `trouble` (a month where
//!   it is at two of three); and behind it options that differ, as in the line that a broken history prints
//! - `SIMULATION_SEEDS`: which; default 0..1000, of a month 0..1
//! - `SIMULATION_THREADS`: how many at once; default as many as there are cores
//!
//! Each broken history is printed with the line that runs it again, and the bench fails at the end.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench measures time, prints it, and fails by panicking"
)]

use std::env::var;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{available_parallelism, scope};
use std::time::{Duration, Instant};

use postroad::testing::{History, Simulation};

#[derive(Default)]
struct Sums {
    count: u64,
    broken: u64,
    all: History,
    slowest: (Duration, u64),
}

fn main() -> ExitCode {
    let said = var("SIMULATION").unwrap_or_default();
    let (kind, more) = said.split_once(' ').unwrap_or((&said, ""));
    let (options, usual) = match kind {
        "" | "usual" => ("", 0..1_000),
        "shorter" => ("messages=6 time=7200s destinations=5 ends=2", 0..1_000),
        "month" => ("messages=100000 time=2592000s destinations=60 ends=60 troubled=6", 0..1),
        "trouble" => ("messages=100000 time=2592000s destinations=60 ends=60", 0..1),
        _ => panic!("SIMULATION={said}: usual, shorter, month or trouble, and options behind it"),
    };
    let seeds = var("SIMULATION_SEEDS").map_or(usual, |seeds| range(&seeds));
    let cores = available_parallelism().map_or(1, usize::from);
    let threads = var("SIMULATION_THREADS").map_or(cores, |threads| threads.parse().expect("a number"));
    let (next, sums, began) = (AtomicU64::new(seeds.start), Mutex::new(Sums::default()), Instant::now());
    scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    run(seed, &format!("{options} {more}"), &sums);
                }
            });
        }
    });
    let (sums, took) = (sums.into_inner().unwrap(), began.elapsed());
    let Sums { count, broken, all, slowest } = &sums;
    let days = all.time.as_secs() as f64 / 86_400.0;
    println!("{count} seeds, {broken} of them broken, in {took:.1?} on {threads} threads");
    println!("{} messages accepted, for {} recipients with reports'", all.messages, all.recipients);
    println!("{} deliveries, {} of them doubles", all.deliveries, all.doubles);
    println!("{} failed, {} expired, {} reports", all.failed, all.expired, all.reports);
    println!("{} large bodies broken off by their hosts", all.cuts);
    println!("{} lives of the process, {} calls of the spool", all.lives, all.calls);
    println!("{days:.0} simulated days, {:.0} a second", days / took.as_secs_f64());
    println!("slowest: seed {}, {:.1?}", slowest.1, slowest.0);
    if *broken > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(seed: u64, options: &str, sums: &Mutex<Sums>) {
    let simulation: Simulation =
        format!("{seed} {options}").parse().expect("options as a history prints them");
    let began = Instant::now();
    let history = simulation.run();
    let took = began.elapsed();
    let mut sums = sums.lock().unwrap();
    sums.count += 1;
    sums.slowest = sums.slowest.max((took, seed));
    match history {
        Ok(history) => sums.all.add(&history),
        Err(broken) => {
            sums.broken += 1;
            eprintln!("\n{broken}\n");
        }
    }
}

fn range(text: &str) -> Range<u64> {
    let (from, to) = text.split_once("..").expect("SIMULATION_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

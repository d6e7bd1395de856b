//! Histories, each from one seed, in which hosts, routes, the spool, the clock and the process
//! itself fail; and in none of them a promise is broken.
//!
//! A seed that fails prints how it is run again: `POSTROAD_SEED=7 cargo test --all-features --test
//! simulation` runs that one only. `POSTROAD_SEEDS=100000..200000` runs others than CI does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test fails by panicking, and tells its figures"
)]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postroad::message::{Envelope, RawMessage};
use postroad::spool::MemorySpool;
use postroad::testing::{
    self, Act, History, JumpingClock, Network, Simulation, SimulationOptions, Step, Taken,
};
use postroad::{EhloName, Engine};

/// Worth a look, where most take some ten milliseconds.
const SLOW: Duration = Duration::from_secs(3);
const HOUR: Duration = Duration::from_secs(3600);

fn seeds(usual: Range<u64>) -> Range<u64> {
    if let Some(seed) = number(std::env::var("POSTROAD_SEED").ok()) {
        return seed..seed + 1;
    }
    let Ok(range) = std::env::var("POSTROAD_SEEDS") else { return usual };
    let (from, to) = range.split_once("..").expect("POSTROAD_SEEDS=from..to");
    from.parse().unwrap()..to.parse().unwrap()
}

fn number(text: Option<String>) -> Option<u64> {
    text.map(|text| text.parse().expect("POSTROAD_SEED=number"))
}

fn run(seed: u64, options: &SimulationOptions) -> History {
    Simulation::new(seed).options(options.clone()).run().unwrap_or_else(|broken| panic!("\n{broken}"))
}

/// Runs many, and says what was in them.
fn run_all(seeds: impl Iterator<Item = u64>, options: &SimulationOptions) -> History {
    let (began, mut sum, mut count) = (Instant::now(), History::default(), 0);
    for seed in seeds {
        let started = Instant::now();
        let history = run(seed, options);
        if started.elapsed() > SLOW {
            eprintln!("seed {seed} took {:?}: {history:?}", started.elapsed());
        }
        count += 1;
        sum.deliveries += history.deliveries;
        sum.doubles += history.doubles;
        sum.failed += history.failed;
        sum.expired += history.expired;
        sum.reports += history.reports;
        sum.lives += history.lives;
        sum.recipients += history.recipients;
        sum.calls += history.calls;
        sum.time += history.time;
    }
    let days = sum.time.as_secs() / 86_400;
    eprintln!("{count} seeds, {days} days in {:?}: {sum:?}", began.elapsed());
    sum
}

/// What CI runs, in two halves so that two cores have something to do. Others are for a release build:
/// `POSTROAD_SEEDS=0..20000 cargo test --release --all-features --test simulation`.
const CI: Range<u64> = 0..200;

/// Few messages and few hosts: more seeds find more than longer histories do.
fn short() -> SimulationOptions {
    let mut options = SimulationOptions::new();
    (options.messages, options.destinations, options.ends) = (6, 5, 2);
    options.time = 2 * HOUR;
    options
}

#[test]
fn short_histories_with_every_kind_of_fault_break_no_promise_even_seeds() {
    let sum = run_all(seeds(CI).filter(|seed| seed % 2 == 0), &SimulationOptions::new());
    if std::env::var_os("POSTROAD_SEED").is_none() {
        assert!(sum.doubles > 0 && sum.expired > 0 && sum.reports > 0, "too quiet: {sum:?}");
    }
}

#[test]
fn short_histories_with_every_kind_of_fault_break_no_promise_odd_seeds() {
    run_all(seeds(CI).filter(|seed| seed % 2 == 1), &SimulationOptions::new());
}

#[test]
fn shorter_histories_break_no_promise() {
    run_all(seeds(0..100), &short());
}

#[test]
fn a_host_that_takes_a_message_and_says_421_has_told_nobody() {
    let network = Network::new();
    let hosts = network.clone();
    let mut first = true;
    network.script(move |_, step| match step {
        Step::End(_) if std::mem::take(&mut first) => Act::Taken(Box::new(Act::code(421))),
        _ => Act::Usual,
    });
    testing::run(async move {
        let engine = Engine::builder(MemorySpool::new(), EhloName::new("us.test").unwrap())
            .direct(network.clone())
            .connect(Arc::new(network.clone()))
            .clock(Arc::new(JumpingClock::new()))
            .start()
            .await
            .unwrap();
        let envelope = Envelope::parse("s@us.test", ["u@d.test"]).unwrap();
        let receipt = engine.submit(RawMessage::new(envelope, "Subject: x\r\n\r\nx\r\n")).await.unwrap();
        assert!(receipt.finished().await.is_complete());
        Ok::<(), std::io::Error>(())
    })
    .unwrap();
    // The reply refused it, so it came again; that one was told of.
    assert_eq!(hosts.taken().iter().map(Taken::is_told).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn the_same_seed_is_the_same_history() {
    let mut options = SimulationOptions::new();
    options.record = true;
    for seed in seeds(0..5) {
        let (first, second) = (run(seed, &options), run(seed, &options));
        let differ = first.lines.iter().zip(&second.lines).find(|(first, second)| first != second);
        assert_eq!(differ, None);
        assert_eq!(first, second);
        assert_ne!(first.hash, run(seed + 1, &options).hash);
    }
}

#[test]
fn where_nothing_fails_everybody_gets_everything_once() {
    let mut options = SimulationOptions::new();
    (options.peer_faults, options.spool_faults, options.jumps, options.ends) = (false, false, false, 0);
    for seed in seeds(0..10) {
        let history = run(seed, &options);
        assert_eq!(history.messages, 12);
        assert_eq!((history.doubles, history.failed, history.expired), (0, 0, 0));
        assert_eq!(history.deliveries, history.recipients);
        assert!(history.time < options.time + 12 * HOUR, "{:?}", history.time);
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "minutes in a debug build: cargo test --release")]
fn thirty_days_of_mail_pass_in_seconds() {
    let mut options = SimulationOptions::new();
    options.time = 30 * 24 * HOUR;
    options.messages = 100_000;
    (options.destinations, options.ends) = (60, 60);
    let history = run_all(seeds(0..1), &options);
    assert!(history.time >= options.time);
}

//! Histories, each from one seed, in which hosts, routes, the spool, the clock and the process
//! itself fail; and in none of them a promise is broken.
//!
//! A seed that fails prints the line by which the same history is run again. `POSTROAD_SEED=7` and
//! `POSTROAD_SEEDS=100000..200000` run others than CI does, and `benches/simulation.rs` runs many.
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
use postroad::spool::{MemorySpool, Spool};
use postroad::testing::{
    self, Act, FaultySpool, History, JumpingClock, Method, Network, Simulation, SimulationOptions,
    SpoolFault, Step, Taken,
};
use postroad::{EhloName, Engine};

/// Worth a look, where most take some milliseconds.
const SLOW: Duration = Duration::from_secs(3);
const HOUR: Duration = Duration::from_secs(3600);

/// Of the usual and of the shorter histories, for each of the tests that run many. CI runs them all in a release
/// build, and a tenth of the seeds costs more in a debug build.
const USUAL: u64 = if cfg!(debug_assertions) { 40 } else { 1_500 };
const SHORTER: u64 = if cfg!(debug_assertions) { 60 } else { 3_000 };

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
        sum.add(&history);
    }
    let days = sum.time.as_secs() / 86_400;
    eprintln!("{count} seeds, {days} days in {:?}: {sum:?}", began.elapsed());
    sum
}

/// Few messages and few hosts: more seeds find more than longer histories do.
fn short() -> SimulationOptions {
    let mut options = SimulationOptions::new();
    (options.messages, options.destinations, options.ends) = (6, 5, 2);
    options.time = 2 * HOUR;
    options
}

fn month() -> SimulationOptions {
    let mut options = SimulationOptions::new();
    (options.time, options.destinations, options.ends) = (30 * 24 * HOUR, 60, 60);
    options
}

// In two halves each, so that two cores have something to do.

#[test]
fn histories_with_every_kind_of_fault_break_no_promise_even_seeds() {
    let sum = run_all(seeds(0..USUAL).filter(|seed| seed % 2 == 0), &SimulationOptions::new());
    let asked = ["POSTROAD_SEED", "POSTROAD_SEEDS"].map(std::env::var_os);
    if asked == [None, None] {
        assert!(sum.doubles > 0 && sum.expired > 0 && sum.reports > 0, "too quiet: {sum:?}");
        // Of these there are too few for the seeds of a debug build.
        assert!(cfg!(debug_assertions) || sum.cuts > 10, "too quiet: {sum:?}");
    }
}

#[test]
fn histories_with_every_kind_of_fault_break_no_promise_odd_seeds() {
    run_all(seeds(0..USUAL).filter(|seed| seed % 2 == 1), &SimulationOptions::new());
}

#[test]
fn shorter_histories_break_no_promise_even_seeds() {
    run_all(seeds(0..SHORTER).filter(|seed| seed % 2 == 0), &short());
}

#[test]
fn shorter_histories_break_no_promise_odd_seeds() {
    run_all(seeds(0..SHORTER).filter(|seed| seed % 2 == 1), &short());
}

#[test]
fn the_history_to_replay_breaks_no_promise() {
    let Ok(line) = std::env::var("POSTROAD_REPLAY") else { return };
    let simulation: Simulation = line.parse().unwrap();
    let history = simulation.record().run().unwrap_or_else(|broken| panic!("\n{broken}"));
    history.lines.iter().for_each(|line| eprintln!("{line}"));
}

#[test]
fn the_line_that_a_broken_history_prints_is_the_same_history() {
    // Settlements fail for ever, which the simulation knows nothing of.
    let spool = || {
        let spool = FaultySpool::new();
        spool.script(|call| match call.method {
            Method::Settle => SpoolFault::Before,
            _ => SpoolFault::None,
        });
        Arc::new(spool) as Arc<dyn Spool>
    };
    let broken = Simulation::new(5).options(short()).spool(spool).run().unwrap_err();
    let text = broken.to_string();
    let again = text.lines().find_map(|line| line.strip_prefix("the same again: \"")).unwrap();
    let line = again.split_once('"').unwrap().0;
    assert!(text.contains(&format!("POSTROAD_REPLAY='{line}' ")), "{text}");
    let again = line.parse::<Simulation>().unwrap().spool(spool).run().unwrap_err();
    assert_eq!(again, broken);
    assert!(again.what.contains("is stuck") && !again.lines.is_empty(), "{text}");
    // With another spool it is another history, and with other options too.
    line.parse::<Simulation>().unwrap().run().unwrap();
    assert_ne!(Simulation::new(5).spool(spool).run().unwrap_err().lines, broken.lines);
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
    (options.orders, options.lists) = (false, false);
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
    let mut options = month();
    (options.messages, options.troubled) = (100_000, 6);
    let history = run_all(seeds(0..1), &options);
    assert!(history.time >= options.time);
}

/// Where something is wrong at two of three hosts.
#[test]
#[cfg_attr(debug_assertions, ignore = "minutes in a debug build: cargo test --release")]
fn thirty_days_of_trouble_break_no_promise() {
    let mut options = month();
    options.messages = 10_000;
    let history = run_all(seeds(0..1), &options);
    assert!(history.time >= options.time && history.expired > 0 && history.doubles > 0, "{history:?}");
}

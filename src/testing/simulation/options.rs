//! The options of a history, and how a history is written down in one line so that it can be run again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Simulation;

/// How much happens in a simulation.
///
/// As text they are what a broken history prints, and [`Simulation`] is parsed from: `messages=12 time=21600s
/// destinations=9` and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimulationOptions {
    /// How many messages are submitted. Default: 12.
    pub messages: usize,
    /// The time in which they are, and in which things go wrong. What is queued then is waited for, as
    /// long as messages live. Default: 6 hours.
    pub time: Duration,
    /// How many domains there are, of which every third or so is well. Default: 9.
    pub destinations: usize,
    /// At how many of their hosts anything is wrong, at most. Default: at as many as the seed has it, which is more
    /// trouble than mail has in the world and finds more. Set it for a long history with much mail.
    pub troubled: usize,
    /// How often the process ends at most: by a crash, or in good order. Default: 4.
    pub ends: usize,
    /// Whether hosts and routes fail. Default: yes.
    pub peer_faults: bool,
    /// Whether the spool fails. Default: yes.
    pub spool_faults: bool,
    /// Whether wall time jumps. Default: yes.
    pub jumps: bool,
    /// Whether mail that waits is held, released, cancelled, put off and routed anew. Default: yes.
    pub orders: bool,
    /// Whether some messages are submitted under a key, and again, also with another content. Default: yes.
    pub keys: bool,
    /// Whether some recipients stand for others. Default: yes.
    pub lists: bool,
    /// Whether every line of the history is kept, and not only the last ones of one that is broken. It changes
    /// nothing of what happens. Default: no.
    pub record: bool,
}

impl SimulationOptions {
    /// The defaults: a history that takes some milliseconds.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            messages: 12,
            time: Duration::from_secs(6 * 3600),
            destinations: 9,
            troubled: usize::MAX,
            ends: 4,
            peer_faults: true,
            spool_faults: true,
            jumps: true,
            orders: true,
            keys: true,
            lists: true,
            record: false,
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "messages" => self.messages = value.parse().ok()?,
            "time" => self.time = duration(value)?,
            "destinations" => self.destinations = value.parse().ok()?,
            "troubled" => self.troubled = value.parse().ok()?,
            "ends" => self.ends = value.parse().ok()?,
            "peer_faults" => self.peer_faults = switch(value)?,
            "spool_faults" => self.spool_faults = switch(value)?,
            "jumps" => self.jumps = switch(value)?,
            "orders" => self.orders = switch(value)?,
            "keys" => self.keys = switch(value)?,
            "lists" => self.lists = switch(value)?,
            _ => return None,
        }
        Some(())
    }
}

impl Default for SimulationOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for SimulationOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "messages={} time=", self.messages)?;
        match self.time.subsec_millis() {
            0 => write!(f, "{}s", self.time.as_secs())?,
            _ => write!(f, "{}ms", self.time.as_millis())?,
        }
        write!(f, " destinations={}", self.destinations)?;
        if self.troubled < usize::MAX {
            write!(f, " troubled={}", self.troubled)?;
        }
        write!(f, " ends={}", self.ends)?;
        for (name, is) in [
            ("peer_faults", self.peer_faults),
            ("spool_faults", self.spool_faults),
            ("jumps", self.jumps),
            ("orders", self.orders),
            ("keys", self.keys),
            ("lists", self.lists),
        ] {
            write!(f, " {name}={}", if is { "yes" } else { "no" })?;
        }
        Ok(())
    }
}

/// A line that says of no history how it is run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is nothing that a history is made of")]
pub struct NoHistory(Box<str>);

/// What a broken history prints: the seed, and then the options. What is not said is as by default. A spool and
/// engines of one's own are given again by whoever runs it.
impl FromStr for Simulation {
    type Err = NoHistory;

    fn from_str(text: &str) -> Result<Self, NoHistory> {
        let mut words = text.split_ascii_whitespace();
        let no = |word: &str| NoHistory(word.into());
        let seed = words.next().unwrap_or_default();
        let seed = seed.parse().map_err(|_| no(seed))?;
        let mut options = SimulationOptions::new();
        for word in words {
            let set = word.split_once('=').and_then(|(name, value)| options.set(name, value));
            set.ok_or_else(|| no(word))?;
        }
        Ok(Self::new(seed).options(options))
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn duration(value: &str) -> Option<Duration> {
    match value.strip_suffix("ms") {
        Some(millis) => millis.parse().ok().map(Duration::from_millis),
        None => value.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_what_its_line_says() {
        let mut options = SimulationOptions::new();
        (options.messages, options.destinations, options.ends) = (6, 5, 2);
        (options.time, options.jumps) = (Duration::from_millis(7_200_500), false);
        let line = format!("23 {options}");
        let read: Simulation = line.parse().unwrap();
        assert_eq!((read.seed, &read.options), (23, &options), "{line}");
        // As many as there are, and senders have a host of their own.
        (options.time, options.troubled) = (Duration::from_secs(30 * 86_400), 5);
        let read: Simulation = format!("23 {options}").parse().unwrap();
        assert_eq!(read.options, options);
        let read: Simulation = "7 messages=1".parse().unwrap();
        assert_eq!((read.seed, read.options.messages, read.options.ends), (7, 1, 4));
    }

    #[test]
    fn a_line_that_says_something_else_is_refused() {
        for line in ["", "x", "7 messages", "7 messages=x", "7 jumps=perhaps", "7 time=5", "7 days=3"] {
            assert!(line.parse::<Simulation>().is_err(), "{line}");
        }
    }
}

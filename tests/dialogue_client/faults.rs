//! Every fault a server can have, at every reply of a transaction, in each of the three ways to send
//! one: what becomes of the two recipients, and of the session.

use crate::harness::{Peer, config};

const EHLO: &str = "S: 220 mx\nC: EHLO me.test\n";
const MAIL: &str = "C: MAIL FROM:<s@a.test>";
const RCPT_A: &str = "C: RCPT TO:<a@x.test>";
const RCPT_B: &str = "C: RCPT TO:<b@x.test>";
const DOT: &str = "C: Hi\nC: .";
const BDAT: &str = "C: BDAT 4 LAST\nC: Hi";

/// A way to send.
struct Way {
    name: &'static str,
    ehlo: &'static str,
    /// The commands in order, each answered by one reply.
    commands: &'static [(&'static str, &'static str)],
    /// Whether each command waits for the reply before it.
    steps: bool,
}

const WAYS: [Way; 3] = [
    Way {
        name: "steps",
        ehlo: "S: 250 mx",
        commands: &[("mail", MAIL), ("", RCPT_A), ("rcpt", RCPT_B), ("data", "C: DATA"), ("content", DOT)],
        steps: true,
    },
    Way {
        name: "data",
        ehlo: "S: 250-mx\nS: 250 PIPELINING",
        commands: &[("mail", MAIL), ("", RCPT_A), ("rcpt", RCPT_B), ("data", "C: DATA"), ("content", DOT)],
        steps: false,
    },
    Way {
        name: "bdat",
        ehlo: "S: 250-mx\nS: 250-PIPELINING\nS: 250 CHUNKING",
        commands: &[("mail", MAIL), ("", RCPT_A), ("rcpt", RCPT_B), ("content", BDAT)],
        steps: false,
    },
];

const FAULTS: [&str; 8] = ["wrong", "4xx", "5xx", "421", "eof", "timeout", "malformed", "premature"];

/// Way, phase, fault: what each recipient gets / how the session ends, if it does.
const TABLE: &str = "
steps mail    wrong     Mail=354 Mail=354 / Protocol(WrongClass)
steps mail    4xx       Mail=450 Mail=450 / -
steps mail    5xx       Mail=550 Mail=550 / -
steps mail    421       Mail=421 Mail=421 / Closing(421)
steps mail    eof       not-attempted not-attempted / Lost
steps mail    timeout   not-attempted not-attempted / TimedOut
steps mail    malformed not-attempted not-attempted / Protocol(Reply(Malformed))
steps mail    premature not-attempted not-attempted / Protocol(Premature)
steps rcpt    wrong     not-attempted Rcpt=354 / Protocol(WrongClass)
steps rcpt    4xx       Content=250 Rcpt=450 / -
steps rcpt    5xx       Content=250 Rcpt=550 / -
steps rcpt    421       Rcpt=421 Rcpt=421 / Closing(421)
steps rcpt    eof       not-attempted not-attempted / Lost
steps rcpt    timeout   not-attempted not-attempted / TimedOut
steps rcpt    malformed not-attempted not-attempted / Protocol(Reply(Malformed))
steps rcpt    premature not-attempted not-attempted / Protocol(Premature)
steps data    wrong     Data=250 Data=250 / Protocol(WrongClass)
steps data    4xx       Data=450 Data=450 / -
steps data    5xx       Data=550 Data=550 / -
steps data    421       Data=421 Data=421 / Closing(421)
steps data    eof       not-attempted not-attempted / Lost
steps data    timeout   not-attempted not-attempted / TimedOut
steps data    malformed not-attempted not-attempted / Protocol(Reply(Malformed))
steps data    premature not-attempted not-attempted / Protocol(Premature)
steps content wrong     Content=354 Content=354 / Protocol(WrongClass)
steps content 4xx       Content=450 Content=450 / -
steps content 5xx       Content=550 Content=550 / -
steps content 421       Content=421 Content=421 / Closing(421)
steps content eof       unknown unknown / Lost
steps content timeout   unknown unknown / TimedOut
steps content malformed unknown unknown / Protocol(Reply(Malformed))
steps content premature not-attempted not-attempted / Protocol(Premature)
data  mail    wrong     Mail=354 Mail=354 / Protocol(WrongClass)
data  mail    4xx       Mail=450 Mail=450 / -
data  mail    5xx       Mail=550 Mail=550 / -
data  mail    421       Mail=421 Mail=421 / Closing(421)
data  mail    eof       not-attempted not-attempted / Lost
data  mail    timeout   not-attempted not-attempted / TimedOut
data  mail    malformed not-attempted not-attempted / Protocol(Reply(Malformed))
data  mail    premature not-attempted not-attempted / Protocol(Premature)
data  rcpt    wrong     not-attempted Rcpt=354 / Protocol(WrongClass)
data  rcpt    4xx       Content=250 Rcpt=450 / -
data  rcpt    5xx       Content=250 Rcpt=550 / -
data  rcpt    421       Rcpt=421 Rcpt=421 / Closing(421)
data  rcpt    eof       not-attempted not-attempted / Lost
data  rcpt    timeout   not-attempted not-attempted / TimedOut
data  rcpt    malformed not-attempted not-attempted / Protocol(Reply(Malformed))
data  rcpt    premature not-attempted not-attempted / Protocol(Premature)
data  data    wrong     Data=250 Data=250 / Protocol(WrongClass)
data  data    4xx       Data=450 Data=450 / -
data  data    5xx       Data=550 Data=550 / -
data  data    421       Data=421 Data=421 / Closing(421)
data  data    eof       not-attempted not-attempted / Lost
data  data    timeout   not-attempted not-attempted / TimedOut
data  data    malformed not-attempted not-attempted / Protocol(Reply(Malformed))
data  data    premature not-attempted not-attempted / Protocol(Premature)
data  content wrong     Content=354 Content=354 / Protocol(WrongClass)
data  content 4xx       Content=450 Content=450 / -
data  content 5xx       Content=550 Content=550 / -
data  content 421       Content=421 Content=421 / Closing(421)
data  content eof       unknown unknown / Lost
data  content timeout   unknown unknown / TimedOut
data  content malformed unknown unknown / Protocol(Reply(Malformed))
data  content premature not-attempted not-attempted / Protocol(Premature)
bdat  mail    wrong     Mail=354 Mail=354 / Protocol(WrongClass)
bdat  mail    4xx       Mail=450 Mail=450 / -
bdat  mail    5xx       Mail=550 Mail=550 / -
bdat  mail    421       Mail=421 Mail=421 / Closing(421)
bdat  mail    eof       unknown unknown / Lost
bdat  mail    timeout   unknown unknown / TimedOut
bdat  mail    malformed unknown unknown / Protocol(Reply(Malformed))
bdat  mail    premature not-attempted not-attempted / Protocol(Premature)
bdat  rcpt    wrong     unknown Rcpt=354 / Protocol(WrongClass)
bdat  rcpt    4xx       Content=250 Rcpt=450 / -
bdat  rcpt    5xx       Content=250 Rcpt=550 / -
bdat  rcpt    421       Rcpt=421 Rcpt=421 / Closing(421)
bdat  rcpt    eof       unknown unknown / Lost
bdat  rcpt    timeout   unknown unknown / TimedOut
bdat  rcpt    malformed unknown unknown / Protocol(Reply(Malformed))
bdat  rcpt    premature not-attempted not-attempted / Protocol(Premature)
bdat  content wrong     Content=354 Content=354 / Protocol(WrongClass)
bdat  content 4xx       Content=450 Content=450 / -
bdat  content 5xx       Content=550 Content=550 / -
bdat  content 421       Content=421 Content=421 / Closing(421)
bdat  content eof       unknown unknown / Lost
bdat  content timeout   unknown unknown / TimedOut
bdat  content malformed unknown unknown / Protocol(Reply(Malformed))
bdat  content premature not-attempted not-attempted / Protocol(Premature)
";

fn good(phase: &str) -> &'static str {
    if phase == "data" { "354 go" } else { "250 ok" }
}

fn lines_len(lines: &str) -> usize {
    lines.lines().map(|line| line.len() - "C: ".len() + 2).sum()
}

/// The events of one transaction in which the reply at `at` is the fault.
fn run(way: &Way, at: usize, fault: &str) -> String {
    let mut peer = Peer::run(&config(), &format!("{EHLO}{}", way.ehlo), None);
    let phase = way.commands[at].0;
    // Which write the faulty reply's command is in begins with this command.
    let first = match phase {
        "content" if way.name == "data" => at,
        _ if way.steps => at,
        _ => 0,
    };
    if fault == "premature" {
        let before = way.commands[first..=at].iter().map(|(_, lines)| lines_len(lines)).sum::<usize>() - 1;
        if first == 0 {
            peer.host(&format!("stall {before}"));
        }
    }
    peer.host("send a b");
    for (index, (name, _)) in way.commands.iter().enumerate().take(at) {
        if fault == "premature" && index + 1 == first {
            let before = way.commands[first..=at].iter().map(|(_, l)| lines_len(l)).sum::<usize>() - 1;
            peer.host(&format!("stall {before}"));
        }
        peer.say(&format!("{}\r\n", good(name)));
    }
    match fault {
        "wrong" => peer.say(if phase == "data" { "250 ok\r\n" } else { "354 go\r\n" }),
        "4xx" => peer.say("450 later\r\n"),
        "5xx" => peer.say("550 no\r\n"),
        "421" => peer.say("421 bye\r\n"),
        "malformed" => peer.say("250ok\r\n"),
        "premature" => peer.say(&format!("{}\r\n", good(phase))),
        other => peer.host(other),
    }
    // A server that goes on: it refuses what makes no sense, and takes the rest.
    if fault == "4xx" || fault == "5xx" {
        let mut rest = way.commands.iter().skip(at + 1).map(|(name, _)| *name);
        while !peer.events.iter().any(|e| e.starts_with("done")) {
            let name = rest.next().expect("a transaction ends with its last reply");
            let reply = if phase == "mail" { "503 no" } else { good(name) };
            peer.say(&format!("{reply}\r\n"));
        }
    }
    let end = peer.events.iter().find_map(|e| e.strip_prefix("failed "));
    let done = peer.events.iter().find_map(|e| e.strip_prefix("done 1 ")).unwrap();
    format!("{:<6}{:<8}{:<10}{done} / {}", way.name, phase, fault, end.unwrap_or("-"))
}

#[test]
fn every_fault_has_one_honest_outcome() {
    let mut table = String::from("\n");
    for way in &WAYS {
        for (at, _) in way.commands.iter().enumerate().filter(|(_, (name, _))| !name.is_empty()) {
            for fault in FAULTS {
                table.push_str(&run(way, at, fault));
                table.push('\n');
            }
        }
    }
    assert!(table == TABLE, "--- wanted:{TABLE}--- got:{table}");
}

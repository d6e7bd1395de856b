//! What the caller may do, how long is waited, how much is held.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use postroad::smtp::client::{BeginError, Config, Event, Session, Transaction};
use postroad::smtp::error::Misuse;
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::{Input, Output};

use crate::harness::{Peer, config, show};

pub(crate) fn ready(ehlo: &str) -> Peer {
    let mut peer = Peer::new(&config());
    peer.say("220 mx\r\n");
    peer.say(ehlo);
    assert_eq!(peer.events, ["ready"]);
    peer
}

pub(crate) const PIPELINING: &str = "250-mx\r\n250 PIPELINING\r\n";
pub(crate) const CHUNKING: &str = "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n";

#[test]
fn a_transaction_has_one_to_a_hundred_recipients() {
    let names = |n: usize| vec!["a"; n].join(" ");
    for (n, fits) in [(1, true), (100, true), (101, false)] {
        let mut peer = ready(PIPELINING);
        peer.host(&format!("send {}", names(n)));
        assert_eq!(peer.events.last().unwrap() == "Recipients", !fits, "{n}");
    }
    let mut peer = ready(PIPELINING);
    let none = Transaction::new(Mail::default(), Vec::new(), 0);
    assert_eq!(peer.session.begin(none), Err(BeginError::Recipients));
}

/// A session without the harness's answers.
pub(crate) struct Bare {
    pub(crate) session: Session,
    pub(crate) now: Instant,
}

impl Bare {
    pub(crate) fn new(config: Config, ehlo: &str) -> Self {
        #[allow(clippy::disallowed_methods, reason = "some instant is needed to count from")]
        let now = Instant::now();
        let mut bare = Self { session: Session::new(config, now), now };
        bare.say("220 mx\r\n");
        bare.drain();
        bare.say(ehlo);
        bare.drain();
        bare
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.session.handle(self.now, Input::Data(&mut BytesMut::from(text)));
    }

    pub(crate) fn sent(&mut self, octets: usize) {
        self.session.handle(self.now, Input::Sent(octets));
    }

    pub(crate) fn begin(&mut self, size: u64) {
        let rcpt = Rcpt::parse("<a@x.test>").unwrap();
        self.session.begin(Transaction::new(Mail::default(), vec![rcpt], size)).unwrap();
    }

    /// What comes until the session waits; all is sent.
    pub(crate) fn drain(&mut self) -> (Vec<Bytes>, Vec<String>) {
        let found = self.poll();
        self.sent(found.0.iter().map(Bytes::len).sum());
        found
    }

    /// The same, with nothing sent.
    pub(crate) fn poll(&mut self) -> (Vec<Bytes>, Vec<String>) {
        let (mut writes, mut events) = (Vec::new(), Vec::new());
        loop {
            match self.session.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => writes.push(octets),
                Output::Event(event) => events.push(show(&event)),
                Output::Wait { .. } | Output::Closed => return (writes, events),
                Output::StartTls => panic!("no TLS here"),
            }
        }
    }

    fn until(&mut self) -> Option<Duration> {
        match self.session.poll() {
            Output::Wait { until } => until.map(|at| at - self.now),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) const WANT: &str = "WantBody { transaction: 1 }";

#[test]
fn content_of_another_size_than_declared_never_becomes_a_message() {
    for ehlo in [PIPELINING, CHUNKING] {
        for (chunk, end, misuse) in [("12345", false, Misuse::TooLong), ("123", true, Misuse::TooShort)] {
            let mut bare = Bare::new(config(), ehlo);
            bare.begin(4);
            assert_eq!(bare.session.body("1234".into()), Err(Misuse::NotWanted));
            bare.drain();
            if ehlo == PIPELINING {
                bare.say("250 ok\r\n250 ok\r\n354 go\r\n");
                assert_eq!(bare.drain().1, [WANT]);
            }
            let given = bare.session.body(chunk.into());
            assert_eq!(if end { bare.session.end_body() } else { given }, Err(misuse));
            let (writes, events) = bare.poll();
            assert!(writes.is_empty(), "{writes:?}");
            assert_eq!(events, ["done 1 not-attempted", "failed Abandoned"]);
            assert!(matches!(bare.session.poll(), Output::Closed));
            assert_eq!(bare.session.body("1".into()), Err(Misuse::NotWanted));
            assert_eq!(bare.session.end_body(), Err(Misuse::NotWanted));
        }
    }
}

#[test]
fn no_more_content_is_asked_for_than_the_transport_takes() {
    let mut bare = Bare::new(config(), PIPELINING);
    bare.begin(10_000_000);
    bare.drain();
    bare.say("250 ok\r\n250 ok\r\n354 go\r\n");
    let mut held = 0;
    while bare.poll().1 == [WANT] {
        bare.session.body(vec![b'x'; 10_000].into()).unwrap();
        held += 10_000;
    }
    assert!((256 * 1024..256 * 1024 + 10_000).contains(&held), "{held}");
    assert_eq!(bare.session.body("x".into()), Err(Misuse::NotWanted));
    bare.sent(held - 200_000);
    assert_eq!(bare.poll().1, [WANT]);
}

#[test]
fn small_chunks_share_a_write_and_large_ones_are_not_copied() {
    let mut bare = Bare::new(config(), CHUNKING);
    bare.begin(20);
    for _ in 0..2 {
        assert!(matches!(bare.session.poll(), Output::Event(Event::WantBody { .. })));
        bare.session.body("12345678\r\n".into()).unwrap();
    }
    bare.session.end_body().unwrap();
    assert_eq!(bare.drain().0.len(), 1);
    for ehlo in [CHUNKING, PIPELINING] {
        let mut bare = Bare::new(config(), ehlo);
        let large = Bytes::from("x".repeat(98) + "\r\n").repeat(1000);
        let large = Bytes::from(large);
        bare.begin(large.len() as u64);
        if ehlo == PIPELINING {
            bare.drain();
            bare.say("250 ok\r\n250 ok\r\n354 go\r\n");
        }
        assert!(matches!(bare.session.poll(), Output::Event(Event::WantBody { .. })));
        bare.session.body(large.clone()).unwrap();
        bare.session.end_body().unwrap();
        assert!(bare.drain().0.iter().any(|write| write.as_ptr() == large.as_ptr()));
    }
}

#[test]
fn every_wait_has_the_time_of_its_phase() {
    // RFC 5321 §4.5.3.2
    let seconds = |s| Some(Duration::from_secs(s));
    #[allow(clippy::disallowed_methods, reason = "some instant is needed to count from")]
    let now = Instant::now();
    let mut bare = Bare { session: Session::new(config(), now), now };
    assert_eq!(bare.until(), seconds(300));
    bare.say("220 mx\r\n");
    bare.drain();
    assert_eq!(bare.until(), seconds(300));
    bare.say(PIPELINING);
    bare.drain();
    assert_eq!(bare.until(), None);
    bare.now += Duration::from_secs(3600);
    bare.begin(4);
    let (writes, _) = bare.poll();
    // Nothing was said about the time since; it is found out before it counts.
    bare.session.handle(bare.now, Input::Timeout);
    assert_eq!(bare.until(), seconds(180));
    bare.now += Duration::from_secs(100);
    bare.sent(writes[0].len());
    assert_eq!(bare.until(), seconds(300));
    bare.say("250 ok\r\n");
    bare.now += Duration::from_secs(100);
    assert_eq!(bare.until(), seconds(200));
    bare.say("250 ok\r\n");
    assert_eq!(bare.until(), seconds(120));
    bare.say("354 go\r\n");
    assert_eq!(bare.poll().1, [WANT]);
    assert_eq!(bare.until(), seconds(180));
    bare.session.body("Hi\r\n".into()).unwrap();
    bare.session.end_body().unwrap();
    bare.poll();
    bare.now += Duration::from_secs(100);
    bare.sent(6);
    assert_eq!(bare.until(), seconds(180));
    bare.sent(1);
    assert_eq!(bare.until(), seconds(600));
    // Neither half a reply nor a timer that fires early is progress.
    bare.now += Duration::from_secs(599);
    bare.say("25");
    bare.session.handle(bare.now, Input::Timeout);
    assert_eq!(bare.until(), seconds(1));
    bare.now += Duration::from_secs(1);
    bare.session.handle(bare.now, Input::Timeout);
    assert_eq!(bare.poll().1, ["done 1 unknown", "failed TimedOut"]);
}

#[test]
fn what_is_sent_behind_does_not_lengthen_the_wait_for_what_is_in_front() {
    let mut bare = Bare::new(config(), CHUNKING);
    bare.begin(4);
    bare.drain();
    bare.session.body("Hi\r\n".into()).unwrap();
    bare.session.end_body().unwrap();
    bare.drain();
    bare.now += Duration::from_secs(200);
    bare.begin(4);
    bare.poll();
    bare.sent(1);
    assert_eq!(bare.until(), Some(Duration::from_secs(100)));
}

#[test]
fn unknown_begins_with_the_last_octet() {
    for (lacking, result) in [(1, "not-attempted"), (0, "unknown")] {
        let mut peer = ready(CHUNKING);
        peer.host(&format!("stall {}", flight_len() - lacking));
        peer.host("send a");
        peer.host("eof");
        assert_eq!(peer.events[1], format!("done 1 {result}"));
        let mut peer = ready(PIPELINING);
        peer.host("send a");
        peer.host(&format!("stall {}", "Hi\r\n.\r\n".len() - lacking));
        peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
        peer.host("eof");
        assert_eq!(peer.events[1], format!("done 1 {result}"));
    }
}

fn flight_len() -> usize {
    "MAIL FROM:<s@a.test>\r\nRCPT TO:<a@x.test>\r\nBDAT 4 LAST\r\nHi\r\n".len()
}

#[test]
fn more_sent_than_was_polled_is_not_believed() {
    let mut bare = Bare::new(config(), CHUNKING);
    bare.begin(4);
    assert!(matches!(bare.session.poll(), Output::Event(Event::WantBody { .. })));
    bare.session.body("Hi\r\n".into()).unwrap();
    bare.session.end_body().unwrap();
    bare.sent(1_000_000);
    bare.session.handle(bare.now, Input::Eof);
    assert_eq!(bare.poll().1, ["done 1 not-attempted", "failed Lost"]);
}

#[test]
fn content_can_be_refused_before_its_end_and_never_accepted() {
    for (reply, result) in [
        ("250 taken", "not-attempted"),
        ("354 what", "not-attempted"),
        ("552 too much", "Content=552"),
        ("452 full", "Content=452"),
        ("421 bye", "Content=421"),
    ] {
        for ehlo in [PIPELINING, CHUNKING] {
            let mut peer = ready(ehlo);
            if ehlo == CHUNKING {
                peer.host(&format!("stall {}", flight_len() - 1));
                peer.host("send a");
                peer.say(&format!("250 ok\r\n250 ok\r\n{reply}\r\n"));
            } else {
                peer.host("send a");
                peer.host("stall 6");
                peer.say(&format!("250 ok\r\n250 ok\r\n354 go\r\n{reply}\r\n"));
            }
            assert_eq!(peer.events[1], format!("done 1 {result}"), "{ehlo} {reply}");
            assert!(peer.session.is_closed());
        }
    }
}

#[test]
fn a_window_is_never_larger_than_its_bound() {
    let mut config = config();
    config.window = usize::MAX;
    let mut peer = Peer::new(&config);
    peer.say("220 mx\r\n");
    peer.say(CHUNKING);
    for _ in 0..64 {
        peer.host("send a");
    }
    assert_eq!(peer.events, ["ready"]);
    peer.host("send a");
    assert_eq!(peer.events.last().unwrap(), "NotReady");
}

#[test]
fn a_window_of_one_or_none_is_one() {
    for window in [0, 1] {
        let mut config = config();
        config.window = window;
        let mut peer = Peer::new(&config);
        peer.say("220 mx\r\n");
        peer.say(CHUNKING);
        peer.host("send a");
        peer.host("send b");
        assert_eq!(peer.events.last().unwrap(), "NotReady");
        peer.say("250 ok\r\n250 ok\r\n250 taken\r\n");
        peer.host("send b");
        assert_eq!(peer.events.last().unwrap(), "done 1 Content=250");
    }
}

#[test]
fn options_turn_pipelining_and_chunking_off() {
    let mut config = config();
    config.chunking = false;
    let mut peer = Peer::new(&config);
    peer.say("220 mx\r\n");
    peer.say(CHUNKING);
    peer.host("send a");
    assert!(peer.wire.ends_with("RCPT TO:<a@x.test>\r\nDATA\r\n"));
    config.pipelining = false;
    config.chunking = true;
    let mut peer = Peer::new(&config);
    peer.say("220 mx\r\n");
    peer.say(CHUNKING);
    peer.host("send a");
    assert!(peer.wire.ends_with("MAIL FROM:<s@a.test>\r\n"));
}

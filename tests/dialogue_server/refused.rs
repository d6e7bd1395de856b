//! A client that is refused before the greeting (RFC 5321 §3.1, RFC 7504 §3).

use std::time::Duration;

use postroad::smtp::reply::Reply;

use crate::dsl::{Peer, config, reply};

fn refused(code: u16) -> Peer {
    let mut peer = Peer::silent(&config());
    peer.session.refuse(&reply(code, (5, 3, 2), "No mail here"), peer.now);
    peer.pump();
    assert_eq!(peer.said, format!("{code} 5.3.2 No mail here\r\n"));
    peer.said.clear();
    peer
}

#[test]
fn a_refused_client_may_take_its_leave() {
    for code in [521, 554] {
        let mut peer = refused(code);
        assert!(!peer.over);
        peer.feed(b"EHLO me\r\nMAIL FROM:<>\r\n");
        let replies: Vec<&str> = peer.said.lines().map(|line| &line[..9]).collect();
        assert_eq!(replies, ["503 5.5.1"; 2]);
        peer.said.clear();
        peer.feed(b"QUIT\r\n");
        assert_eq!(peer.said, "221 2.0.0 Bye\r\n");
        assert!(peer.over);
        assert_eq!(peer.events, ["quit"]);
    }
}

#[test]
fn a_refused_client_is_not_listened_to_for_ever() {
    let mut peer = refused(554);
    peer.feed(&b"NOOP\r\n".repeat(5));
    assert_eq!(peer.said.matches("503 5.5.1").count(), 5);
    peer.feed(b"NOOP\r\n");
    assert!(peer.said.ends_with("421 4.7.0 Too many errors, closing connection\r\n") && peer.over);

    // Ten seconds in all, whatever it says.
    let mut peer = refused(554);
    peer.pass(Duration::from_secs(9));
    peer.feed(b"NOOP\r\n");
    peer.pass(Duration::from_secs(1));
    assert!(peer.said.ends_with("421 4.4.2 Timed out, closing connection\r\n") && peer.over);

    let mut peer = refused(554);
    peer.feed(b"BDAT 1000000\r\nxxx");
    assert!(peer.said.starts_with("503 5.5.1") && peer.over);
}

#[test]
fn a_refusal_that_is_not_for_good_closes_at_once() {
    let mut peer = Peer::silent(&config());
    peer.session.refuse(&reply(421, (4, 3, 2), "Later"), peer.now);
    peer.pump();
    assert_eq!(peer.said, "421 4.3.2 Later\r\n");
    assert!(peer.over);

    // RFC 2034 §4
    let mut peer = Peer::silent(&config());
    peer.session.close(&Reply::plain(421, "Later"));
    peer.pump();
    assert_eq!(peer.said, "421 4.0.0 Later\r\n");
}

#[test]
fn a_client_that_talks_before_its_refusal_is_refused_for_that() {
    let mut peer = Peer::silent(&config());
    peer.session.refuse(&reply(554, (5, 7, 1), "Not you"), peer.now);
    peer.feed(b"EHLO me\r\n");
    assert_eq!(peer.said, "554 5.5.1 Client talked before its turn, closing connection\r\n");
    assert!(peer.over);
}

#[test]
fn a_client_that_hangs_up_on_a_refusal_leaves_nothing_behind() {
    let mut peer = refused(554);
    peer.eof();
    assert!(peer.over && peer.said.is_empty());
}

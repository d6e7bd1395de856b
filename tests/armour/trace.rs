//! What those see who look: the dialogue without secrets.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postroad::server::{Peer, ServerOptions};
use postroad::smtp::server::AuthOffer;

use super::{FLIGHT, options, pipe};

type Lines = Arc<Mutex<Vec<String>>>;

fn traced() -> (ServerOptions, Lines) {
    let lines = Lines::default();
    let sink = Arc::clone(&lines);
    let mut options = options();
    options.session.auth = AuthOffer::Always;
    options.trace = Some(Arc::new(move |peer: &Peer| {
        let sink = Arc::clone(&sink);
        let looked_at = peer.address.ip().to_string() == "192.0.2.1";
        looked_at.then(|| {
            Arc::new(move |line: postroad::net::TraceLine<'_>| {
                sink.lock().unwrap().push(line.to_string());
            }) as postroad::net::TraceFn
        })
    }));
    (options, lines)
}

/// A secret in every form in which it may be on its way.
fn forms(user: &str, secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned(), STANDARD.encode(secret), STANDARD.encode(user)];
    for whole in [format!("\0{user}\0{secret}"), format!("{user}\0{user}\0{secret}")] {
        forms.push(STANDARD.encode(whole));
    }
    forms
}

#[tokio::test]
async fn credentials_and_content_never_show_in_a_servers_trace() {
    let encode = |text: &str| STANDARD.encode(text);
    let plain = encode("\0ada\0s3cret");
    let (user, secret) = (encode("ada"), encode("s3cret"));
    for (talk, shown) in [
        (format!("AUTH PLAIN {plain}\r\n"), "C: AUTH PLAIN"),
        (format!("auth plain\r\n{plain}\r\n"), "S: 334 ********"),
        (format!("AUTH LOGIN\r\n{user}\r\n{secret}\r\n"), "S: 334 ********"),
        (format!("AUTH LOGIN {user}\r\n{secret}\r\n"), "S: 235"),
        // What is wrong with them does not make them less secret.
        (format!("AUTH LOGIN {user} {secret}\r\n"), "S: 501"),
        (format!("AUTH {secret}\r\n{plain}\r\n"), "S: 504"),
        (format!("AUTH FOO {plain}\r\n"), "S: 504"),
        (format!("AUTH PLAIN *\r\n{plain}\r\n"), "S: 501"),
        (format!("AUTHPLAIN {plain}\r\n"), "S: 500"),
        (format!(" AUTH PLAIN {plain}\r\n"), "S: 500"),
        (format!("AUTH PLAIN {plain}\n\r\n"), "S: 500"),
        (format!("AUTH PLAIN\r\n{plain}\n\r\n"), "S: 500"),
        (format!("AUTH PLAIN {plain}{}\r\n", "A".repeat(13_000)), "S: 500"),
        (format!("MAIL FROM:<>\r\nAUTH PLAIN {plain}\r\n"), "S: 503"),
        (format!("AUTH PLAIN {plain}\r\nAUTH PLAIN {plain}\r\n{plain}\r\n"), "S: 503"),
    ] {
        for cut in [talk.len(), talk.len() / 2, 3] {
            let (options, lines) = traced();
            let mut client = pipe(&Arc::default(), options, "192.0.2.1");
            client.expect(&["220"]).await;
            client.ask("EHLO c.test", "250").await;
            client.send(&talk[..cut]).await;
            tokio::task::yield_now().await;
            client.send(&talk[cut..]).await;
            client.send("QUIT\r\n").await;
            client.rest().await;
            let lines = lines.lock().unwrap().join("\n");
            for form in forms("ada", "s3cret") {
                assert!(!lines.contains(&form), "{form} of {talk:?} in\n{lines}");
            }
            for shown in ["S: 220 mx.test", "C: EHLO c.test", "S: 250", shown] {
                assert!(lines.contains(shown), "{shown} of {talk:?} in\n{lines}");
            }
        }
    }
}

#[tokio::test]
async fn content_shows_in_a_servers_trace_as_a_number() {
    let (options, lines) = traced();
    let mut client = pipe(&Arc::default(), options, "192.0.2.1");
    client.expect(&["220"]).await;
    client.ask("EHLO c.test", "250").await;
    client.send(format!("{FLIGHT}Subject: whisper\r\n\r\nwhisper\r\n.\r\n")).await;
    client.expect(&["250", "250", "354", "250"]).await;
    client.send("MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nBDAT 9 LAST\r\nwhisper\r\nQUIT\r\n").await;
    client.rest().await;
    let lines = lines.lock().unwrap().join("\n");
    assert!(!lines.contains("whisper"), "{lines}");
    for shown in ["C: MAIL FROM:<a@x.test>", "C: (32 more octets)", "C: (9 more octets)", "C: QUIT", "S: 221"]
    {
        assert!(lines.contains(shown), "{shown} in\n{lines}");
    }
}

#[tokio::test]
async fn only_the_sessions_that_were_asked_for_are_traced() {
    let (options, lines) = traced();
    let mut client = pipe(&Arc::default(), options, "192.0.2.2");
    client.expect(&["220"]).await;
    client.ask("QUIT", "221").await;
    assert!(lines.lock().unwrap().is_empty());
}

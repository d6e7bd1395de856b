//! The protocol without a runtime: drive a session over any octets that you can read and write.
//!
//! `sans_io` lets a client session and a server session talk to each other in memory and prints what
//! passes between them. `sans_io HOST:PORT` drives the client session over a blocking socket.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::error::Misuse;
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::{Input, Output, client, server};

const MAIL: &[u8] =
    b"From: a@sender.example\r\nSubject: hello\r\n\r\nOne line.\r\n.A line that starts with a dot.\r\n";

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        None => in_memory(),
        Some(address) => over_a_socket(&address),
    }
}

fn client_session() -> Result<client::Session, Box<dyn Error>> {
    let mut config = client::Config::new(EhloName::new("client.example")?, client::TlsUse::Never);
    config.chunking = false; // so that the dots can be seen
    Ok(client::Session::new(config, now()))
}

fn transaction() -> Result<client::Transaction, Box<dyn Error>> {
    let from = ReversePath::parse("a@sender.example")?;
    let recipients = ["b@receiver.example", "nobody@receiver.example"];
    let recipients =
        recipients.iter().map(|to| ForwardPath::parse(to).map(Rcpt::new)).collect::<Result<_, _>>()?;
    Ok(client::Transaction::new(Mail::new(from), recipients, MAIL.len() as u64))
}

/// What a caller does with the client's events. True when the session is to end.
fn on_client_event(session: &mut client::Session, event: client::Event) -> Result<(), Box<dyn Error>> {
    match event {
        client::Event::Ready => {
            session.begin(transaction()?)?;
        }
        client::Event::WantBody { .. } => {
            session.body(Bytes::from_static(MAIL))?;
            session.end_body()?;
        }
        client::Event::Done { result, .. } => {
            for (number, recipient) in result.recipients.iter().enumerate() {
                println!("   recipient {number}: {recipient:?}");
            }
            session.quit(now());
        }
        client::Event::Failed(failure) => return Err(format!("{failure:?}").into()),
        _ => {}
    }
    Ok(())
}

/// Both roles in one thread, their octets in two buffers.
fn in_memory() -> Result<(), Box<dyn Error>> {
    let mut client = client_session()?;
    let mut server = server::Session::new(server::Config::new(EhloName::new("server.example")?), now());
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    let mut open = true;
    while open {
        loop {
            match server.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    show("S", &octets);
                    to_client.extend_from_slice(&octets);
                    server.handle(now(), Input::Sent(octets.len()));
                }
                Output::Event(event) => {
                    on_server_event(&mut server, event)?;
                    server.handle(now(), Input::Data(&mut to_server));
                }
                Output::StartTls | Output::Wait { .. } | Output::Closed => break,
            }
        }
        client.handle(now(), Input::Data(&mut to_client));
        loop {
            match client.poll() {
                Output::Send(octets) | Output::SendSecret(octets) => {
                    show("C", &octets);
                    to_server.extend_from_slice(&octets);
                    client.handle(now(), Input::Sent(octets.len()));
                }
                Output::Event(event) => on_client_event(&mut client, event)?,
                Output::Closed => {
                    open = false;
                    break;
                }
                Output::StartTls | Output::Wait { .. } => break,
            }
        }
        server.handle(now(), Input::Data(&mut to_server));
    }
    Ok(())
}

/// What a server's host program decides.
fn on_server_event(session: &mut server::Session, event: server::Event) -> Result<(), Misuse> {
    let ok = |text| Reply::new(250, EnhancedCode::new(2, 0, 0), text);
    match event {
        server::Event::Rcpt(rcpt) if rcpt.to.to_string().starts_with("<nobody@") => {
            session.respond(Reply::new(550, EnhancedCode::new(5, 1, 1), "no such mailbox"))
        }
        server::Event::Mail(_) | server::Event::Rcpt(_) => session.respond(ok("fine")),
        server::Event::MessageEnd => session.respond(ok("kept")),
        _ => Ok(()),
    }
}

/// The same client session over a blocking socket: this loop is all there is to a driver.
fn over_a_socket(address: &str) -> Result<(), Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut session = client_session()?;
    let mut input = BytesMut::new();
    loop {
        match session.poll() {
            Output::Send(octets) | Output::SendSecret(octets) => {
                show("C", &octets);
                stream.write_all(&octets)?;
                session.handle(now(), Input::Sent(octets.len()));
            }
            Output::Event(event) => on_client_event(&mut session, event)?,
            Output::StartTls => return Err("this example brings no TLS".into()),
            Output::Closed => return Ok(()),
            Output::Wait { until } => {
                stream.set_read_timeout(until.map(|until| until.saturating_duration_since(now())))?;
                let mut piece = [0; 4096];
                match stream.read(&mut piece) {
                    Ok(0) => session.handle(now(), Input::Eof),
                    Ok(n) => {
                        let octets = piece.get(..n).unwrap_or_default();
                        show("S", octets);
                        input.extend_from_slice(octets);
                        session.handle(now(), Input::Data(&mut input));
                    }
                    Err(_) => session.handle(now(), Input::Timeout),
                }
            }
        }
    }
}

fn show(who: &str, octets: &[u8]) {
    for line in String::from_utf8_lossy(octets).lines() {
        println!("{who}: {line}");
    }
}

#[allow(clippy::disallowed_methods, reason = "the outermost program is where time comes from")]
fn now() -> Instant {
    Instant::now()
}

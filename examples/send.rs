//! Sends one message and says what became of it for each recipient.
//!
//! `echo Hello | cargo run --example send -- --from ada@example.org --to bob@example.net` delivers to the
//! hosts of example.net; with `--via HOST:PORT` the message goes through a relay. One line a recipient is
//! printed: `delivered`, `deferred`, `refused` or `unknown`, the host, the TLS version (`clear` when there
//! was none, `-` when it is not known) and the reply. The program ends with 0 when all were delivered,
//! with 1 when not, and with 2 when nothing could be tried.

mod common;

use std::error::Error;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use mail_builder::MessageBuilder;
use postroad::attempt::{Cause, MailerOptions, Outcome, SendError};
use postroad::hop::{Host, Require, TlsStart};
use postroad::message::{Envelope, Enveloped, RawMessage};
use postroad::route::{Hosts, MxOptions};
use postroad::smtp::address::{ForwardPath, ReversePath};
use postroad::smtp::params::Rcpt;
use postroad::{Credentials, EhloName, Mailer, MxResolver};

/// Send one message. The body is read from stdin unless --file is given.
#[derive(Parser)]
struct Flags {
    /// The sender, who is told when it cannot be delivered.
    #[arg(long, value_name = "ADDRESS", value_parser = ReversePath::parse)]
    from: ReversePath,
    /// A recipient; may be given again.
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = ForwardPath::parse)]
    to: Vec<ForwardPath>,
    /// The relay to send through; default: the mail hosts of each recipient's domain.
    #[arg(long, value_name = "HOST:PORT", value_parser = common::host)]
    via: Option<Host>,
    /// What TLS the host must show. Default: opportunistic, and verify with --user.
    #[arg(long, value_name = "POLICY")]
    tls: Option<TlsPolicy>,
    /// Log in to the relay under this name.
    #[arg(long, requires_all = ["password", "via"])]
    user: Option<String>,
    /// Its password.
    #[arg(long, requires = "user")]
    password: Option<String>,
    /// The subject.
    #[arg(long)]
    subject: Option<String>,
    /// Attach this file; may be given again.
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// Send this file, header and body; Date and Message-ID are added where they are missing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["subject", "attach"])]
    file: Option<PathBuf>,
    /// Show the dialogue on stderr, without credentials.
    #[arg(long)]
    trace: bool,
    /// The name given in EHLO; default: the sender's domain, or the address literal of loopback.
    #[arg(long, value_name = "NAME", value_parser = EhloName::new)]
    ehlo: Option<EhloName>,
    /// The DNS server to ask; default: the system's.
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "via")]
    resolver: Option<SocketAddr>,
    /// The port of MX hosts; for tests.
    #[arg(long, value_name = "PORT", default_value_t = 25)]
    mx_port: u16,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum TlsPolicy {
    /// Do not even try.
    None,
    /// Use it where it is offered.
    Opportunistic,
    /// Demand a certificate that is valid for the host's name.
    Verify,
    /// The same, and from the first octet on (port 465).
    Implicit,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let flags: Flags = common::flags();
    common::log();
    let mailer = flags.mailer().unwrap_or_else(|error| common::refuse(error));
    let results = flags.send(&mailer).await.unwrap_or_else(|error| common::refuse(error));
    let mut out = std::io::stdout().lock();
    let mut complete = true;
    for (to, outcome) in &results {
        complete &= matches!(outcome, Outcome::Delivered(_));
        // Whoever reads us may have gone away; the exit code still counts.
        let _ = writeln!(out, "{}", line(to, outcome));
    }
    std::process::exit(i32::from(!complete))
}

impl Flags {
    fn mailer(&self) -> Result<Mailer, Box<dyn Error>> {
        let tls = match (self.tls, &self.user) {
            (Some(TlsPolicy::None), Some(_)) => return Err("--user needs TLS".into()),
            (Some(tls), _) => tls,
            (None, Some(_)) => TlsPolicy::Verify,
            (None, None) => TlsPolicy::Opportunistic,
        };
        let require = match tls {
            TlsPolicy::None => Require::Cleartext,
            TlsPolicy::Opportunistic => Require::Opportunistic,
            TlsPolicy::Verify | TlsPolicy::Implicit => Require::Verified,
        };
        let mailer = match &self.via {
            Some(host) => {
                let mut host = host.clone();
                if tls == TlsPolicy::Implicit {
                    host.tls_start = TlsStart::Implicit;
                }
                Mailer::new(Hosts::new(vec![host], require), MailerOptions::new())?
            }
            None if tls == TlsPolicy::Implicit => return Err("--tls implicit needs --via".into()),
            None => {
                let mut mx = MxOptions::new();
                mx.servers = self.resolver.into_iter().collect();
                mx.port = self.mx_port;
                mx.require = require;
                let ehlo = self.ehlo().ok_or("--ehlo is needed: the sender has no domain")?;
                Mailer::direct(MxResolver::new(mx)?, ehlo)?
            }
        };
        Ok(mailer.configured(|options| {
            let client = &mut options.carrier.client;
            if let Some(ehlo) = self.ehlo() {
                client.session.ehlo = ehlo;
            }
            if let (Some(user), Some(password)) = (&self.user, &self.password) {
                client.session.credentials = Some(Credentials::new(user.as_str(), password.as_str()));
            }
            if self.trace {
                client.trace = Some(Arc::new(|line| eprintln!("{line}")));
            }
        })?)
    }

    fn ehlo(&self) -> Option<EhloName> {
        let sender = self.from.mailbox().and_then(|from| EhloName::new(from.domain().as_str()).ok());
        self.ehlo.clone().or(sender)
    }

    /// The message on its way, and what became of it; a relay that cannot be used is an answer for all.
    async fn send(&self, mailer: &Mailer) -> Result<Vec<(ForwardPath, Outcome)>, Box<dyn Error>> {
        let envelope = Envelope::new(self.from.clone(), self.to.iter().cloned().map(Rcpt::new).collect());
        let sent = match &self.file {
            Some(file) => mailer.send(RawMessage::new(envelope, common::read(file)?)).await,
            None => mailer.send(Enveloped { envelope, builder: self.message()? }).await,
        };
        match sent {
            Ok(delivery) => Ok(delivery.recipients),
            Err(SendError::Unreachable(cause)) => {
                let outcome = Outcome::unreachable(cause);
                Ok(self.to.iter().map(|to| (to.clone(), outcome.clone())).collect())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn message(&self) -> Result<MessageBuilder<'static>, Box<dyn Error>> {
        let from = self.from.mailbox().ok_or("a message from nobody needs --file")?;
        let to: Vec<_> = self.to.iter().filter_map(ForwardPath::mailbox).map(ToString::to_string).collect();
        let mut body = String::new();
        std::io::stdin().read_to_string(&mut body).map_err(|error| format!("stdin: {error}"))?;
        let mut message = MessageBuilder::new().from(from.to_string()).to(to).text_body(body);
        if let Some(subject) = &self.subject {
            message = message.subject(subject.clone());
        }
        for path in &self.attach {
            let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
            message = message.attachment("application/octet-stream", name.into_owned(), common::read(path)?);
        }
        Ok(message)
    }
}

/// `refused <bob@example.net> mx.example.net:25 - 550 5.1.1 no such mailbox`
fn line(to: &ForwardPath, outcome: &Outcome) -> String {
    let word = match outcome {
        Outcome::Delivered(_) => "delivered",
        Outcome::Deferred(Cause::Unknown { .. }) => "unknown",
        Outcome::Deferred(_) => "deferred",
        Outcome::Failed(_) => "refused",
    };
    let (host, tls, reply) = match outcome {
        Outcome::Delivered(by) => {
            let tls = by.tls.as_ref().map_or("clear", |tls| &tls.version);
            (by.host.as_ref(), tls, by.reply.as_ref().map(ToString::to_string))
        }
        Outcome::Deferred(cause) | Outcome::Failed(cause) => {
            (cause.host(), "-", Some(cause.reply().map_or_else(|| cause.to_string(), ToString::to_string)))
        }
    };
    let host = host.map_or_else(|| "-".to_owned(), ToString::to_string);
    let reply = reply.unwrap_or_default();
    // A cause that is no reply names its host itself.
    let said = reply.strip_prefix(&host).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&reply);
    format!("{word} {to} {host} {tls} {said}")
}

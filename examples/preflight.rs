//! Looks at a sender's domain as receivers will, and says what they would refuse its mail for.
//!
//! `cargo run --example preflight -- --domain example.com --helo mail.example.com --address 192.0.2.1
//! --selector 2026a=key.txt` asks the system's name servers, or with `--resolver ADDR:PORT` another one. One
//! line a finding is printed: how bad it is (`fine`, `hint`, `warning`, `unasked`, `fault`), the check, the
//! name that was asked for, and what was found. The program ends with 0 when there is no fault and every
//! question was answered, with 1 when not, and with 2 when nothing could be tried.

mod common;

use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use clap::Parser;
use postroad::EhloName;
use postroad::preflight::{DkimKey, Preflight};
use postroad::route::dns::{DnsOptions, HickoryDns};
use postroad::smtp::address::Domain;

/// Check what DNS says about a sender, before its first message.
#[derive(Parser)]
struct Flags {
    /// The domain of the author.
    #[arg(long, value_name = "DOMAIN", value_parser = Domain::parse)]
    domain: Domain,
    /// The name given in EHLO.
    #[arg(long, value_name = "NAME", value_parser = EhloName::new)]
    helo: EhloName,
    /// An address that mail comes from, as others see it; may be given again.
    #[arg(long, value_name = "IP", required = true)]
    address: Vec<IpAddr>,
    /// A DKIM selector and its public key: a record, or a file with the record or with a public key in PEM;
    /// may be given again.
    #[arg(long, value_name = "S=FILE|RECORD")]
    selector: Vec<String>,
    /// The domain of the sender, to which reports go; default: that of the author.
    #[arg(long, value_name = "DOMAIN", value_parser = Domain::parse)]
    return_path: Option<Domain>,
    /// The DNS server to ask; default: the system's.
    #[arg(long, value_name = "ADDR:PORT")]
    resolver: Option<SocketAddr>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let flags: Flags = common::flags();
    common::log();
    let (preflight, dns) = flags.prepare().unwrap_or_else(|error| common::refuse(error));
    let findings = preflight.check(&dns).await;
    let mut out = std::io::stdout().lock();
    for finding in &findings {
        // Whoever reads us may have gone away; the exit code still counts.
        let _ = writeln!(out, "{finding}");
    }
    std::process::exit(i32::from(!findings.is_ready()))
}

impl Flags {
    fn prepare(self) -> Result<(Preflight, HickoryDns), Box<dyn Error>> {
        let keys = self.selector.iter().map(|text| key(text)).collect::<Result<_, _>>()?;
        let mut preflight = Preflight::new(self.domain, self.helo, self.address);
        preflight.keys = keys;
        preflight.return_path = self.return_path;
        let mut options = DnsOptions::new();
        options.servers = self.resolver.into_iter().collect();
        Ok((preflight, HickoryDns::new(options)?))
    }
}

/// `2026a=v=DKIM1; k=…; p=…` or `2026a=key.txt`
fn key(text: &str) -> Result<DkimKey, Box<dyn Error>> {
    let (selector, record) =
        text.split_once('=').ok_or_else(|| format!("'{text}' needs SELECTOR=FILE or SELECTOR=RECORD"))?;
    let record = if Path::new(record).is_file() {
        let text =
            String::from_utf8(common::read(Path::new(record))?).map_err(|_| format!("{record}: no text"))?;
        // A key in PEM is its value between two lines.
        text.lines().filter(|line| !line.starts_with("-----")).collect()
    } else {
        record.to_owned()
    };
    DkimKey::new(selector, &record).map_err(|error| format!("--selector {selector}: {error}").into())
}

//! What the example programs share: flags that several have, signals, a certificate for tests.
#![allow(dead_code, reason = "each example uses a part of it")]

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use postroad::hop::Host;
use postroad::net::tls::ServerTls;
use tokio::signal::unix::{SignalKind, signal};

/// The flags; a wrong one ends the program with 2 and a line that says why.
pub(crate) fn flags<F: Parser>() -> F {
    F::try_parse().unwrap_or_else(|error| {
        if !error.use_stderr() {
            // Help was asked for.
            error.exit()
        }
        let text = error.to_string();
        let line: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        eprintln!("{}", line.join(" "));
        std::process::exit(2)
    })
}

/// Ends the program with 2: what was asked for cannot be done.
pub(crate) fn refuse(why: impl std::fmt::Display) -> ! {
    eprintln!("error: {why}");
    std::process::exit(2)
}

/// Ends the program with 2: an address cannot be listened on.
pub(crate) fn refuse_start(error: &dyn Error) -> ! {
    match error.source() {
        Some(source) => refuse(format!("{error}: {source}")),
        None => refuse(error),
    }
}

/// Says that it listens, and where: `ready 127.0.0.1:2525 [::1]:2525`.
pub(crate) fn ready(addresses: &[SocketAddr]) {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    println!("ready {}", addresses.join(" "));
}

/// Logs to stderr what `RUST_LOG` asks for; warnings when it is not set.
pub(crate) fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Returns when SIGTERM or SIGINT comes. Call it early: from then on they do not kill.
pub(crate) fn terminated() -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// `1s`, `90s`, `1m`, `4h`, `5d`, `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("'{text}' is no duration such as 30s or 5d"))?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("'{text}' needs a unit: ms, s, m, h or d")),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| format!("'{text}' is too long"))
}

/// `1s,2s,4s`
pub(crate) fn durations(text: &str) -> Result<Vec<Duration>, String> {
    text.split(',').map(duration).collect()
}

/// `HOST:PORT`, where HOST is a name or an address (an IPv6 address in brackets).
pub(crate) fn host(text: &str) -> Result<Host, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Host::new(address.ip().into(), address.port()));
    }
    let (name, port) = text.rsplit_once(':').ok_or_else(|| format!("'{text}' needs HOST:PORT"))?;
    let name = name.parse().map_err(|error| format!("'{name}': {error}"))?;
    let port = port.parse().map_err(|_| format!("'{port}' is no port"))?;
    Ok(Host::new(name, port))
}

/// A certificate that nobody else trusts, for `hostname`, localhost and loopback.
pub(crate) fn self_signed(hostname: &str) -> Result<ServerTls, Box<dyn Error>> {
    let names = [hostname, "localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let made = rcgen::generate_simple_self_signed(names)?;
    Ok(ServerTls::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes())?)
}

/// A certificate chain and its key from PEM files.
pub(crate) fn certificate(chain: &Path, key: &Path) -> Result<ServerTls, Box<dyn Error>> {
    Ok(ServerTls::from_pem(&read(chain)?, &read(key)?)?)
}

/// A file; the error names it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

//! What the fuzz targets call. Plain functions, so that their corpus also runs as an ordinary test.
//!
//! A target is a function, its line in [`TARGETS`], a `[[bin]]` in `fuzz/Cargo.toml` and the file that
//! it names; `tests/corpus.rs` compares the three and runs whatever is in `fuzz/corpus`.

#[path = "fuzz_convert.rs"]
mod convert;
#[path = "fuzz_pair.rs"]
mod pair;
#[path = "fuzz_policies.rs"]
mod policies;
#[path = "fuzz_sessions.rs"]
mod sessions;
#[cfg(feature = "preflight")]
#[path = "fuzz_spf.rs"]
mod spf;
#[path = "fuzz_tls_rpt.rs"]
mod tls_reports;
#[path = "fuzz_values.rs"]
mod values;

use std::time::Instant;

pub use convert::conversion;
pub use pair::client_against_server;
pub use policies::sts;
pub use sessions::{client_session, server_session};
#[cfg(feature = "preflight")]
pub use spf::spf;
pub use tls_reports::tls_rpt;
pub use values::{auth, content, header, params, proxy, replies, report, values};

/// Takes any input and panics when something is wrong.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("auth", auth),
    ("client_against_server", client_against_server),
    ("client_session", client_session),
    ("content", content),
    ("conversion", conversion),
    ("header", header),
    ("params", params),
    ("proxy", proxy),
    ("replies", replies),
    ("report", report),
    ("server_session", server_session),
    #[cfg(feature = "preflight")]
    ("spf", spf),
    ("sts", sts),
    ("tls_rpt", tls_rpt),
    ("values", values),
];

fn has(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[allow(clippy::disallowed_methods, reason = "one reading; the sessions see only what is added to it")]
fn start() -> Instant {
    Instant::now()
}

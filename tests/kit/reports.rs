//! A reader of reports that somebody else wrote: Python's `email`.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Reads a report and prints what it found, one fact a line.
const READER: &str = r#"
import base64, email, email.policy, sys
data = sys.stdin.buffer.read()
policy = email.policy.SMTPUTF8
message = email.message_from_bytes(data, policy=policy)
def show(*words): print(*words, sep="|")
show("type", message.get_content_type(), message.get_param("report-type"))
show("auto", message["Auto-Submitted"])
show("to", message["To"].addresses[0].addr_spec)
show("defects", len(message.defects))
text, status, returned = message.get_payload()
show("parts", text.get_content_type(), status.get_content_type(), returned.get_content_type())
for part in (text, status, returned): show("defects", len(part.defects))
# The octets of the parts, as the boundary divides them.
raw = data.split(b"\r\n--" + message.get_boundary().encode())
assert raw[-1].strip() == b"--" and len(raw) == 5, raw
def octets(place, part):
    body = raw[place + 1].split(b"\r\n\r\n", 1)[1]
    return base64.b64decode(body) if part["Content-Transfer-Encoding"] == "base64" else body
if status.get_content_type() == "message/delivery-status":
    blocks = status.get_payload()
else:
    blocks = [email.message_from_bytes(b, policy=policy) for b in octets(1, status).strip().split(b"\r\n\r\n")]
for block in blocks:
    show("block", *[name for name, _ in block.items()])
    for name in ("Original-Envelope-Id", "Deliver-By-Date", "Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Will-Retry-Until"):
        if block[name] is not None: show(name, " ".join(block[name].split()))
show("subject", email.message_from_bytes(octets(2, returned), policy=policy)["Subject"])
"#;

/// What Python says of a report; `None` where there is no Python.
pub fn read(report: &[u8]) -> Option<String> {
    let mut python = Command::new("python3");
    python.args(["-X", "utf8", "-c", READER]);
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = match python.spawn() {
        Ok(child) => child,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "python3 is needed: {error}");
            eprintln!("SKIPPED, nothing was tested: python3 does not start: {error}");
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(report).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(report));
    Some(String::from_utf8(output.stdout).unwrap())
}

//! Where policies outlive the process: after a restart they count as before (RFC 8461 §10.2 says what
//! somebody on the way could do to a sender that has forgotten them).

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::StsPolicy;
use crate::BoxFuture;
use crate::clock::Timestamp;
use crate::smtp::address::Domain;

/// A policy, whose it is, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicy {
    /// The domain that published it.
    pub domain: Domain,
    /// What it says.
    pub policy: Arc<StsPolicy>,
    /// When it was fetched: its lifetime counts from then.
    pub fetched: Timestamp,
}

/// Keeps policies.
pub trait StsStore: Send + Sync + fmt::Debug + 'static {
    /// All that is kept, asked once before the first look-up. What cannot be read is left out.
    fn load(&self) -> BoxFuture<'_, Vec<StoredPolicy>>;

    /// Keeps a policy in place of an earlier one of its domain.
    ///
    /// # Errors
    /// When it could not be written; the earlier one is there then.
    ///
    /// # Cancel safety
    /// Either policy is kept, and none is damaged.
    fn keep(&self, stored: StoredPolicy) -> BoxFuture<'_, io::Result<()>>;

    /// Forgets a domain's policy, if it is there and can be.
    fn forget(&self, domain: Domain) -> BoxFuture<'_, ()>;
}

/// A folder with one small file for each domain. A file is written beside its place and moved there, so
/// that it is whole or is not there; one that is damaged is as if it were not there.
#[derive(Debug, Clone)]
pub struct StsFolder {
    path: PathBuf,
}

impl StsFolder {
    /// The folder at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    fn file(&self, domain: &Domain) -> PathBuf {
        // A domain can be longer than the name of a file.
        self.path.join(format!("{}.{SUFFIX}", hex(&Sha256::digest(domain.as_str()), 16)))
    }

    fn read_all(&self) -> io::Result<Vec<StoredPolicy>> {
        let mut paths = BTreeSet::new();
        for entry in fs::read_dir(&self.path)?.take(MAX_FILES) {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(SUFFIX) => _ = paths.insert(path),
                // A write that a crash has cut off.
                Some(UNFINISHED) => _ = fs::remove_file(path),
                _ => {}
            }
        }
        let read = |path: PathBuf| {
            let mut text = String::new();
            File::open(&path).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
            let stored = parse(&text);
            if stored.is_none() {
                tracing::warn!(file = %path.display(), "damaged MTA-STS policy left out");
            }
            stored
        };
        Ok(paths.into_iter().filter_map(read).collect())
    }

    fn write(&self, stored: &StoredPolicy) -> io::Result<()> {
        let path = self.file(&stored.domain);
        let beside = path.with_extension(UNFINISHED);
        let mut file = File::create(&beside)?;
        file.write_all(print(stored).as_bytes())?;
        file.sync_all()?;
        drop(file);
        fs::rename(beside, path)
    }
}

impl StsStore for StsFolder {
    fn load(&self) -> BoxFuture<'_, Vec<StoredPolicy>> {
        let folder = self.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || folder.read_all()).await;
            match read.map_err(io::Error::other).flatten() {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "the stored MTA-STS policies cannot be read");
                    Vec::new()
                }
            }
        })
    }

    fn keep(&self, stored: StoredPolicy) -> BoxFuture<'_, io::Result<()>> {
        let folder = self.clone();
        Box::pin(async move {
            let written = tokio::task::spawn_blocking(move || folder.write(&stored)).await;
            written.map_err(io::Error::other).flatten()
        })
    }

    fn forget(&self, domain: Domain) -> BoxFuture<'_, ()> {
        let file = self.file(&domain);
        Box::pin(async move {
            // It would be left out when it is next read: its lifetime is over, or it is one too many.
            let _ = tokio::task::spawn_blocking(move || fs::remove_file(file)).await;
        })
    }
}

/// The digest of the rest, whose it is, since when, its id, and the policy as it was fetched.
fn print(stored: &StoredPolicy) -> String {
    let StoredPolicy { domain, policy, fetched } = stored;
    let rest =
        format!("{FORMAT}\n{domain}\n{}\n{}\n{}\n", fetched.as_millis(), policy.id, policy.lines.join("\n"));
    format!("{}\n{rest}", hex(&Sha256::digest(&rest), 32))
}

fn parse(text: &str) -> Option<StoredPolicy> {
    let (digest, rest) = text.split_once('\n')?;
    if digest != hex(&Sha256::digest(rest), 32) {
        return None;
    }
    let mut parts = rest.splitn(5, '\n');
    if parts.next()? != FORMAT {
        return None;
    }
    let domain = Domain::parse(parts.next()?).ok()?;
    let fetched = Timestamp::from_millis(parts.next()?.parse().ok()?);
    let id = parts.next()?;
    let policy = StsPolicy::parse(id, parts.next()?.as_bytes()).ok()?;
    Some(StoredPolicy { domain, policy: Arc::new(policy), fetched })
}

/// The first octets in hexadecimal.
fn hex(octets: &[u8], count: usize) -> String {
    octets.iter().take(count).fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

const FORMAT: &str = "postroad-sts 1";
const SUFFIX: &str = "sts";
const UNFINISHED: &str = "tmp";
/// A policy of 64 KiB with what stands before it.
const MAX_FILE: u64 = 66 * 1024;
/// More than is ever kept.
const MAX_FILES: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"version: STSv1\r\nmode: enforce\r\nmx: *.a.test\r\nmax_age: 86400\r\n";

    fn stored(domain: &str) -> StoredPolicy {
        let policy = StsPolicy::parse("20260101", TEXT).unwrap();
        let domain = Domain::parse(domain).unwrap();
        StoredPolicy { domain, policy: Arc::new(policy), fetched: Timestamp::from_millis(1_700_000_000_123) }
    }

    #[test]
    fn a_file_is_what_was_kept_or_nothing() {
        let kept = stored("a.test");
        let text = print(&kept);
        assert_eq!(parse(&text), Some(kept));
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), None, "cut at {end}");
        }
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            assert_eq!(std::str::from_utf8(&damaged).ok().and_then(parse), None, "damaged at {at}");
        }
    }

    #[tokio::test]
    async fn a_folder_gives_back_what_it_keeps_and_leaves_out_what_is_damaged() {
        let home = tempfile::tempdir().unwrap();
        let folder = StsFolder::open(home.path().join("a/b")).unwrap();
        assert_eq!(folder.load().await, []);
        let long = format!("{}.test", ["x".repeat(60).as_str(); 4].join("."));
        let all = [stored("a.test"), stored("b.test"), stored(&long)];
        for stored in &all {
            folder.keep(stored.clone()).await.unwrap();
        }
        let newer = StoredPolicy { fetched: Timestamp::from_millis(9), ..stored("a.test") };
        folder.keep(newer.clone()).await.unwrap();
        fs::write(folder.path.join("left.tmp"), "x").unwrap();
        fs::write(folder.path.join("odd.sts"), vec![b'x'; 100_000]).unwrap();
        fs::write(folder.path.join("notes.txt"), "x").unwrap();
        let mut found = StsFolder::open(&folder.path).unwrap().load().await;
        found.sort_by_key(|stored| stored.domain.clone());
        assert_eq!(found, [newer, all[1].clone(), all[2].clone()]);
        assert!(!folder.path.join("left.tmp").exists());
        assert!(folder.path.join("notes.txt").exists());
        folder.forget(all[1].domain.clone()).await;
        assert_eq!(folder.load().await.len(), 2);
        fs::write(folder.file(&all[2].domain), "x").unwrap();
        assert_eq!(folder.load().await.len(), 1);
    }
}

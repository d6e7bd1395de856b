//! Verifies each message of a folder with mail-auth, and says which verdicts are not as its file's name
//! says. The keys are in the file `keys` there, by name; no DNS is asked.
//!
//! ```text
//! postroad-verify FOLDER
//! ```

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};

/// Records that are known from the start.
struct Keys(HashMap<Box<str>, Txt>);

impl ResolverCache<Box<str>, Txt> for Keys {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.get(name).cloned()
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

fn main() -> ExitCode {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("a folder"));
    let keys = std::fs::read_to_string(folder.join("keys")).expect("the keys");
    let keys = keys.lines().map(|line| line.split_once('\t').expect("name, tab, record"));
    let keys = Keys(
        keys.map(|(name, text)| {
            let key = DomainKey::parse(text.as_bytes()).expect("a key record");
            (format!("{name}.").into(), Txt::DomainKey(Arc::new(key)))
        })
        .collect(),
    );
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|end| end == "eml"))
        // See `ends_blank` in `tests/dkim.rs`.
        .filter(|path| !path.to_string_lossy().contains(".blank."))
        .collect();
    files.sort();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let authenticator =
        MessageAuthenticator::new(ResolverConfig::from_parts(None, vec![], vec![]), ResolverOpts::default())
            .expect("a resolver");
    let (mut verdicts, mut wrong) = (0, 0);
    for file in &files {
        let name = file.file_name().expect("a name").to_str().expect("text");
        let octets = std::fs::read(file).expect("a message");
        let results = match AuthenticatedMessage::parse(&octets) {
            None => vec!["unparsed".to_owned()],
            Some(message) => {
                let parameters = Parameters::new(&message).with_txt_cache(&keys);
                let shown = |result: &DkimResult| match result {
                    DkimResult::Pass => "pass".to_owned(),
                    other => format!("{other:?}"),
                };
                if name.contains(".arc") {
                    vec![shown(runtime.block_on(authenticator.verify_arc(parameters)).result())]
                } else {
                    let all = runtime.block_on(authenticator.verify_dkim(parameters));
                    all.iter().map(|output| shown(output.result())).collect()
                }
            }
        };
        let expected = name.contains("pass");
        verdicts += results.len();
        if results.is_empty() || results.iter().any(|result| (result == "pass") != expected) {
            println!("{name}: {}", results.join(", "));
            wrong += 1;
        }
    }
    println!("mail-auth: {} messages, {verdicts} verdicts, {wrong} messages wrong", files.len());
    if wrong == 0 && verdicts > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

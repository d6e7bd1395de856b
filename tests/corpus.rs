//! The corpus of the fuzz targets, and every input that ever broke one, as an ordinary test.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]
#[path = "kit/fuzz.rs"]
mod fuzz;

use std::panic::catch_unwind;
use std::path::Path;

use postroad::clock::Rng;

#[test]
fn no_input_of_the_corpus_breaks_its_target() {
    for (name, target) in fuzz::TARGETS {
        for folder in ["corpus", "regress"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder).join(name);
            let Ok(files) = std::fs::read_dir(&folder) else {
                // The published package has no corpus.
                continue;
            };
            let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            files.sort();
            assert!(!files.is_empty(), "{} is empty", folder.display());
            for file in files {
                let input = std::fs::read(&file).unwrap();
                assert!(catch_unwind(|| target(&input)).is_ok(), "{} breaks {name}", file.display());
            }
        }
    }
}

#[test]
fn every_target_has_its_program_and_its_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let Ok(manifest) = std::fs::read_to_string(root.join("Cargo.toml")) else { return };
    let mut programs: Vec<&str> =
        manifest.split("[[bin]]").skip(1).map(|bin| bin.split('"').nth(1).unwrap()).collect();
    programs.sort_unstable();
    if !cfg!(feature = "preflight") {
        programs.retain(|name| *name != "spf");
    }
    let targets: Vec<_> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(programs, targets, "in alphabetical order");
    for name in programs {
        let program = std::fs::read_to_string(root.join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(program.contains(&format!("fuzz::{name}(data)")), "{name}");
        // Small enough to be read by each run of the tests.
        let corpus = std::fs::read_dir(root.join("corpus").join(name)).unwrap().count();
        assert!((1..=60).contains(&corpus), "{name} has {corpus} inputs");
    }
}

#[test]
fn random_dialogues_break_nothing() {
    const WORDS: [&[u8]; 34] = [
        b"EHLO a\r\n",
        b"HELO a\r\n",
        b"LHLO a\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"MAIL FROM:<> SIZE=9 BODY=8BITMIME\r\n",
        b"RCPT TO:<c@d>\r\n",
        b"RCPT TO:<postmaster> NOTIFY=NEVER\r\n",
        b"DATA\r\n",
        b"BDAT 5\r\nab\r\nc",
        b"BDAT 0 LAST\r\n",
        b"BDAT 4 LAST\r\na\r\n\r",
        b"RSET\r\n",
        b"QUIT\r\n",
        b"NOOP\r\n",
        b"STARTTLS\r\n",
        b"AUTH PLAIN AGEAYg==\r\n",
        b"AUTH LOGIN\r\n",
        b"YQ==\r\n",
        b"*\r\n",
        b".\r\n",
        b"text\r\n",
        b"..\r\n",
        b"\r",
        b"\n",
        b"220 hi\r\n",
        b"250-x\r\n250 CHUNKING\r\n",
        b"250-x\r\n250-PIPELINING\r\n250-SIZE 100000\r\n250-CHUNKING\r\n250 STARTTLS\r\n",
        b"250 ok\r\n",
        b"354 go\r\n",
        b"550 5.1.1 no\r\n",
        b"421 4.3.2 bye\r\n",
        b"452 4.5.3 many\r\n",
        b"503 no\r\n",
        b"\0\xff",
    ];
    let rng = Rng::seeded(5321);
    for _ in 0..4_000 {
        let mut input = vec![rng.bits() as u8, rng.bits() as u8];
        for _ in 0..rng.below(40) {
            input.extend_from_slice(WORDS[rng.below(WORDS.len() as u64) as usize]);
        }
        for (name, target) in fuzz::TARGETS {
            assert!(
                catch_unwind(|| target(&input)).is_ok(),
                "{name} breaks on {:?}",
                String::from_utf8_lossy(&input)
            );
        }
    }
}

//! The documents name files and tests: those must be there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The files that a test may be in: `pair` is `tests/pair.rs` or all of `tests/pair/`, a path is in `src`.
fn files(name: &str) -> Vec<PathBuf> {
    if name.ends_with(".rs") {
        return vec![root().join("src").join(name)];
    }
    let mut files = vec![root().join("tests").join(name).with_extension("rs")];
    if let Ok(folder) = fs::read_dir(root().join("tests").join(name)) {
        files.extend(folder.map(|file| file.unwrap().path()));
    }
    files
}

/// How many tests and files of the source a document names, all of which must be there.
fn named(document: &str) -> (usize, usize) {
    let list = fs::read_to_string(root().join("docs").join(document)).unwrap();
    let (mut tests, mut places) = (0, 0);
    // The first words explain how tests are named.
    let tables = &list[list.find("\n| ").unwrap()..];
    for name in quoted(tables) {
        // Types and methods of the crate are named with `::` too; the name of a test has several words.
        if let Some((file, test)) = name.split_once("::").filter(|(_, test)| test.contains('_')) {
            // A function, or a row of a table whose rows are tests.
            let wanted = [format!("fn {test}("), format!("\n    {test}: ")];
            let there = files(file)
                .iter()
                .filter_map(|file| fs::read_to_string(file).ok())
                .any(|text| wanted.iter().any(|wanted| text.contains(wanted)));
            assert!(there, "{document} names the test {name}, which is not there");
            tests += 1;
        } else if !name.contains("::") && (name.contains('/') || name.ends_with(".rs")) {
            assert!(root().join("src").join(name).exists(), "{document} names {name}, which is not there");
            places += 1;
        }
    }
    (tests, places)
}

#[test]
fn every_test_and_file_that_the_list_of_rfcs_names_is_there() {
    let (tests, places) = named("rfc.md");
    assert!(tests > 40 && places > 40, "{tests} tests and {places} files are named: are they read at all?");
}

#[test]
fn every_statement_has_a_test_that_is_there() {
    let (tests, _) = named("statements.md");
    assert!(tests > 100, "{tests} tests are named: are they read at all?");
    let list = fs::read_to_string(root().join("docs/statements.md")).unwrap();
    for row in list.lines().filter(|line| line.starts_with("| ")).filter(|line| !line.contains("| tests |")) {
        assert!(row.contains("::"), "no test shows this: {row}");
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for document in ["README.md", "docs/rfc.md", "docs/statements.md"] {
        let path = root().join(document);
        let text = fs::read_to_string(&path).unwrap();
        let targets =
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            assert!(path.with_file_name(target).exists(), "{document} links to {target}, which is not there");
        }
    }
}

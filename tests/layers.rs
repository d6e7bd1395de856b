//! Who may import whom: the table of the layers, read from the sources themselves.
//!
//! A layer that reaches up, or into one beside it, fails here with file and line. The table is the
//! architecture: a new row or a new name in one is a decision, not a repair.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer and what it may import, bottom to top.
const TABLE: &[(&str, &[&str])] = &[
    ("smtp", &[]),
    ("clock", &[]),
    ("table", &[]),
    ("hop", &["smtp"]),
    ("message", &["smtp", "clock"]),
    ("pool", &["clock", "table"]),
    ("net", &["smtp", "message", "clock", "hop"]),
    ("https", &["smtp", "clock", "hop", "net"]),
    ("route", &["smtp", "clock", "hop", "net", "https"]),
    ("preflight", &["smtp", "message", "route"]),
    ("attempt", &["smtp", "message", "clock", "hop", "route", "pool", "net"]),
    ("spool", &["smtp", "message", "clock", "table"]),
    ("delivery", &["smtp", "message", "clock", "hop", "route", "net", "attempt", "spool", "table"]),
    ("outbox", &["smtp", "message", "clock", "spool", "delivery"]),
    ("tls_rpt", &["smtp", "message", "clock", "hop", "https", "route", "attempt", "delivery"]),
    ("server", &["smtp", "message", "clock", "hop", "net"]),
    ("relay", &["smtp", "message", "clock", "hop", "route", "spool", "delivery", "server"]),
    ("testing", &["smtp", "message", "clock", "hop", "route", "net", "attempt", "spool", "delivery"]),
];

/// What the root offers to all layers. Anything else by way of the root is a detour around the
/// table.
const ROOT: &[&str] = &["BoxFuture"];

/// The layers without I/O, and the libraries that do it.
const PURE: &[&str] = &["smtp", "message"];
const IO: &[&str] = &["tokio", "tokio_rustls", "rustls", "rusqlite", "hickory_resolver"];

#[test]
fn every_layer_imports_only_what_the_table_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 10, "the sources are not where they are looked for");
    let mut faults = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        // The root wires the layers together.
        if inside != Path::new("lib.rs") {
            faults.extend(check(inside.to_str().unwrap(), &fs::read_to_string(&file).unwrap()));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_table_has_no_circle() {
    for (row, (layer, allowed)) in TABLE.iter().enumerate() {
        for name in *allowed {
            let below = TABLE[..row].iter().any(|(layer, _)| layer == name);
            assert!(below, "{layer} may import {name}, which is not below it");
        }
    }
}

#[test]
fn only_relay_may_import_both_server_and_delivery() {
    let both = |allowed: &[&str]| ["server", "delivery"].iter().all(|name| allowed.contains(name));
    let may: Vec<_> = TABLE.iter().filter(|(_, allowed)| both(allowed)).map(|(layer, _)| *layer).collect();
    assert_eq!(may, ["relay"]);
    assert!(!TABLE.iter().any(|(layer, allowed)| *layer == "server" && allowed.contains(&"delivery")));
    assert!(!TABLE.iter().any(|(layer, allowed)| *layer == "delivery" && allowed.contains(&"server")));
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    for (file, source, expected) in [
        ("smtp/x.rs", "use crate::net::Connect;", &["src/smtp/x.rs:1: smtp imports net"][..]),
        ("route/mod.rs", "\n\nfn f() { crate::pool::new() }", &["src/route/mod.rs:3: route imports pool"]),
        (
            "hop.rs",
            "use crate::{\n    BoxFuture,\n    smtp::{address::Domain, reply},\n    clock::Clock,\n};",
            &["src/hop.rs:4: hop imports clock"],
        ),
        (
            "server/a/b.rs",
            "use super::super::super::delivery::Engine;",
            &["src/server/a/b.rs:1: server imports delivery"],
        ),
        ("server/mod.rs", "use super::{relay::Relay, net};", &["src/server/mod.rs:1: server imports relay"]),
        (
            "clock.rs",
            "mod tests { use super::*; use super::super::smtp; }",
            &["src/clock.rs:1: clock imports smtp"],
        ),
        ("pool/mod.rs", "pub(in crate::net) fn f() {}", &["src/pool/mod.rs:1: pool imports net"]),
        ("delivery/x.rs", "use crate::Server;", &["src/delivery/x.rs:1: delivery imports Server"]),
        ("delivery/x.rs", "use crate::*;", &["src/delivery/x.rs:1: delivery imports *"]),
        (
            "message/x.rs",
            "async fn f() {\n tokio::task::yield_now().await }",
            &["src/message/x.rs:2: message names tokio"],
        ),
        ("pool/x.rs", "use super::super as root;", &["src/pool/x.rs:1: pool imports crate"]),
        ("odd/x.rs", "", &["src/odd/x.rs:1: odd has no row in the table"]),
        ("smtp/x.rs", "let c = '\"'; use crate::hop; let d = '\"';", &["src/smtp/x.rs:1: smtp imports hop"]),
        ("smtp/x.rs", "/* a\n/* b */ c */ use crate::hop;", &["src/smtp/x.rs:2: smtp imports hop"]),
        ("smtp/x.rs", "let s = r#\"\n\"#; use crate::hop;", &["src/smtp/x.rs:2: smtp imports hop"]),
    ] {
        assert_eq!(check(file, source), expected, "{source}");
    }
}

#[test]
fn what_is_allowed_or_is_no_import_is_left_alone() {
    for (file, source) in [
        ("hop.rs", "use crate::smtp::address::Domain;"),
        ("route/mx/mod.rs", "use super::{Hosts, options::X}; use crate::hop::Host; use crate::BoxFuture;"),
        ("relay.rs", "use crate::{delivery::Engine, server::Handler};"),
        ("smtp/client/tests.rs", "mod inner { use super::super::super::reply; }"),
        ("smtp/x.rs", "//! See [`crate::net`].\n/* crate::net */ // tokio\nlet s = \"crate::net\";"),
        (
            "smtp/x.rs",
            "let s = r##\"crate::net \"# tokio\"##; let b = b\"tokio\"; #[cfg(feature = \"tokio\")]",
        ),
        ("smtp/x.rs", "pub(crate) fn f<'a>(x: &'a str) { let q = '\\''; let c = 'x'; } pub(super) struct S;"),
    ] {
        assert_eq!(check(file, source), <[String; 0]>::default(), "{source}");
    }
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The faults of one file, whose path is relative to `src`.
fn check(file: &str, source: &str) -> Vec<String> {
    let module = module_of(file);
    let layer = module[0].clone();
    let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("src/{file}:1: {layer} has no row in the table")];
    };
    let tokens = tokens(source);
    let mut faults = Vec::new();
    for (line, name) in imports(&tokens, &module) {
        if name != layer && !allowed.contains(&name.as_str()) && !ROOT.contains(&name.as_str()) {
            faults.push(format!("src/{file}:{line}: {layer} imports {name}"));
        }
    }
    if PURE.contains(&layer.as_str()) {
        for token in tokens.iter().filter(|token| IO.contains(&token.text.as_str())) {
            faults.push(format!("src/{file}:{}: {layer} names {}", token.line, token.text));
        }
    }
    faults
}

/// `route/mx/mod.rs` is `route::mx`, `route/fixed.rs` is `route::fixed`.
fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<_> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// What stands behind the crate's root in each path that starts with `crate` or `super`, wherever it
/// is written.
fn imports(tokens: &[Token], file: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // The module we are in, and the depth of braces at which each inline module ends.
    let (mut module, mut ends, mut depth) = (file.to_vec(), Vec::new(), 0_usize);
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "mod" if tokens.get(at + 2).is_some_and(|token| token.text == "{") => {
                module.push(tokens[at + 1].text.clone());
                ends.push(depth);
                depth += 1;
                at += 2;
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if ends.last() == Some(&depth) {
                    ends.pop();
                    module.pop();
                }
            }
            "crate" | "super" if tokens.get(at + 1).is_some_and(|token| token.text == "::") => {
                at = path(tokens, at, module.clone(), &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Follows one path, or every path of a group, and gives where it ends.
fn path(tokens: &[Token], mut at: usize, mut base: Vec<String>, found: &mut Vec<(usize, String)>) -> usize {
    let mut line = None;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "crate" => base.clear(),
            "super" => drop(base.pop()),
            "self" => {}
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = path(tokens, at, base.clone(), found);
                    // `as name`, and the comma.
                    while tokens.get(at).is_some_and(|token| token.text != "," && token.text != "}") {
                        at += 1;
                    }
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            name => {
                line = line.or_else(|| base.is_empty().then_some(token.line));
                base.push(name.to_owned());
            }
        }
        at += 1;
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        at += 1;
        // A turbofish belongs to no path of modules.
        if tokens.get(at).is_some_and(|token| token.text == "<") {
            break;
        }
    }
    let last = tokens.get(at.saturating_sub(1)).map_or(0, |token| token.line);
    // A path that ends at the root would give it another name.
    let name = base.first().map_or("crate", String::as_str);
    found.push((line.unwrap_or(last), name.to_owned()));
    at
}

#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

/// Words, `::` and single marks; no comments, no literals.
fn tokens(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let is = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| text.get(at + i) == Some(&c));
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < text.len() {
        let start = at;
        let c = text[at];
        if is(at, "//") {
            while at < text.len() && text[at] != '\n' {
                at += 1;
            }
        } else if is(at, "/*") {
            let mut open = 0;
            loop {
                if is(at, "/*") {
                    (open, at) = (open + 1, at + 2);
                } else if is(at, "*/") {
                    (open, at) = (open - 1, at + 2);
                } else {
                    at += 1;
                }
                if open == 0 || at >= text.len() {
                    break;
                }
            }
        } else if let Some(end) = raw_string(&text, at) {
            at = end;
        } else if c == '"' {
            at += 1;
            while at < text.len() && text[at] != '"' {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' && (is(at + 1, "\\") || is(at + 2, "'")) {
            // A character; else it is a lifetime, whose name is a word like others.
            at += if is(at + 1, "\\") { 3 } else { 2 };
            while at < text.len() && text[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if is_word(c) {
            while at < text.len() && is_word(text[at]) {
                at += 1;
            }
            // The prefix of a literal is no word of its own.
            if !(matches!(text.get(at), Some('"')) && matches!(c, 'b' | 'c')) {
                found.push(Token { text: text[start..at].iter().collect(), line });
            }
        } else {
            at += if is(at, "::") { 2 } else { 1 };
            if !c.is_whitespace() {
                found.push(Token { text: text[start..at].iter().collect(), line });
            }
        }
        line += text[start..at.min(text.len())].iter().filter(|c| **c == '\n').count();
    }
    found
}

/// Where a raw string that starts here ends.
fn raw_string(text: &[char], at: usize) -> Option<usize> {
    if at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_') {
        return None;
    }
    let mut from = at;
    if matches!(text.get(from), Some('b' | 'c')) {
        from += 1;
    }
    if text.get(from) != Some(&'r') {
        return None;
    }
    from += 1;
    let marks = text[from..].iter().take_while(|c| **c == '#').count();
    if text.get(from + marks) != Some(&'"') {
        return None;
    }
    let mut end = from + marks + 1;
    while end < text.len() {
        if text[end] == '"' && text[end + 1..].iter().take(marks).filter(|c| **c == '#').count() == marks {
            return Some(end + 1 + marks);
        }
        end += 1;
    }
    Some(end)
}

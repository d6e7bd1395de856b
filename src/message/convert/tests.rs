use super::*;

fn converted(message: &str) -> String {
    let out = to_seven_bit(message.as_bytes()).unwrap();
    assert!(!is_raw(&out), "{}", out.escape_ascii());
    assert_eq!(to_seven_bit(&out).unwrap(), out, "again it changes nothing");
    String::from_utf8(out.to_vec()).unwrap()
}

fn refused(message: &str) -> Unconvertible {
    to_seven_bit(message.as_bytes()).unwrap_err()
}

#[test]
fn text_becomes_quoted_printable_under_its_own_header() {
    let message = "Received: a\r\n\tb;\r\n c\r\nmime-version: 1.0\r\nContent-type: text/plain;\r\n charset=utf-8\r\n\
        content-transfer-encoding: 8bit\r\nSubject:  x \r\n\r\nGrün = gut\t\r\n.\r\nFrom me\r\n-- \r\nend\r\n";
    assert_eq!(
        converted(message),
        "Received: a\r\n\tb;\r\n c\r\nmime-version: 1.0\r\nContent-type: text/plain;\r\n charset=utf-8\r\n\
        Content-Transfer-Encoding: quoted-printable\r\nSubject:  x \r\n\r\nGr=C3=BCn =3D gut=09\r\n=2E\r\n\
        =46rom me\r\n=2D-=20\r\nend\r\n"
    );
}

#[test]
fn lines_are_broken_at_76_octets_and_no_break_makes_a_delimiter() {
    let start = "Content-Type: text/plain\r\nMIME-Version: 1.0\r\n\r\n";
    for length in 70..80 {
        for tail in ["", "é", " ", "--b\r\n", ".x", "From x"] {
            let out = converted(&format!("{start}é\r\n{}{tail}\r\n", "x".repeat(length)));
            for line in out.lines() {
                assert!(line.len() <= 76 && !line.starts_with("--") && !line.starts_with('.'), "{line}");
                assert!(!line.ends_with([' ', '\t']) && !line.starts_with("From "), "{line}");
            }
        }
    }
    let exact = format!("{start}é\r\n{}\r\n", "x".repeat(76));
    assert!(converted(&exact).ends_with(&format!("\r\n{}\r\n", "x".repeat(76))));
    let over = format!("{start}é\r\n{}\r\n", "x".repeat(77));
    assert!(converted(&over).ends_with(&format!("\r\n{}=\r\nxx\r\n", "x".repeat(75))));
}

#[test]
fn what_is_no_text_in_lines_becomes_base64() {
    let head = "MIME-Version: 1.0\r\nContent-Type: ";
    for (kind, body, encoded) in [
        ("image/png", "é", "w6k=\r\n"),
        ("text/plain\r\nContent-Transfer-Encoding: binary", "é\r\n", "w6kNCg==\r\n"),
        ("text/plain", "é", "w6k=\r\n"), // no line end, and nothing behind it
        ("text/plain", "a\nb\r\n", "YQpiDQo=\r\n"),
        ("text/plain", "a\0b\r\n", "YQBiDQo=\r\n"),
        ("text/plain; charset=UTF-16", "é\r\n", "w6kNCg==\r\n"),
        ("application/x", "\u{0}".repeat(58).leak(), ""),
    ] {
        let out = converted(&format!("{head}{kind}\r\n\r\n{body}"));
        let (head, rest) = out.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with("Content-Transfer-Encoding: base64"), "{head}");
        if encoded.is_empty() {
            assert_eq!(rest, format!("{}\r\nAA==\r\n", "A".repeat(76)));
        } else {
            assert_eq!(rest, encoded, "{kind} {body:?}");
        }
    }
}

#[test]
fn a_body_that_says_nothing_of_itself_is_text_of_unknown_charset() {
    assert_eq!(
        converted("Subject: x\r\n\r\né\r\n"),
        "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A9\r\n"
    );
    // Without a header, or with one that was not ended.
    for front in ["", "\r\n"] {
        let out = converted(&format!("{front}é\r\n"));
        assert!(out.starts_with("MIME-Version: 1.0\r\n") && out.ends_with("\r\n\r\n=C3=A9\r\n"), "{out}");
    }
}

#[test]
fn fields_behind_a_line_that_is_none_are_not_buried_in_a_body() {
    // Other readers skip the line, and find the fields behind it.
    for front in
        ["From a@a.test Mon Jan 1\r\n", "Subject: x\r\nno field\r\n", "X\u{e9}: y\r\n", ">From x\r\n a\r\n"]
    {
        let message = format!("{front}Content-Type: image/png\r\n\r\n\u{e9}\r\n");
        assert_eq!(refused(&message), Unconvertible::Structure, "{front}");
        let part = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n{message}--b--\r\n");
        assert_eq!(refused(&part), Unconvertible::Structure, "{front}");
    }
    // A text that only looks a little like it.
    for text in ["Hall\u{e9} du: ja\r\nnein\r\n", "\u{e9}\r\n\r\nTo: x\r\n", "see\r\n: \u{e9}\r\n"] {
        assert!(converted(text).starts_with("MIME-Version: 1.0\r\n"), "{text}");
    }
}

#[test]
fn parts_are_converted_each_for_itself() {
    let message = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"a b\"\r\n\
        Content-Transfer-Encoding: 8bit\r\n\r\npré\r\n--a b \t\r\n\r\nplain\r\n--a b\r\n\
        Content-Type: multipart/alternative; boundary=a\r\n\r\n--a\r\nContent-Type: image/png\r\n\r\né\r\n\
        --a--\r\nin between\r\n--a b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: binary\r\n\r\n\
        Subject: inner\r\n\r\né\r\n\r\n--a b--\r\nfin é";
    assert_eq!(
        converted(message),
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"a b\"\r\n\
        Content-Transfer-Encoding: 7bit\r\n\r\npr??\r\n--a b \t\r\n\r\nplain\r\n--a b\r\n\
        Content-Type: multipart/alternative; boundary=a\r\n\r\n--a\r\nContent-Type: image/png\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nw6k=\r\n\
        --a--\r\nin between\r\n--a b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
        Subject: inner\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A9\r\n\r\n--a b--\r\nfin ??"
    );
}

#[test]
fn a_multipart_that_is_not_closed_stays_so() {
    let out =
        converted("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\n\r\né\r\n");
    assert!(
        out.contains("\r\n\r\none\r\n--b\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"),
        "{out}"
    );
    assert!(out.ends_with("\r\n\r\n=C3=A9\r\n"), "{out}");
}

#[test]
fn the_parts_of_a_digest_are_messages() {
    let out = converted(
        "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: x\r\n\r\né\r\n--b--\r\n",
    );
    assert!(out.contains("--b\r\n\r\nSubject: x\r\nMIME-Version: 1.0\r\n"), "{out}");
}

#[test]
fn text_that_looks_like_a_delimiter_of_what_is_around_it_does_not_become_one() {
    // Encoded, the line would be `--b=C3=A9`; broken, the other would begin with it.
    let long = "x".repeat(75);
    let out = converted(&format!(
        "Content-Type: multipart/mixed; boundary=\"b=C3=A9\"\r\n\r\n--b=C3=A9\r\n\r\n--bé\r\n{long}--b=C3=A9\r\n\
        é\r\n--b=C3=A9--\r\n"
    ));
    assert_eq!(out.lines().filter(|line| line.starts_with("--b=C3=A9")).count(), 2, "{out}");
    let preamble = converted(&format!(
        "Content-Type: multipart/mixed; boundary=\"b?\"\r\n\r\n--b\u{7f}\r\n{}--b?\r\n--b?\r\n\r\nx\r\n--b?--\r\n",
        "x".repeat(998)
    ).replace("x\r\n--b?--", "é\r\n--b?--"));
    assert_eq!(preamble.lines().filter(|line| line.starts_with("--b?")).count(), 2, "{preamble}");
}

#[test]
fn what_is_seven_bit_stays_octet_for_octet() {
    let long = "x".repeat(2000);
    for message in [
        "",
        "hello",
        "Subject: x\r\n\r\nhello",
        "Content-Transfer-Encoding: 8bit\r\n\r\nhello\r\n",
        "Content-Type: multipart/signed; boundary=b\r\nContent-Transfer-Encoding: nonsense\r\n\r\nx\r\n",
        &format!("Subject: x\r\n\r\n{long}\r\n"),
    ] {
        assert_eq!(converted(message), message);
    }
}

#[test]
fn long_lines_go_when_something_else_has_to() {
    let long = "x".repeat(999);
    let parts = |encoding: &str, last: &str| {
        format!(
            "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{long}\r\n--b\r\n\r\n{long}\r\n\
            --b\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{long}\r\n--b\r\n\r\n{last}\r\n--b--\r\n"
        )
    };
    assert_eq!(converted(&parts("7bit", "e")), parts("7bit", "e"));
    let out = converted(&parts("7bit", "é"));
    assert!(!has_long_line(out.as_bytes()), "{out}");
    assert_eq!(out.matches("quoted-printable").count(), 3);
    // What is encoded already was told to be in short lines, and is left to whoever wrote it.
    let out = converted(&parts("base64", "é"));
    assert!(out.contains(&format!("base64\r\n\r\n{long}\r\n--b")), "{out}");
}

#[test]
fn what_would_change_its_meaning_is_refused() {
    let part = |head: &str, body: &str| {
        format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n{head}\r\n\r\n{body}\r\n--b--\r\n")
    };
    for (message, why) in [
        ("Subject: é\r\n\r\nx\r\n".to_owned(), Unconvertible::Header),
        ("Subject: é".to_owned(), Unconvertible::Header),
        (part("Content-Description: é", "x"), Unconvertible::Header),
        (part("Content-Type: message/rfc822", "Subject: é\r\n\r\nx"), Unconvertible::Header),
        (part("Content-Type: multipart/signed; boundary=c", "--c\r\n\r\né\r\n--c--"), Unconvertible::Signed),
        ("Content-Type: multipart/encrypted; boundary=c\r\n\r\né\r\n".to_owned(), Unconvertible::Signed),
        (part("Content-Transfer-Encoding: base64", "é"), Unconvertible::Encoding),
        (part("Content-Transfer-Encoding: x-uuencode", "é"), Unconvertible::Encoding),
        (
            part("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64", "A: b\r\n\r\né"),
            Unconvertible::Encoding,
        ),
        (part("Content-Type: message/partial", "é"), Unconvertible::Partial),
        (part("Content-Type: message/external-body", "é"), Unconvertible::Partial),
        ("Content-Type: multipart/mixed\r\n\r\né\r\n".to_owned(), Unconvertible::Structure),
        ("Content-Type: multipart/mixed; boundary=b\r\n\r\né\r\n".to_owned(), Unconvertible::Structure),
        (
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b--\r\né\r\n".to_owned(),
            Unconvertible::Structure,
        ),
        (part("Content-Type: text/plain\r\nContent-Type: image/png", "é"), Unconvertible::Structure),
        ("Subject: a\0\r\n\r\nx\r\n".to_owned(), Unconvertible::Structure),
        ("Subject: a\n\nx\r\n".to_owned(), Unconvertible::Structure),
    ] {
        assert_eq!(refused(&message), why, "{message:?}");
    }
    // Without 8-bit octets in them, none of this matters.
    let beside = part("Content-Transfer-Encoding: x-uuencode", "x").replace(
        "--b--",
        "--b\r\nContent-Type: multipart/signed; boundary=c\r\n\r\nx\r\n--b\r\n\r\né\r\n--b--",
    );
    assert!(converted(&beside).contains("x-uuencode\r\n\r\nx\r\n"));
}

#[test]
fn a_lie_of_seven_bits_is_taken_for_eight() {
    let out = converted("Content-Type: text/plain\r\nContent-Transfer-Encoding: 7bit\r\n\r\né\r\n");
    assert!(out.contains("Content-Transfer-Encoding: quoted-printable\r\n"), "{out}");
}

#[test]
fn there_is_an_end_to_parts_and_to_nesting() {
    let nested = |depth: usize| {
        let mut message = String::new();
        for level in 0..depth {
            message
                .push_str(&format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"));
        }
        message + "\r\né\r\n"
    };
    assert!(to_seven_bit(nested(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(refused(&nested(MAX_DEPTH + 1)), Unconvertible::TooComplex);
    let wide = |parts: usize| {
        format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n{}--b--\r\n",
            "--b\r\n\r\né\r\n".repeat(parts)
        )
    };
    assert!(to_seven_bit(wide(MAX_PARTS - 1).as_bytes()).is_ok());
    assert_eq!(refused(&wide(MAX_PARTS)), Unconvertible::TooComplex);
    assert_eq!(refused(&format!("{}\r\né\r\n", "A: b\r\n".repeat(3000))), Unconvertible::TooComplex);
}

#[test]
fn nothing_grows_without_measure() {
    for octet in [b'\0', b'=', 0xff, b'\n'] {
        let message = [b"Content-Type: text/plain\r\n\r\n\xff", &[octet; 100_000][..], b"\r\n"].concat();
        let out = to_seven_bit(&message).unwrap();
        assert!(out.len() <= message.len() * 16 / 5 + 200 && encode::room(&message) + 200 >= out.len());
    }
}

#[test]
fn only_headers_need_smtputf8() {
    let part = |head: &str, body: &str| {
        format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\né\r\n--b\r\n{head}\r\n\r\n{body}\r\n--b--\r\né"
        )
    };
    for (message, needed) in [
        (String::new(), false),
        ("Subject: x\r\n\r\né\r\n".to_owned(), false),
        ("Subject: é\r\n\r\nx\r\n".to_owned(), true),
        ("Sübject: x\r\n\r\nx\r\n".to_owned(), true),
        (part("Content-Type: image/png", "é\0"), false),
        (part("Content-Description: é", "x"), true),
        (part("Content-Type: message/rfc822", "Subject: x\r\n\r\né"), false),
        (part("Content-Type: message/rfc822", "Subject: é\r\n\r\nx"), true),
        (part("Content-Type: message/global", "Subject: é\r\n\r\nx"), false),
        (part("Content-Type: multipart/signed; boundary=c", "é"), true),
        ("Content-Type: multipart/mixed\r\n\r\né\r\n".to_owned(), true),
        ("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\né".to_owned(), false),
    ] {
        assert_eq!(has_eight_bit_header(message.as_bytes()), needed, "{message:?}");
    }
}

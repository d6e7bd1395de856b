//! A zone in which all is well, and each fault found in one where it is not.

use postroad::EhloName;
use postroad::preflight::{Check, Detail, DkimKey, Findings, KeyFault, Preflight, Severity};
use postroad::route::dns::StaticDns;

use super::zone::zone;

/// RFC 8463 §A.2 and §A.3
pub(super) const ED25519: &str = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
const RSA1024: &str = "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";

/// All is well for `a.test`, whose mail comes from these addresses.
pub(super) const WELL: &str = "
    a.test                TXT v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 -all
    a.test                MX 10 mx.a.test
    mx.a.test             A 192.0.2.7
    mail.a.test           A 192.0.2.1
    mail.a.test           AAAA 2001:db8::1
    1.2.0.192.in-addr.arpa PTR mail.a.test
    1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR mail.a.test
    s1._domainkey.a.test  TXT v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
    _dmarc.a.test         TXT v=DMARC1; p=reject; rua=mailto:dmarc@a.test
    _mta-sts.a.test       TXT v=STSv1; id=1
    _smtp._tls.a.test     TXT v=TLSRPTv1; rua=mailto:tls@a.test
";

pub(super) fn preflight() -> Preflight {
    let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let helo = EhloName::new("mail.a.test").unwrap();
    let mut preflight = Preflight::new("a.test".parse().unwrap(), helo, addresses);
    preflight.keys = vec![DkimKey::new("s1", ED25519).unwrap()];
    preflight
}

/// The same zone, where these lines stand in the place of those of the same name and type; a line without
/// data only takes away.
fn changed(lines: &str) -> StaticDns {
    let key = |line: &str| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<_> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let gone: Vec<_> = lines.iter().map(|line| key(line)).collect();
    let kept = WELL.lines().filter(|line| !gone.contains(&key(line)));
    let new = lines.iter().copied().filter(|line| line.split_whitespace().count() > 2);
    zone(&kept.chain(new).collect::<Vec<_>>().join("\n"))
}

/// What is not fine, a line each.
pub(super) fn wrong(findings: &Findings) -> Vec<String> {
    findings.iter().filter(|one| one.severity > Severity::Fine).map(ToString::to_string).collect()
}

async fn found(preflight: &Preflight, lines: &str) -> Vec<String> {
    wrong(&preflight.check(&changed(lines)).await)
}

#[tokio::test]
async fn where_all_is_well_each_check_says_so() {
    let findings = preflight().check(&changed("")).await;
    assert!(findings.is_ready() && findings.worst() == Severity::Fine, "{:#?}", wrong(&findings));
    for check in [Check::Spf, Check::Dkim, Check::Dmarc, Check::Ptr, Check::Helo, Check::Mail, Check::Policy]
    {
        assert!(findings.iter().any(|finding| finding.check == check), "{check}");
    }
    let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.contains(&"fine spf a.test: 192.0.2.1 may send".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"fine ptr 1.2.0.192.in-addr.arpa: 192.0.2.1 is mail.a.test".to_owned()));
}

#[tokio::test]
async fn each_fault_in_a_zone_is_found_and_nothing_else() {
    let long =
        format!("a.test TXT v=spf1 {}ip4:192.0.2.1 ip6:2001:db8::1 -all", "ip4:198.51.100.1 ".repeat(26));
    let at_limit =
        format!("a.test TXT v=spf1 ip6:2001:db8::1 {}a:mail.a.test -all", "?a:mx.a.test ".repeat(9));
    for (lines, expected) in [
        // SPF
        ("a.test TXT", &["fault spf a.test: there is no SPF record"][..]),
        ("a.test TXT v=spf1 ip4:192.0.2.1 -all", &["fault spf a.test: 2001:db8::1 may not send: fail"]),
        ("a.test TXT v=spf1 ip4:192.0.2.1 ~all", &["fault spf a.test: 2001:db8::1 may not send: softfail"]),
        (
            "a.test TXT v=spf1 ip4:192.0.2.1",
            &[
                "fault spf a.test: 2001:db8::1 may not send: neutral",
                "warning spf a.test: the record says nothing of other hosts: it should end in -all or ~all",
            ],
        ),
        ("a.test TXT v=spf1 +all", &["warning spf a.test: the record lets everybody send"]),
        (
            "a.test TXT v=spf1 ptr -all",
            &[
                "warning spf a.test: the record asks for the name of the address, which is slow and often not done",
            ],
        ),
        ("a.test TXT v=spf1 ip4:192.0.2 -all", &["fault spf a.test: a term of the SPF record does not read"]),
        (
            "a.test TXT v=spf1 -all
             a.test TXT v=spf1 +all",
            &["fault spf a.test: there are several SPF records"],
        ),
        (
            "a.test TXT v=spf1 include:b.test -all
             b.test TXT v=spf1 mx:",
            &["fault spf b.test: a term of the SPF record does not read"],
        ),
        (
            "a.test TXT v=spf1 redirect=a.test",
            &["fault spf a.test: the SPF record takes more than ten look-ups"],
        ),
        (
            &at_limit,
            &[
                "warning spf a.test: the record takes all ten look-ups that it may: one more anywhere breaks it",
            ],
        ),
        (&long, &["warning spf a.test: the record has 483 octets, which may not fit into an answer"]),
        (
            "mail.a.test TXT v=spf1 ip4:192.0.2.1 -all",
            &["fault spf mail.a.test: 2001:db8::1 may not send: fail"],
        ),
        ("a.test TXT !", &["unasked spf a.test: could not be asked: the name servers could not answer"]),
        // DKIM
        ("s1._domainkey.a.test TXT", &["fault dkim s1._domainkey.a.test: no key is published"]),
        ("s1._domainkey.a.test TXT v=DKIM1; p=", &["fault dkim s1._domainkey.a.test: the key was revoked"]),
        (
            "s1._domainkey.a.test TXT v=DKIM1; k=ed25519; p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            &["fault dkim s1._domainkey.a.test: another key is published than that which signs"],
        ),
        (
            "s1._domainkey.a.test TXT v=DKIM1; k=ed25519; p=AAAA",
            &["fault dkim s1._domainkey.a.test: the published key cannot be used: its key is malformed"],
        ),
        (
            "s1._domainkey.a.test TXT v=spf1 -all",
            &[
                "fault dkim s1._domainkey.a.test: the published key cannot be used: it is not of version DKIM1",
            ],
        ),
        (
            "s1._domainkey.a.test TXT v=DKIM1; p=
             s1._domainkey.a.test TXT v=DKIM1; p=",
            &["fault dkim s1._domainkey.a.test: there are several records, where one key must be alone"],
        ),
        (
            &format!("s1._domainkey.a.test TXT {ED25519}; t=y:s; h=sha1; s=other"),
            &[
                "warning dkim s1._domainkey.a.test: the key is marked as one for tests (t=y)",
                "fault dkim s1._domainkey.a.test: the key is not for SHA-256 (h=)",
                "fault dkim s1._domainkey.a.test: the key is not for mail (s=)",
            ],
        ),
        (
            "s1._domainkey.a.test TXT !",
            &["unasked dkim s1._domainkey.a.test: could not be asked: the name servers could not answer"],
        ),
        // DMARC
        ("_dmarc.a.test TXT", &["fault dmarc _dmarc.a.test: there is no DMARC policy"]),
        ("_dmarc.a.test TXT v=DMARC2; p=none", &["fault dmarc _dmarc.a.test: there is no DMARC policy"]),
        (
            "_dmarc.a.test TXT v=DMARC1; p=block",
            &[
                "fault dmarc _dmarc.a.test: the DMARC record cannot be used: a policy is none of none, quarantine and reject",
            ],
        ),
        (
            "_dmarc.a.test TXT v=DMARC1; p=none
             _dmarc.a.test TXT v=DMARC1; p=reject",
            &["fault dmarc _dmarc.a.test: there are several DMARC records, which count as none"],
        ),
        (
            "_dmarc.a.test TXT v=DMARC1; p=none; t=y",
            &[
                "warning dmarc _dmarc.a.test: the policy is none, which protects nothing",
                "warning dmarc _dmarc.a.test: the policy is being tested (t=y)",
                "hint dmarc _dmarc.a.test: nobody gets reports (rua=)",
            ],
        ),
        (
            "_dmarc.a.test TXT v=DMARC1; p=reject; rua=mailto:x@b.test",
            &[
                "warning dmarc a.test._report._dmarc.b.test: reports are to go to another domain, which has not agreed to it",
            ],
        ),
        (
            "_dmarc.a.test TXT v=DMARC1; p=reject; rua=mailto:x@b.test
             a.test._report._dmarc.b.test TXT v=DMARC1",
            &[],
        ),
        (
            "_dmarc.a.test TXT !",
            &["unasked dmarc _dmarc.a.test: could not be asked: the name servers could not answer"],
        ),
        // PTR and HELO
        ("1.2.0.192.in-addr.arpa PTR", &["fault ptr 1.2.0.192.in-addr.arpa: 192.0.2.1 has no name"]),
        (
            "1.2.0.192.in-addr.arpa PTR mx.a.test",
            &["fault ptr 1.2.0.192.in-addr.arpa: no name of 192.0.2.1 has this address"],
        ),
        (
            "1.2.0.192.in-addr.arpa PTR gone.test",
            &["fault ptr 1.2.0.192.in-addr.arpa: no name of 192.0.2.1 has this address"],
        ),
        (
            "1.2.0.192.in-addr.arpa PTR host.test
             host.test A 192.0.2.1",
            &["warning helo mail.a.test: the name in EHLO is not the name of 192.0.2.1"],
        ),
        (
            "1.2.0.192.in-addr.arpa PTR !",
            &["unasked ptr 1.2.0.192.in-addr.arpa: could not be asked: the name servers could not answer"],
        ),
        (
            "1.2.0.192.in-addr.arpa PTR host.test
             host.test A !",
            &["unasked ptr host.test: could not be asked: the name servers could not answer"],
        ),
        (
            "mail.a.test A 192.0.2.2",
            &[
                "fault ptr 1.2.0.192.in-addr.arpa: no name of 192.0.2.1 has this address",
                "fault helo mail.a.test: the name in EHLO does not have 192.0.2.1",
            ],
        ),
        (
            "mail.a.test A !",
            &[
                "unasked ptr mail.a.test: could not be asked: the name servers could not answer",
                "unasked helo mail.a.test: could not be asked: the name servers could not answer",
            ],
        ),
        // The sender's mail
        (
            "a.test MX 0 .",
            &["warning mail a.test: it takes no mail (null MX): others will refuse its own, with 550 5.7.27"],
        ),
        (
            "a.test MX",
            &[
                "fault mail a.test: it has no mail server: reports cannot come back, and others will refuse its mail",
            ],
        ),
        (
            "a.test MX
             a.test A 192.0.2.9",
            &[],
        ),
        (
            "a.test MX 10 mx.a.test
             a.test MX 20 gone.test",
            &["warning mail gone.test: the mail host has no address"],
        ),
        (
            "mx.a.test A",
            &[
                "warning mail mx.a.test: the mail host has no address",
                "fault mail a.test: it has no mail server: reports cannot come back, and others will refuse its mail",
            ],
        ),
        ("mx.a.test A !", &["unasked mail mx.a.test: could not be asked: the name servers could not answer"]),
        ("a.test MX !", &["unasked mail a.test: could not be asked: the name servers could not answer"]),
        // Policies
        ("_mta-sts.a.test TXT", &["hint policy _mta-sts.a.test: there is no MTA-STS policy"]),
        ("_smtp._tls.a.test TXT", &["hint policy _smtp._tls.a.test: nobody gets reports on TLS"]),
        (
            "_smtp._tls.a.test TXT !",
            &["unasked policy _smtp._tls.a.test: could not be asked: the name servers could not answer"],
        ),
    ] {
        assert_eq!(found(&preflight(), lines).await, expected, "{lines}");
    }
}

#[tokio::test]
async fn a_domain_that_is_not_there_has_nothing() {
    let findings = preflight().check(&StaticDns::new()).await;
    assert_eq!(
        wrong(&findings),
        [
            "fault spf a.test: there is no SPF record",
            "fault dkim s1._domainkey.a.test: no key is published",
            "fault dmarc _dmarc.a.test: there is no DMARC policy",
            "fault ptr 1.2.0.192.in-addr.arpa: 192.0.2.1 has no name",
            "fault helo mail.a.test: the name in EHLO has no address",
            "fault ptr 1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa: 2001:db8::1 has no name",
            "fault helo mail.a.test: the name in EHLO has no address",
            "fault mail a.test: the domain does not exist",
            "hint policy _mta-sts.a.test: there is no MTA-STS policy",
            "hint policy _smtp._tls.a.test: nobody gets reports on TLS",
        ]
    );
}

#[tokio::test]
async fn the_name_in_ehlo_must_be_a_full_name() {
    for helo in ["[192.0.2.1]", "mail"] {
        let mut preflight = preflight();
        preflight.helo = EhloName::new(helo).unwrap();
        let expected = ["fault helo: the name in EHLO is no full name of a host"];
        assert_eq!(found(&preflight, "").await, expected, "{helo}");
    }
}

#[tokio::test]
async fn keys_are_compared_by_what_they_are() {
    let mut preflight = preflight();
    preflight.keys.clear();
    assert_eq!(found(&preflight, "").await, ["warning dkim: no DKIM key was given"]);
    // Wrapped in another way, with another spelling, it is the same key.
    preflight.keys = vec![DkimKey::new("s1", "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap()];
    assert_eq!(found(&preflight, "").await, Vec::<String>::new());
    preflight.keys = vec![DkimKey::new("s1", RSA1024).unwrap()];
    let lines = format!("s1._domainkey.a.test TXT {}", RSA1024.replace("v=DKIM1; k=rsa; ", ""));
    let expected = ["warning dkim s1._domainkey.a.test: an RSA key should have 2048 bits, not 1024"];
    assert_eq!(found(&preflight, &lines).await, expected);
    // RFC 8301 §3.2: 512 bits, a modulus of 64 octets.
    let short = "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK8xgHmlSahua/n8NohQtWWjodHjUpoXnXUaPjZVzGGIp0NSRK/AawmZVR6aWo+zNJTcivo2TjZxD/9UTk/ujWkCAwEAAQ==";
    preflight.keys = vec![DkimKey::new("s1", short).unwrap()];
    let expected = ["fault dkim s1._domainkey.a.test: an RSA key of 512 bits is accepted by nobody"];
    assert_eq!(found(&preflight, &format!("s1._domainkey.a.test TXT p={short}")).await, expected);
    for (selector, record, fault) in [
        ("s..1", ED25519, KeyFault::Selector),
        ("", ED25519, KeyFault::Selector),
        ("s1", "v=DKIM1; p=", KeyFault::Missing),
        ("s1", "v=DKIM1; k=x; p=AAAA", KeyFault::Kind),
        ("s1", "nonsense", KeyFault::Key),
    ] {
        assert_eq!(DkimKey::new(selector, record), Err(fault), "{selector} {record}");
    }
}

#[tokio::test]
async fn alignment_goes_by_the_organization_that_dns_shows() {
    // RFC 9989 §4.10
    let dmarc = "_dmarc.a.test TXT v=DMARC1; p=reject; rua=mailto:x@a.test";
    let unaligned =
        "warning dmarc bounce.b.test: the sender's domain is not aligned: only DKIM counts for DMARC";
    for (sender, signer, lines, expected) in [
        ("bounce.a.test", "a.test", dmarc, &[][..]),
        ("bounce.b.test", "a.test", dmarc, &[unaligned][..]),
        (
            "bounce.b.test",
            "b.test",
            dmarc,
            &[
                unaligned,
                "warning dmarc b.test: the signature's domain is not aligned",
                "fault dmarc a.test: neither the sender's domain nor a signature's is aligned: all mail fails DMARC",
            ],
        ),
        (
            "bounce.a.test",
            "sig.a.test",
            "_dmarc.a.test TXT v=DMARC1; p=reject; rua=mailto:x@a.test; aspf=s; adkim=s",
            &[
                "warning dmarc bounce.a.test: the sender's domain is not aligned: only DKIM counts for DMARC",
                "warning dmarc sig.a.test: the signature's domain is not aligned",
                "fault dmarc a.test: neither the sender's domain nor a signature's is aligned: all mail fails DMARC",
            ],
        ),
        // A domain below which others register theirs holds nobody together.
        ("bounce.a.test", "a.test", "_dmarc.test TXT v=DMARC1; p=none; psd=y", &[]),
        (
            "b.test",
            "a.test",
            "_dmarc.test TXT v=DMARC1; p=none; psd=y",
            &["warning dmarc b.test: the sender's domain is not aligned: only DKIM counts for DMARC"],
        ),
        ("b.test", "a.test", "_dmarc.test TXT v=DMARC1; p=none", &[]),
        // An organization below another one.
        (
            "bounce.a.test",
            "a.test",
            "_dmarc.bounce.a.test TXT v=DMARC1; p=none; psd=n",
            &["warning dmarc bounce.a.test: the sender's domain is not aligned: only DKIM counts for DMARC"],
        ),
        (
            "bounce.b.test",
            "a.test",
            "_dmarc.b.test TXT !",
            &["unasked dmarc _dmarc.b.test: could not be asked: the name servers could not answer"],
        ),
    ] {
        let mut preflight = preflight();
        preflight.return_path = Some(sender.parse().unwrap());
        preflight.keys = vec![DkimKey::new("s1", ED25519).unwrap().of(signer.parse().unwrap())];
        let findings = preflight.check(&changed(lines)).await;
        let wrong: Vec<_> = wrong(&findings).into_iter().filter(|line| line.contains(" dmarc ")).collect();
        assert_eq!(wrong, expected, "{sender} {signer} {lines}");
    }
}

#[tokio::test]
async fn a_domain_below_has_the_policy_of_the_one_above() {
    for (record, severity, line) in [
        ("p=reject; sp=none; rua=mailto:x@a.test", Severity::Warning, "none, which protects nothing"),
        ("p=none; sp=quarantine; rua=mailto:x@a.test", Severity::Fine, "quarantine"),
        ("p=reject; rua=mailto:x@a.test", Severity::Fine, "reject"),
    ] {
        let mut preflight = preflight();
        preflight.domain = "shop.a.test".parse().unwrap();
        preflight.return_path = Some("a.test".parse().unwrap());
        let dns = changed(&format!("_dmarc.a.test TXT v=DMARC1; {record}"));
        let findings = preflight.check(&dns).await;
        let policy = findings.iter().find(|one| {
            matches!(one.detail, Detail::DmarcPolicy(_) | Detail::DmarcNothing) && one.severity == severity
        });
        assert_eq!(
            policy.unwrap().to_string(),
            format!("{severity} dmarc _dmarc.a.test: the policy is {line}")
        );
    }
}

#[tokio::test]
async fn without_addresses_a_record_that_cannot_be_asked_for_is_not_fine_either() {
    let mut preflight = preflight();
    preflight.addresses.clear();
    let found = found(&preflight, "a.test TXT !").await;
    assert!(found.iter().any(|line| line.starts_with("unasked spf a.test")), "{found:?}");
}

#[tokio::test]
async fn an_address_literal_is_no_domain_of_a_sender() {
    let helo = EhloName::new("mail.a.test").unwrap();
    let preflight = Preflight::new("[192.0.2.1]".parse().unwrap(), helo, Vec::new());
    let findings = preflight.check(&changed("")).await;
    assert!(!findings.is_ready(), "{:?}", wrong(&findings));
}

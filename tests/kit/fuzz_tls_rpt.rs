//! Reports about TLS: the record of a domain that wants them, and the lines in which results are kept.

/// A record that parses names addresses that can be used as they stand; what is read of a day is within its
/// bounds, is made a report that is JSON, and that fits a mail.
#[cfg(feature = "tls-rpt")]
pub fn tls_rpt(data: &[u8]) {
    use postroad::smtp::address::{Domain, EhloName, Mailbox};
    use postroad::tls_rpt::{Bounds, Day, ReportRecord, ReportTo, Submitter, Tally, TlsReport};

    if let Some(record) = ReportRecord::parse(data) {
        assert!((1..=5).contains(&record.to.len()));
        for to in &record.to {
            let text = to.to_string();
            assert!(text.len() <= 2_560 && !text.chars().any(char::is_control), "{text:?}");
            if let ReportTo::Https(uri) = to {
                let again = ReportRecord::parse(format!("v=TLSRPTv1; rua={uri}").as_bytes());
                assert_eq!(again.as_ref().map(|again| &again.to[..]), Some(&[to.clone()][..]), "{uri}");
            }
        }
        assert_eq!(ReportRecord::among([data]), Some(record));
        assert_eq!(ReportRecord::among([data, data]), None, "two are none");
    }
    let mut bounds = Bounds::new();
    (bounds.domains, bounds.policies, bounds.all_policies) = (4, 2, 6);
    (bounds.details, bounds.all_details) = (3, 8);
    let tally = Tally::read(data, bounds);
    assert!(tally.domains().count() <= bounds.domains);
    let contact = Mailbox::parse("tls@us.test").expect("a mailbox");
    let us = Domain::parse("us.test").expect("a name");
    let submitter = Submitter::new("Us", contact.clone(), us);
    let day = Day::parse("2026-09-21").expect("a day");
    let ehlo = EhloName::new("us.test").expect("a name");
    for domain in tally.domains() {
        // As many as there are results may come without a host.
        let counted = tally.of(domain).all(|counted| counted.failed.len() <= bounds.details + 11);
        assert!(counted && tally.of(domain).count() <= bounds.policies);
        let report = TlsReport::new(day, domain, &tally, &submitter).expect("it has results");
        let text = report.to_json();
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        if domain.as_literal().is_none() {
            let now = postroad::clock::Timestamp::from_millis(0);
            assert!(report.to_mail(&contact, &ehlo, now).is_ok(), "{domain}");
        }
    }
}

/// Without them there is nothing to try.
#[cfg(not(feature = "tls-rpt"))]
pub fn tls_rpt(_: &[u8]) {}

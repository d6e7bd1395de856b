//! Records of SPF as anybody may publish them: whatever they say, the look-ups stay within their limits.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use postroad::BoxFuture;
use postroad::preflight::spf::{SpfResult, evaluate};
use postroad::route::dns::{Answer, Dns, DnsName, Found, Record, RecordKind};
use postroad::smtp::address::{Domain, EhloName, ReversePath};

/// Lines: the sender, the name in EHLO, then the records of `a.test`, of `b.test` and of all other names.
pub fn spf(data: &[u8]) {
    let mut lines = data.split(|octet| *octet == b'\n');
    let mut text = || lines.next().map_or("", |line| std::str::from_utf8(line).unwrap_or_default());
    let sender = ReversePath::parse(text()).unwrap_or_default();
    let helo = EhloName::new(text()).unwrap_or_else(|_| EhloName::new("helo.test").unwrap());
    let records: Vec<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
    let domain = Domain::parse("a.test").unwrap();
    for ip in [IpAddr::from([192, 0, 2, 3]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xcb01])] {
        let dns = Records { records: records.clone(), asked: AtomicUsize::new(0) };
        let found = pin!(evaluate(&dns, ip, &domain, &sender, &helo));
        let Poll::Ready(found) = found.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("nothing here waits")
        };
        assert!(found.look_ups <= 10);
        // Eleven records, ten terms with eleven questions at most, and the names of the address.
        let asked = dns.asked.load(Ordering::Relaxed);
        assert!(asked <= 11 + 10 * 11 + 11, "{asked} questions");
        let begins = records.first().and_then(|record| record.get(..6));
        if found.result != SpfResult::None {
            assert!(begins.is_some_and(|begins| begins.eq_ignore_ascii_case(b"v=spf1")));
        }
    }
}

/// Answers each question at once.
#[derive(Debug)]
struct Records {
    records: Vec<Vec<u8>>,
    asked: AtomicUsize,
}

impl Dns for Records {
    fn look_up<'a>(&'a self, name: &'a DnsName, kind: RecordKind) -> BoxFuture<'a, Found> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let at = match name.as_str() {
            "a.test" => 0,
            "b.test" => 1,
            _ => 2,
        };
        let answer = match (kind, self.records.get(at)) {
            (RecordKind::Txt, Some(text)) => Answer::Records(vec![Record::Txt(text.clone().into())]),
            // Names begin with what decides: some are there, some lead back, some do not.
            (RecordKind::A, _) if name.as_str().starts_with('h') => {
                Answer::Records(vec![Record::A([192, 0, 2, 3].into()), Record::A([192, 0, 2, 4].into())])
            }
            (RecordKind::Mx, _) => {
                let host = |at: u16| {
                    let host = Domain::parse(&format!("m{at}.test")).unwrap();
                    Record::Mx(postroad::route::mx::Mx::new(at, postroad::route::mx::Exchange::Host(host)))
                };
                Answer::Records((0..10).map(host).collect())
            }
            (RecordKind::Ptr, _) => {
                let host = |at: u16| Record::Ptr(DnsName::new(&format!("h{at}.a.test")).unwrap());
                Answer::Records((0..20).map(host).collect())
            }
            _ => Answer::NoData,
        };
        Box::pin(std::future::ready(Found::new(answer, false, name.clone())))
    }
}

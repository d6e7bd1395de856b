//! One row: its servers are started, one message is sent, and what came of it is compared.

use postroad::Mailer;
use postroad::attempt::{Cause, Feature, Outcome};
use postroad::clock::Rng;
use postroad::hop::{Demand, PolicyKind, Require};
use postroad::message::{Envelope, RawMessage};
use postroad::net::tls::TlsOptions;
use postroad::route::dns::{Anchors, Dnssec};
use postroad::route::sts::StsOptions;
use postroad::route::{MxOptions, MxResolver, RouteError};
use postroad::smtp::address::EhloName;

use super::certs::{Ca, Cert, Leaf};
use super::dns::Fault;
use super::dns::signed::{Kind, SignedDns};
use super::https::{Certificate, HttpsServer, Reply};
use super::peer::{Peer, Talk};

/// The TLSA records of the host.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tlsa {
    /// None.
    No,
    /// Of these numbers, about its certificate, or for usage 2 about its authority's.
    Its(u8, u8, u8),
    /// Of these numbers, about another certificate.
    Others(u8, u8, u8),
    /// One that does not match and one that does: a key that is about to change.
    Two,
    /// One that mail cannot use (RFC 7672 §3.1.3) and one that matches.
    UnusableAndIts,
    /// The name server fails at the question.
    Fails,
}

/// The destination's policy.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Policy {
    /// None is announced.
    No,
    /// This mode, for the host.
    Of(&'static str),
    /// This mode, for all hosts one label below its domain.
    Family(&'static str),
    /// This mode, for another host.
    Elsewhere(&'static str),
    /// One is announced, and is not there.
    Missing,
    /// It is on a host whose certificate is for another name.
    OnWrongHost,
}

/// What the host shows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shows {
    /// It does not offer TLS.
    Clear,
    /// It offers STARTTLS and refuses it.
    Refuses,
    /// A certificate of this kind.
    A(Leaf),
}

/// What the message says of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// Nothing.
    Nothing,
    /// REQUIRETLS, which the host offers.
    Requires,
    /// REQUIRETLS, which the host does not offer.
    RequiresInVain,
    /// `TLS-Required: No`
    No,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comes {
    /// It was delivered in clear.
    Clear,
    /// It was delivered over TLS with a certificate that proves nothing, under this demand.
    Tls(Demand),
    /// It was delivered over TLS with a certificate that is valid for the host.
    Valid(Demand),
    /// It was delivered over TLS with a certificate that matches the TLSA records.
    Matched,
    /// It waits, since the host did not show what this demands; it was not told of the message.
    Waits(Demand),
    /// It failed by this demand.
    FailedBy(Demand),
    /// It waits for a route.
    NoRoute(RouteError),
    /// It failed, since the host lacks this, or no host is proven to be the domain's.
    Lacks(Feature),
}

/// A row.
pub(crate) struct Row {
    pub zone: Kind,
    pub host_zone: Kind,
    pub tlsa: Tlsa,
    pub policy: Policy,
    pub shows: Shows,
    pub require: Require,
    pub says: Says,
    pub comes: Comes,
}

impl Row {
    pub(crate) async fn holds(self) {
        let ca = Ca::new("an authority that is trusted");
        let cert = match self.shows {
            Shows::A(leaf) => ca.issue_with_root(leaf, HOST),
            _ => ca.issue(HOST),
        };
        let peer = self.peer(cert.clone()).await;
        let https = HttpsServer::start().await;
        let dns = SignedDns::start(
            &[("to.test", self.zone), ("mx.test", self.host_zone), ("web.test", Kind::Unsigned)],
            &self.records(peer.host(HOST).port, &ca, &cert),
        )
        .await;
        if let Tlsa::Fails = self.tlsa {
            dns.fault(&format!("_{}._tcp.{HOST}", peer.host(HOST).port), "TLSA", Fault::ServFail);
        }
        self.publish(&https);

        let mut options = MxOptions::new();
        options.servers = vec![dns.address()];
        (options.dnssec, options.anchors) = (Dnssec::Validate, Anchors::of_root(dns.anchors()));
        options.port = peer.host(HOST).port;
        options.require = self.require;
        options.rng = Rng::seeded(1);
        let mut sts = StsOptions::new();
        (sts.port, sts.trust) = (https.port(), https.trust(TlsOptions::new()));
        options.sts = Some(sts);
        let mailer = Mailer::direct(MxResolver::new(options).unwrap(), EhloName::new("us.test").unwrap())
            .unwrap()
            .configured(|mailer| {
                mailer.tls.without_native_roots = true;
                mailer.tls = mailer.tls.clone().trust_pem(ca.pem().as_bytes()).unwrap();
            })
            .unwrap();

        let delivery = mailer.send(self.message()).await.unwrap();
        let (_, outcome) = &delivery.recipients[0];
        assert_eq!(came(outcome), self.comes, "{outcome:?}\n{:?}", peer.heard());
        let told = usize::from(matches!(outcome, Outcome::Delivered(_)));
        assert_eq!(peer.count("MAIL"), told, "{:?}", peer.heard());
    }

    async fn peer(&self, cert: Cert) -> Peer {
        let (shows, offer) = (self.shows, if self.says == Says::Requires { "REQUIRETLS" } else { "" });
        let tls = cert.server();
        Peer::on_tcp(move |mut talk: Talk| {
            let tls = tls.clone();
            async move {
                talk.open(if matches!(shows, Shows::Clear) { "8BITMIME" } else { "STARTTLS" }).await?;
                if !matches!(shows, Shows::Clear) && talk.line().await? == "STARTTLS" {
                    if let Shows::Refuses = shows {
                        talk.say("454 4.7.0 not now").await;
                    } else {
                        talk.say("220 go").await;
                        if !talk.secure(&tls).await {
                            return None;
                        }
                        talk.until("EHLO").await?;
                        talk.extensions(&format!("8BITMIME {offer}")).await;
                    }
                } else if !matches!(shows, Shows::Clear) {
                    // MAIL in clear.
                    talk.say("250 ok").await;
                }
                talk.take(usize::MAX).await
            }
        })
        .await
    }

    fn records(&self, port: u16, ca: &Ca, cert: &Cert) -> String {
        let mut records = format!(
            "to.test MX 10 {HOST}\n{HOST} A 127.0.0.1\nmta-sts.to.test CNAME web.test\nweb.test A 127.0.0.1\n"
        );
        if !matches!(self.policy, Policy::No) {
            records.push_str("_mta-sts.to.test TXT v=STSv1; id=1;\n");
        }
        let other = Leaf::Good.issue(ca, HOST);
        let mut tlsa = |usage: u8, selector: u8, matching: u8, cert: &Cert| {
            let data: String =
                cert.tlsa_data(selector, matching).iter().map(|octet| format!("{octet:02x}")).collect();
            let record = format!("_{port}._tcp.{HOST} TLSA {usage} {selector} {matching} {data}\n");
            records.push_str(&record);
        };
        let about = |usage| if usage % 2 == 0 { ca.cert() } else { cert };
        match self.tlsa {
            Tlsa::No | Tlsa::Fails => {}
            Tlsa::Its(usage, selector, matching) => tlsa(usage, selector, matching, about(usage)),
            Tlsa::Others(usage, selector, matching) => tlsa(usage, selector, matching, &other),
            Tlsa::Two => {
                tlsa(3, 1, 1, &other);
                tlsa(3, 1, 1, cert);
            }
            Tlsa::UnusableAndIts => {
                tlsa(1, 1, 1, &other);
                tlsa(3, 1, 1, cert);
            }
        }
        records
    }

    fn publish(&self, https: &HttpsServer) {
        let policy = |mode: &str, mx: &str| {
            https.policy(
                "to.test",
                &format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: 86400\r\n"),
            );
        };
        match self.policy {
            Policy::No => {}
            Policy::Of(mode) => policy(mode, HOST),
            Policy::Family(mode) => policy(mode, "*.mx.test"),
            Policy::Elsewhere(mode) => policy(mode, "mail.elsewhere.test"),
            Policy::Missing => https.reply("mta-sts.to.test", Reply::status(404)),
            Policy::OnWrongHost => {
                policy("enforce", "mail.elsewhere.test");
                https.certificate("mta-sts.to.test", Certificate::OtherName);
            }
        }
    }

    fn message(&self) -> RawMessage {
        let field = if self.says == Says::No { "TLS-Required: No\r\n" } else { "" };
        let mut envelope = Envelope::parse("from@us.test", ["someone@to.test"]).unwrap();
        envelope.require_tls = matches!(self.says, Says::Requires | Says::RequiresInVain);
        RawMessage::new(envelope, format!("From: from@us.test\r\n{field}\r\nhello\r\n"))
    }
}

fn came(outcome: &Outcome) -> Comes {
    match outcome {
        Outcome::Delivered(accepted) => {
            let demand = accepted.demand.expect("an outcome names what was required");
            match &accepted.tls {
                None => Comes::Clear,
                Some(tls) if tls.dane => {
                    assert_eq!(demand, Demand::Dane);
                    Comes::Matched
                }
                Some(tls) if tls.verified.is_some() => Comes::Valid(demand),
                Some(_) => Comes::Tls(demand),
            }
        }
        Outcome::Deferred(Cause::Tls { demand, .. }) => Comes::Waits(*demand),
        Outcome::Failed(Cause::Tls { demand, .. }) => Comes::FailedBy(*demand),
        Outcome::Deferred(Cause::Route(error)) => Comes::NoRoute(*error),
        Outcome::Failed(Cause::Lacks { feature, .. }) => Comes::Lacks(*feature),
        other => panic!("{other:?}"),
    }
}

const HOST: &str = "a.mx.test";

/// What is demanded where nobody demands anything.
pub(crate) const NOBODY: Demand = Demand::Opportunistic;
/// TLS, by TLSA records that cannot be used.
pub(crate) const ANY_TLS: Demand = Demand::Encrypted(PolicyKind::Dane);
pub(crate) const STS: Demand = Demand::Verified(PolicyKind::Sts);
pub(crate) const OWN: Demand = Demand::Verified(PolicyKind::Own);
pub(crate) const OWN_TLS: Demand = Demand::Encrypted(PolicyKind::Own);
pub(crate) const MESSAGE: Demand = Demand::Verified(PolicyKind::Message);

/// One test for each row: `name: zone host_zone | tlsa | policy | shows | require | says => comes;`
macro_rules! rows {
    ($($name:ident: $zone:ident $host:ident | $tlsa:expr, $policy:expr, $shows:expr, $require:ident, $says:ident => $comes:expr;)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (zone, host_zone) = (Kind::$zone, Kind::$host);
                let (require, says) = (Require::$require, Says::$says);
                Row { zone, host_zone, tlsa: $tlsa, policy: $policy, shows: $shows, require, says, comes: $comes }
                    .holds()
                    .await;
            }
        )+
    };
}
pub(crate) use rows;

//! Signed zones for tests: a whole tree from the root down, with what can be wrong in it.
//!
//! ```ignore
//! let dns = SignedDns::start(
//!     &[("ok.test", Kind::Signed), ("plain.test", Kind::Unsigned)],
//!     "
//!     ok.test               MX    10 mx.ok.test
//!     mx.ok.test            A     192.0.2.1
//!     _25._tcp.mx.ok.test   TLSA  3 1 1 00112233...
//!     ",
//! ).await;
//! options.servers = vec![dns.address()];
//! options.dnssec = Dnssec::Validate;
//! options.anchors = Anchors::parse(dns.anchors());
//! ```
//! The root and every parent that is not named are signed. A record goes to the closest zone. It answers
//! as a server that looks everything up itself, yet one step of a CNAME chain at a time where the next
//! name is in another zone. Without wildcards: this server's NSEC for them is not what validators want.
//! Faults and counts of questions are those of [`DnsServer`], which it derefs to.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use hickory_server::dnssec::NxProofKind;
use hickory_server::proto::dnssec::crypto::EcdsaSigningKey;
use hickory_server::proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS};
use hickory_server::proto::dnssec::{Algorithm, DigestType, DnssecSigner, PublicKeyBuf, SigningKey};
use hickory_server::proto::rr::rdata::{NS, SOA, TXT};
use hickory_server::proto::rr::{Name, RData, Record};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, ZoneType};

use super::{DnsServer, name, record};

/// What DNSSEC makes of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything as it should be.
    Signed,
    /// Its signatures ended a day ago.
    Expired,
    /// The parent vouches for another key.
    Bogus,
    /// Signed, and the parent says that it is not.
    Island,
    /// Not signed, as the parent says.
    Unsigned,
}

/// A server of signed zones; it stops when dropped.
pub struct SignedDns {
    server: DnsServer,
    anchors: String,
}

impl SignedDns {
    /// Serves these zones with these records, which are written as for [`DnsServer::start`].
    pub async fn start(zones: &[(&str, Kind)], records: &str) -> Self {
        let mut kinds: BTreeMap<Name, Kind> =
            zones.iter().map(|(origin, kind)| (name(origin), *kind)).collect();
        for (origin, _) in zones {
            let mut parent = name(origin);
            while !parent.is_root() {
                parent = parent.base_name();
                kinds.entry(parent.clone()).or_insert(Kind::Signed);
            }
        }
        kinds.entry(Name::root()).or_insert(Kind::Signed);
        let mut zones: BTreeMap<Name, Zone> =
            kinds.into_iter().map(|(origin, kind)| (origin.clone(), Zone::new(origin, kind))).collect();

        let all: Vec<Record> =
            records.lines().map(str::trim).filter(|line| !line.is_empty()).map(record).collect();
        let mut placed: Vec<(Name, Record)> = Vec::new();
        for (origin, zone) in &zones {
            placed.push((origin.clone(), zone.ns()));
            // A zone of one name has a denial that this server cannot find.
            if let Ok(filler) = Name::from_ascii("0-filler").unwrap().append_domain(origin) {
                let text = RData::TXT(TXT::new(vec!["filler".into()]));
                placed.push((origin.clone(), Record::from_rdata(filler, 60, text)));
            }
            if !origin.is_root() {
                let parent = closest(&zones, &origin.base_name());
                placed.push((parent.clone(), zone.ns()));
                placed.extend(zone.ds().map(|ds| (parent, ds)));
            }
        }
        placed.extend(all.into_iter().map(|record| (closest(&zones, &record.name), record)));
        for (origin, record) in placed {
            zones.get_mut(&origin).unwrap().handler.upsert_mut(record, 0);
        }
        let key = &zones[&Name::root()].key;
        let anchors = format!(". 60 IN DNSKEY {}\n", DNSKEY::from_key(key));
        let server = DnsServer::serve(zones.into_values().map(Zone::signed).collect()).await;
        Self { server, anchors }
    }

    /// The root's key, as a line of a zone file.
    pub fn anchors(&self) -> &str {
        &self.anchors
    }
}

impl Deref for SignedDns {
    type Target = DnsServer;

    fn deref(&self) -> &DnsServer {
        &self.server
    }
}

struct Zone {
    origin: Name,
    kind: Kind,
    handler: InMemoryZoneHandler,
    signer: DnssecSigner,
    key: PublicKeyBuf,
}

impl Zone {
    fn new(origin: Name, kind: Kind) -> Self {
        let proof = (kind != Kind::Unsigned).then_some(NxProofKind::Nsec);
        let mut handler =
            <InMemoryZoneHandler>::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny, proof);
        let soa = SOA::new(name("ns.test"), name("x.test"), 1, 60, 60, 60, 60);
        handler.upsert_mut(Record::from_rdata(origin.clone(), 60, RData::SOA(soa)), 0);
        // The end is written as 32 bits, so that this one is a day ago.
        let valid = if kind == Kind::Expired { (1 << 32) - DAY } else { DAY };
        let (key, signing) = new_key();
        let signer =
            DnssecSigner::new(DNSKEY::from_key(&key), signing, origin.clone(), Duration::from_secs(valid));
        Self { origin, kind, handler, signer, key }
    }

    fn ns(&self) -> Record {
        Record::from_rdata(self.origin.clone(), 60, RData::NS(NS(name("ns.test"))))
    }

    fn ds(&self) -> Option<Record> {
        let key = match self.kind {
            Kind::Signed | Kind::Expired => self.key.clone(),
            Kind::Bogus => new_key().0,
            Kind::Island | Kind::Unsigned => return None,
        };
        let ds = DS::from_key(&key, &self.origin, DigestType::SHA256).unwrap();
        Some(Record::from_rdata(self.origin.clone(), 60, RData::DNSSEC(DNSSECRData::DS(ds))))
    }

    fn signed(self) -> InMemoryZoneHandler {
        let mut handler = self.handler;
        if self.kind != Kind::Unsigned {
            handler.add_zone_signing_key_mut(self.signer).unwrap();
            handler.secure_zone_mut().unwrap();
        }
        handler
    }
}

/// The zone that holds a name.
fn closest(zones: &BTreeMap<Name, Zone>, name: &Name) -> Name {
    let holds = zones.keys().filter(|origin| origin.zone_of(name));
    holds.max_by_key(|origin| origin.num_labels()).unwrap().clone()
}

fn new_key() -> (PublicKeyBuf, Box<dyn SigningKey>) {
    let der = EcdsaSigningKey::generate_pkcs8(Algorithm::ECDSAP256SHA256).unwrap();
    let key = EcdsaSigningKey::from_pkcs8(&der, Algorithm::ECDSAP256SHA256).unwrap();
    (key.to_public_key().unwrap(), Box::new(key))
}

/// In seconds.
const DAY: u64 = 24 * 60 * 60;

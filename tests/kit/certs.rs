//! Certificates of every kind, right and wrong, and the TLSA records that are about them.
//!
//! The clock of most tests stands in 2026: certificates are valid from 2000 to 2049 unless that is what
//! is wrong with them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "every test file uses a part of the kit, and a test fails by panicking"
)]

use std::sync::Arc;

use bytes::Bytes;
use postroad::hop::{Host, Tlsa, TlsaRecord, TlsaSet};
use postroad::net::tls::ServerTls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData};
use sha2::{Digest, Sha256, Sha512};

/// An authority, root or intermediate.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    cert: Cert,
    /// What servers show behind a certificate of this authority, PEM: nothing for a root.
    shown: String,
}

/// A certificate with what goes in front of it, and its key.
#[derive(Debug, Clone)]
pub struct Cert {
    /// Its own, DER.
    pub der: Vec<u8>,
    /// Its public key, SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// What a server shows, PEM: its own first.
    pub chain_pem: String,
    /// PEM.
    pub key_pem: String,
}

/// What a certificate is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// Nothing is wrong with it.
    Good,
    /// It is for `other.test`.
    WrongName,
    /// It ended in 2020.
    Expired,
    /// It begins in 2040.
    NotYetValid,
    /// It is signed with its own key.
    SelfSigned,
    /// It is from an authority that nobody knows.
    UnknownCa,
    /// It says that it is an authority's.
    IsCa,
}

impl Leaf {
    /// All that are wrong in the eyes of PKIX.
    pub const WRONG: [Self; 6] =
        [Self::WrongName, Self::Expired, Self::NotYetValid, Self::SelfSigned, Self::UnknownCa, Self::IsCa];

    /// One of these for `name`, from `ca` unless that is what is wrong.
    pub fn issue(self, ca: &Ca, name: &str) -> Cert {
        let years = match self {
            Self::Expired => (2000, 2020),
            Self::NotYetValid => (2040, 2049),
            _ => VALID,
        };
        let mut params = leaf(if self == Self::WrongName { "other.test" } else { name }, years);
        if self == Self::IsCa {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        match self {
            Self::SelfSigned => self_signed(&params),
            Self::UnknownCa => Ca::new("nobody's authority").sign(&params),
            _ => ca.sign(&params),
        }
    }
}

impl Ca {
    /// A root of this name.
    pub fn new(name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        let cert = Cert::of(&params.self_signed(&key).unwrap(), &key, "");
        Self { issuer: Issuer::new(params, key), cert, shown: String::new() }
    }

    /// An intermediate authority under this one.
    pub fn under(&self, name: &str) -> Self {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        let cert = Cert::of(&params.signed_by(&key, &self.issuer).unwrap(), &key, &self.shown);
        let shown = cert.chain_pem.clone();
        Self { issuer: Issuer::new(params, key), cert, shown }
    }

    /// Its own certificate.
    pub fn cert(&self) -> &Cert {
        &self.cert
    }

    /// For `TlsOptions::trust_pem`.
    pub fn pem(&self) -> &str {
        &self.cert.chain_pem
    }

    /// A certificate that is right, for `name`.
    pub fn issue(&self, name: &str) -> Cert {
        Leaf::Good.issue(self, name)
    }

    /// One that is shown with this authority's certificate behind it, as a server with TLSA records of
    /// usage 2 has to do also where that is a root (RFC 7671 §5.2.2).
    pub fn issue_with_root(&self, leaf: Leaf, name: &str) -> Cert {
        let mut cert = leaf.issue(self, name);
        cert.chain_pem.push_str(&self.cert.chain_pem);
        cert
    }

    fn sign(&self, params: &CertificateParams) -> Cert {
        let key = KeyPair::generate().unwrap();
        Cert::of(&params.signed_by(&key, &self.issuer).unwrap(), &key, &self.shown)
    }
}

impl Cert {
    fn of(cert: &rcgen::Certificate, key: &KeyPair, above: &str) -> Self {
        Self {
            der: cert.der().to_vec(),
            spki: key.subject_public_key_info(),
            chain_pem: format!("{}{above}", cert.pem()),
            key_pem: key.serialize_pem(),
        }
    }

    /// A server that shows it.
    pub fn server(&self) -> ServerTls {
        ServerTls::from_pem(self.chain_pem.as_bytes(), self.key_pem.as_bytes()).unwrap()
    }

    /// The TLSA record of these numbers that is about it (RFC 6698 §2.1): usages 2 and 3, selectors 0 and
    /// 1, matching 0, 1 and 2.
    pub fn tlsa(&self, usage: u8, selector: u8, matching: u8) -> TlsaRecord {
        TlsaRecord::new(usage, selector, matching, self.tlsa_data(selector, matching).into()).unwrap()
    }

    /// The data of such a record, for zones.
    pub fn tlsa_data(&self, selector: u8, matching: u8) -> Vec<u8> {
        let part = if selector == 0 { &self.der } else { &self.spki };
        match matching {
            0 => part.clone(),
            1 => Sha256::digest(part).to_vec(),
            _ => Sha512::digest(part).to_vec(),
        }
    }
}

/// A record that nothing matches.
pub fn other_tlsa(usage: u8) -> TlsaRecord {
    TlsaRecord::new(usage, 1, 1, Bytes::from_static(&[7; 32])).unwrap()
}

/// The same host with these records, under its own name.
pub fn with_tlsa(mut host: Host, records: Vec<TlsaRecord>) -> Host {
    host.tlsa = Tlsa::Records(Arc::new(TlsaSet::new(host.name.clone(), records)));
    host
}

/// Every selector with every matching type.
pub const PARTS: [(u8, u8); 6] = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    valid(&mut params, VALID);
    params
}

fn leaf(name: &str, years: (i32, i32)) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    valid(&mut params, years);
    params
}

fn self_signed(params: &CertificateParams) -> Cert {
    let key = KeyPair::generate().unwrap();
    Cert::of(&params.self_signed(&key).unwrap(), &key, "")
}

fn valid(params: &mut CertificateParams, (first, last): (i32, i32)) {
    params.not_before = rcgen::date_time_ymd(first, 1, 1);
    params.not_after = rcgen::date_time_ymd(last, 12, 31);
}

const VALID: (i32, i32) = (2000, 2049);

//! A name server for tests: a real authority on loopback, whose answers can be made to fail.
//!
//! ```ignore
//! let dns = DnsServer::start("
//!     a.test        MX    10 mx.a.test
//!     mx.a.test     A     192.0.2.1
//!     mx.a.test 60  AAAA  2001:db8::1
//! ").await;
//! dns.fault("mx.a.test", "AAAA", Fault::ServFail);
//! let resolver = MxResolver::with_servers(vec![dns.address()])?;
//! assert_eq!(dns.queries("a.test", "MX"), 1);
//! ```
//! It is authoritative for everything: a name that is not in the records does not exist.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of the kit")]

pub mod signed;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Header, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, TLSA, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, MessageResponseBuilder, ZoneHandler, ZoneType};
use tokio::net::{TcpListener, UdpSocket};

/// The server; it stops when dropped.
pub struct DnsServer {
    address: SocketAddr,
    script: Arc<Script>,
    _server: Server<Handler>,
}

/// What happens to a question instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    ServFail,
    Refused,
    /// No answer at all.
    Silence,
    /// No such record, as the unsigned SOA of this zone says.
    Denied(&'static str),
}

/// One question that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Lower case, without the trailing dot.
    pub name: String,
    /// Such as `MX`.
    pub kind: String,
    pub over_tcp: bool,
}

#[derive(Default)]
struct Script {
    faults: Mutex<HashMap<(String, String), Fault>>,
    questions: Mutex<Vec<Question>>,
}

impl DnsServer {
    /// Serves these records: a line each, `name [ttl] type data`, names absolute with or without a
    /// trailing dot. Types: A, AAAA, MX, CNAME, NS, PTR, TXT, TLSA (data in hex). The TTL is 60 seconds where none is given,
    /// that of "does not exist" also.
    pub async fn start(records: &str) -> Self {
        let mut zone = <InMemoryZoneHandler>::empty(Name::root(), ZoneType::Primary, AxfrPolicy::Deny, None);
        let soa = SOA::new(name("ns.invalid"), name("x.invalid"), 1, 60, 60, 60, 60);
        zone.upsert_mut(Record::from_rdata(Name::root(), 60, RData::SOA(soa)), 0);
        for line in records.lines().map(str::trim).filter(|line| !line.is_empty()) {
            zone.upsert_mut(record(line), 0);
        }
        Self::serve(vec![zone]).await
    }

    /// Serves these zones, the closest one to each name.
    async fn serve(zones: Vec<InMemoryZoneHandler>) -> Self {
        let catalog = |zone: InMemoryZoneHandler| {
            let origin = zone.origin().clone();
            let mut catalog = Catalog::new();
            catalog.upsert(origin.clone(), vec![Arc::new(zone)]);
            (origin.into(), catalog)
        };
        let mut zones: Vec<(Name, Catalog)> = zones.into_iter().map(catalog).collect();
        zones.sort_by_key(|(origin, _)| std::cmp::Reverse(origin.num_labels()));

        let (tcp, udp) = sockets().await;
        let address = tcp.local_addr().unwrap();
        let script = Arc::new(Script::default());
        let mut server = Server::new(Handler { zones, script: Arc::clone(&script) });
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 16);
        Self { address, script, _server: server }
    }

    /// Where it listens, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this question, or with `*` as the type every question about the name, fails.
    pub fn fault(&self, name: &str, kind: &str, fault: Fault) {
        self.script.faults.lock().unwrap().insert((name.to_owned(), kind.to_owned()), fault);
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.script.faults.lock().unwrap().clear();
    }

    /// How often a question came in.
    pub fn queries(&self, name: &str, kind: &str) -> usize {
        self.questions().iter().filter(|q| q.name == name && q.kind == kind).count()
    }

    /// All questions so far.
    pub fn questions(&self) -> Vec<Question> {
        self.script.questions.lock().unwrap().clone()
    }
}

struct Handler {
    /// The deepest first.
    zones: Vec<(Name, Catalog)>,
    script: Arc<Script>,
}

impl Handler {
    /// The zone that answers: the closest one, for DS that of the parent.
    fn zone(&self, request: &Request) -> &Catalog {
        let asked =
            request.request_info().map(|info| (Name::from(info.query.name()), info.query.query_type()));
        let holds = |(origin, _): &&(Name, Catalog)| match &asked {
            Ok((name, RecordType::DS)) => origin.zone_of(name) && origin != name,
            Ok((name, _)) => origin.zone_of(name),
            Err(_) => true,
        };
        let found = self.zones.iter().find(holds).or_else(|| self.zones.last());
        &found.unwrap().1
    }

    fn note(&self, request: &Request) -> Option<Fault> {
        let query = request.request_info().ok()?.query.clone();
        let name = query.name().to_string().trim_end_matches('.').to_lowercase();
        let kind = query.query_type().to_string();
        let over_tcp = request.protocol() == Protocol::Tcp;
        let asked = Question { name: name.clone(), kind: kind.clone(), over_tcp };
        self.script.questions.lock().unwrap().push(asked);
        let faults = self.script.faults.lock().unwrap();
        faults.get(&(name.clone(), kind)).or_else(|| faults.get(&(name, "*".to_owned()))).copied()
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let code = match self.note(request) {
            None => return self.zone(request).handle_request::<R, T>(request, out).await,
            Some(Fault::ServFail) => Some(ResponseCode::ServFail),
            Some(Fault::Refused) => Some(ResponseCode::Refused),
            Some(Fault::Silence) => None,
            Some(Fault::Denied(zone)) => {
                let soa = SOA::new(name("ns.test"), name("x.test"), 1, 60, 60, 60, 60);
                let soa = Record::from_rdata(name(zone), 60, RData::SOA(soa));
                let metadata = Metadata::response_from_request(&request.metadata);
                let response = MessageResponseBuilder::from_message_request(request);
                return out.send_response(response.build(metadata, [], [], [&soa], [])).await.unwrap();
            }
        };
        if let Some(code) = code {
            let response =
                MessageResponseBuilder::from_message_request(request).error_msg(&request.metadata, code);
            if let Ok(info) = out.send_response(response).await {
                return info;
            }
        }
        let metadata = Metadata::response_from_request(&request.metadata);
        Header { metadata, counts: Default::default() }.into()
    }
}

/// One port for both transports.
async fn sockets() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (tcp, udp);
        }
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn record(line: &str) -> Record {
    let mut words = line.split_whitespace().peekable();
    let owner = name(words.next().unwrap());
    let ttl = words.peek().and_then(|word| word.parse().ok());
    if ttl.is_some() {
        words.next();
    }
    let kind = RecordType::from_str(words.next().unwrap()).unwrap();
    let data: Vec<_> = words.collect();
    let data = match (kind, data.as_slice()) {
        (RecordType::A, [ip]) => RData::A(A(ip.parse().unwrap())),
        (RecordType::AAAA, [ip]) => RData::AAAA(AAAA(ip.parse().unwrap())),
        (RecordType::MX, [preference, host]) => RData::MX(MX::new(preference.parse().unwrap(), name(host))),
        (RecordType::CNAME, [target]) => RData::CNAME(CNAME(name(target))),
        (RecordType::PTR, [host]) => RData::PTR(PTR(name(host))),
        (RecordType::NS, [host]) => RData::NS(NS(name(host))),
        (RecordType::TLSA, [usage, selector, matching, data]) => RData::TLSA(TLSA::new(
            usage.parse::<u8>().unwrap().into(),
            selector.parse::<u8>().unwrap().into(),
            matching.parse::<u8>().unwrap().into(),
            hex(data),
        )),
        (RecordType::TXT, words) => RData::TXT(TXT::new(vec![words.join(" ")])),
        _ => panic!("not a record this kit knows: {line}"),
    };
    Record::from_rdata(owner, ttl.unwrap_or(60), data)
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

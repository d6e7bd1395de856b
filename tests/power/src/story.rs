//! A story is what callers asked of a spool, what they were told, and what must be there afterwards.

use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use postroad::clock::Timestamp;
use postroad::message::MessageId;
use postroad::spool::{
    Claim, ClaimRequest, Class, DiskOptions, DiskSpool, Durability, LogKind, NewBody, NewMessage, Selection,
    Settlement, Spool, SpoolError, Then, contract,
};

use crate::disk::{Disk, Ended, Note};
use crate::orders::{LEASE, order};
pub use crate::orders::{Order, Standing};
use crate::platter::mix;
use crate::remembered::{self, Memory};

/// A message of a story; everything about it follows from its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letter {
    pub n: u64,
    pub size: usize,
    pub entries: u32,
}

impl Letter {
    pub fn id(self) -> MessageId {
        contract::sample(self.n).id
    }

    fn body(self) -> Bytes {
        static MADE: Mutex<BTreeMap<(u64, usize), Bytes>> = Mutex::new(BTreeMap::new());
        let mut made = MADE.lock().unwrap();
        if made.len() > 10_000 {
            made.clear();
        }
        let body = made.entry((self.n, self.size)).or_insert_with(|| {
            let octets = (0..).flat_map(|at: u64| mix(self.n << 32 | at).to_le_bytes());
            octets.take(self.size).collect()
        });
        body.clone()
    }

    fn message(self, body: NewBody) -> NewMessage {
        let mut message = contract::sample(self.n);
        message.body = body;
        let entry = message.entries[0].clone();
        message.entries.resize(self.entries as usize, entry);
        if self.is_remembered() {
            remembered::remember(&mut message, self.n);
        }
        message
    }

    /// Whether a call that brings it first claims what it brings: every other one does.
    const fn is_born_claimed(self) -> bool {
        self.n.is_multiple_of(2)
    }

    /// Whether it has a key, keeps its results and is logged.
    pub const fn is_remembered(self) -> bool {
        self.n >= REMEMBERED
    }

    fn whole(self) -> NewMessage {
        self.message(NewBody::Inline(self.body()))
    }
}

/// Letters from this number on are remembered.
pub const REMEMBERED: u64 = 1 << 24;

/// An entry of a letter.
pub type Place = (MessageId, u32);

/// What a caller asks. Each is all or nothing.
#[derive(Debug, Clone)]
pub enum Call {
    Enqueue(Vec<Letter>),
    /// One whose body comes in pieces.
    Stage(Letter),
    /// A body that is staged and then given up.
    GiveUp(Letter),
    Remove {
        place: Place,
        report: Option<Letter>,
    },
    Retry {
        place: Place,
        due: u64,
    },
    /// All entries of a message, from outside.
    Alter(MessageId, Order),
}

/// What a spool holds, and what it remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held(pub BTreeMap<MessageId, Mail>, pub BTreeMap<MessageId, Memory>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    size: usize,
    pub entries: BTreeMap<u32, Standing>,
}

impl Held {
    fn add(&mut self, letter: Letter) {
        let entries = (0..letter.entries).map(|entry| (entry, Standing::default())).collect();
        self.0.insert(letter.id(), Mail { size: letter.size, entries });
        if letter.is_remembered() {
            self.1.insert(letter.id(), Memory { logged: 1, settled: 0, recipients: letter.entries });
        }
    }

    fn after(mut self, call: &Call) -> Self {
        match call {
            Call::Enqueue(letters) => letters.iter().for_each(|letter| self.add(*letter)),
            Call::Stage(letter) => self.add(*letter),
            Call::GiveUp(_) => {}
            Call::Remove { place: (id, entry), report } => {
                if let Some(mail) = self.0.get_mut(id) {
                    mail.entries.remove(entry);
                    if let Some(memory) = self.1.get_mut(id) {
                        (memory.logged, memory.settled) = (memory.logged + 1, memory.settled + 1);
                    }
                    if mail.entries.is_empty() {
                        self.0.remove(id);
                    }
                }
                report.iter().for_each(|letter| self.add(*letter));
            }
            Call::Retry { place: (id, entry), due } => {
                if let Some(at) = self.0.get_mut(id).and_then(|mail| mail.entries.get_mut(entry)) {
                    (at.tried, at.due) = (at.tried + 1, *due);
                }
            }
            Call::Alter(id, order) => {
                for at in self.0.get_mut(id).iter_mut().flat_map(|mail| mail.entries.values_mut()) {
                    at.alter(*order);
                }
            }
        }
        self
    }
}

/// What is known at a moment: what was acknowledged, and what may or may not have happened besides.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub held: Held,
    pub maybe: Vec<usize>,
}

impl Known {
    /// Goes on by one note.
    pub fn note(&mut self, note: Note, calls: &[Call]) {
        match note {
            Note::Begun(call) => self.maybe.push(call),
            Note::Ended(_, Ended::Unknown) => {}
            Note::Ended(call, ended) => {
                self.maybe.retain(|at| *at != call);
                if ended == Ended::Done {
                    self.held = std::mem::take(&mut self.held).after(&calls[call]);
                }
            }
        }
    }

    /// Which of the uncertain calls have happened if this is what is there.
    fn explain(&self, found: &Held, calls: &[Call]) -> Option<Vec<usize>> {
        assert!(self.maybe.len() <= 10, "so many cannot be tried out");
        (0_u32..1 << self.maybe.len()).find_map(|choice| {
            let chosen: Vec<_> = self
                .maybe
                .iter()
                .enumerate()
                .filter(|(n, _)| choice >> n & 1 == 1)
                .map(|(_, c)| *c)
                .collect();
            let then = chosen.iter().fold(self.held.clone(), |held, call| held.after(&calls[*call]));
            (then == *found).then_some(chosen)
        })
    }
}

/// Everything in a spool, with the claims of all entries.
async fn read(spool: &DiskSpool, letters: &HashMap<MessageId, Letter>) -> Result<(Held, Vec<Claim>), String> {
    let failed = |error: SpoolError| format!("it cannot be read: {error:?}");
    let claims = claim_all(spool).await.map_err(failed)?;
    let entries = spool.scan(Selection::all(), None, usize::MAX).await.map_err(failed)?;
    let mut held = Held::default();
    let mut octets = 0;
    for claim in &claims {
        let id = claim.token.message;
        let letter = letters.get(&id).ok_or_else(|| format!("{id} was never enqueued"))?;
        if let Entry::Vacant(place) = held.0.entry(id) {
            let body = contract::octets(spool, &claim.body).await;
            let body = body.map_err(|error| format!("the body of {id}: {error:?}"))?;
            if body != letter.body() {
                return Err(format!("the body of {id} is another"));
            }
            octets += body.len() as u64;
            place.insert(Mail { size: body.len(), entries: BTreeMap::new() });
        }
        let (tried, due, cancelled) = (claim.attempts, claim.due.as_millis(), claim.cancelled);
        let standing = Standing { tried, due, parked: false, cancelled };
        held.0.get_mut(&id).unwrap().entries.insert(claim.token.entry, standing);
    }
    let mut parked = 0;
    for entry in entries.iter().filter(|entry| entry.parked.is_some()) {
        parked += 1;
        let letter = letters.get(&entry.message).ok_or("nobody enqueued what is parked")?;
        let mail = held.0.entry(entry.message).or_insert_with(|| {
            octets += letter.size as u64;
            Mail { size: letter.size, entries: BTreeMap::new() }
        });
        let (tried, due, cancelled) = (entry.attempts, entry.due.as_millis(), entry.cancelled);
        mail.entries.insert(entry.entry, Standing { tried, due, parked: true, cancelled });
    }
    if entries.len() != claims.len() + parked {
        return Err(format!("{} are listed, {} claimed, {parked} parked", entries.len(), claims.len()));
    }
    held.1 = remembered::read(spool, letters).await?;
    let stats = spool.stats();
    let count = (held.0.len() as u64, entries.len() as u64, parked as u64, octets);
    if (stats.messages, stats.entries, stats.parked, stats.octets) != count {
        return Err(format!(
            "{} messages, {} entries, {octets} octets: {stats:?}",
            held.0.len(),
            claims.len()
        ));
    }
    let queues = spool.queues(None, 10).await.map_err(failed)?;
    if queues.iter().map(|queue| queue.entries).sum::<u64>() != stats.entries - stats.parked {
        return Err(format!("the queues count {queues:?}, there are {}", stats.entries));
    }
    Ok((held, claims))
}

async fn claim_all(spool: &DiskSpool) -> Result<Vec<Claim>, SpoolError> {
    let queue = contract::sample(0).entries[0].queue.clone();
    let now = Timestamp::from_millis(1 << 45);
    spool.claim(ClaimRequest { queue, class: Class::Normal, now, limit: 10_000, lease: LEASE }).await
}

/// The letters that calls are about.
pub fn letters(calls: &[Call]) -> HashMap<MessageId, Letter> {
    let all = calls.iter().flat_map(|call| match call {
        Call::Enqueue(letters) => letters.clone(),
        Call::Stage(letter) | Call::GiveUp(letter) | Call::Remove { report: Some(letter), .. } => {
            vec![*letter]
        }
        Call::Remove { report: None, .. } | Call::Retry { .. } | Call::Alter(..) => Vec::new(),
    });
    all.map(|letter| (letter.id(), letter)).collect()
}

/// Opens what the power cut has left, and compares it with what is known.
pub async fn check(
    dir: &Path,
    known: &Known,
    calls: &[Call],
    letters: &HashMap<MessageId, Letter>,
) -> Result<(), String> {
    let spool = DiskSpool::open(dir).map_err(|error| format!("it does not open: {error:?}"))?;
    let (found, mut claims) = read(&spool, letters).await?;
    if known.explain(&found, calls).is_none() {
        let maybe: Vec<_> = known.maybe.iter().map(|call| &calls[*call]).collect();
        return Err(format!("acknowledged: {:#?}\nperhaps: {maybe:#?}\nfound: {found:#?}", known.held));
    }
    // It goes on as if nothing had been.
    let failed = |error: SpoolError| format!("it cannot be used on: {error:?}");
    let more = Letter { n: 1 << 20, size: 6_000, entries: 2 };
    let born = spool.enqueue(vec![more.whole()], Some(Timestamp::NEVER)).await.map_err(failed)?.claims;
    let body = contract::octets(&spool, &born[0].body).await;
    if !body.is_ok_and(|body| body == more.body()) {
        return Err("a new body is not kept".into());
    }
    remembered::check_keys(&spool, &found, letters).await?;
    // Also what is held.
    order(&spool, Selection::parked(), Order::Release).await.map_err(failed)?;
    claims.extend(claim_all(&spool).await.map_err(failed)?);
    let all: Vec<_> = claims.iter().chain(&born).map(contract::remove).collect();
    let fenced = spool.settle(all, Durability::Synced).await.map_err(failed)?;
    if !fenced.is_empty() || spool.stats().messages != 0 {
        return Err(format!("not everything could be settled: {fenced:?}, {:?}", spool.stats()));
    }
    spool.close().await.map_err(failed)?;
    let shell = rusqlite::Connection::open(dir.join("spool.db")).unwrap();
    let text = |sql: &str| shell.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    let (sound, left) = (
        text("PRAGMA integrity_check"),
        text(
            "SELECT (SELECT count(*) FROM message) || ' ' || (SELECT count(*) FROM entry) || ' ' \
              || (SELECT count(*) FROM body) || ' ' || (SELECT count(*) FROM told)",
        ),
    );
    if sound != "ok" || left != "0 0 0 0" {
        return Err(format!("integrity {sound}, left over {left}"));
    }
    Ok(())
}

/// Tells a story to a spool on a disk.
#[derive(Debug)]
pub struct Teller {
    pub disk: Arc<Disk>,
    pub options: DiskOptions,
    spool: Option<DiskSpool>,
    pub known: Known,
    pub calls: Vec<Call>,
    claims: HashMap<Place, Claim>,
}

impl Teller {
    pub fn new(disk: Disk, known: Known, calls: Vec<Call>) -> Self {
        let mut options = disk.options();
        options.lazy = std::time::Duration::ZERO;
        let (spool, claims) = (None, HashMap::new());
        Self { disk: Arc::new(disk), options, spool, known, calls, claims }
    }

    /// Opens the spool, finds out what became of the calls that nobody knew about.
    ///
    /// # Errors
    /// What the opening says; a text when what is there cannot be.
    pub async fn open(&mut self) -> Result<(), Refused> {
        let spool = DiskSpool::open_with(self.disk.path(), self.options.clone()).map_err(Refused::Open)?;
        let (found, claims) = read(&spool, &letters(&self.calls)).await.map_err(Refused::Wrong)?;
        let Some(done) = self.known.explain(&found, &self.calls) else {
            return Err(Refused::Wrong(format!("known: {:#?}\nfound: {found:#?}", self.known)));
        };
        for call in self.known.maybe.clone() {
            let ended = if done.contains(&call) { Ended::Done } else { Ended::Refused };
            self.note(Note::Ended(call, ended));
        }
        self.claims.clear();
        self.hold(claims);
        self.spool = Some(spool);
        Ok(())
    }

    fn hold(&mut self, claims: Vec<Claim>) {
        self.claims.extend(claims.into_iter().map(|c| ((c.token.message, c.token.entry), c)));
    }

    fn note(&mut self, note: Note) {
        self.disk.note(note);
        self.known.note(note, &self.calls);
    }

    /// Closes the spool in good order.
    pub async fn close(&mut self) -> Result<(), SpoolError> {
        match self.spool.take() {
            Some(spool) => spool.close().await,
            None => Ok(()),
        }
    }

    /// kill -9
    pub fn kill(&mut self) {
        self.disk.kill();
        self.drop_spool();
        self.disk.revive();
    }

    /// Lets go of a broken spool.
    pub fn drop_spool(&mut self) {
        self.spool = None;
    }

    /// Makes these calls at once and waits for the answers.
    pub async fn round(&mut self, calls: Vec<Call>) -> Vec<(Ended, Option<SpoolError>)> {
        let spool = self.spool.clone().expect("it is open");
        // What the round before left running may be what a process dies of: then nothing more was claimed.
        let claims = claim_all(&spool).await;
        let could_claim = claims.is_ok();
        self.hold(claims.unwrap_or_default());
        let mut under_way = Vec::new();
        for call in calls {
            let number = self.calls.len();
            self.calls.push(call.clone());
            self.note(Note::Begun(number));
            let claim = match &call {
                Call::Remove { place, .. } | Call::Retry { place, .. } => {
                    let claim = self.claims.remove(place);
                    assert!(claim.is_some() || !could_claim, "it can be claimed");
                    claim
                }
                _ => None,
            };
            let (spool, disk) = (spool.clone(), Arc::clone(&self.disk));
            let logs = claim.as_ref().is_some_and(|c| self.known.held.1.contains_key(&c.token.message));
            let task = tokio::spawn(async move {
                let result = make(&spool, call, claim, logs).await;
                let ended = match &result {
                    Ok(_) => Ended::Done,
                    Err(SpoolError::Unknown(_)) => Ended::Unknown,
                    Err(_) => Ended::Refused,
                };
                (disk.answer(number, ended), result)
            });
            under_way.push((number, task));
        }
        let mut answers = Vec::new();
        for (number, task) in under_way {
            let (ended, result) = task.await.unwrap();
            self.known.note(Note::Ended(number, ended), &self.calls);
            let error = result.map(|born| self.hold(born)).err();
            answers.push((ended, error));
        }
        answers
    }

    /// The entries that are there and can be claimed.
    pub fn places(&self) -> Vec<Place> {
        let mails = self.known.held.0.iter();
        let all = mails.flat_map(|(id, mail)| mail.entries.iter().map(|(entry, at)| ((*id, *entry), at)));
        all.filter(|(_, at)| !at.parked).map(|(place, _)| place).collect()
    }

    /// Bodies that were copied into another file since the spool was opened.
    pub fn moved(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.counters().moved)
    }
}

/// Why a spool did not open.
#[derive(Debug)]
pub enum Refused {
    Open(SpoolError),
    Wrong(String),
}

/// Makes a call. What it brings is returned if it is claimed by that.
async fn make(
    spool: &DiskSpool,
    call: Call,
    claim: Option<Claim>,
    logs: bool,
) -> Result<Vec<Claim>, SpoolError> {
    match call {
        Call::Enqueue(letters) => {
            let lease = letters.first().is_some_and(|letter| letter.is_born_claimed()).then_some(LEASE);
            let messages = letters.into_iter().map(Letter::whole).collect();
            return Ok(spool.enqueue(messages, lease).await?.claims);
        }
        Call::Stage(letter) => {
            let mut writer = spool.stage().await?;
            for part in letter.body().chunks(70_001) {
                writer.write(Bytes::copy_from_slice(part)).await?;
            }
            let staged = writer.finish().await?;
            spool.enqueue(vec![letter.message(NewBody::Staged(staged))], None).await?;
        }
        Call::GiveUp(letter) => {
            let mut writer = spool.stage().await?;
            writer.write(letter.body()).await?;
        }
        Call::Remove { report, .. } => {
            let submit = report.into_iter().map(Letter::whole).collect();
            let mut settlement = Settlement { submit, ..contract::remove(&claim.ok_or(SpoolError::Closed)?) };
            settlement.log.extend(logs.then(|| remembered::event(settlement.token, LogKind::Delivered)));
            settle(spool, settlement).await?;
        }
        Call::Retry { due, .. } => {
            let claim = claim.ok_or(SpoolError::Closed)?;
            let settlement = Settlement {
                recipients: claim.recipients.clone(),
                then: Then::Retry(Timestamp::from_millis(due)),
                ..contract::remove(&claim)
            };
            settle(spool, settlement).await?;
        }
        Call::Alter(id, wanted) => order(spool, Selection::message(id), wanted).await?,
    }
    Ok(Vec::new())
}

async fn settle(spool: &DiskSpool, settlement: Settlement) -> Result<(), SpoolError> {
    let fenced = spool.settle(vec![settlement], Durability::Synced).await?;
    assert!(fenced.is_empty(), "nobody else has claimed it");
    Ok(())
}

//! The table of a server's states: what may be answered to which command, and what holds then.
//!
//! Where several reasons for a refusal hold at once, the code of each of them is right. Where an RFC
//! leaves a choice, all its choices are; the model then follows what was chosen.

use crate::moves::{Answer, Mail, Move, path};

/// What the server was told to be.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub lmtp: bool,
    pub starttls: bool,
    pub require_tls: bool,
    pub require_auth: bool,
    pub binary: bool,
    /// AUTH in clear, under TLS.
    pub auth: [bool; 2],
    pub max_recipients: usize,
    /// 0 is none.
    pub max_size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub from: String,
    pub to: Vec<String>,
    pub content: Vec<u8>,
}

#[derive(Debug)]
pub struct Transaction {
    pub from: String,
    pub to: Vec<String>,
    smtputf8: bool,
    binary: bool,
    /// BDAT was used.
    content: Option<Vec<u8>>,
    dead: bool,
}

/// Where a client and a server are.
#[derive(Debug)]
pub struct Model {
    pub setting: Setting,
    /// Whether the last hello was EHLO or LHLO.
    pub hello: Option<bool>,
    pub tls: bool,
    pub user: bool,
    pub transaction: Option<Transaction>,
    pub wants: Wants,
    pub closed: bool,
    pub taken: Vec<Message>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Wants {
    Command,
    Content,
    AuthAnswer,
    Handshake,
}

impl Model {
    pub fn new(setting: Setting) -> Self {
        Self {
            setting,
            hello: None,
            tls: false,
            user: false,
            transaction: None,
            wants: Wants::Command,
            closed: false,
            taken: Vec::new(),
        }
    }

    /// For each reply that is due, the codes that it may have.
    pub fn expected(&self, step: &Move) -> Vec<Vec<u16>> {
        let mut no = Vec::new();
        // RFC 3207 §4
        if self.setting.require_tls && !self.tls && !step.is_allowed_in_clear() {
            no.push(530);
        }
        let yes = match step {
            Move::Hello { verb, named } => {
                // RFC 2033 §4.1: neither protocol has the other's greeting.
                if (*verb == "LHLO") != self.setting.lmtp {
                    no.extend([500, 502]);
                }
                if !named {
                    no.push(501);
                }
                vec![250]
            }
            Move::Mail(mail) => self.mail(mail, &mut no),
            Move::Rcpt(to) => self.rcpt(to, &mut no),
            Move::Data => {
                self.content_refusals(&mut no);
                if self.setting.lmtp && no.contains(&554) {
                    // RFC 2033 §4.2
                    no.retain(|code| *code != 554);
                }
                if self.transaction.as_ref().is_some_and(|t| t.content.is_some() || t.binary) {
                    // RFC 3030 §2, §3
                    no.push(503);
                }
                vec![354]
            }
            Move::Content(octets) => return self.verdicts(octets, true),
            Move::Bdat { octets, last } => {
                self.content_refusals(&mut no);
                if no.is_empty() {
                    let mut all =
                        self.transaction.as_ref().and_then(|t| t.content.clone()).unwrap_or_default();
                    all.extend_from_slice(octets);
                    return match (self.faults(&all, *last), last) {
                        (faults, false) if !faults.is_empty() => vec![faults],
                        (_, false) => vec![vec![250]],
                        (_, true) => self.verdicts(&all, false),
                    };
                }
                vec![250]
            }
            Move::Rset | Move::Noop => vec![250],
            Move::Quit => vec![221],
            // RFC 5321 §3.5.3, §7.3
            Move::Vrfy => vec![250, 251, 252, 502, 550, 551, 553],
            Move::Expn => vec![250, 252, 502, 550],
            Move::Help => vec![211, 214, 502],
            Move::StartTls => {
                if !self.setting.starttls {
                    no.extend([500, 502, 503]);
                }
                if self.tls || self.hello.is_none() || self.transaction.is_some() {
                    no.push(503);
                }
                vec![220]
            }
            Move::Auth { mechanism, initial } => self.auth(mechanism, *initial, &mut no),
            Move::AuthAnswer(answer) => vec![answer.code()],
            Move::Garbage(_) => {
                no.extend([500, 501, 502, 503, 555]);
                Vec::new()
            }
        };
        vec![if no.is_empty() { yes } else { no }]
    }

    fn mail(&self, mail: &Mail, no: &mut Vec<u16>) -> Vec<u16> {
        if self.hello.is_none() || self.transaction.is_some() {
            // RFC 5321 §4.1.4
            no.push(503);
        }
        if self.setting.require_auth && !self.user {
            no.push(530);
        }
        if mail.unknown || (mail.auth && !self.offers_auth()) || (mail.binary && !self.setting.binary) {
            // RFC 5321 §4.1.1.11
            no.push(555);
        }
        if self.hello == Some(false) && (mail.size.is_some() || mail.binary || mail.smtputf8 || mail.auth) {
            // RFC 5321 §2.2.1: HELO is for clients that know of no extensions.
            no.push(555);
        }
        if self.setting.max_size > 0 && mail.size.is_some_and(|size| size > self.setting.max_size) {
            // RFC 1870 §6.1
            no.push(552);
        }
        if !mail.from.is_ascii() && !mail.smtputf8 {
            // RFC 6531 §3.5
            no.extend([550, 553]);
        }
        vec![host(mail.from)]
    }

    fn rcpt(&self, to: &str, no: &mut Vec<u16>) -> Vec<u16> {
        match &self.transaction {
            None => no.push(503),
            Some(transaction) => {
                if transaction.dead || transaction.content.is_some() {
                    no.push(503);
                }
                if transaction.to.len() >= self.setting.max_recipients {
                    // RFC 5321 §4.5.3.1.10
                    no.push(452);
                }
                if !to.is_ascii() && !transaction.smtputf8 {
                    no.extend([550, 553]);
                }
            }
        }
        vec![host(to)]
    }

    fn auth(&self, mechanism: &str, initial: Option<Answer>, no: &mut Vec<u16>) -> Vec<u16> {
        // RFC 4954 §4
        if self.hello.is_none() || self.user || self.transaction.is_some() {
            no.push(503);
        }
        if self.setting.auth == [false, false] {
            no.extend([500, 502, 503, 504]);
        } else if !self.offers_auth() {
            no.extend([503, 504, 530, 538]);
        }
        if mechanism == "NONSUCH" {
            no.push(504);
        }
        vec![initial.map_or(334, Answer::code)]
    }

    fn content_refusals(&self, no: &mut Vec<u16>) {
        match &self.transaction {
            None => no.push(503),
            Some(transaction) if transaction.dead => no.push(503),
            // RFC 5321 §3.3
            Some(transaction) if transaction.to.is_empty() => no.extend([503, 554]),
            Some(_) => {}
        }
    }

    /// What is wrong with content, of which there may be more.
    fn faults(&self, content: &[u8], whole: bool) -> Vec<u16> {
        let mut codes = Vec::new();
        let binary = self.transaction.as_ref().is_some_and(|t| t.binary);
        let nul_line = content.starts_with(b"\0") || content.windows(3).any(|three| three == b"\r\n\0");
        if !binary && (nul_line || has_bare_line_end(content, whole)) {
            // RFC 5321 §2.3.8; a line that begins with NUL is our own.
            codes.push(554);
        }
        if self.setting.max_size > 0 && content.len() as u64 > self.setting.max_size {
            codes.push(552);
        }
        codes
    }

    fn verdicts(&self, content: &[u8], by_data: bool) -> Vec<Vec<u16>> {
        let Some(transaction) = &self.transaction else { return Vec::new() };
        let mut faults = self.faults(content, true);
        if by_data && !content.is_empty() && !content.ends_with(b"\r\n") {
            faults = self.faults(&[content, b"\r\n"].concat(), true);
        }
        let all = if faults.is_empty() { vec![judged(content)] } else { faults.clone() };
        match self.setting.lmtp {
            false => vec![all],
            // RFC 2033 §4.2
            true => transaction
                .to
                .iter()
                .map(|to| if faults.is_empty() && *to == path("full") { vec![452] } else { all.clone() })
                .collect(),
        }
    }

    /// Takes in what was answered.
    pub fn apply(&mut self, step: &Move, codes: &[u16]) {
        if codes.contains(&421) {
            self.closed = true;
            return;
        }
        let positive = codes.iter().all(|code| code / 100 == 2);
        match step {
            Move::Hello { verb, .. } if positive => {
                // RFC 5321 §4.1.4: as if RSET had been said.
                self.transaction = None;
                self.hello = Some(*verb != "HELO");
            }
            Move::Mail(mail) if positive => {
                self.transaction = Some(Transaction {
                    from: path(mail.from),
                    to: Vec::new(),
                    smtputf8: mail.smtputf8,
                    binary: mail.binary,
                    content: None,
                    dead: false,
                });
            }
            Move::Rcpt(to) if positive => self.transaction.as_mut().unwrap().to.push(path(to)),
            Move::Data if codes == [354] => self.wants = Wants::Content,
            Move::Content(octets) => {
                self.wants = Wants::Command;
                let mut content = octets.clone();
                if !content.is_empty() && !content.ends_with(b"\r\n") {
                    content.extend_from_slice(b"\r\n");
                }
                self.end(content, true);
            }
            Move::Bdat { octets, last } => self.chunk(octets, *last, positive),
            Move::Rset if positive => self.transaction = None,
            Move::Quit => self.closed = true,
            Move::StartTls if positive => self.wants = Wants::Handshake,
            Move::Auth { initial: None, .. } if codes == [334] => self.wants = Wants::AuthAnswer,
            Move::Auth { .. } if positive => self.user = true,
            Move::AuthAnswer(_) => {
                self.wants = Wants::Command;
                self.user |= positive;
            }
            _ => {}
        }
    }

    /// RFC 3207 §4.2
    pub fn encrypted(&mut self) {
        (self.tls, self.hello, self.user, self.wants) = (true, None, false, Wants::Command);
        self.transaction = None;
    }

    fn chunk(&mut self, octets: &[u8], last: bool, positive: bool) {
        let Some(transaction) = &mut self.transaction else { return };
        let lives = !transaction.dead && !transaction.to.is_empty();
        if last && lives {
            let mut content = transaction.content.take().unwrap_or_default();
            content.extend_from_slice(octets);
            self.end(content, false);
        } else if positive {
            transaction.content.get_or_insert_default().extend_from_slice(octets);
        } else {
            // RFC 3030 §2
            transaction.dead = true;
        }
    }

    /// Whatever became of the message, the transaction is over (RFC 5321 §4.1.1.4).
    fn end(&mut self, content: Vec<u8>, by_data: bool) {
        let codes = self.verdicts(&content, by_data).concat();
        let sound = self.faults(&content, true).is_empty();
        let Some(transaction) = self.transaction.take() else { return };
        if sound && codes.iter().any(|code| code / 100 == 2) {
            self.taken.push(Message { from: transaction.from, to: transaction.to, content });
        }
    }

    pub fn offers_auth(&self) -> bool {
        self.setting.auth[usize::from(self.tls)]
    }
}

/// What the host answers to MAIL or RCPT with this local part.
pub fn host(local: &str) -> u16 {
    match local {
        "no" => 550,
        "later" => 450,
        "begone" => 421,
        _ => 250,
    }
}

/// What the host answers to this content.
pub fn judged(content: &[u8]) -> u16 {
    match content.first() {
        Some(b'n') => 554,
        Some(b'l') => 451,
        _ => 250,
    }
}

/// RFC 5321 §2.3.8, of content that may go on.
fn has_bare_line_end(content: &[u8], whole: bool) -> bool {
    let mut octets = content.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' if octets.next_if_eq(&b'\n').is_some() => {}
            b'\r' if octets.peek().is_none() && !whole => {}
            b'\r' | b'\n' => return true,
            _ => {}
        }
    }
    false
}

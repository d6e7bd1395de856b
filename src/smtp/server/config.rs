//! What a server session is told once: names, limits and what it offers.

use std::time::Duration;

pub use super::super::Protocol;
use super::super::address::EhloName;
use super::super::capability::Limits;
use super::super::sasl::{Decoy, Mechanism, Nonces};

/// The options of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The name in the greeting and in the reply to EHLO.
    pub hostname: EhloName,
    /// SMTP by default; LMTP for a final delivery agent (RFC 2033), never on port 25.
    pub protocol: Protocol,
    /// The largest message in octets, as RFC 1870 counts them. Announced, and enforced while the
    /// content comes. Default 25 MiB; 0 means no limit here.
    pub max_message_size: u64,
    /// Recipients of one message; more get 452 4.5.3 and belong in the next transaction. Announced as
    /// RCPTMAX (RFC 9422) up to 999,999, the most that its form has. Default 1,000; RFC 5321
    /// §4.5.3.1.8 wants at least 100.
    pub max_recipients: usize,
    /// Different domains among the recipients of one message; more get 452 4.5.3 and belong in the
    /// next transaction. Announced as RCPTDOMAINMAX (RFC 9422). Default: no limit. Set it, to 1 as a
    /// rule, where a message is handled by the rules of one domain.
    pub max_recipient_domains: Option<u32>,
    /// Transactions of one session; MAIL after that many gets 421 4.7.0 and the end of the session.
    /// Announced as MAILMAX (RFC 9422). Default: no limit. Set it where load must be spread anew now
    /// and then, or where a session's messages are counted elsewhere.
    pub max_messages: Option<u32>,
    /// Offer STARTTLS. Default off; on as soon as the host has a certificate.
    pub starttls: bool,
    /// When AUTH is offered. Default [`AuthOffer::UnderTls`], which a server that knows no users
    /// changes to [`AuthOffer::Never`].
    pub auth: AuthOffer,
    /// Which mechanisms are offered, in the order in which they are announced. Default: PLAIN and LOGIN,
    /// which any host can check; [`Mechanism::STORED_KEYS`] where the host answers
    /// [`Event::AuthKeys`](super::Event::AuthKeys), OAUTHBEARER and XOAUTH2 where it checks tokens, EXTERNAL
    /// where it knows certificates. SCRAM-SHA-256-PLUS is announced only where TLS gives a channel
    /// binding, EXTERNAL only to who has shown a certificate, and CRAM-MD5 never.
    pub mechanisms: Vec<Mechanism>,
    /// Shown in SCRAM for users that do not exist. Default: [`Decoy::random`]; one of a fixed secret where
    /// restarts, or several servers, must not tell who exists.
    pub decoy: Decoy,
    /// Where SCRAM's nonces come from. Default: the operating system.
    pub nonces: Nonces,
    /// Refuse MAIL before a login, as a submission server must (RFC 6409 §4.3). Default off.
    pub require_auth: bool,
    /// Refuse nearly everything before TLS (RFC 3207 §4). Default off; never on port 25.
    pub require_tls: bool,
    /// Offer BINARYMIME (RFC 3030). Default off: a relay whose next hop lacks it could only bounce.
    pub binary: bool,
    /// Offer REQUIRETLS (RFC 8689), under TLS only. Default off: it promises that the message goes on
    /// over verified TLS only, to hosts that promise the same, which the session's host must be able
    /// to keep.
    pub offer_require_tls: bool,
    /// Offer DELIVERBY (RFC 2852) with this least time in seconds for mail that is to be returned when
    /// it is late (0: any). Default: not offered. The host must obey [`Mail::by`].
    ///
    /// [`Mail::by`]: crate::smtp::params::Mail::by
    pub deliver_by: Option<u32>,
    /// Offer FUTURERELEASE (RFC 4865): mail is held for so many seconds at most. Default: not offered,
    /// nor before [`Session::set_wall`](super::Session::set_wall). It is for submission: where
    /// [`Config::auth`] is not [`AuthOffer::Never`], only clients that are logged in may ask for it.
    /// The host must obey [`Mail::hold`].
    ///
    /// [`Mail::hold`]: crate::smtp::params::Mail::hold
    /// A `Server` offers it on no connection to port 25 (RFC 4865 §4.2).
    pub future_release: Option<u32>,
    /// Offer MT-PRIORITY (RFC 6710). Default off. The host decides whose priorities count.
    pub priority: bool,
    /// Ask the host about VRFY. Default off: every VRFY gets 252, which tells nothing (RFC 5321 §7.3).
    pub vrfy: bool,
    /// Ask the host about EXPN. Default off: every EXPN gets 502.
    pub expn: bool,
    /// End a session whose client talks before the greeting, as only spam software does. Default on;
    /// off where something in between, such as a health check, does the same.
    pub refuse_early_talk: bool,
    /// Commands refused by the session itself before it ends it. Default 20; replies of the host do
    /// not count.
    pub max_errors: u32,
    /// Failed logins before the session ends (RFC 4954 §9). Default 5.
    pub max_auth_failures: u32,
    /// Commands such as NOOP, RSET and EHLO without a message between them. Default 100.
    pub max_idle_commands: u32,
    /// How long the session waits for what.
    pub timeouts: Timeouts,
}

impl Config {
    /// The defaults under this name.
    #[must_use]
    pub fn new(hostname: EhloName) -> Self {
        Self {
            hostname,
            protocol: Protocol::default(),
            // 25 MiB is what the large providers take.
            max_message_size: 26_214_400,
            max_recipients: 1000,
            max_recipient_domains: None,
            max_messages: None,
            starttls: false,
            auth: AuthOffer::default(),
            mechanisms: vec![Mechanism::Plain, Mechanism::Login],
            decoy: Decoy::random(),
            nonces: Nonces::system(),
            require_auth: false,
            require_tls: false,
            binary: false,
            offer_require_tls: false,
            deliver_by: None,
            future_release: None,
            priority: false,
            vrfy: false,
            expn: false,
            refuse_early_talk: true,
            max_errors: 20,
            max_auth_failures: 5,
            max_idle_commands: 100,
            timeouts: Timeouts::default(),
        }
    }

    /// What is announced behind LIMITS: what is a limit, in six digits (RFC 9422 §4).
    pub(super) fn limits(&self) -> Limits {
        let fits = |limit: &u32| (1..=999_999).contains(limit);
        Limits {
            recipients: u32::try_from(self.max_recipients).ok().filter(fits),
            transactions: self.max_messages.filter(fits),
            domains: self.max_recipient_domains.filter(fits),
        }
    }

    /// The limit as a number to compare with.
    pub(super) const fn size_limit(&self) -> u64 {
        if self.max_message_size == 0 { u64::MAX } else { self.max_message_size }
    }
}

/// When AUTH is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AuthOffer {
    /// The server knows no users.
    Never,
    /// Only on an encrypted connection (RFC 4954 §4).
    #[default]
    UnderTls,
    /// In the clear SCRAM-SHA-256 alone, which shows no password; but who listens can guess passwords
    /// by what was said, and who is in between can take the connection over behind the login.
    ScramInClear,
    /// Also in the clear, passwords and all: for loopback and for tests.
    Always,
}

/// How long a session waits. What is late gets 421 4.4.2 and the end of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// For the next command. Default 5 minutes, the least that RFC 5321 §4.5.3.2.7 allows; a server
    /// that runs out of connections lowers it.
    pub command: Duration,
    /// For one whole line, from its first octet. Default 30 s, against clients that drip.
    pub line: Duration,
    /// For the next octets of content. Default 3 minutes (RFC 5321 §4.5.3.2.5).
    pub block: Duration,
    /// For all the content of one message. Default 1 hour.
    pub content: Duration,
    /// From the answer to one message, or from the beginning, to the content of the next: a client that
    /// always says something in time could stay for ever otherwise. Default 1 hour, as long as a client
    /// may take for one delivery; lower it where connections are few.
    pub message: Duration,
    /// The least average of content in octets a second, beyond a first [`Timeouts::block`]. Default
    /// 500, below every link in use; 0 switches it off.
    pub min_rate: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(300),
            line: Duration::from_secs(30),
            block: Duration::from_secs(180),
            content: Duration::from_secs(3600),
            message: Duration::from_secs(3600),
            min_rate: 500,
        }
    }
}

impl Timeouts {
    /// The same, no single wait longer than `longest`.
    #[must_use]
    pub fn at_most(self, longest: Duration) -> Self {
        Self {
            command: self.command.min(longest),
            line: self.line.min(longest),
            block: self.block.min(longest),
            ..self
        }
    }
}

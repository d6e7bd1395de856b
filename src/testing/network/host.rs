//! A host as its rules describe it: for what is usual, so that a test need not write a script.

use std::sync::Arc;
use std::time::Duration;

use super::Network;
use crate::smtp::address::EhloName;
use crate::smtp::server::Config;

/// Says what a host answers to a recipient that it sees for the nth time (from 1): a code to RCPT.
type Rule = Box<dyn FnMut(&str, u32) -> u16 + Send>;

/// The rules of one host.
pub(super) struct Site {
    pub(super) up: bool,
    pub(super) rule: Option<Rule>,
    /// Between the end of the content and its reply.
    pub(super) think: Duration,
    /// What is said to the end of content.
    pub(super) content: u16,
    /// Whether it closes the connection at MAIL.
    pub(super) breaks: bool,
    /// Whether it says nothing any more at MAIL.
    pub(super) silent: bool,
    /// Extensions that it does not have.
    pub(super) lacks: Vec<Box<str>>,
    /// How its sessions begin; `None` when the name is none that a host can have.
    pub(super) config: Option<Arc<Config>>,
}

impl Site {
    pub(super) fn new(host: &str) -> Self {
        Self {
            up: true,
            rule: None,
            think: Duration::ZERO,
            content: 250,
            breaks: false,
            silent: false,
            lacks: Vec::new(),
            config: EhloName::new(host).ok().map(|name| Arc::new(Config::new(name))),
        }
    }
}

/// # Rules for hosts
/// Each holds from the next time on that it is looked at, also on connections that are open.
#[allow(clippy::must_use_candidate, reason = "setters return themselves for whoever wants to go on")]
impl Network {
    /// What `host` answers to RCPT: a code, for an address that it sees for the nth time, from 1.
    pub fn rule(&self, host: &str, rule: impl FnMut(&str, u32) -> u16 + Send + 'static) -> &Self {
        self.set(host, |site| site.rule = Some(Box::new(rule)))
    }

    /// `host` refuses connections.
    pub fn down(&self, host: &str) -> &Self {
        self.set(host, |site| site.up = false)
    }

    /// `host` takes connections again.
    pub fn up(&self, host: &str) -> &Self {
        self.set(host, |site| site.up = true)
    }

    /// `host` thinks for this long about each message before it answers. After ten minutes (RFC 5321
    /// §4.5.3.2.6) no client waits any more, and the host takes the message all the same.
    pub fn thinks(&self, host: &str, think: Duration) -> &Self {
        self.set(host, |site| site.think = think)
    }

    /// What `host` answers to the content of each message.
    pub fn content(&self, host: &str, code: u16) -> &Self {
        self.set(host, |site| site.content = code)
    }

    /// `host` greets, and closes the connection when mail is to be sent.
    pub fn breaks(&self, host: &str) -> &Self {
        self.set(host, |site| site.breaks = true)
    }

    /// `host` greets, and says nothing more when mail is to be sent.
    pub fn silent(&self, host: &str) -> &Self {
        self.set(host, |site| site.silent = true)
    }

    /// `host` does not offer this extension: `"DSN"`, `"CHUNKING"`, `"PIPELINING"` and others.
    pub fn without(&self, host: &str, extension: &str) -> &Self {
        self.set(host, |site| site.lacks.push(extension.into()))
    }

    /// How sessions of `host` behave: limits, and what is offered.
    pub fn configured(&self, host: &str, change: impl FnOnce(&mut Config)) -> &Self {
        self.set(host, |site| {
            if let Some(config) = &mut site.config {
                change(Arc::make_mut(config));
            }
        })
    }

    fn set(&self, host: &str, change: impl FnOnce(&mut Site)) -> &Self {
        self.site(host, change);
        self
    }
}

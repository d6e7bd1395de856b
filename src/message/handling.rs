//! How a message is to be handled, besides what its envelope says. It is stored with the message and
//! never goes over the wire.

use std::fmt;

/// How the engine is to handle a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Handling {
    /// Its sender would rather have it delivered than protected: policies of domains and hosts about TLS
    /// do not count (RFC 8689 §4.2.2). Set for messages with `TLS-Required: No`. Default: `false`.
    pub tls_optional: bool,
    /// It is a report about TLS, so its own connections are not counted in one (RFC 8460 §5.5).
    /// Default: `false`.
    pub uncounted: bool,
    /// On whose behalf it is sent, for whoever chooses among several sources. Default: nobody's.
    pub tenant: Option<Tenant>,
    /// Names by which the host program finds it again, such as a campaign's. At most
    /// [`Handling::MAX_TAGS`]. Default: none.
    pub tags: Vec<Tag>,
    /// Through how many aliases and lists it has come here, one behind the other. Counted by the engine, which
    /// sends it no further when they are too many. Default: 0.
    pub expansions: u8,
}

impl Handling {
    /// How many tags a message may have; what is beyond is not written down.
    pub const MAX_TAGS: usize = 8;

    /// The default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As it is written down: one line, empty for the default.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = String::new();
        for (is_set, word) in [(self.tls_optional, TLS_OPTIONAL), (self.uncounted, UNCOUNTED)] {
            if is_set {
                line.push_str(word);
                line.push(' ');
            }
        }
        if let Some(tenant) = &self.tenant {
            line.push_str(TENANT);
            line.push_str(tenant.as_str());
            line.push(' ');
        }
        for tag in self.tags.iter().take(Self::MAX_TAGS) {
            line.push_str(TAG);
            line.push_str(tag.as_str());
            line.push(' ');
        }
        if self.expansions > 0 {
            line.push_str(&format!("{EXPANSIONS}{} ", self.expansions));
        }
        line.truncate(line.trim_end().len());
        line
    }

    /// What was written down; `None` when it is damaged.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut handling = Self::default();
        for word in line.split(' ').filter(|word| !word.is_empty()) {
            match (word, word.split_once('=')) {
                (TLS_OPTIONAL, _) => handling.tls_optional = true,
                (UNCOUNTED, _) => handling.uncounted = true,
                (_, Some(("tenant", tenant))) => handling.tenant = Some(Tenant::new(tenant)?),
                (_, Some(("expansions", count))) => handling.expansions = count.parse().ok()?,
                (_, Some(("tag", tag))) => handling.tags.push(Tag::new(tag)?),
                _ => return None,
            }
        }
        Some(handling)
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// One of this name: 1 to 64 octets of printable ASCII without spaces. `None` otherwise.
            #[must_use]
            pub fn new(name: &str) -> Option<Self> {
                let fits = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
                fits.then(|| Self(name.into()))
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label! {
    /// On whose behalf a message is sent: a name of the host program's own, such as a customer's.
    Tenant
}

label! {
    /// A name by which the host program finds messages again, such as a campaign's.
    Tag
}

const TLS_OPTIONAL: &str = "tls-optional";
const UNCOUNTED: &str = "uncounted";
const TENANT: &str = "tenant=";
const TAG: &str = "tag=";
const EXPANSIONS: &str = "expansions=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_again() {
        let tenant = Tenant::new("acme=1");
        for handling in [
            Handling::new(),
            Handling { tls_optional: true, ..Handling::new() },
            Handling { uncounted: true, tls_optional: true, tenant: tenant.clone(), ..Handling::new() },
            Handling { expansions: 255, ..Handling::new() },
            Handling { tenant: tenant.clone(), ..Handling::new() },
            Handling { tags: vec![Tag::new("spring=1").unwrap(), Tag::new("b").unwrap()], ..Handling::new() },
            Handling { tenant, tags: vec![Tag::new("x").unwrap()], ..Handling::new() },
        ] {
            let line = handling.to_line();
            assert_eq!(Handling::parse(&line), Some(handling), "{line:?}");
        }
        assert_eq!(Handling::new().to_line(), "");
        for damaged in ["tls", "tenant=", "uncounted x", "tenant=ü", "tag=", "expansions=256"] {
            assert_eq!(Handling::parse(damaged), None, "{damaged:?}");
        }
    }
}

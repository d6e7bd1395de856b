//! The builder of an [`Engine`]: what it must know is asked for, the rest has defaults.

use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, mpsc, watch};

use crate::BoxFuture;
use crate::attempt::{Carrier, Deliver};
use crate::clock::{Clock, Rng, SystemClock};
use crate::hop::{Host, Require};
use crate::net::Connect;
use crate::net::tls::ClientTls;
use crate::route::{Hosts, LocalId, Resolve, Route, RouteError};
use crate::smtp::address::{Domain, EhloName};
use crate::spool::{Spool, SpoolError};

use super::core::Core;
use super::dispatch::dispatch;
use super::engine::Engine;
use super::event::{Observer, Observers};
use super::options::EngineOptions;
use super::receipt::Watchers;
use super::retry::Retry;
use super::settler::settle;
use super::shared::{Close, Counts, Shared};

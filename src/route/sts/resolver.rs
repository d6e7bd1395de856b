//! A resolver that adds the recipient domain's own policy to the routes of another.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use super::{StsOptions, StsPolicies};
use crate::BoxFuture;
use crate::hop::Require;
use crate::net::tls::TlsConfigError;
use crate::route::dns::Dns;
use crate::route::{Protocol, Resolve, Route, RouteError};
use crate::smtp::address::Domain;

/// Asks another resolver for the route and, at the same time, the domain for its policy. What is set is
/// [`Hosts::sts`](crate::route::Hosts::sts); who sends the mail applies it.
///
/// Put it around a resolver by MX and below a table of fixed routes: hosts that a table names are the host
/// program's choice, which no domain's policy is about. Local delivery, LMTP and routes in clear are left
/// as they are.
#[derive(Debug, Clone)]
pub struct StsResolver {
    inner: Arc<dyn Resolve>,
    policies: StsPolicies,
}

impl StsResolver {
    /// Routes by `inner`, policies by `dns`.
    ///
    /// # Errors
    /// [`TlsConfigError::Unusable`] when the crypto provider cannot do TLS.
    pub fn new(
        inner: Arc<dyn Resolve>,
        dns: Arc<dyn Dns>,
        options: StsOptions,
    ) -> Result<Self, TlsConfigError> {
        StsPolicies::new(dns, options).map(|policies| Self::with_policies(inner, policies))
    }

    /// Routes by `inner`, and policies that others share.
    #[must_use]
    pub fn with_policies(inner: Arc<dyn Resolve>, policies: StsPolicies) -> Self {
        Self { inner, policies }
    }

    /// The policies.
    #[must_use]
    pub const fn policies(&self) -> &StsPolicies {
        &self.policies
    }
}

impl StsPolicies {
    /// A route with its domain's policy, both asked for at the same time. A route that is local, in LMTP or
    /// in clear is left as it is, and does not wait for the policy.
    ///
    /// # Errors
    /// Those of the route, and [`RouteError::StsUndecided`].
    ///
    /// # Cancel safety
    /// That of the route.
    pub async fn add_to(
        &self,
        destination: &Domain,
        route: impl Future<Output = Result<Route, RouteError>>,
    ) -> Result<Route, RouteError> {
        let (mut route, mut policy) = (pin!(route), pin!(self.find(destination)));
        let (route, early) = tokio::select! {
            biased;
            route = &mut route => (route, None),
            found = &mut policy => (route.await, Some(found)),
        };
        let mut hosts = match route {
            Ok(Route::Hosts(hosts))
                if hosts.protocol == Protocol::Smtp && hosts.require != Require::Cleartext =>
            {
                hosts
            }
            other => return other,
        };
        let found = match early {
            Some(found) => found,
            None => policy.await,
        };
        if found.undecided {
            return Err(RouteError::StsUndecided);
        }
        (hosts.sts, hosts.sts_fault) = (found.policy, found.fault);
        Ok(Route::Hosts(hosts))
    }
}

impl Resolve for StsResolver {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(self.policies.add_to(destination, self.inner.route(destination)))
    }

    fn addresses<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        self.inner.addresses(host)
    }

    fn policy_failed(&self, destination: &Domain) {
        self.policies.failed(destination);
        self.inner.policy_failed(destination);
    }
}

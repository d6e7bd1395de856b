//! What a message says of TLS itself (RFC 8689): REQUIRETLS, and `TLS-Required: No`.

use postroad::attempt::Feature;
use postroad::hop::{Demand, Require};
use postroad::route::RouteError;

use super::certs::Leaf;
use super::dns::signed::Kind;
use super::world::{Comes, MESSAGE, NOBODY, OWN, OWN_TLS, Policy, Row, STS, Says, Shows, Tlsa, rows};

rows! {
    mail_that_requires_tls_goes_to_no_host_that_anybody_could_have_named: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Opportunistic, Requires => Comes::Lacks(Feature::RequireTls);
    mail_that_requires_tls_goes_to_a_host_that_dnssec_names: Signed Signed | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Opportunistic, Requires => Comes::Valid(MESSAGE);
    mail_that_requires_tls_goes_to_a_host_that_the_policy_names: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::Good), Opportunistic, Requires => Comes::Valid(STS);
    a_policy_in_testing_proves_no_host: Unsigned Unsigned | Tlsa::No, Policy::Of("testing"), Shows::A(Leaf::Good), Opportunistic, Requires => Comes::Lacks(Feature::RequireTls);
    mail_that_requires_tls_goes_where_records_match: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Requires => Comes::Matched;
    mail_that_requires_tls_comes_back_from_a_host_without_proof: Signed Signed | Tlsa::No, Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Requires => Comes::FailedBy(MESSAGE);
    mail_that_requires_tls_comes_back_from_a_host_without_tls: Signed Signed | Tlsa::No, Policy::No, Shows::Clear, Opportunistic, Requires => Comes::FailedBy(MESSAGE);
    mail_that_requires_tls_waits_like_any_other_where_records_do_not_match: Signed Signed | Tlsa::Others(3, 1, 1), Policy::No, Shows::A(Leaf::Good), Opportunistic, Requires => Comes::Waits(Demand::Dane);
    mail_that_requires_tls_waits_like_any_other_where_the_policy_is_broken: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::Expired), Opportunistic, Requires => Comes::Waits(STS);
    mail_that_requires_tls_waits_for_records_that_are_not_known: Signed Signed | Tlsa::Fails, Policy::No, Shows::A(Leaf::Good), Opportunistic, Requires => Comes::Waits(Demand::Unknown);
    records_that_cannot_be_used_are_no_proof_for_mail_that_requires_tls: Signed Signed | Tlsa::Its(1, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Requires => Comes::FailedBy(MESSAGE);
    mail_that_requires_tls_goes_to_no_host_that_would_not_pass_it_on_so: Signed Signed | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Opportunistic, RequiresInVain => Comes::Lacks(Feature::RequireTls);
    mail_that_would_rather_arrive_passes_a_policy: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::SelfSigned), Opportunistic, No => Comes::Tls(NOBODY);
    mail_that_would_rather_arrive_passes_a_policy_in_clear: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::Clear, Opportunistic, No => Comes::Clear;
    mail_that_would_rather_arrive_goes_to_hosts_that_the_policy_does_not_name: Unsigned Unsigned | Tlsa::No, Policy::Elsewhere("enforce"), Shows::A(Leaf::SelfSigned), Opportunistic, No => Comes::Tls(NOBODY);
    mail_that_would_rather_arrive_passes_records: Signed Signed | Tlsa::Others(3, 1, 1), Policy::No, Shows::A(Leaf::Good), Opportunistic, No => Comes::Valid(NOBODY);
    mail_that_would_rather_arrive_passes_records_in_clear: Signed Signed | Tlsa::Others(3, 1, 1), Policy::No, Shows::Clear, Opportunistic, No => Comes::Clear;
    mail_that_would_rather_arrive_passes_records_that_are_not_known: Signed Signed | Tlsa::Fails, Policy::No, Shows::Clear, Opportunistic, No => Comes::Clear;
    mail_that_would_rather_arrive_passes_records_that_cannot_be_used: Signed Signed | Tlsa::Its(1, 1, 1), Policy::No, Shows::Clear, Opportunistic, No => Comes::Clear;
    mail_that_would_rather_arrive_does_not_pass_our_own_proof: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::SelfSigned), Verified, No => Comes::Waits(OWN);
    mail_that_would_rather_arrive_does_not_pass_our_own_tls: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::Clear, Encrypted, No => Comes::Waits(OWN_TLS);
    mail_that_would_rather_arrive_finds_no_forged_host: Signed Bogus | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Opportunistic, No => Comes::NoRoute(RouteError::Bogus);
}

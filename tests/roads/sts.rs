//! The destination's policy (RFC 8461), alone and beside TLSA records.

use postroad::hop::{Demand, Require};
use postroad::route::RouteError;

use super::certs::Leaf;
use super::dns::signed::Kind;
use super::world::{Comes, NOBODY, OWN, OWN_TLS, Policy, Row, STS, Says, Shows, Tlsa, rows};

rows! {
    an_enforced_policy_is_kept: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Valid(STS);
    an_enforced_policy_does_not_bear_a_certificate_that_is_wrong_name: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::WrongName), Opportunistic, Nothing => Comes::Waits(STS);
    an_enforced_policy_does_not_bear_a_certificate_that_is_expired: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::Expired), Opportunistic, Nothing => Comes::Waits(STS);
    an_enforced_policy_does_not_bear_a_certificate_that_is_not_yet_valid: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::NotYetValid), Opportunistic, Nothing => Comes::Waits(STS);
    an_enforced_policy_does_not_bear_a_certificate_that_is_self_signed: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Waits(STS);
    an_enforced_policy_does_not_bear_a_certificate_that_is_unknown_authority: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::UnknownCa), Opportunistic, Nothing => Comes::Waits(STS);
    an_enforced_policy_does_not_bear_a_certificate_that_is_authoritys_own: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::IsCa), Opportunistic, Nothing => Comes::Waits(STS);
    an_enforced_policy_does_not_bear_clear_text: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::Clear, Opportunistic, Nothing => Comes::Waits(STS);
    an_enforced_policy_does_not_bear_tls_refused: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::Refuses, Opportunistic, Nothing => Comes::Waits(STS);
    a_family_of_hosts_is_named_by_its_domain: Unsigned Unsigned | Tlsa::No, Policy::Family("enforce"), Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Valid(STS);
    a_host_that_the_policy_does_not_name_gets_nothing: Unsigned Unsigned | Tlsa::No, Policy::Elsewhere("enforce"), Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::NoRoute(RouteError::Sts);
    a_policy_in_testing_sends_all_the_same: Unsigned Unsigned | Tlsa::No, Policy::Of("testing"), Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    a_policy_in_testing_sends_in_clear_too: Unsigned Unsigned | Tlsa::No, Policy::Of("testing"), Shows::Clear, Opportunistic, Nothing => Comes::Clear;
    a_policy_in_testing_is_kept_without_asking: Unsigned Unsigned | Tlsa::No, Policy::Of("testing"), Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Valid(NOBODY);
    a_policy_in_testing_names_no_hosts_away: Unsigned Unsigned | Tlsa::No, Policy::Elsewhere("testing"), Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    a_policy_that_was_taken_back_asks_for_nothing: Unsigned Unsigned | Tlsa::No, Policy::Of("none"), Shows::Clear, Opportunistic, Nothing => Comes::Clear;
    a_policy_that_was_taken_back_names_no_hosts_away: Unsigned Unsigned | Tlsa::No, Policy::Elsewhere("none"), Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    a_policy_that_is_not_there_asks_for_nothing: Unsigned Unsigned | Tlsa::No, Policy::Missing, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    a_policy_that_is_not_there_lets_clear_text_pass: Unsigned Unsigned | Tlsa::No, Policy::Missing, Shows::Clear, Opportunistic, Nothing => Comes::Clear;
    a_policy_from_a_wrong_host_is_none: Unsigned Unsigned | Tlsa::No, Policy::OnWrongHost, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    our_proof_is_wanted_where_the_policy_was_taken_back: Unsigned Unsigned | Tlsa::No, Policy::Of("none"), Shows::A(Leaf::SelfSigned), Verified, Nothing => Comes::Waits(OWN);
    our_tls_is_wanted_where_the_policy_is_in_testing: Unsigned Unsigned | Tlsa::No, Policy::Of("testing"), Shows::Clear, Encrypted, Nothing => Comes::Waits(OWN_TLS);
    the_policy_comes_before_our_own: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::Good), Verified, Nothing => Comes::Valid(STS);
    the_policy_is_stricter_than_our_own: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::SelfSigned), Encrypted, Nothing => Comes::Waits(STS);
    who_wants_no_tls_does_not_look_for_policies: Unsigned Unsigned | Tlsa::No, Policy::Of("enforce"), Shows::Clear, Cleartext, Nothing => Comes::Clear;
    a_signed_domain_may_have_a_policy_too: Signed Signed | Tlsa::No, Policy::Of("enforce"), Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Waits(STS);
    a_match_satisfies_the_policy: Signed Signed | Tlsa::Its(3, 1, 1), Policy::Of("enforce"), Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Matched;
    the_policy_does_not_override_records_that_fail: Signed Signed | Tlsa::Others(3, 1, 1), Policy::Of("enforce"), Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    where_no_record_can_be_used_the_policy_counts: Signed Signed | Tlsa::Its(1, 1, 1), Policy::Of("enforce"), Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Waits(STS);
    where_no_record_can_be_used_the_policy_can_be_kept: Signed Signed | Tlsa::Its(1, 1, 1), Policy::Of("enforce"), Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Valid(STS);
    the_policy_does_not_make_up_for_records_that_are_not_known: Signed Signed | Tlsa::Fails, Policy::Of("enforce"), Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Waits(Demand::Unknown);
    a_match_does_not_make_a_host_one_of_the_policys: Signed Signed | Tlsa::Its(3, 1, 1), Policy::Elsewhere("enforce"), Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::NoRoute(RouteError::Sts);
}

//! No policy of the recipients: what the host program requires decides, and DNSSEC whether there is a route.

use postroad::hop::Require;
use postroad::route::RouteError;

use super::certs::Leaf;
use super::dns::signed::Kind;
use super::world::{Comes, NOBODY, OWN, OWN_TLS, Policy, Row, Says, Shows, Tlsa, rows};

rows! {
    nobody_asks_and_tls_is_not_offered: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::Clear, Opportunistic, Nothing => Comes::Clear;
    nobody_asks_and_tls_is_refused: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::Refuses, Opportunistic, Nothing => Comes::Clear;
    nobody_asks_and_the_certificate_is_valid: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Valid(NOBODY);
    nobody_asks_and_the_certificate_is_wrong_name: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::WrongName), Opportunistic, Nothing => Comes::Tls(NOBODY);
    nobody_asks_and_the_certificate_is_expired: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::Expired), Opportunistic, Nothing => Comes::Tls(NOBODY);
    nobody_asks_and_the_certificate_is_not_yet_valid: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::NotYetValid), Opportunistic, Nothing => Comes::Tls(NOBODY);
    nobody_asks_and_the_certificate_is_self_signed: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    nobody_asks_and_the_certificate_is_unknown_authority: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::UnknownCa), Opportunistic, Nothing => Comes::Tls(NOBODY);
    nobody_asks_and_the_certificate_is_authoritys_own: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::IsCa), Opportunistic, Nothing => Comes::Tls(NOBODY);
    we_want_tls_and_tls_is_not_offered: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::Clear, Encrypted, Nothing => Comes::Waits(OWN_TLS);
    we_want_tls_and_tls_is_refused: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::Refuses, Encrypted, Nothing => Comes::Waits(OWN_TLS);
    we_want_tls_and_the_certificate_is_valid: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Encrypted, Nothing => Comes::Valid(OWN_TLS);
    we_want_tls_and_the_certificate_is_wrong_name: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::WrongName), Encrypted, Nothing => Comes::Tls(OWN_TLS);
    we_want_tls_and_the_certificate_is_expired: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::Expired), Encrypted, Nothing => Comes::Tls(OWN_TLS);
    we_want_tls_and_the_certificate_is_not_yet_valid: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::NotYetValid), Encrypted, Nothing => Comes::Tls(OWN_TLS);
    we_want_tls_and_the_certificate_is_self_signed: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::SelfSigned), Encrypted, Nothing => Comes::Tls(OWN_TLS);
    we_want_tls_and_the_certificate_is_unknown_authority: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::UnknownCa), Encrypted, Nothing => Comes::Tls(OWN_TLS);
    we_want_tls_and_the_certificate_is_authoritys_own: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::IsCa), Encrypted, Nothing => Comes::Tls(OWN_TLS);
    we_want_proof_and_tls_is_not_offered: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::Clear, Verified, Nothing => Comes::Waits(OWN);
    we_want_proof_and_tls_is_refused: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::Refuses, Verified, Nothing => Comes::Waits(OWN);
    we_want_proof_and_the_certificate_is_valid: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Verified, Nothing => Comes::Valid(OWN);
    we_want_proof_and_the_certificate_is_wrong_name: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::WrongName), Verified, Nothing => Comes::Waits(OWN);
    we_want_proof_and_the_certificate_is_expired: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::Expired), Verified, Nothing => Comes::Waits(OWN);
    we_want_proof_and_the_certificate_is_not_yet_valid: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::NotYetValid), Verified, Nothing => Comes::Waits(OWN);
    we_want_proof_and_the_certificate_is_self_signed: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::SelfSigned), Verified, Nothing => Comes::Waits(OWN);
    we_want_proof_and_the_certificate_is_unknown_authority: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::UnknownCa), Verified, Nothing => Comes::Waits(OWN);
    we_want_proof_and_the_certificate_is_authoritys_own: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::IsCa), Verified, Nothing => Comes::Waits(OWN);
    we_want_none_and_none_is_there: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::Clear, Cleartext, Nothing => Comes::Clear;
    we_want_none_and_it_is_offered: Unsigned Unsigned | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Cleartext, Nothing => Comes::Clear;
    signed_zones_without_records_ask_for_nothing: Signed Signed | Tlsa::No, Policy::No, Shows::Clear, Opportunistic, Nothing => Comes::Clear;
    signed_zones_without_records_take_any_certificate: Signed Signed | Tlsa::No, Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    a_zone_that_is_not_vouched_for_is_as_good_as_unsigned: Island Island | Tlsa::No, Policy::No, Shows::Clear, Opportunistic, Nothing => Comes::Clear;
    a_destination_whose_signatures_ended_has_no_route: Expired Signed | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::NoRoute(RouteError::Bogus);
    a_destination_that_is_forged_has_no_route: Bogus Signed | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::NoRoute(RouteError::Bogus);
    a_host_whose_signatures_ended_is_no_route: Signed Expired | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::NoRoute(RouteError::Bogus);
    a_host_that_is_forged_is_no_route: Signed Bogus | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::NoRoute(RouteError::Bogus);
    a_forged_host_of_an_unsigned_destination_is_no_route: Unsigned Bogus | Tlsa::No, Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::NoRoute(RouteError::Bogus);
    a_forged_host_is_no_route_even_in_clear: Unsigned Bogus | Tlsa::No, Policy::No, Shows::Clear, Cleartext, Nothing => Comes::NoRoute(RouteError::Bogus);
}

//! The host's TLSA records (RFC 7672).

use postroad::hop::{Demand, Require};

use super::certs::Leaf;
use super::dns::signed::Kind;
use super::world::{ANY_TLS, Comes, NOBODY, OWN, Policy, Row, Says, Shows, Tlsa, rows};

rows! {
    a_record_3_0_0_about_its_certificate_matches: Signed Signed | Tlsa::Its(3, 0, 0), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_3_0_1_about_its_certificate_matches: Signed Signed | Tlsa::Its(3, 0, 1), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_3_0_2_about_its_certificate_matches: Signed Signed | Tlsa::Its(3, 0, 2), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_3_1_0_about_its_certificate_matches: Signed Signed | Tlsa::Its(3, 1, 0), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_3_1_1_about_its_certificate_matches: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_3_1_2_about_its_certificate_matches: Signed Signed | Tlsa::Its(3, 1, 2), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_2_0_0_about_its_authority_matches: Signed Signed | Tlsa::Its(2, 0, 0), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_2_0_1_about_its_authority_matches: Signed Signed | Tlsa::Its(2, 0, 1), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_2_0_2_about_its_authority_matches: Signed Signed | Tlsa::Its(2, 0, 2), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_2_1_0_about_its_authority_matches: Signed Signed | Tlsa::Its(2, 1, 0), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_2_1_1_about_its_authority_matches: Signed Signed | Tlsa::Its(2, 1, 1), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_2_1_2_about_its_authority_matches: Signed Signed | Tlsa::Its(2, 1, 2), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Matched;
    a_record_about_a_key_matches_a_certificate_that_is_wrong_name: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::A(Leaf::WrongName), Opportunistic, Nothing => Comes::Matched;
    a_record_about_a_key_matches_a_certificate_that_is_expired: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::A(Leaf::Expired), Opportunistic, Nothing => Comes::Matched;
    a_record_about_a_key_matches_a_certificate_that_is_not_yet_valid: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::A(Leaf::NotYetValid), Opportunistic, Nothing => Comes::Matched;
    a_record_about_a_key_matches_a_certificate_that_is_self_signed: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Matched;
    a_record_about_a_key_matches_a_certificate_that_is_unknown_authority: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::A(Leaf::UnknownCa), Opportunistic, Nothing => Comes::Matched;
    a_record_about_a_key_matches_a_certificate_that_is_authoritys_own: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::A(Leaf::IsCa), Opportunistic, Nothing => Comes::Matched;
    a_record_about_an_authority_does_not_stand_for_a_certificate_that_is_wrong_name: Signed Signed | Tlsa::Its(2, 0, 1), Policy::No, Shows::A(Leaf::WrongName), Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    a_record_about_an_authority_does_not_stand_for_a_certificate_that_is_expired: Signed Signed | Tlsa::Its(2, 0, 1), Policy::No, Shows::A(Leaf::Expired), Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    a_record_about_an_authority_does_not_stand_for_a_certificate_that_is_not_yet_valid: Signed Signed | Tlsa::Its(2, 0, 1), Policy::No, Shows::A(Leaf::NotYetValid), Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    a_record_about_an_authority_does_not_stand_for_a_certificate_that_is_self_signed: Signed Signed | Tlsa::Its(2, 0, 1), Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    a_record_about_an_authority_does_not_stand_for_a_certificate_that_is_unknown_authority: Signed Signed | Tlsa::Its(2, 0, 1), Policy::No, Shows::A(Leaf::UnknownCa), Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    a_record_about_an_authority_does_not_stand_for_a_certificate_that_is_authoritys_own: Signed Signed | Tlsa::Its(2, 0, 1), Policy::No, Shows::A(Leaf::IsCa), Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    a_record_about_another_key_holds_mail_up: Signed Signed | Tlsa::Others(3, 1, 1), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    a_record_about_another_certificate_holds_mail_up: Signed Signed | Tlsa::Others(3, 0, 2), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    a_record_about_another_authority_holds_mail_up: Signed Signed | Tlsa::Others(2, 1, 1), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    a_host_with_records_does_not_get_mail_in_clear: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::Clear, Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    a_host_with_records_that_refuses_tls_does_not_get_mail: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::Refuses, Opportunistic, Nothing => Comes::Waits(Demand::Dane);
    one_record_that_matches_is_enough: Signed Signed | Tlsa::Two, Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Matched;
    a_record_that_cannot_be_used_does_not_count_beside_one_that_can: Signed Signed | Tlsa::UnusableAndIts, Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Matched;
    records_of_usage_0_alone_require_tls_and_meet_a_valid_certificate: Signed Signed | Tlsa::Its(0, 1, 1), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Valid(ANY_TLS);
    records_of_usage_0_alone_require_tls_and_meet_any_certificate: Signed Signed | Tlsa::Its(0, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(ANY_TLS);
    records_of_usage_0_alone_require_tls_and_meet_no_tls: Signed Signed | Tlsa::Its(0, 1, 1), Policy::No, Shows::Clear, Opportunistic, Nothing => Comes::Waits(ANY_TLS);
    records_of_usage_0_alone_require_tls_and_meet_tls_refused: Signed Signed | Tlsa::Its(0, 1, 1), Policy::No, Shows::Refuses, Opportunistic, Nothing => Comes::Waits(ANY_TLS);
    records_of_usage_1_alone_require_tls_and_meet_a_valid_certificate: Signed Signed | Tlsa::Its(1, 1, 1), Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Valid(ANY_TLS);
    records_of_usage_1_alone_require_tls_and_meet_any_certificate: Signed Signed | Tlsa::Its(1, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(ANY_TLS);
    records_of_usage_1_alone_require_tls_and_meet_no_tls: Signed Signed | Tlsa::Its(1, 1, 1), Policy::No, Shows::Clear, Opportunistic, Nothing => Comes::Waits(ANY_TLS);
    records_of_usage_1_alone_require_tls_and_meet_tls_refused: Signed Signed | Tlsa::Its(1, 1, 1), Policy::No, Shows::Refuses, Opportunistic, Nothing => Comes::Waits(ANY_TLS);
    a_failed_question_for_records_holds_mail_up: Signed Signed | Tlsa::Fails, Policy::No, Shows::A(Leaf::Good), Opportunistic, Nothing => Comes::Waits(Demand::Unknown);
    records_of_an_unsigned_destinations_host_do_not_count: Unsigned Signed | Tlsa::Others(3, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    records_in_an_unsigned_zone_do_not_count: Signed Unsigned | Tlsa::Others(3, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    records_in_a_zone_that_is_not_vouched_for_do_not_count: Signed Island | Tlsa::Others(3, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    records_of_a_destination_that_is_not_vouched_for_do_not_count: Island Signed | Tlsa::Others(3, 1, 1), Policy::No, Shows::Clear, Opportunistic, Nothing => Comes::Clear;
    an_unsigned_zone_that_fails_at_the_question_is_not_asked: Unsigned Unsigned | Tlsa::Fails, Policy::No, Shows::A(Leaf::SelfSigned), Opportunistic, Nothing => Comes::Tls(NOBODY);
    who_wants_no_tls_does_not_look_for_records: Signed Signed | Tlsa::Others(3, 1, 1), Policy::No, Shows::Clear, Cleartext, Nothing => Comes::Clear;
    a_match_is_the_proof_that_we_want: Signed Signed | Tlsa::Its(3, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Verified, Nothing => Comes::Matched;
    a_valid_certificate_is_not_what_the_records_want: Signed Signed | Tlsa::Others(3, 1, 1), Policy::No, Shows::A(Leaf::Good), Verified, Nothing => Comes::Waits(Demand::Dane);
    where_no_record_can_be_used_our_proof_is_wanted: Signed Signed | Tlsa::Its(1, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Verified, Nothing => Comes::Waits(OWN);
    where_no_record_can_be_used_our_proof_is_enough: Signed Signed | Tlsa::Its(1, 1, 1), Policy::No, Shows::A(Leaf::Good), Verified, Nothing => Comes::Valid(OWN);
    where_no_record_can_be_used_any_tls_is_enough: Signed Signed | Tlsa::Its(1, 1, 1), Policy::No, Shows::A(Leaf::SelfSigned), Encrypted, Nothing => Comes::Tls(ANY_TLS);
}

//! What every spool promises, asked of the PostgreSQL spool; what several nodes on one queue promise; and what
//! becomes of them when the server dies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]
#![cfg(feature = "postgres")]

#[path = "kit/certs.rs"]
mod certs;
#[path = "postgres/clocks.rs"]
mod clocks;
#[path = "kit/postgres.rs"]
mod cluster;
#[path = "postgres/crash.rs"]
mod crash;
#[path = "postgres/engines.rs"]
mod engines;
#[path = "postgres/keys.rs"]
mod keys;
mod kit;
#[path = "postgres/nodes.rs"]
mod nodes;
#[path = "kit/peer.rs"]
mod peer;
#[path = "postgres/relays.rs"]
mod relays;
#[path = "postgres/tables.rs"]
mod tables;
#[path = "postgres/tls.rs"]
mod tls;

use cluster::Cluster;
use postroad::spool::{PostgresOptions, PostgresSpool};

/// A spool of its own; `None` where there is no server to be had.
async fn spool() -> Option<PostgresSpool> {
    let cluster = Cluster::shared()?;
    Some(PostgresSpool::connect(&cluster.url(), options(cluster)).await.unwrap())
}

fn options(cluster: &Cluster) -> PostgresOptions {
    let mut options = PostgresOptions::new();
    options.schema = cluster.schema();
    options.connections = 4;
    options
}

/// One test per promise.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod promised {
            use postroad::spool::contract;
            $(#[tokio::test]
            async fn $promise() {
                let Some(spool) = super::spool().await else { return };
                contract::$promise(&spool).await.unwrap();
                spool.close().await.unwrap();
            })*
        }
        /// A promise that is added to the contract and not here would not be tested.
        #[test]
        fn every_promise_of_the_contract_is_tested() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/spool/contract");
            let files = std::fs::read_dir(folder).unwrap();
            let source: String = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
            let promised: Vec<_> = source
                .split("pub async fn ")
                .filter_map(|rest| rest.split_once("(spool: &dyn Spool) -> Kept"))
                .map(|(name, _)| name)
                .collect();
            let tested = [$(stringify!($promise)),*];
            let missing: Vec<_> = promised.iter().filter(|name| !tested.contains(name)).collect();
            assert_eq!(missing, [&""; 0]);
            assert!(promised.len() >= tested.len() && !promised.is_empty());
        }
    };
}

promises! {
    entries_are_claimed_in_order_of_due
    a_claim_takes_from_one_queue_only
    what_is_not_due_is_not_claimed
    a_claimed_entry_is_hidden_until_its_lease_ends
    an_old_token_is_fenced_off
    a_late_settlement_counts_while_nobody_else_claimed
    an_entry_is_settled_once
    extending_keeps_a_claim
    enqueuing_an_id_twice_stores_it_once
    a_batch_is_stored_whole_or_not_at_all
    fresh_entries_are_born_claimed
    what_was_born_claimed_is_claimed_again_in_its_turn
    a_settlement_and_its_reports_are_one
    a_retry_moves_the_entry
    no_attempt_is_counted_where_none_was_made
    a_parked_entry_is_set_aside
    the_last_entry_takes_the_message_along
    a_waiting_recipient_is_not_lost
    bodies_come_back_as_they_were
    a_staged_body_given_up_leaves_nothing
    a_staged_body_is_used_once
    queues_are_listed_with_their_first_due
    a_scan_goes_through_everything
    everything_about_a_message_comes_back
    flush_and_wait_return
    what_is_told_is_gathered_in_one_entry
    what_is_told_last_is_due_at_once_and_keeps_the_message
    telling_more_ends_the_claim_of_what_was_told
    what_is_told_after_a_report_is_another_one
    what_is_fenced_off_tells_nothing
    a_key_stores_its_message_once
    a_key_outlives_its_message
    another_content_under_a_key_is_refused
    what_a_settlement_submits_has_no_key
    results_outlive_their_message
    nothing_is_remembered_of_what_was_fenced_off
    the_log_is_read_by_number
    the_log_is_pruned_from_its_front
    classes_of_a_queue_are_claimed_apart
    what_is_held_waits_until_it_is_released
    a_hold_of_a_claimed_entry_counts_when_it_stays
    what_was_noted_outlives_the_claim
    orders_of_a_queue_reach_what_was_born_claimed
    what_is_cancelled_is_claimed_to_be_settled
    cancelling_a_claimed_entry_counts_when_it_stays
    due_times_are_set_from_outside
    what_an_old_clock_put_off_is_due_sooner
    what_is_requeued_waits_for_a_route
    a_selection_means_the_same_everywhere
    changes_go_in_pages
}

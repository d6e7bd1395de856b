//! What every spool promises, asked of both, and what only the disk spool can promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![cfg(feature = "disk")]

#[path = "spool/altering.rs"]
mod altering;
#[path = "spool/aside.rs"]
mod aside;
#[path = "spool/crash.rs"]
mod crash;
#[path = "spool/damaged.rs"]
mod damaged;
#[path = "spool/disk.rs"]
mod disk;
#[path = "spool/formats.rs"]
mod formats;
#[path = "spool/full.rs"]
mod full;
#[path = "spool/full_disk.rs"]
mod full_disk;
#[path = "spool/groups.rs"]
mod groups;
#[path = "spool/help.rs"]
mod help;
#[path = "spool/remembered.rs"]
mod remembered;
#[path = "spool/segments.rs"]
mod segments;
#[path = "spool/staging.rs"]
mod staging;
#[path = "spool/told.rs"]
mod told;
#[path = "spool/unlisted.rs"]
mod unlisted;

#[cfg(target_os = "linux")]
#[path = "kit/small.rs"]
mod small;

/// One test per promise and implementation.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod memory_spool {
            use postroad::spool::{MemorySpool, contract};
            $(#[tokio::test]
            async fn $promise() {
                contract::$promise(&MemorySpool::new()).await.unwrap();
            })*
        }
        mod disk_spool {
            use postroad::spool::{DiskSpool, contract};
            $(#[tokio::test]
            async fn $promise() {
                let dir = tempfile::tempdir().unwrap();
                let spool = DiskSpool::open(dir.path().join("spool")).unwrap();
                contract::$promise(&spool).await.unwrap();
                spool.close().await.unwrap();
            })*
        }
        /// A promise that is added to the contract and not here would not be tested.
        #[test]
        fn every_promise_of_the_contract_is_tested() {
            let source = [
                include_str!("../src/spool/contract/altering.rs"),
                include_str!("../src/spool/contract/claiming.rs"),
                include_str!("../src/spool/contract/remembering.rs"),
                include_str!("../src/spool/contract/settling.rs"),
                include_str!("../src/spool/contract/storing.rs"),
                include_str!("../src/spool/contract/telling.rs"),
            ];
            let promised = source.concat().matches("(spool: &dyn Spool) -> Kept").count();
            assert_eq!(promised, [$(stringify!($promise)),*].len());
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
}

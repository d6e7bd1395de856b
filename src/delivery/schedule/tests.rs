use super::*;
use crate::spool::Class;

const T0: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn at(secs: u64) -> Timestamp {
    T0.after(Duration::from_secs(secs))
}

fn queue(name: &str) -> Part {
    (QueueName::new(name), Class::Normal)
}

fn next(schedule: &mut Schedule, room: impl Fn(&str) -> usize) -> Option<(Part, usize)> {
    schedule.next(|_| true, |queue, _| room(queue.as_str()))
}

#[test]
fn queues_take_turns_whatever_their_length() {
    let mut schedule = Schedule::default();
    let names = ["long", "b", "c"].map(queue);
    for name in &names {
        schedule.note(name, T0, T0);
    }
    let mut turns = Vec::new();
    for _ in 0..7 {
        let Some((name, _)) = next(&mut schedule, |_| 10) else { break };
        // Only "long" always gives as many as were asked for.
        schedule.claimed(&name, name == names[0], false, None);
        turns.push(name.0.to_string());
    }
    assert_eq!(turns, ["long", "b", "c", "long", "long", "long", "long"]);
}

#[test]
fn a_full_lane_takes_its_queue_out_of_the_round_until_it_has_room() {
    let mut schedule = Schedule::default();
    let (dead, live) = (queue("dead"), queue("live"));
    schedule.note(&dead, T0, T0);
    schedule.note(&live, T0, T0);
    let room = |name: &str| if name == "dead" { 0 } else { 5 };
    assert_eq!(next(&mut schedule, room), Some((live.clone(), 5)));
    assert_eq!(next(&mut schedule, room), None);
    schedule.note(&dead, T0, T0);
    assert_eq!(next(&mut schedule, |_| 9), None, "more mail does not put it back");
    schedule.unblock(&dead);
    assert_eq!(next(&mut schedule, |_| 2), Some((dead, 2)));
}

#[test]
fn of_a_queue_whose_lane_is_full_a_few_are_looked_at_now_and_then() {
    let mut schedule = Schedule::default();
    let full = queue("full");
    schedule.note(&full, T0, T0);
    assert_eq!(next(&mut schedule, |_| 0), None);
    schedule.probe(&QueueName::new("reports"));
    assert_eq!(next(&mut schedule, |_| 0), Some((full.clone(), PROBE)));
    schedule.claimed(&full, true, false, None);
    assert_eq!(next(&mut schedule, |_| 0), None, "until the next time");
    schedule.probe(&QueueName::new("reports"));
    next(&mut schedule, |_| 0).unwrap();
    schedule.probe_on(&full);
    schedule.claimed(&full, true, false, None);
    assert_eq!(
        next(&mut schedule, |_| 0),
        Some((full.clone(), PROBE)),
        "all had expired, and there may be more"
    );
    schedule.claimed(&full, false, false, None);
    assert_eq!(next(&mut schedule, |_| 0), None);
    assert!(schedule.unblock(&full));
    assert_eq!(next(&mut schedule, |_| 3), Some((full, 3)));
}

#[test]
fn a_queue_wakes_at_each_of_its_moments_and_is_then_forgotten() {
    let mut schedule = Schedule::default();
    let name = queue("q");
    for secs in [100, 10, 50] {
        schedule.note(&name, at(secs), T0);
    }
    let mut woken = Vec::new();
    while let Some(wake) = schedule.wake() {
        schedule.advance(wake);
        assert_eq!(next(&mut schedule, |_| 1), Some((name.clone(), 1)));
        assert_eq!(next(&mut schedule, |_| 1), None);
        schedule.claimed(&name, false, false, None);
        woken.push(wake.since(T0).as_secs_f64());
    }
    assert_eq!(woken.len(), 3);
    for (woken, noted) in woken.iter().zip([10.0, 50.0, 100.0]) {
        assert!((noted..noted * 1.0625).contains(woken), "{woken} for {noted}");
    }
    assert_eq!(schedule.len(), 0);
}

#[test]
fn half_a_million_entries_cost_a_bounded_number_of_moments() {
    let mut schedule = Schedule::default();
    let name = queue("dead");
    for n in 0..500_000 {
        schedule.note(&name, at(1).after(Duration::from_millis(n * 40)), T0);
    }
    assert!(schedule.records[&name].moments.len() < 600, "{}", schedule.records[&name].moments.len());
    schedule.note(&name, at(30 * 86_400), T0);
    assert!(*schedule.records[&name].moments.last().unwrap() < at(6 * 3600));
}

#[test]
fn what_falls_due_during_a_claim_is_not_forgotten() {
    let mut schedule = Schedule::default();
    let name = queue("q");
    schedule.note(&name, T0, T0);
    next(&mut schedule, |_| 1).unwrap();
    schedule.note(&name, T0, T0);
    schedule.note(&name, at(60), T0);
    schedule.claimed(&name, false, false, None);
    assert_eq!(next(&mut schedule, |_| 1), Some((name.clone(), 1)));
    schedule.claimed(&name, false, false, None);
    assert!(schedule.wake().is_some_and(|wake| wake >= at(60)));
}

#[test]
fn a_queue_known_only_from_a_sweep_asks_for_another_one() {
    let mut schedule = Schedule::default();
    let name = queue("q");
    schedule.learn(&QueueSummary { queue: name.0.clone(), class: Class::Normal, entries: 9, due: T0 }, T0);
    next(&mut schedule, |_| 5).unwrap();
    assert!(!schedule.claimed(&name, true, false, None), "there is more that is due");
    next(&mut schedule, |_| 5).unwrap();
    assert!(schedule.claimed(&name, false, false, None), "and more that is not");
    schedule
        .learn(&QueueSummary { queue: name.0.clone(), class: Class::Normal, entries: 9, due: at(60) }, T0);
    schedule.note(&name, at(30), T0);
    schedule.advance(at(40));
    next(&mut schedule, |_| 5).unwrap();
    assert!(schedule.claimed(&name, false, false, None));
    assert!(schedule.wake().is_some_and(|wake| wake >= at(60) && wake < at(64)));
    schedule
        .learn(&QueueSummary { queue: name.0, class: Class::Normal, entries: 0, due: Timestamp::NEVER }, T0);
}

#[test]
fn urgent_mail_is_due_while_the_rest_of_its_queue_is_set_aside() {
    let mut schedule = Schedule::default();
    let (bulk, urgent) = ((QueueName::new("q"), Class::Bulk), (QueueName::new("q"), Class::Urgent));
    schedule.note(&bulk, T0, T0);
    assert_eq!(next(&mut schedule, |_| 0), None);
    schedule.note(&urgent, T0, T0);
    assert_eq!(next(&mut schedule, |_| 3), Some((urgent, 3)));
    assert_eq!(next(&mut schedule, |_| 3), None);
    schedule.unblock(&bulk);
    assert_eq!(schedule.next(|class| class != Class::Bulk, |_, _| 3), None, "no room kept for bulk");
    assert_eq!(next(&mut schedule, |_| 3), Some((bulk, 3)), "it was passed over, not forgotten");
}

#[test]
fn urgent_mail_goes_first_and_the_rest_has_its_turns() {
    let mut schedule = Schedule::default();
    let mut turns = Vec::new();
    for class in [Class::Bulk, Class::Normal, Class::Urgent] {
        schedule.note(&(QueueName::new("q"), class), T0, T0);
    }
    for _ in 0..160 {
        let (part, _) = next(&mut schedule, |_| 1).unwrap();
        schedule.claimed(&part, true, false, None);
        turns.push(part.1);
    }
    let of = |class| turns.iter().filter(|turn| **turn == class).count();
    assert_eq!(turns[..3], [Class::Urgent; 3]);
    assert_eq!((of(Class::Urgent), of(Class::Normal), of(Class::Bulk)), (120, 30, 10));
}

#[test]
fn cancelled_entries_are_claimed_without_room_until_none_is_left() {
    let mut schedule = Schedule::default();
    let part = queue("full");
    let ask =
        |schedule: &mut Schedule| schedule.next(|_| true, |_, wanted| if wanted.cancelled { 2 } else { 0 });
    schedule.note(&part, T0, T0);
    assert_eq!(ask(&mut schedule), None);
    schedule.cancelled(&part);
    assert_eq!(ask(&mut schedule), Some((part.clone(), 2)));
    schedule.claimed(&part, true, true, None);
    assert_eq!(ask(&mut schedule), Some((part.clone(), 2)), "there may be more");
    schedule.cancelled(&part);
    schedule.claimed(&part, true, false, None);
    assert_eq!(ask(&mut schedule), Some((part.clone(), 2)), "more were cancelled during the claim");
    schedule.claimed(&part, true, false, None);
    assert_eq!(ask(&mut schedule), None, "the others need room");
}

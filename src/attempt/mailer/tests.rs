use super::*;
use crate::attempt::{Accepted, Phase};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::reply::Reply;

fn letter(recipients: usize) -> Letter {
    let to = |n| Rcpt::new(ForwardPath::parse(&format!("{n}@b.test")).unwrap());
    let recipients = (0..recipients).map(to).collect();
    let mail = Mail::new(ReversePath::Null);
    let submission = Submission::new(mail, recipients, Bytes::new(), Bytes::from_static(b"\r\nhi\r\n"));
    Letter::new(submission, Require::Opportunistic)
}

/// A host that takes so many at once; returns how many it was offered each time.
async fn carry(letter: &mut Letter, takes: usize) -> Vec<usize> {
    let host = Arc::new(Host::new("mx.test".parse().unwrap(), 25));
    let mut offered = Vec::new();
    while let Some(job) = letter.next().await {
        offered.push(job.recipients.len());
        let outcome = |n| match n {
            n if n >= takes => Outcome::Deferred(Cause::LeftOver { host: Arc::clone(&host) }),
            0 => {
                let reply = Reply::plain(550, "no");
                Outcome::Failed(Cause::Reply { host: None, phase: Phase::Rcpt, reply })
            }
            _ => Outcome::Delivered(Accepted::locally()),
        };
        letter.done(Report::Outcomes((0..job.recipients.len()).map(outcome).collect()));
    }
    offered
}

#[tokio::test]
async fn what_a_host_leaves_over_goes_in_further_transactions_at_once() {
    let mut letter = letter(150);
    assert_eq!(carry(&mut letter, 40).await, [100, 50, 60, 10, 20]);
    assert!(letter.is_settled());
    let delivery = letter.into_delivery().recipients;
    let names: Vec<_> = delivery.iter().map(|(to, _)| to.to_string()).collect();
    assert_eq!(names, (0..150).map(|n| format!("<{n}@b.test>")).collect::<Vec<_>>());
    let failed = delivery.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    assert_eq!(failed.count(), 5);
}

#[tokio::test]
async fn what_is_left_over_is_named_too_where_the_others_were_put_off() {
    let mut letter = letter(3);
    let host = Arc::new(Host::new("mx.test".parse().unwrap(), 25));
    let reply = |code| Cause::Reply { host: None, phase: Phase::Rcpt, reply: Reply::plain(code, "x") };
    let mut offered = 0;
    while let Some(job) = letter.next().await {
        offered += 1;
        let left =
            (1..job.recipients.len()).map(|_| Outcome::Deferred(Cause::LeftOver { host: Arc::clone(&host) }));
        let first = std::iter::once(Outcome::Deferred(reply(450)));
        letter.done(Report::Outcomes(first.chain(left).collect()));
    }
    assert_eq!(offered, 3, "each was named once");
    let put_off = |outcome: &Outcome| *outcome == Outcome::Deferred(reply(450));
    assert!(letter.into_delivery().recipients.iter().all(|(_, outcome)| put_off(outcome)));
}

#[tokio::test]
async fn what_is_left_over_without_progress_is_put_off() {
    let mut letter = letter(3);
    assert_eq!(carry(&mut letter, 0).await, [3]);
    let deferred = |outcome: &Outcome| matches!(outcome, Outcome::Deferred(Cause::LeftOver { .. }));
    let delivery = letter.into_delivery().recipients;
    assert_eq!(delivery.iter().filter(|(_, outcome)| deferred(outcome)).count(), 3);
}

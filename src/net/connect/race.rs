//! Happy eyeballs (RFC 8305 §5): a race between the addresses of one host, each starting a little behind
//! the one before.
//!
//! An address in which nothing arrives then costs one step instead of its whole timeout. The next starts
//! at once when one fails. The first that is open wins; the others are dropped, which closes them before
//! anything was said: who asks for the winner has not seen them.
//!
//! What an address is dialled by is an argument, so that proxies race in the same way, and tests without
//! a network.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::ConnectError;

/// How a race is run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between the starts of two addresses.
    pub(super) stagger: Duration,
    /// For each address.
    pub(super) timeout: Duration,
}

/// The first of `addresses` that `dial` opens, and what it opened. It is only as long as the list: who
/// calls bounds that.
///
/// # Errors
/// When none was opened, what says most.
///
/// # Cancel safety
/// Dropping it closes what was begun.
pub(super) async fn race<T, F>(
    addresses: Vec<IpAddr>,
    pace: Pace,
    dial: impl Fn(IpAddr) -> F,
) -> Result<(IpAddr, T), ConnectError>
where
    F: Future<Output = Result<T, ConnectError>> + Send,
{
    let attempt = |ip: IpAddr| {
        let dialled = timeout(pace.timeout, dial(ip));
        Box::pin(async move { (ip, dialled.await.unwrap_or(Err(ConnectError::TimedOut))) })
    };
    let mut waiting = addresses.into_iter();
    let mut running = Vec::new();
    let mut worst = ConnectError::NoAddress;
    loop {
        match waiting.next() {
            Some(ip) => running.push(attempt(ip)),
            None if running.is_empty() => return Err(worst),
            None => {}
        }
        let more = !waiting.as_slice().is_empty();
        tokio::select! {
            biased;
            (ip, ended) = any(&mut running) => match ended {
                Ok(opened) => return Ok((ip, opened)),
                Err(error) if error.telling() >= worst.telling() => worst = error,
                Err(_) => {}
            },
            () = sleep(pace.stagger), if more => {}
        }
    }
}

/// The first of them that ends, and without it the others.
async fn any<F: Future>(running: &mut Vec<Pin<Box<F>>>) -> F::Output {
    poll_fn(|cx| {
        for at in 0..running.len() {
            if let Some(one) = running.get_mut(at)
                && let Poll::Ready(ended) = one.as_mut().poll(cx)
            {
                drop(running.remove(at));
                return Poll::Ready(ended);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::clock::{Clock, SystemClock};

    const PACE: Pace = Pace { stagger: Duration::from_millis(250), timeout: Duration::from_secs(30) };
    const NEVER: u64 = u64::MAX;

    /// What becomes of each address, by its last octet: after how many milliseconds, and what.
    type Plan = &'static [(u64, Result<(), ConnectError>)];
    /// And what comes of it, as [`run`] says.
    type Case = (Plan, Result<u8, ConnectError>, u128, &'static [u128]);

    #[derive(Debug)]
    struct Open<'a>(&'a AtomicUsize);

    impl Drop for Open<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Runs a race: who won or why nobody, after how many milliseconds, and when each was dialled.
    async fn run(plan: Plan) -> (Result<u8, ConnectError>, u128, Vec<u128>) {
        let (began, open, starts) = (SystemClock.mono(), AtomicUsize::new(0), Mutex::new(Vec::new()));
        let addresses =
            (0..plan.len()).map(|at| IpAddr::from([192, 0, 2, u8::try_from(at).unwrap()])).collect();
        let ended = race(addresses, PACE, |ip| {
            let IpAddr::V4(v4) = ip else { unreachable!() };
            let (after, ended) = plan[usize::from(v4.octets()[3])];
            let (open, starts) = (&open, &starts);
            async move {
                starts.lock().unwrap().push((SystemClock.mono() - began).as_millis());
                open.fetch_add(1, Ordering::SeqCst);
                let socket = Open(open);
                if after == NEVER {
                    std::future::pending::<()>().await;
                }
                sleep(Duration::from_millis(after)).await;
                ended.map(|()| socket)
            }
        })
        .await;
        let took = (SystemClock.mono() - began).as_millis();
        assert_eq!(open.load(Ordering::SeqCst), usize::from(ended.is_ok()), "the losers are closed");
        let winner = ended.map(|(ip, _)| match ip {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => unreachable!(),
        });
        (winner, took, starts.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_starts_a_step_behind_the_one_before_or_when_one_failed() {
        use ConnectError::{Local, NoAddress, Refused, TimedOut, Unreachable};
        let cases: &[Case] = &[
            (&[], Err(NoAddress), 0, &[]),
            (&[(80, Ok(()))], Ok(0), 80, &[0]),
            // The second is not even dialled.
            (&[(200, Ok(())), (0, Ok(()))], Ok(0), 200, &[0]),
            // A black hole costs one step.
            (&[(NEVER, Ok(())), (10, Ok(()))], Ok(1), 260, &[0, 250]),
            (&[(NEVER, Ok(())), (NEVER, Ok(())), (10, Ok(()))], Ok(2), 510, &[0, 250, 500]),
            // Late is better than never, and the first that is open wins.
            (&[(300, Ok(())), (100, Ok(()))], Ok(0), 300, &[0, 250]),
            (&[(400, Ok(())), (100, Ok(()))], Ok(1), 350, &[0, 250]),
            // One that fails makes the next start at once, and the step begins again.
            (&[(0, Err(Refused)), (NEVER, Ok(())), (10, Ok(()))], Ok(2), 260, &[0, 0, 250]),
            (&[(NEVER, Ok(())), (50, Err(Refused)), (10, Ok(()))], Ok(2), 310, &[0, 250, 300]),
            // What says most.
            (&[(0, Err(Refused)), (0, Err(Local))], Err(Refused), 0, &[0, 0]),
            (&[(0, Err(Local)), (0, Err(Unreachable))], Err(Unreachable), 0, &[0, 0]),
            // All of it takes hardly longer than one.
            (&[(NEVER, Ok(())), (NEVER, Ok(()))], Err(TimedOut), 30_250, &[0, 250]),
        ];
        for (plan, winner, took, starts) in cases {
            assert_eq!(run(plan).await, (*winner, *took, starts.to_vec()), "{plan:?}");
        }
    }
}

//! Listening is how a node learns at once of mail that another one has stored.
//!
//! Notifications have a connection of their own, and are never part of a transaction that stores something: a
//! commit with one in it waits for every other such commit. They are sent a few times a second at most, and
//! may be lost; polling finds what they did not tell.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Inner;
use super::error::Failure;
use super::tables::quote;

/// Listens and notifies until the spool is closed.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut pause = FIRST_PAUSE;
    while !inner.link.is_closed() {
        match session(&inner).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(failure) => tracing::debug!(?failure, "notifications are not heard"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Until the connection ends.
async fn session(inner: &Arc<Inner>) -> Result<(), Failure> {
    let (alive, mut ended) = oneshot::channel::<()>();
    let (node, waker) = (inner.node.to_string(), Arc::clone(inner));
    let client = inner
        .link
        .open(move |notification| {
            // Goes with the connection.
            let _ = &alive;
            if notification.payload() != node {
                waker.woken.notify_one();
            }
        })
        .await?;
    let (channel, node) = (inner.link.tables.channel(), inner.node.to_string());
    let listen = format!("LISTEN {}", quote(&channel));
    inner.link.timed(async { Ok(client.batch_execute(&listen).await?) }).await?;
    // Something may have come before.
    inner.woken.notify_one();
    loop {
        tokio::select! {
            _ = &mut ended => return Ok(()),
            () = inner.nudge.notified() => {}
        }
        let Some(between) = inner.options.notify else { continue };
        let notify = async { Ok(client.query("SELECT pg_notify($1, $2)", &[&channel, &node]).await?) };
        inner.link.timed(notify).await?;
        tokio::time::sleep(between).await;
    }
}

/// A server that is restarted is there again in a second or two; one that is gone is asked now and then.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

//! Posts later answers to the address on this machine that a request named.
//!
//! At least once, until the address answers with a status of 2xx or the answer expires. Redirects are not followed and no proxy is
//! used, so that nothing leaves the machine.

use std::time::{Duration, Instant};

use edge_core::backoff::Backoff;
use edge_core::request_outbox::State;
use tokio_util::sync::CancellationToken;
use types::amend::Callback;
use types::{Amend, RequestId};

use super::http::{Delivery, delivery};
use super::{Outbox, View};

/// Maximum time for one post: the address is on this machine.
const POST_WITHIN: Duration = Duration::from_secs(10);

/// Waits after a post that failed.
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// Posts until `stop` is cancelled.
pub async fn run(outbox: Outbox, stop: CancellationToken) {
    let mut changes = outbox.changes();
    let mut failures: u32 = 0;
    loop {
        changes.mark_unchanged();
        let mut has_failed = false;
        for view in outbox.due_callbacks() {
            let Amend::Callback(callback) = &view.detail.amend else { continue };
            match stop.run_until_cancelled(post(&outbox, &view, callback)).await {
                None => return,
                Some(true) => outbox.notified(view.entry.number).await,
                Some(false) => has_failed = true,
            }
        }
        failures = if has_failed { failures.saturating_add(1) } else { 0 };
        let again = Instant::now() + AGAIN.delay(failures.max(1), rand::random());
        tokio::select! {
            () = stop.cancelled() => return,
            _changed = changes.changed(), if !has_failed => {}
            () = tokio::time::sleep_until(again.into()), if has_failed => {}
        }
    }
}

/// Posts the end of a request; returns whether it was taken.
async fn post(outbox: &Outbox, view: &View, callback: &Callback) -> bool {
    let Delivery { body, .. } = delivery(outbox, view, false).await;
    if outbox.find(&view.detail.id).is_some_and(|now| now.entry != view.entry) {
        // It has changed meanwhile, for example because the stored answer is damaged: the next round tells that.
        return false;
    }
    let (url, id) = (callback.to_string(), view.detail.id.clone());
    let state = match view.entry.state {
        State::Answered { .. } => "answered",
        other => other.as_str(),
    };
    let posting = tokio::task::spawn_blocking(move || send(&url, &id, state, &body));
    match posting.await {
        Ok(Ok(status)) if (200..300).contains(&status) => true,
        Ok(Ok(status)) => {
            tracing::warn!(id = %view.detail.id, %callback, status, "the callback did not take the answer");
            false
        }
        Ok(Err(error)) => {
            tracing::debug!(id = %view.detail.id, %callback, error = telemetry::chain(&error), "no callback yet");
            false
        }
        Err(_stopped) => false,
    }
}

fn send(url: &str, id: &RequestId, state: &str, body: &[u8]) -> Result<u16, ureq::Error> {
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .timeout_global(Some(POST_WITHIN))
        .build()
        .new_agent();
    let request = agent.post(url).header("Content-Type", "application/json");
    let request = request.header("Sanderling-Request-Id", id.as_str()).header("Sanderling-Request-State", state);
    Ok(request.send(body)?.status().as_u16())
}

//! Metrics of both daemons: names, descriptions, and one recording function for each event.
//!
//! The shells call the recording functions; the daemons' `/metrics` endpoints return [`Metrics::render`]. The division
//! is Triton's (requests and failures by model and reason, queue and compute times separately), so that its dashboards
//! need only new names.
//!
//! Each label value creates a time series that is kept for the life of the process: model names come from the installed
//! models, never from a request; a request for an unknown model counts under [`UNKNOWN_MODEL`].

mod calibration;

mod outbox;

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

pub use calibration::{
    CALIBRATIONS, DEVICES_DRIFTING, THRESHOLD_STATE, calibrations, devices_drifting, threshold_state,
};

pub use outbox::{
    OUTBOX_ANSWERS, OUTBOX_BYTES, OUTBOX_OLDEST_SECONDS, OUTBOX_OUTCOMES, OUTBOX_REQUESTS, QUEUED_REQUESTS, outbox,
    outbox_outcome, queued_request,
};

/// Value of the `model` label for requests that name no known model.
pub const UNKNOWN_MODEL: &str = "unknown";

/// Number of served requests by `model`, `place` and `reason`.
pub const REQUESTS: &str = "sanderling_requests_total";
/// Number of requests that ended in an error, by `model` and `reason`.
pub const FAILURES: &str = "sanderling_request_failures_total";
/// Seconds that a served request waited for its session, by `model` and `place`.
pub const QUEUE_SECONDS: &str = "sanderling_request_queue_seconds";
/// Seconds inside the engine, by `model` and `place`.
pub const COMPUTE_SECONDS: &str = "sanderling_request_compute_seconds";
/// Seconds from the receipt of the whole request to the whole response, by `model` and `place`.
pub const TOTAL_SECONDS: &str = "sanderling_request_seconds";
/// Number of accepted requests without a response yet, by `model`.
pub const PENDING: &str = "sanderling_requests_pending";
/// Tensor bytes sent to the hub because a request was deferred, by `model`.
pub const DEFERRED_BYTES: &str = "sanderling_deferred_bytes_total";
/// Connection state of a device: 1 while connected to the hub, else 0.
pub const HUB_CONNECTED: &str = "sanderling_hub_connected";
/// Number of connections to the hub that a device established.
pub const HUB_CONNECTIONS: &str = "sanderling_hub_connections_total";
/// Number of devices that are connected to the hub now.
pub const DEVICES_CONNECTED: &str = "sanderling_devices_connected";
/// Number of rollouts that the hub keeps, by `state`.
pub const ROLLOUTS: &str = "sanderling_rollouts";
/// Number of connections and enrolments that the hub refused, by `reason`.
pub const REFUSALS: &str = "sanderling_refusals_total";
/// Number of clients that the hub refused at a limit, or evicted for a new client, by `what` and `outcome`.
pub const CONTENTION: &str = "sanderling_contention_total";
/// Number of requests to the admin API without a valid operator token, by `reason`.
pub const LOGIN_FAILURES: &str = "sanderling_login_failures_total";
/// Number of model updates that ended, by `model` and `outcome`.
pub const UPDATES: &str = "sanderling_updates_total";
/// Version that serves, by `model`.
pub const MODEL_VERSION: &str = "sanderling_model_version";
/// Bytes of model files received, by `model`.
pub const UPDATE_BYTES: &str = "sanderling_update_bytes_total";
/// Number of files that a device made from a delta, or failed to, by `model` and `outcome` (`applied`, `failed`).
pub const DELTAS_APPLIED: &str = "sanderling_update_deltas_total";
/// Bytes that a device did not receive because a delta made the file, by `model`.
pub const UPDATE_BYTES_SAVED: &str = "sanderling_update_bytes_saved_total";
/// Number of deltas that the hub made or gave up, by `outcome` (`made`, `useless`, `too-large`, `failed`).
pub const DELTAS_MADE: &str = "sanderling_deltas_made_total";
/// Bytes that the hub did not send because it sent a delta or the compressed file.
pub const DELTA_BYTES_SAVED: &str = "sanderling_delta_bytes_saved_total";
/// Bytes of deltas and compressed files in the hub's cache.
pub const DELTA_CACHE_BYTES: &str = "sanderling_delta_cache_bytes";
/// Number of models that left an engine because its device (a GPU) was lost, by `model` and `engine`.
pub const FAILOVERS: &str = "sanderling_engine_failovers_total";
/// Number of models that returned to an engine that was reopened after a loss, by `model` and `engine`.
pub const TAKEN_BACK: &str = "sanderling_engine_returns_total";
/// Number of alarms because scores left the distribution of their calibration, by `model` and `shift`.
pub const DRIFT_ALARMS: &str = "sanderling_drift_alarms_total";
/// Whether such an alarm stands, by `model`: 1 or 0.
pub const DRIFT: &str = "sanderling_drift";
/// Number of attempts to reopen an engine whose device was lost, by `engine` and `outcome` (`opened`, `failed`).
pub const REOPENED: &str = "sanderling_engine_reopened_total";
/// Number of child processes of engines that were restarted, by `engine`.
pub const HOST_RESTARTS: &str = "sanderling_engine_host_restarts_total";
/// Number of child processes of engines that ended, by `engine` and `cause`.
pub const HOST_DEATHS: &str = "sanderling_engine_host_deaths_total";
/// Number of requests that were refused because they had crashed a child process before, by `model`.
pub const REQUESTS_QUARANTINED: &str = "sanderling_requests_quarantined_total";
/// Number of models that are disabled because they repeatedly crashed their child process, by `model`.
pub const MODELS_CONDEMNED: &str = "sanderling_models_condemned_total";
/// Expiry of a trust role in seconds since 1970, by `role`.
pub const TRUST_EXPIRES: &str = "sanderling_trust_expires_timestamp_seconds";
/// Number of unreadable records of the store that were set aside.
pub const UNREADABLE_RECORDS: &str = "sanderling_store_unreadable_records";
/// Earliest expiry of an operator token, in seconds since 1970.
pub const OPERATOR_TOKEN_EXPIRES: &str = "sanderling_operator_token_expires_timestamp_seconds";
/// Number of files of published versions that are damaged or missing on the hub's disk.
pub const BLOBS_DAMAGED: &str = "sanderling_blobs_damaged";
/// Number of periods of device counters, by `outcome` (`counted`, `repeated`, `refused`).
pub const COUNTER_PERIODS: &str = "sanderling_counter_periods_total";
/// Number of records of the log of receipts, by `outcome` (`written`, `lost`).
pub const RECEIPTS: &str = "sanderling_receipts_total";
/// Lookups in the cache of answers, and answers that left it.
pub const CACHE: &str = "sanderling_cache_total";
/// Bytes of cached answers.
pub const CACHE_BYTES: &str = "sanderling_cache_bytes";
/// Number of stored hourly counters of devices.
pub const COUNTER_CELLS: &str = "sanderling_counter_cells";
/// Always 1; the label `version` is the version of the build.
pub const BUILD_INFO: &str = "sanderling_build_info";

/// Upper bounds of the time histograms, in seconds: 100 us (a tiny model on a fast core) to 10 s (the default
/// deadline), about three per decade.
const SECONDS_BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Handle that renders the metrics of this process.
#[derive(Clone, Debug)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Returns all recorded metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        // Also empties the histograms' buffers, which would otherwise grow between scrapes.
        self.handle.run_upkeep();
        self.handle.render()
    }

    /// Folds recorded samples into the histograms. A daemon that may not be scraped for a long time calls it every few
    /// seconds to limit memory.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// Error: the recorder of metrics could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("start metrics")]
pub struct InstallError(#[source] metrics_exporter_prometheus::BuildError);

/// Starts recording for this process and describes every metric.
///
/// # Errors
/// Fails if a recorder was installed before.
pub fn install(build_version: &str) -> Result<Metrics, InstallError> {
    let handle = builder().map_err(InstallError)?.install_recorder().map_err(InstallError)?;
    describe();
    gauge!(BUILD_INFO, "version" => build_version.to_owned()).set(1.0);
    Ok(Metrics { handle })
}

fn builder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)
}

fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Served requests by model, place and reason.");
    describe_counter!(FAILURES, Unit::Count, "Requests that ended in an error, by model and reason.");
    describe_histogram!(QUEUE_SECONDS, Unit::Seconds, "Time that a served request waited for its session.");
    describe_histogram!(COMPUTE_SECONDS, Unit::Seconds, "Time inside the engine.");
    describe_histogram!(
        TOTAL_SECONDS,
        Unit::Seconds,
        "Time from the receipt of the whole request to the whole response."
    );
    describe_gauge!(PENDING, Unit::Count, "Accepted requests without a response yet.");
    describe_counter!(DEFERRED_BYTES, Unit::Bytes, "Tensor bytes sent to the hub for deferred requests.");
    describe_gauge!(HUB_CONNECTED, Unit::Count, "1 while this device is connected to the hub.");
    describe_counter!(HUB_CONNECTIONS, Unit::Count, "Connections to the hub that were established.");
    describe_gauge!(ROLLOUTS, Unit::Count, "Rollouts that the hub keeps, by state.");
    describe_gauge!(DEVICES_CONNECTED, Unit::Count, "Devices connected now.");
    describe_counter!(REFUSALS, Unit::Count, "Connections and enrolments refused, by reason.");
    describe_counter!(CONTENTION, Unit::Count, "Clients refused at a limit, or evicted for a new client.");
    describe_counter!(LOGIN_FAILURES, Unit::Count, "Requests to the admin API without a valid operator token.");
    describe_counter!(UPDATES, Unit::Count, "Model updates that ended, by outcome.");
    describe_gauge!(MODEL_VERSION, Unit::Count, "The version that serves.");
    describe_counter!(UPDATE_BYTES, Unit::Bytes, "Bytes of model files received.");
    describe_counter!(DELTAS_APPLIED, Unit::Count, "Files made from deltas, and attempts that failed.");
    describe_counter!(UPDATE_BYTES_SAVED, Unit::Bytes, "Bytes of model files that deltas made.");
    describe_counter!(DELTAS_MADE, Unit::Count, "Deltas and compressed files that the hub made or gave up.");
    describe_counter!(DELTA_BYTES_SAVED, Unit::Bytes, "Bytes that the hub did not send because of deltas.");
    describe_gauge!(DELTA_CACHE_BYTES, Unit::Bytes, "Bytes of deltas and compressed files in the cache.");
    describe_counter!(FAILOVERS, Unit::Count, "Models that left an engine because its device was lost.");
    describe_counter!(TAKEN_BACK, Unit::Count, "Models that returned to a reopened engine.");
    describe_counter!(DRIFT_ALARMS, Unit::Count, "Alarms because scores left the distribution of their calibration.");
    describe_gauge!(DRIFT, Unit::Count, "Whether an alarm of drift stands.");
    calibration::describe();
    describe_counter!(REOPENED, Unit::Count, "Attempts to reopen an engine whose device was lost.");
    describe_counter!(HOST_RESTARTS, Unit::Count, "Child processes of engines that were restarted.");
    describe_counter!(HOST_DEATHS, Unit::Count, "Child processes of engines that ended, by cause.");
    describe_counter!(
        REQUESTS_QUARANTINED,
        Unit::Count,
        "Requests refused because they crashed a child process before."
    );
    describe_counter!(
        MODELS_CONDEMNED,
        Unit::Count,
        "Models disabled because they repeatedly crashed child processes."
    );
    describe_gauge!(OPERATOR_TOKEN_EXPIRES, Unit::Seconds, "Earliest expiry of an operator token, since 1970.");
    describe_counter!(COUNTER_PERIODS, Unit::Count, "Periods of device counters that were received, by outcome.");
    describe_counter!(RECEIPTS, Unit::Count, "Records of the log of receipts by outcome: written, lost.");
    describe_counter!(
        CACHE,
        Unit::Count,
        "Lookups in the cache of answers: hit, miss; and answers that left it: evicted."
    );
    describe_gauge!(CACHE_BYTES, Unit::Bytes, "Bytes of cached answers.");
    outbox::describe();
    describe_gauge!(COUNTER_CELLS, Unit::Count, "Hourly counters of devices that the hub stores.");
    describe_gauge!(BLOBS_DAMAGED, Unit::Count, "Files of published versions that are damaged or missing.");
    describe_gauge!(TRUST_EXPIRES, Unit::Seconds, "Expiry of the signature of a trust role, since 1970.");
    describe_gauge!(UNREADABLE_RECORDS, Unit::Count, "Unreadable records of the store that were set aside.");
    describe_gauge!(BUILD_INFO, Unit::Count, "Always 1; the label version is the version of the build.");
}

/// Durations of the parts of one served request.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestTimes {
    /// Time in the queue of the session.
    pub queue: Duration,
    /// Time inside the engine.
    pub compute: Duration,
    /// Time from the receipt of the whole request to the whole response.
    pub total: Duration,
}

/// Counts a served request. `model` must be the name of a known model.
pub fn request_answered(model: &str, place: &'static str, reason: &'static str, times: RequestTimes) {
    counter!(REQUESTS, "model" => model.to_owned(), "place" => place, "reason" => reason).increment(1);
    histogram!(QUEUE_SECONDS, "model" => model.to_owned(), "place" => place).record(times.queue);
    histogram!(COMPUTE_SECONDS, "model" => model.to_owned(), "place" => place).record(times.compute);
    histogram!(TOTAL_SECONDS, "model" => model.to_owned(), "place" => place).record(times.total);
}

/// Counts a request that ended in an error; `model` must be [`UNKNOWN_MODEL`] unless its model is known.
pub fn request_failed(model: &str, reason: &'static str) {
    counter!(FAILURES, "model" => model.to_owned(), "reason" => reason).increment(1);
}

/// Counts one request as pending until it is dropped.
#[derive(Debug)]
#[must_use = "the request counts as pending until this is dropped"]
pub struct Pending {
    model: String,
}

/// Counts a request of a known model as pending.
pub fn request_pending(model: &str) -> Pending {
    gauge!(PENDING, "model" => model.to_owned()).increment(1.0);
    Pending { model: model.to_owned() }
}

impl Drop for Pending {
    fn drop(&mut self) {
        gauge!(PENDING, "model" => self.model.clone()).decrement(1.0);
    }
}

/// Counts the tensor bytes of one deferred request.
pub fn deferred_bytes(model: &str, bytes: u64) {
    counter!(DEFERRED_BYTES, "model" => model.to_owned()).increment(bytes);
}

/// Counts a new connection to the hub (on a device).
pub fn hub_connected() {
    gauge!(HUB_CONNECTED).set(1.0);
    counter!(HUB_CONNECTIONS).increment(1);
}

/// Records that the device has no connection to the hub. Call it once at start, too.
pub fn hub_disconnected() {
    gauge!(HUB_CONNECTED).set(0.0);
}

/// Sets the number of devices that are connected now (on the hub).
pub fn devices_connected(count: u32) {
    gauge!(DEVICES_CONNECTED).set(f64::from(count));
}

/// Sets the number of rollouts in a state (on the hub).
pub fn rollouts(state: &'static str, count: u32) {
    gauge!(ROLLOUTS, "state" => state).set(f64::from(count));
}

/// Counts a refused connection or enrolment (on the hub).
pub fn refused(reason: &'static str) {
    counter!(REFUSALS, "reason" => reason).increment(1);
}

/// Counts a client that was refused or evicted at the limit of `handshake`, `enrolment`, `admin` or `metrics` (on the
/// hub).
pub fn place_contended(what: &'static str, outcome: &'static str) {
    counter!(CONTENTION, "what" => what, "outcome" => outcome).increment(1);
}

/// Counts a request to the admin API without a valid token (on the hub).
pub fn login_failed(reason: &'static str) {
    counter!(LOGIN_FAILURES, "reason" => reason).increment(1);
}

/// Counts an update of a model by its outcome, one of the labels of `types::update::Outcome`.
pub fn update_ended(model: &str, outcome: &'static str) {
    counter!(UPDATES, "model" => model.to_owned(), "outcome" => outcome).increment(1);
}

/// Counts received bytes of model files.
pub fn update_bytes(model: &str, bytes: u64) {
    counter!(UPDATE_BYTES, "model" => model.to_owned()).increment(bytes);
}

/// Counts a delta that a device applied (`applied`) or could not use (`failed`).
pub fn delta_applied(model: &str, outcome: &'static str) {
    counter!(DELTAS_APPLIED, "model" => model.to_owned(), "outcome" => outcome).increment(1);
}

/// Counts bytes that a device did not receive because a delta made them.
pub fn update_bytes_saved(model: &str, bytes: u64) {
    counter!(UPDATE_BYTES_SAVED, "model" => model.to_owned()).increment(bytes);
}

/// Counts a delta that the hub made (`made`) or gave up (`useless`, `too-large`, `failed`).
pub fn delta_made(outcome: &'static str) {
    counter!(DELTAS_MADE, "outcome" => outcome).increment(1);
}

/// Counts bytes that the hub did not send because it sent a delta.
pub fn delta_bytes_saved(bytes: u64) {
    counter!(DELTA_BYTES_SAVED).increment(bytes);
}

/// Sets the bytes of deltas in the hub's cache.
pub fn delta_cache_bytes(bytes: u64) {
    #[expect(clippy::cast_precision_loss, reason = "a quota of disk space is far below 2^53 bytes")]
    gauge!(DELTA_CACHE_BYTES).set(bytes as f64);
}

/// Sets the version of a model that serves now.
pub fn model_version(model: &str, version: u32) {
    gauge!(MODEL_VERSION, "model" => model.to_owned()).set(f64::from(version));
}

/// Sets when the signature of a trust role (`root`, `targets`, `snapshot`, `timestamp`) expires, in seconds since 1970.
pub fn trust_expires(role: &'static str, unix_s: i64) {
    // A date is far below 2^53 seconds, up to which f64 counts exactly.
    #[expect(clippy::cast_precision_loss, reason = "dates are below 2^53 seconds")]
    gauge!(TRUST_EXPIRES, "role" => role).set(unix_s as f64);
}

/// Sets the number of unreadable records of the store that were set aside.
pub fn unreadable_records(count: usize) {
    gauge!(UNREADABLE_RECORDS).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
}

/// Sets the earliest expiry of an operator token, in seconds since 1970.
pub fn operator_token_expires(unix_s: u64) {
    #[expect(clippy::cast_precision_loss, reason = "dates are below 2^53 seconds")]
    gauge!(OPERATOR_TOKEN_EXPIRES).set(unix_s as f64);
}

/// Sets the number of files of published versions that are damaged or missing on the hub's disk.
pub fn blobs_damaged(count: usize) {
    gauge!(BLOBS_DAMAGED).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
}

/// Counts a period of device counters (on the hub).
pub fn counter_period(outcome: &'static str) {
    counter!(COUNTER_PERIODS, "outcome" => outcome).increment(1);
}

/// Sets the number of stored hourly counters of devices (on the hub).
pub fn counter_cells(count: usize) {
    gauge!(COUNTER_CELLS).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
}

/// Counts records that are in the log of receipts (on a device).
pub fn receipts_written(count: u64) {
    counter!(RECEIPTS, "outcome" => "written").increment(count);
}

/// Counts lookups of a model in the cache of answers by outcome, and sets the bytes of all cached answers (on a device).
pub fn cache(model: &str, outcomes: [(&'static str, u64); 3], bytes: u64) {
    for (outcome, count) in outcomes.into_iter().filter(|(_outcome, count)| *count > 0) {
        counter!(CACHE, "model" => model.to_owned(), "outcome" => outcome).increment(count);
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 4 GiB")]
    gauge!(CACHE_BYTES).set(bytes as f64);
}

/// Counts records that did not get into the log of receipts (on a device).
pub fn receipts_lost(count: u64) {
    counter!(RECEIPTS, "outcome" => "lost").increment(count);
}

/// Counts a model that left this engine because its GPU was lost (on a device).
pub fn engine_failed_over(model: &str, engine: &'static str) {
    counter!(FAILOVERS, "model" => model.to_owned(), "engine" => engine).increment(1);
}

/// Counts an alarm of drift (on a device).
pub fn drift_began(model: &str, shift: &'static str) {
    counter!(DRIFT_ALARMS, "model" => model.to_owned(), "shift" => shift).increment(1);
    drift(model, true);
}

/// Sets whether an alarm of drift stands.
pub fn drift(model: &str, is_alarmed: bool) {
    gauge!(DRIFT, "model" => model.to_owned()).set(f64::from(u8::from(is_alarmed)));
}

/// Counts a model that returned to a reopened engine.
pub fn engine_taken_back(model: &str, engine: &'static str) {
    counter!(TAKEN_BACK, "model" => model.to_owned(), "engine" => engine).increment(1);
}

/// Counts an attempt to reopen an engine whose device was lost.
pub fn engine_reopened(engine: &'static str, outcome: &'static str) {
    counter!(REOPENED, "engine" => engine, "outcome" => outcome).increment(1);
}

/// Counts a restart of a child process of an engine.
pub fn host_restarted(engine: &'static str) {
    counter!(HOST_RESTARTS, "engine" => engine).increment(1);
}

/// Counts a child process of an engine that ended.
pub fn host_died(engine: &'static str, cause: &'static str) {
    counter!(HOST_DEATHS, "engine" => engine, "cause" => cause).increment(1);
}

/// Counts a request that was refused because it had crashed a child process before. `model` must be a known model's
/// name.
pub fn request_quarantined(model: &str) {
    counter!(REQUESTS_QUARANTINED, "model" => model.to_owned()).increment(1);
}

/// Counts a model that was disabled.
pub fn model_condemned(model: &str) {
    counter!(MODELS_CONDEMNED, "model" => model.to_owned()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renders records of a separate recorder, so that tests of one process do not affect each other.
    fn rendered(record: impl FnOnce()) -> String {
        let recorder = builder().unwrap().build_recorder();
        let metrics = Metrics { handle: recorder.handle() };
        metrics::with_local_recorder(&recorder, || {
            describe();
            record();
        });
        metrics.render()
    }

    #[test]
    fn an_answer_is_counted_with_its_place_reason_and_times() {
        let times = RequestTimes { compute: Duration::from_millis(3), ..RequestTimes::default() };
        let text = rendered(|| request_answered("digits", "device", "confident", times));
        assert!(text.contains("# HELP sanderling_requests_total Served requests"), "{text}");
        let line = r#"sanderling_requests_total{model="digits",place="device",reason="confident"} 1"#;
        assert!(text.contains(line), "{text}");
        let line = r#"sanderling_request_compute_seconds_bucket{model="digits",place="device",le="0.0025"} 0"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains(r#"place="device",le="0.005"} 1"#), "{text}");
    }

    #[test]
    fn pending_falls_back_when_a_request_ends_in_any_way() {
        let text = rendered(|| {
            let first = request_pending("digits");
            let _second = request_pending("digits");
            drop(first);
            request_failed(UNKNOWN_MODEL, "unknown-model");
        });
        assert!(text.contains(r#"sanderling_requests_pending{model="digits"} 0"#), "{text}");
        assert!(
            text.contains(r#"sanderling_request_failures_total{model="unknown",reason="unknown-model"} 1"#),
            "{text}"
        );
    }

    #[test]
    fn a_label_cannot_break_the_format() {
        let text = rendered(|| request_failed("a\"b\nc", "bad-input"));
        assert!(text.contains(r#"model="a\"b\nc""#), "{text}");
    }
}

//! One enrolled device: judged, seated, and served exchange by exchange.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hub_core::authorise::Presented;
use hub_core::fleet::{EngineOfDevice, Follows, Greeting, Installed, Machine, Outcome, Replaced, Report, Running};
use protocol::v1::{
    ActiveVariant, DeviceRequest, EngineInfo, Hello, HubResponse, Offer, Refusal, RefusalCode, RunningModel,
    UpdateReport, Welcome, feature,
};
use telemetry::metrics::UNKNOWN_MODEL;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::Instrument;
use transport::{CloseCode, Connection, Exchange, ExchangeError, Peer, Priority};
use types::Version;
use types::update::Stage;

use super::Services;
use super::{artifact, counters, infer, queued, renewal};
use crate::app::fleet::{Admitted, Entry, NotAdmitted};
use crate::clock;

/// One device's connection, as its exchanges see it.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) services: Arc<Services>,
    pub(super) admitted: Admitted,
    /// Requests to be answered by the hub that this device may have here at once.
    pub(super) requests: Arc<Semaphore>,
    /// Files that this device may fetch at once; further requests wait.
    pub(super) artifacts: Semaphore,
    /// The hub's clock minus the device's in seconds, as of its greeting.
    pub(super) skew_s: AtomicI64,
}

/// Maximum number of files that one device fetches at once: enough to keep its link busy.
const ARTIFACTS_PER_DEVICE_MAX: usize = 2;

/// Deadline for one exchange, from the first byte of its request to the last of its response. 64 MiB each way take a link
/// of 1 Mbit/s 18 minutes.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Serves a device until its connection ends.
pub(super) async fn serve(services: Arc<Services>, connection: Connection) {
    let Peer::Device { id, key, not_after_unix_s } = connection.peer().clone() else {
        // The listener lets nobody else in under this protocol; this is a second check.
        connection.close(CloseCode::NotAuthorised, "a certificate is needed: enrol this device");
        return;
    };
    let span = tracing::info_span!("device", device = %id, remote = %connection.remote_addr());
    let not_after_unix_s = u64::try_from(not_after_unix_s).unwrap_or(0);
    let presented = Presented { id, key, not_after_unix_s };
    seat_and_serve(services, connection, presented).instrument(span).await;
}

async fn seat_and_serve(services: Arc<Services>, connection: Connection, presented: Presented) {
    let admitted = match services.fleet.admit(&connection, &presented).await {
        Ok(Entry::Admitted(admitted)) => admitted,
        Ok(Entry::RenewalOnly) => return renewal::serve_expired(&services, &connection, &presented.id).await,
        Err(refused) => {
            telemetry::metrics::refused(refused.reason());
            tracing::warn!(reason = telemetry::chain(&refused), "connection refused");
            connection.close(refused.close_code(), &told(&refused));
            return;
        }
    };
    tracing::info!("device connected");
    services.limits.handshakes.know(connection.remote_addr().ip());
    let requests = Arc::new(Semaphore::new(services.limits.requests_per_device_max));
    let artifacts = Semaphore::new(ARTIFACTS_PER_DEVICE_MAX);
    let visit =
        Arc::new(Visit { services: Arc::clone(&services), admitted, requests, artifacts, skew_s: AtomicI64::new(0) });
    let reason = exchanges(&visit, &connection).await;
    let device = visit.admitted.device.clone();
    // The guard goes with the last exchange; after it the device counts as away.
    drop(visit);
    services.fleet.keep(&device).await;
    tracing::info!(reason = %reason, "device left");
}

/// Returns the text for a refused peer: the reason where it concerns it, nothing of the hub's own troubles.
fn told(refused: &NotAdmitted) -> String {
    match refused {
        NotAdmitted::Refused(refused) => refused.to_string(),
        NotAdmitted::Store(_) => "the hub cannot look this device up now".to_owned(),
    }
}

/// Takes exchanges until the connection or the certificate ends; then whatever is in flight is broken off.
async fn exchanges(visit: &Arc<Visit>, connection: &Connection) -> String {
    let mut tasks = JoinSet::new();
    let left = Duration::from_secs(visit.admitted.not_after_unix_s.saturating_sub(clock::unix_s()).saturating_add(1));
    let expiry = tokio::time::sleep(left);
    tokio::pin!(expiry);
    let mut has_all_streams = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Ok(exchange) => {
                    tasks.spawn(exchange_task(Arc::clone(visit), exchange).in_current_span());
                    if !has_all_streams && connection.is_short_of_streams(tasks.len()) {
                        connection.allow_all_streams();
                        has_all_streams = true;
                    }
                }
                Err(reason) => {
                    tasks.shutdown().await;
                    return reason.to_string();
                }
            },
            Some(_ended) = tasks.join_next() => {}
            () = &mut expiry => {
                connection.close(CloseCode::CertificateExpired, "the certificate has expired");
                tasks.shutdown().await;
                return "its certificate has expired".to_owned();
            }
        }
    }
}

async fn exchange_task(visit: Arc<Visit>, mut exchange: Exchange) {
    let served = tokio::time::timeout(EXCHANGE_LIMIT, serve_exchange(&visit, &mut exchange)).await;
    let overdue = |_elapsed| Err(ExchangeError::Stalled { what: "an exchange", after: EXCHANGE_LIMIT });
    match served.unwrap_or_else(overdue) {
        Ok(()) => {}
        // A device that withdraws or goes away needs no comment.
        Err(ExchangeError::Cancelled(_) | ExchangeError::ConnectionLost(_)) => {}
        Err(error) => tracing::warn!(error = telemetry::chain(&error), "exchange failed"),
    }
}

async fn serve_exchange(visit: &Visit, exchange: &mut Exchange) -> Result<(), ExchangeError> {
    let request: DeviceRequest = exchange.receive().await?;
    if visit.services.stop.drain.is_cancelled() {
        return refuse(exchange, Refusal::new(RefusalCode::ShuttingDown, "the hub is stopping")).await;
    }
    match request {
        DeviceRequest::Infer(request) => infer::serve(visit, exchange, request).await,
        DeviceRequest::Queued(request) => queued::serve(visit, exchange, request).await,
        DeviceRequest::Settled(ids) => respond(exchange, queued::settle(visit, &ids).await).await,
        DeviceRequest::Blob(range) => artifact::blob(visit, exchange, &range).await,
        DeviceRequest::Metadata { name, bytes_max } => artifact::metadata(visit, exchange, &name, bytes_max).await,
        DeviceRequest::Hello(hello) => respond(exchange, greet(visit, hello).await).await,
        DeviceRequest::Report(report) => respond(exchange, note(visit, report).await).await,
        DeviceRequest::Running(running) => respond(exchange, note_running(visit, running).await).await,
        DeviceRequest::Delta(request) => respond(exchange, artifact::delta(visit, &request).await).await,
        DeviceRequest::Counters(periods) => respond(exchange, counters::count(visit, periods).await).await,
        DeviceRequest::Evidence(evidence) => respond(exchange, counters::evidence(visit, evidence).await).await,
        DeviceRequest::Drift(alarms) => respond(exchange, counters::drift(visit, alarms).await).await,
        DeviceRequest::Measured(figures) => respond(exchange, counters::measured(visit, figures).await).await,
        DeviceRequest::Renew { csr_der } => {
            respond(exchange, renewal::renew(&visit.services, &visit.admitted.device, &csr_der).await).await
        }
    }
}

/// Longest wait, after a whole response was handed to QUIC, until the device has it: the send window at the minimum rate
/// would take longer, but a device that is about to be cut off by its rate is not waited for.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);

/// Waits until the device has taken a response. Whoever counts its bytes counts them until then, because QUIC holds them.
///
/// # Errors
/// When the device takes too long, cuts the stream or goes away.
pub(super) async fn delivered(exchange: &Exchange) -> Result<(), ExchangeError> {
    let delivered = tokio::time::timeout(DELIVERY_LIMIT, exchange.delivered()).await;
    delivered.unwrap_or(Err(ExchangeError::Unread { after: DELIVERY_LIMIT }))
}

/// Answers a control request.
pub(super) async fn respond(
    exchange: &mut Exchange,
    answer: Result<HubResponse, Refusal>,
) -> Result<(), ExchangeError> {
    exchange.set_priority(Priority::Control);
    exchange.send_last(&answer.unwrap_or_else(HubResponse::Refused), &[]).await
}

/// Answers with a refusal.
pub(super) async fn refuse(exchange: &mut Exchange, refusal: Refusal) -> Result<(), ExchangeError> {
    exchange.set_priority(Priority::Control);
    exchange.send_last(&HubResponse::Refused(refusal), &[]).await
}

/// A fault of the hub, told without its cause.
pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error = telemetry::chain(error), "request of a device failed");
    Refusal::new(RefusalCode::Internal, "the hub failed, its log has the cause")
}

async fn greet(visit: &Visit, hello: Hello) -> Result<HubResponse, Refusal> {
    let services = &visit.services;
    let now = clock::unix_ms();
    let skew_s = now.abs_diff(hello.device_now_unix_ms) / 1000;
    let ahead_s = i64::try_from(skew_s).unwrap_or(i64::MAX);
    visit.skew_s.store(if now >= hello.device_now_unix_ms { ahead_s } else { -ahead_s }, Ordering::Relaxed);
    if skew_s > CLOCK_SKEW_WARN_S {
        tracing::warn!(skew_s, "the device's clock is off");
    }
    tracing::debug!(agent = hello.agent_version, models = hello.models.len(), "greeting");
    let instance = feature::Instance::find(&hello.features).map(|instance| instance.0);
    let cloned = services.fleet.sighted(&visit.admitted, instance).map_err(|replaced| not_yours(&replaced))?;
    let greeting = Greeting {
        agent_version: hello.agent_version,
        machine: machine(&hello.features, hello.engines),
        models: hello
            .models
            .into_iter()
            .map(|state| Follows {
                model: state.model,
                active: state.active.map(installed),
                previous: state.previous.map(installed),
            })
            .collect(),
    };
    let speaks = hello.features.iter().any(|feature| feature == feature::ROLLOUTS);
    let greeted = services.fleet.greeted(&visit.admitted, greeting, speaks).await;
    greeted.map_err(|replaced| not_yours(&replaced))?;
    if feature::has(&hello.features, feature::CALIBRATION) {
        services.fleet.takes_thresholds(visit.admitted.id);
    }
    let offers = services.rollouts.offers(&visit.admitted.device).await.map_err(|error| internal(&error))?;
    services.fleet.note_change();
    let lifetime_s = services.issuer.device_lifetime.as_secs();
    let deltas = services.deltas.is_on().then_some(feature::DELTAS);
    let features = [
        feature::UPDATE_OUTCOMES,
        feature::RUNNING_MODELS,
        feature::MODEL_COUNTERS,
        feature::CALIBRATION,
        feature::QUEUED_REQUESTS,
    ]
    .into_iter()
    .chain(deltas)
    .map(str::to_owned);
    Ok(HubResponse::Welcome(Welcome {
        hub_version: env!("CARGO_PKG_VERSION").to_owned(),
        features: features.chain(cloned.map(feature::identity_also_at)).collect(),
        hub_now_unix_ms: now,
        offers: offers.into_iter().map(|offer| Offer { model: offer.model, version: offer.version }).collect(),
        certificate_lifetime_s: u32::try_from(lifetime_s).unwrap_or(u32::MAX),
    }))
}

/// Maximum number of engines, and of providers of one, that are stored of a device.
const ENGINES_KEPT: usize = 8;

/// Maximum length of the texts about an engine that are stored, in bytes.
const ENGINE_TEXT_BYTES_MAX: usize = 64;

/// Returns the system and engines of a device, bounded: they are stored and shown.
fn machine(features: &[String], engines: Vec<EngineInfo>) -> Machine {
    let platform = feature::Platform::find(features);
    let short = |text: String| {
        let text = shown(&text);
        text.get(..text.floor_char_boundary(ENGINE_TEXT_BYTES_MAX)).unwrap_or_default().to_owned()
    };
    let engines = engines.into_iter().take(ENGINES_KEPT).map(|engine| EngineOfDevice {
        name: engine.name.to_string(),
        version: short(engine.version),
        providers: engine.providers.into_iter().take(ENGINES_KEPT).map(short).collect(),
    });
    let engines = engines.collect();
    let (os, arch) = platform.map_or((None, None), |platform| (Some(platform.os), Some(platform.arch)));
    Machine { os, arch, engines }
}

/// Another connection has taken the place of the one that speaks. Busy, because the device may repeat what it said on
/// its newer connection; a device that is not authorised would stay away for an hour.
pub(super) fn not_yours(replaced: &Replaced) -> Refusal {
    Refusal::new(RefusalCode::Busy, replaced.to_string())
}

/// Clock error of a device in seconds from which on it is worth a line in the log: requests and reports carry its time.
const CLOCK_SKEW_WARN_S: u64 = 300;

fn installed(active: ActiveVariant) -> Installed {
    Installed { version: active.version, variant: active.variant, digest: active.digest }
}

async fn note(visit: &Visit, report: UpdateReport) -> Result<HubResponse, Refusal> {
    let outcome = match report.outcome {
        // A stage that is passed is still on the way.
        Outcome::Active(()) if report.stage != Stage::Active => Outcome::Started,
        outcome => outcome.map(|()| (), |reason| shown(&reason)),
    };
    let is_published = visit.services.registry.manifest(&report.model, report.version).is_some();
    log_report(&report.model, is_published, report.version, report.stage, &outcome);
    let installed = report.variant.as_ref().and_then(|variant| {
        let manifest = visit.services.registry.manifest(&report.model, report.version)?;
        let digest = manifest.variant(variant)?.file.digest;
        Some(Installed { version: report.version, variant: variant.clone(), digest })
    });
    let report = Report {
        model: report.model,
        version: report.version,
        variant: report.variant,
        stage: report.stage,
        outcome,
        installed,
    };
    let noted = visit.services.fleet.reported(&visit.admitted, report).await;
    noted.map_err(|replaced| not_yours(&replaced))?;
    Ok(HubResponse::Accepted)
}

async fn note_running(visit: &Visit, running: Vec<RunningModel>) -> Result<HubResponse, Refusal> {
    let running = running.into_iter().map(|RunningModel { model, version, engine, provider }| {
        (model, Running { version, engine, provider: shown(&provider) })
    });
    let noted = visit.services.fleet.runs(&visit.admitted, running.collect()).await;
    noted.map_err(|replaced| not_yours(&replaced))?;
    Ok(HubResponse::Accepted)
}

fn log_report(model: &types::ModelName, is_published: bool, version: Version, stage: Stage, outcome: &Outcome) {
    // A label value is kept for ever, so a device may not invent one.
    let label = if is_published { model.as_str() } else { UNKNOWN_MODEL };
    let word = outcome.as_str();
    if *outcome != Outcome::Started {
        telemetry::metrics::update_ended(label, word);
    }
    match outcome {
        Outcome::Started => tracing::debug!(%model, %version, %stage, "update {word}"),
        Outcome::Active(()) => tracing::info!(%model, %version, "update {word}"),
        Outcome::Superseded { by } => tracing::info!(%model, %version, serves = %by, "update {word}"),
        Outcome::Retrying(reason) | Outcome::Rejected(reason) | Outcome::RolledBack(reason) => {
            tracing::warn!(%model, %version, %stage, reason, "update {word}");
        }
    }
}

/// A device's words on one line.
fn shown(cause: &str) -> String {
    telemetry::escape_control(cause).into_owned()
}

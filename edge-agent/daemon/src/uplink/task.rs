//! The task that keeps the connection: dials, greets, stays online, and says in the status how it stands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use edge_core::renewal::{ClockSkew, Renewal};
use edge_core::update::OfferKind;
use edge_core::uplink::{Event, NoAddress, Rejection, Step, Uplink as Machine};
use protocol::v1::feature::{self, Instance};
use protocol::v1::{Offer, RefusalCode, Welcome};
use service::clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use transport::{
    Alpn, CertificateError, CloseCode, CloseReason, Congestion, Connection, DialError, DialErrorKind, Dialer,
    DialerConfig, Limits, Trust,
};
use types::ModelName;

use super::beside::Greeter;
use super::link::{Link, LinkError};
use super::missing::Search;
use super::renew;
use super::silence::Silence;
use super::takes::Takes;
use crate::assigned::AssignedLink;
use crate::engines::Engines;
use crate::identity::Enrolment;
use crate::measured::Measurements;
use crate::models::Models;
use crate::reports::Reports;
use crate::status::{CLONE_ADVICE, HubStatus, SharedStatus};
use crate::updater::{Command, Updaters};

/// Interval at which a refused device checks whether its clock was set: a wrong clock may be the reason.
const CLOCK_LOOK: Duration = Duration::from_secs(10);
/// A step of the clock from which a rejected device tries again at once.
const CLOCK_STEP: Duration = Duration::from_secs(30);

/// Parts that the uplink uses.
#[derive(Debug)]
pub struct UplinkParts {
    /// Identity of this device.
    pub enrolment: Enrolment,
    /// Folder of its identity.
    pub identity_folder: PathBuf,
    /// The hub's addresses, in the order they are tried.
    pub addresses: Vec<String>,
    /// Congestion control of its connections.
    pub congestion: Congestion,
    /// The models of this device, for the greeting.
    pub models: Arc<Models>,
    /// Engines of this device, for the greeting.
    pub engines: Arc<Engines>,
    /// Updaters that take the offers and orders of the hub.
    pub updaters: Arc<Updaters>,
    /// The way to the models that the hub assigns.
    pub assigned: AssignedLink,
    /// Measurements of candidates.
    pub measurements: Arc<Measurements>,
    /// Outbox of reports to the hub.
    pub reports: Arc<Reports>,
    /// Status of the agent, updated at each change.
    pub shared_status: Arc<SharedStatus>,
    /// Publisher of the connection.
    pub publish: watch::Sender<Option<Connection>>,
    /// The signed list of the hub's models.
    pub trust: Option<Arc<crate::trust::DeviceTrust>>,
    /// Notes of requests that the hub fell silent.
    pub silence: Silence,
    /// Optional requests that the hub takes, updated at each greeting.
    pub takes: Takes,
}

/// Error of a start of the uplink.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is nowhere to dial.
    #[error("connect to the hub")]
    NoAddress(#[from] NoAddress),
    /// The identity cannot be used.
    #[error("use the identity of this device")]
    Identity(#[from] CertificateError),
}

/// The task that keeps the connection.
#[derive(Debug)]
pub struct Uplink {
    machine: Machine,
    pub(super) parts: UplinkParts,
    pub(super) dialer: Dialer,
    pub(super) renewal: Renewal,
    pub(super) skew: ClockSkew,
    /// Dialled, not yet greeted.
    fresh: Option<Connection>,
    /// Models of the last greeting's offers.
    pub(super) offered: Vec<ModelName>,
    /// This process, as it greets.
    instance: Instance,
    /// The hub serves nothing but a renewal on the connection that was greeted last.
    pub(super) renewal_only: bool,
    /// Whether the hub knows every outcome of an update, as it said in its last greeting.
    pub(super) hub_knows_all_outcomes: bool,
    /// Whether the hub takes the sessions that serve.
    pub(super) hub_takes_running: bool,
    /// Whether the hub takes counters and measurements, and knows the stages that came with them.
    pub(super) hub_takes_counters: bool,
    /// Whether the hub takes scores of audits and alarms of drift.
    pub(super) hub_takes_scores: bool,
}

impl Uplink {
    /// Prepares everything; opens nothing.
    ///
    /// # Errors
    /// When there is no address, or the identity cannot be used.
    pub fn new(parts: UplinkParts) -> Result<Self, StartError> {
        let machine = Machine::new(parts.addresses.clone())?;
        let dialer = dialer(&parts.enrolment, parts.congestion)?;
        let renewal = Renewal::new(renew::validity(&parts.enrolment.identity), rand::random());
        let (skew, instance, offered) = (ClockSkew::default(), Instance(rand::random()), Vec::new());
        Ok(Self {
            machine,
            parts,
            dialer,
            renewal,
            skew,
            fresh: None,
            offered,
            instance,
            renewal_only: false,
            hub_knows_all_outcomes: false,
            hub_takes_running: false,
            hub_takes_counters: false,
            hub_takes_scores: false,
        })
    }

    /// Keeps the connection until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        telemetry::metrics::hub_disconnected();
        self.note_certificate();
        let mut event = Event::Start;
        while event != Event::Stop {
            let steps = self.machine.handle(event, Instant::now(), rand::random()).unwrap_or_else(|refused| {
                // A mistake in this program; waiting for the next time-out is the way on.
                tracing::error!(
                    error = telemetry::chain(&refused),
                    "event is invalid in the current state of the uplink"
                );
                Vec::new()
            });
            self.note_state();
            event = stop.run_until_cancelled(self.obey(steps)).await.unwrap_or(Event::Stop);
        }
        self.say_goodbye().await;
        if let Err(refused) = self.machine.handle(Event::Stop, Instant::now(), rand::random()) {
            tracing::error!(error = telemetry::chain(&refused), "the uplink cannot be stopped");
        }
        self.note_state();
        self.close_fresh();
    }

    /// Obeys the steps in order and returns the event of the last one; without a step it waits for the next time-out.
    async fn obey(&mut self, steps: Vec<Step>) -> Event {
        let mut event = None;
        for step in steps {
            event = Some(self.take(step).await);
        }
        match event {
            Some(event) => event,
            None => self.wait(false).await,
        }
    }

    async fn take(&mut self, step: Step) -> Event {
        match step {
            Step::Dial { address } => self.dial(address).await,
            Step::Greet => self.greet_fresh().await,
            Step::GoOnline => self.go_online().await,
            Step::Wait { .. } => self.wait(false).await,
            Step::Reject { why, .. } => {
                tracing::error!(why = why.as_str(), advice = why.advice(), "the hub does not take this device");
                self.wait(true).await
            }
            Step::Close => Event::Stop,
        }
    }

    /// Waits for the machine's next time-out; a rejected device also for a change of the clock.
    async fn wait(&mut self, rejected: bool) -> Event {
        self.close_fresh();
        let until = self.machine.poll_timeout().map_or_else(|| Instant::now() + CLOCK_LOOK, |(until, _why)| until);
        let rejected = rejected || matches!(self.machine.state(), edge_core::uplink::State::Rejected { .. });
        let clock = || SystemTime::now();
        let (wall, steady) = (clock(), Instant::now());
        loop {
            let look = if rejected { until.min(Instant::now() + CLOCK_LOOK) } else { until };
            tokio::time::sleep_until(look.into()).await;
            if Instant::now() >= until {
                return Event::Tick;
            }
            let expected = wall.checked_add(steady.elapsed()).unwrap_or(wall);
            let now = clock();
            let step = now.duration_since(expected).unwrap_or_else(|behind| behind.duration());
            if step >= CLOCK_STEP {
                tracing::info!("the clock was set: trying the hub again");
                return Event::Nudge;
            }
        }
    }

    async fn dial(&mut self, address: String) -> Event {
        self.parts.shared_status.hub(|hub| hub.address = Some(address.clone()));
        let Some(deadline) = self.deadline() else { return Event::Tick };
        let addresses = [address];
        match tokio::time::timeout_at(deadline, self.dialer.dial(&addresses)).await {
            Ok(Ok(connection)) => {
                self.fresh = Some(connection);
                Event::Connected
            }
            Ok(Err(error)) => self.dial_failed(&error),
            Err(_elapsed) => Event::Tick,
        }
    }

    fn dial_failed(&self, error: &DialError) -> Event {
        tracing::info!(error = telemetry::chain(error), advice = error.advice(), "no connection to the hub");
        self.note_error(&telemetry::chain(error), Some(error.advice()));
        match error.kind() {
            DialErrorKind::WrongCa => Event::Rejected(Rejection::WrongCa),
            DialErrorKind::CertificateTime => Event::Rejected(Rejection::CertificateExpired),
            DialErrorKind::Version => Event::Rejected(Rejection::Version),
            DialErrorKind::NotAuthorised => Event::Rejected(match error {
                DialError::NotAuthorised { source, .. } if source.code() == Some(CloseCode::Revoked) => {
                    Rejection::Revoked
                }
                _ => Rejection::NotAuthorised,
            }),
            DialErrorKind::Unreachable | DialErrorKind::Busy | DialErrorKind::Local | DialErrorKind::Other => {
                Event::Failed { retry_after: None }
            }
        }
    }

    async fn greet_fresh(&mut self) -> Event {
        let Some(connection) = self.fresh.clone() else { return Event::Failed { retry_after: None } };
        let Some(deadline) = self.deadline() else { return Event::Tick };
        match tokio::time::timeout_at(deadline, self.greet(&connection)).await {
            Ok(Ok(welcome)) => {
                self.welcomed(&welcome);
                if self.renewal_only {
                    self.fresh = self.renew_first(&connection).await;
                }
                match self.fresh {
                    Some(_) => Event::Welcomed,
                    None => Event::Failed { retry_after: None },
                }
            }
            Ok(Err(error)) => self.not_greeted(&connection, &error),
            Err(_elapsed) => Event::Tick,
        }
    }

    pub(super) async fn greet(&self, connection: &Connection) -> Result<Welcome, LinkError> {
        self.greeter().greet(connection).await
    }

    pub(super) fn greeter(&self) -> Greeter {
        let UplinkParts { models, shared_status, engines, .. } = &self.parts;
        let (models, shared_status, engines) = (Arc::clone(models), Arc::clone(shared_status), Arc::clone(engines));
        Greeter { models, shared_status, engines, instance: self.instance }
    }

    fn not_greeted(&self, connection: &Connection, error: &LinkError) -> Event {
        let closed = connection.close_reason();
        let said = closed.as_ref().map_or_else(|| telemetry::chain(error), |reason| telemetry::chain(reason));
        tracing::info!(error = said, "the hub did not greet this device");
        match (error, closed) {
            (LinkError::Refused(refusal), _) => {
                let retry_after = refusal.retry_after_ms.map(|ms| Duration::from_millis(ms.into()));
                let event = match refusal.code {
                    RefusalCode::Revoked => Event::Rejected(Rejection::Revoked),
                    RefusalCode::NotAuthorised => Event::Rejected(Rejection::NotAuthorised),
                    RefusalCode::Unsupported => Event::Rejected(Rejection::Version),
                    RefusalCode::UnknownModel
                    | RefusalCode::BadInput
                    | RefusalCode::TooLarge
                    | RefusalCode::Busy
                    | RefusalCode::DeadlineExceeded
                    | RefusalCode::Cancelled
                    | RefusalCode::TokenUnknown
                    | RefusalCode::TokenUsed
                    | RefusalCode::TokenExpired
                    | RefusalCode::NotFound
                    | RefusalCode::Internal
                    | RefusalCode::ShuttingDown => Event::Failed { retry_after },
                };
                self.note_refusal(&said, event);
                event
            }
            (_, Some(reason)) => self.closed(&reason),
            (_, None) => {
                self.note_error(&said, None);
                Event::Failed { retry_after: None }
            }
        }
    }

    /// Returns the event of the end of a connection.
    pub(super) fn closed(&self, reason: &CloseReason) -> Event {
        let event = match reason.code() {
            Some(CloseCode::Revoked) => Event::Rejected(Rejection::Revoked),
            Some(CloseCode::NotAuthorised) => Event::Rejected(Rejection::NotAuthorised),
            Some(CloseCode::CertificateExpired) => Event::Rejected(Rejection::CertificateExpired),
            Some(
                CloseCode::Done
                | CloseCode::ShuttingDown
                | CloseCode::Replaced
                | CloseCode::ProtocolViolation
                | CloseCode::Busy
                | CloseCode::Other(_),
            )
            | None => Event::Lost,
        };
        self.note_refusal(&telemetry::chain(reason), event);
        event
    }

    fn note_refusal(&self, said: &str, event: Event) {
        let advice = match event {
            Event::Rejected(why) => Some(why.advice()),
            Event::Start
            | Event::Connected
            | Event::Welcomed
            | Event::Failed { .. }
            | Event::Lost
            | Event::Goodbye { .. }
            | Event::Nudge
            | Event::Tick
            | Event::Stop => None,
        };
        self.note_error(said, advice);
    }

    pub(super) fn welcomed(&mut self, welcome: &Welcome) {
        self.skew = ClockSkew::measured(clock::unix_ms(), welcome.hub_now_unix_ms);
        if self.skew.is_notable() {
            tracing::warn!(
                seconds = self.skew.seconds(),
                "this device's clock is behind the hub's by so many seconds (ahead, where negative): set it"
            );
        }
        self.renewal_only = feature::is_renewal_only(&welcome.features);
        self.hub_knows_all_outcomes = feature::knows_all_outcomes(&welcome.features);
        self.hub_takes_running = feature::takes_running_models(&welcome.features);
        self.parts.takes.greeted(&welcome.features);
        self.hub_takes_counters = feature::has(&welcome.features, feature::MODEL_COUNTERS);
        self.hub_takes_scores = feature::has(&welcome.features, feature::CALIBRATION);
        let also_at = feature::find_identity_also_at(&welcome.features);
        if let Some(address) = also_at {
            tracing::warn!(%address, advice = CLONE_ADVICE, "another machine uses the identity of this device");
        }
        self.parts.shared_status.hub(|hub| {
            hub.identity_also_at = also_at.map(|address| address.to_string());
            hub.hub_version = Some(welcome.hub_version.clone());
            hub.clock_skew_s = self.skew.seconds();
            hub.last_error = None;
            hub.advice = None;
        });
        self.offered = welcome.offers.iter().map(|offer| offer.model.clone()).collect();
        for offer in &welcome.offers {
            self.offered(offer, OfferKind::Fleet);
        }
    }

    /// Passes an offer on. Whether it is taken is decided by the model's updater.
    pub(super) fn offered(&self, offer: &Offer, kind: OfferKind) {
        tracing::info!(model = %offer.model, version = %offer.version, "the hub offers a version");
        if let Some(model) = self.parts.models.find(offer.model.as_str()) {
            model.note_offer(offer.version);
        }
        match self.parts.updaters.send(&offer.model, Command::Offered(offer.version, kind)) {
            Ok(()) => self.parts.shared_status.updater(&offer.model, |part| part.hub_problem = None),
            // The hub offers it again at its next greeting.
            Err(error) => {
                let (model, version) = (&offer.model, offer.version);
                tracing::warn!(%model, %version, error = telemetry::chain(&error), "an offer is not taken");
            }
        }
    }

    /// Online until the connection ends; tells the rest of the agent.
    async fn go_online(&mut self) -> Event {
        let Some(connection) = self.fresh.take() else { return Event::Lost };
        tracing::info!(hub = %connection.remote_addr(), "online");
        telemetry::metrics::hub_connected();
        self.parts.publish.send_replace(Some(connection.clone()));
        let search = Search {
            trust: self.parts.trust.clone(),
            link: Link::new(self.parts.publish.subscribe()),
            models: Arc::clone(&self.parts.models),
            shared_status: Arc::clone(&self.parts.shared_status),
        };
        let mut searches = tokio::task::JoinSet::new();
        searches.spawn(search.run(std::mem::take(&mut self.offered)));
        let event = self.stay_online(connection).await;
        searches.abort_all();
        self.parts.publish.send_replace(None);
        telemetry::metrics::hub_disconnected();
        tracing::info!("offline");
        event
    }

    /// The agent stops: what is left of a connection is closed with a word.
    async fn say_goodbye(&mut self) {
        let connection = self.parts.publish.send_replace(None).or_else(|| self.fresh.take());
        if let Some(connection) = connection {
            telemetry::metrics::hub_disconnected();
            connection.close(CloseCode::Done, "the agent stops");
            connection.drain().await;
        }
    }

    fn close_fresh(&mut self) {
        if let Some(connection) = self.fresh.take() {
            connection.close(CloseCode::Done, "not needed");
        }
    }

    fn deadline(&self) -> Option<tokio::time::Instant> {
        self.machine.poll_timeout().map(|(until, _why)| until.into())
    }

    fn note_state(&self) {
        let (state, failures) = (self.machine.state().name(), self.machine.failures());
        self.parts.shared_status.hub(|hub: &mut HubStatus| {
            if hub.state != state {
                state.clone_into(&mut hub.state);
                hub.since_unix_ms = clock::unix_ms();
            }
            hub.failures = failures;
            hub.reports_waiting = self.parts.reports.waiting();
        });
    }

    fn note_error(&self, error: &str, advice: Option<&str>) {
        self.parts.shared_status.hub(|hub| {
            hub.last_error = Some(error.to_owned());
            hub.advice = advice.map(str::to_owned);
        });
    }

    pub(super) fn note_certificate(&self) {
        let not_after = renew::validity(&self.parts.enrolment.identity).not_after;
        self.parts.shared_status.hub(|hub| hub.certificate_not_after_unix_s = Some(not_after));
    }
}

/// A dialer with the identity of an enrolment.
pub(super) fn dialer(enrolment: &Enrolment, congestion: Congestion) -> Result<Dialer, CertificateError> {
    Dialer::new(DialerConfig {
        identity: Some(enrolment.identity.clone()),
        trust: Trust::CaDer(enrolment.ca_der.clone()),
        server_name: enrolment.hub.server_name.clone(),
        alpn: Alpn::Device,
        limits: Limits::agent(),
        congestion,
    })
}

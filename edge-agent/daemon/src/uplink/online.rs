//! While the hub is there: offers come in, reports go out, the certificate is renewed in time.

use std::time::Duration;

use edge_core::refit::Order;
use edge_core::renewal;
use edge_core::update::OfferKind;
use edge_core::uplink::Event;
use protocol::v1::{Audit, DeviceResponse, HubRequest, Offer, Pin, Refusal, RefusalCode, Return, feature};
use store::StoreError;
use tokio::sync::{mpsc, oneshot};
use transport::{CloseCode, CloseReason, Connection, Exchange, ExchangeError};
use types::ModelName;

use super::beside::{self, Beside};
use super::{renew, say, send, task};
use crate::assigned::{Assignment, NotAssigned};
use crate::identity::Enrolment;
use crate::thresholds::HubThreshold;
use crate::updater::{Command, HubOrder, NotOrdered};
use crate::uplink::Uplink;

/// Requests of the hub that are read at once: it sends offers and goodbyes, one at a time.
const HUB_REQUESTS: usize = 16;
/// Longest time for a hub's request to be read and answered.
const HUB_REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// Request of the hub on its own initiative.
enum Said {
    Offer(Offer),
    Audit(Audit),
    Order(ModelName, HubOrder, oneshot::Sender<Result<(), NotOrdered>>),
    Assigned(Assignment),
    Thresholds(Vec<HubThreshold>, oneshot::Sender<Result<(), StoreError>>),
    Goodbye { retry_after: Option<Duration> },
}

impl Uplink {
    /// Returns when the connection is over, and what that means.
    pub(super) async fn stay_online(&mut self, mut connection: Connection) -> Event {
        let (tell, mut told) = mpsc::channel(HUB_REQUESTS);
        self.parts.models.end_audits();
        let mut listening = Box::pin(listen(connection.clone(), tell.clone()));
        let mut sending = self.sending_on(&connection);
        let mut look = self.look_at_certificate(renewal::Event::Online);
        let mut beside: Option<Beside> = None;
        loop {
            if look == Look::RequestCertificate {
                match self.renewed(&connection).await {
                    // Made before broken: the old connection lives until the last request on it is done.
                    Some(next) => {
                        connection = next;
                        listening = Box::pin(listen(connection.clone(), tell.clone()));
                        sending = self.sending_on(&connection);
                        beside = None;
                        look = self.look_at_certificate(renewal::Event::Tick);
                    }
                    None => look = self.look_at_certificate(renewal::Event::Tick),
                }
            }
            let Look::After(pause) = look else { continue };
            let found = tokio::select! {
                reason = connection.closed() => {
                    self.parts.reports.not_delivered();
                    tracing::info!(reason = telemetry::chain(&reason), "the connection to the hub ended");
                    // A dial that is under way already may be the quicker way back.
                    self.parts.publish.send_replace(None);
                    match beside.take() {
                        Some(dialling) => dialling.await,
                        None => None,
                    }
                    .ok_or_else(|| self.ended(&reason))
                }
                () = self.parts.silence.noticed(), if beside.is_none() => {
                    beside = self.dial_beside(&connection);
                    continue;
                }
                found = beside::found(&mut beside) => match found {
                    Some(found) => Ok(found),
                    None => continue,
                },
                Some(said) = told.recv() => match said {
                    // Asked for now, for this device: a version that failed here is tried again.
                    Said::Offer(offer) => {
                        self.offered(&offer, OfferKind::Retry);
                        continue;
                    }
                    Said::Order(model, order, done) => {
                        self.ordered(&model, order, done);
                        continue;
                    }
                    Said::Audit(Audit { model, version, share_per_mille }) => {
                        if let Some(model) = self.parts.models.find(model.as_str()) {
                            model.set_audit(Some((version, share_per_mille)));
                        }
                        continue;
                    }
                    Said::Assigned(assignment) => {
                        // A list that finds the queue full is not answered; the hub sends it again.
                        drop(self.parts.assigned.lists.try_send(assignment));
                        continue;
                    }
                    Said::Thresholds(list, done) => {
                        self.put_in_force(list, done).await;
                        continue;
                    }
                    Said::Goodbye { retry_after } => {
                        self.parts.reports.not_delivered();
                        return Event::Goodbye { retry_after };
                    }
                },
                Ok(()) = self.parts.assigned.changed.changed() => {
                    self.greet_again(&connection).await;
                    continue;
                }
                never = &mut listening => match never {},
                never = &mut sending => match never {},
                () = tokio::time::sleep(pause) => {
                    look = self.look_at_certificate(renewal::Event::Tick);
                    self.parts.shared_status.hub(|hub| hub.reports_waiting = self.parts.reports.waiting());
                    continue;
                }
            };
            match found {
                Ok((next, welcome)) => {
                    tracing::info!(hub = %next.remote_addr(), "online over a new connection");
                    self.welcomed(&welcome);
                    self.parts.publish.send_replace(Some(next.clone()));
                    connection = next;
                    self.parts.models.end_audits();
                    listening = Box::pin(listen(connection.clone(), tell.clone()));
                    sending = self.sending_on(&connection);
                }
                Err(event) => return event,
            }
        }
    }

    /// Puts the thresholds of the hub in force and answers once they are stored.
    async fn put_in_force(&self, list: Vec<HubThreshold>, done: oneshot::Sender<Result<(), StoreError>>) {
        let replaced = list.iter().filter(|threshold| threshold.order != Order::Author).count();
        let taken = self.parts.models.thresholds().take(list).await;
        match &taken {
            Ok(()) => tracing::info!(replaced, "the hub has sent thresholds"),
            Err(error) => tracing::warn!(error = telemetry::chain(error), "thresholds of the hub are not in force"),
        }
        self.parts.models.show_thresholds();
        drop(done.send(taken));
    }

    /// Passes an order of the hub to the updater of its model.
    fn ordered(&self, model: &ModelName, order: HubOrder, done: oneshot::Sender<Result<(), NotOrdered>>) {
        tracing::info!(%model, ?order, "the hub gives an order");
        if !self.parts.updaters.knows(model) {
            drop(done.send(Err(NotOrdered::UnknownModel(model.clone()))));
            return;
        }
        if let Err(error) = self.parts.updaters.send(model, Command::Hub(order, done)) {
            // Whoever waits for the order hears of it by the end of the channel.
            tracing::warn!(%model, error = telemetry::chain(&error), "an order of the hub is not taken");
        }
    }

    /// Tells the hub that the device follows other models now, and takes what it offers of them.
    async fn greet_again(&mut self, connection: &Connection) {
        match self.greet(connection).await {
            Ok(welcome) => self.welcomed(&welcome),
            // The next connection begins with a greeting.
            Err(error) => tracing::warn!(error = telemetry::chain(&error), "the hub was not told of assigned models"),
        }
    }

    /// Sends reports over a connection that takes the place of another one.
    fn sending_on(&self, connection: &Connection) -> std::pin::Pin<Box<dyn Future<Output = Never> + Send>> {
        let reports = std::sync::Arc::clone(&self.parts.reports);
        reports.not_delivered();
        let knows = say::HubKnows { outcomes: self.hub_knows_all_outcomes, stages: self.hub_takes_counters };
        let sending = send::reports(connection.clone(), reports, knows);
        let (connection, models) = (connection.clone(), std::sync::Arc::clone(&self.parts.models));
        let (takes_running, takes_counters) = (self.hub_takes_running, self.hub_takes_counters);
        let takes_scores = self.hub_takes_scores;
        let counters = std::sync::Arc::clone(models.counters());
        let measurements = std::sync::Arc::clone(&self.parts.measurements);
        Box::pin(async move {
            tokio::select! {
                never = sending => never,
                never = send::counters(connection.clone(), counters, takes_scores), if takes_counters => never,
                never = send::drift(connection.clone(), std::sync::Arc::clone(&models)), if takes_scores => never,
                never = send::measurements(connection.clone(), measurements), if takes_counters => never,
                never = send::running(connection.clone(), models), if takes_running => never,
            }
        })
    }

    /// Returns a dial beside a connection, if the hub is silent on that one.
    fn dial_beside(&self, silent: &Connection) -> Option<Beside> {
        let silence = self.parts.silence.clone();
        if !silence.lasts_on(silent) {
            return None;
        }
        let (dialer, addresses) = (self.dialer.clone(), self.parts.addresses.clone());
        Some(Box::pin(beside::dial_beside(dialer, addresses, self.greeter(), silent.clone(), silence)))
    }

    /// Returns the event of the end of a live connection.
    fn ended(&self, reason: &CloseReason) -> Event {
        if reason.code() == Some(CloseCode::CertificateExpired) {
            // No renewal came in time; the hub serves one to a device that connects again.
            return Event::Lost;
        }
        self.closed(reason)
    }

    /// Renews an expired certificate on a connection that serves nothing else; returns a connection with the new one.
    pub(super) async fn renew_first(&mut self, connection: &Connection) -> Option<Connection> {
        tracing::warn!("this device's certificate has expired: renewing it");
        let renewed = match self.look_at_certificate(renewal::Event::Online) {
            Look::RequestCertificate => self.renewed(connection).await,
            Look::After(_not_due) => {
                tracing::error!("the hub calls a certificate expired that is not due for renewal: check both clocks");
                None
            }
        };
        connection.close(CloseCode::Done, "renewed");
        renewed
    }

    /// Passes an event to the renewal core; returns what is due.
    fn look_at_certificate(&mut self, event: renewal::Event) -> Look {
        let now = renew::hub_now(self.skew);
        match self.renewal.handle(event, now, rand::random()).as_deref() {
            Ok([renewal::Step::RequestCertificate]) => return Look::RequestCertificate,
            Ok(_nothing) => {}
            Err(refused) => {
                tracing::error!(
                    error = telemetry::chain(refused),
                    "event is invalid in the current state of the renewal"
                );
            }
        }
        let second = self.renewal.poll_timeout().map_or(u64::MAX, |(second, _reason)| second);
        Look::After(renew::until(second, self.skew))
    }

    /// Renews, and moves to a connection with the new certificate where that works at once.
    async fn renewed(&mut self, connection: &Connection) -> Option<Connection> {
        let folder = self.parts.identity_folder.clone();
        let identity = match renew::renew(connection, &self.parts.enrolment, folder).await {
            Ok(identity) => identity,
            Err(error) => {
                tracing::warn!(error = telemetry::chain(&error), "the certificate was not renewed: trying again later");
                self.parts.shared_status.hub(|hub| hub.last_error = Some(telemetry::chain(&error)));
                // The answer is a time to look again, which the caller asks for.
                self.look_at_certificate(renewal::Event::Failed);
                return None;
            }
        };
        let validity = renew::validity(&identity);
        self.look_at_certificate(renewal::Event::Renewed(validity));
        tracing::info!(not_after_unix_s = validity.not_after, "the certificate was renewed");
        self.parts.enrolment = Enrolment { identity, ..self.parts.enrolment.clone() };
        self.parts.shared_status.hub(|hub| hub.renewals = hub.renewals.saturating_add(1));
        self.note_certificate();
        match task::dialer(&self.parts.enrolment, self.parts.congestion) {
            Ok(dialer) => self.dialer = dialer,
            Err(error) => {
                tracing::error!(error = telemetry::chain(&error), "the renewed certificate cannot be used");
                return None;
            }
        }
        self.reconnect().await
    }

    /// Dials with the new certificate and takes the new connection into use; `None` leaves the old one in use.
    async fn reconnect(&mut self) -> Option<Connection> {
        let next = match self.dialer.dial(&self.parts.addresses).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(error = telemetry::chain(&error), "no connection with the renewed certificate yet");
                return None;
            }
        };
        match self.greet(&next).await {
            Ok(welcome) if feature::is_renewal_only(&welcome.features) => {
                tracing::warn!("the hub calls the renewed certificate expired: check its clock");
                None
            }
            Ok(welcome) => {
                self.welcomed(&welcome);
                self.parts.publish.send_replace(Some(next.clone()));
                Some(next)
            }
            Err(error) => {
                tracing::warn!(error = telemetry::chain(&error), "no greeting with the renewed certificate yet");
                None
            }
        }
    }
}

/// Next step for the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    RequestCertificate,
    After(Duration),
}

/// A future that does not end by itself.
pub(super) enum Never {}

/// Reads what the hub says, one exchange at a time. Never ends: that the connection is over is seen elsewhere.
async fn listen(connection: Connection, tell: mpsc::Sender<Said>) -> Never {
    while let Ok(exchange) = connection.accept().await {
        match tokio::time::timeout(HUB_REQUEST_WITHIN, hear(exchange, &tell)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = telemetry::chain(&error), "a request of the hub was not understood")
            }
            Err(_elapsed) => tracing::warn!("a request of the hub did not come in time"),
        }
    }
    std::future::pending().await
}

/// Reads a request of the hub and answers it; an order is answered once it is stored.
async fn hear(mut exchange: Exchange, tell: &mpsc::Sender<Said>) -> Result<(), ExchangeError> {
    let said = match exchange.receive::<HubRequest>().await? {
        HubRequest::Offer(offer) => Said::Offer(offer),
        HubRequest::Return(Return { model, from, to, reason }) => {
            return obey(exchange, tell, model, HubOrder::Return { from, to, reason }).await;
        }
        HubRequest::Pin(Pin { model, version }) => {
            return obey(exchange, tell, model, HubOrder::Pin(version)).await;
        }
        HubRequest::Audit(audit) => Said::Audit(audit),
        HubRequest::Assigned(assigned) => {
            let (done, stored) = oneshot::channel();
            drop(tell.send(Said::Assigned(Assignment { models: assigned.models, done })).await);
            let response = match stored.await {
                Ok(Ok(())) => DeviceResponse::Accepted,
                Ok(Err(error @ NotAssigned::Forbidden)) => refuse(RefusalCode::Unsupported, &error),
                Ok(Err(error @ NotAssigned::Store(_))) => refuse(RefusalCode::Internal, &error),
                Err(_dropped) => refuse(RefusalCode::Busy, &NotOrdered::Busy),
            };
            return exchange.send_last(&response, &[]).await;
        }
        HubRequest::Thresholds(thresholds) => {
            let (done, stored) = oneshot::channel();
            drop(tell.send(Said::Thresholds(say::thresholds(thresholds), done)).await);
            let response = match stored.await {
                Ok(Ok(())) => DeviceResponse::Accepted,
                Ok(Err(error)) => refuse(RefusalCode::Internal, &error),
                Err(_dropped) => refuse(RefusalCode::Busy, &NotOrdered::Busy),
            };
            return exchange.send_last(&response, &[]).await;
        }
        HubRequest::Goodbye { reason, retry_after_ms } => {
            tracing::info!(reason, "the hub says goodbye");
            Said::Goodbye { retry_after: retry_after_ms.map(|ms| Duration::from_millis(ms.into())) }
        }
    };
    exchange.send_last(&DeviceResponse::Accepted, &[]).await?;
    drop(tell.send(said).await);
    Ok(())
}

async fn obey(
    mut exchange: Exchange,
    tell: &mpsc::Sender<Said>,
    model: ModelName,
    order: HubOrder,
) -> Result<(), ExchangeError> {
    let (done, stored) = oneshot::channel();
    drop(tell.send(Said::Order(model, order, done)).await);
    let response = match stored.await.unwrap_or(Err(NotOrdered::Busy)) {
        Ok(()) => DeviceResponse::Accepted,
        Err(error) => {
            let code = match error {
                NotOrdered::UnknownModel(_) => RefusalCode::UnknownModel,
                NotOrdered::Busy => RefusalCode::Busy,
                NotOrdered::Disabled | NotOrdered::Refused(_) => RefusalCode::Unsupported,
            };
            refuse(code, &error)
        }
    };
    exchange.send_last(&response, &[]).await
}

fn refuse(code: RefusalCode, error: &(dyn std::error::Error + 'static)) -> DeviceResponse {
    DeviceResponse::Refused(Refusal::new(code, telemetry::chain(error)))
}

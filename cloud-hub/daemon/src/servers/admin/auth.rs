//! Authentication: checks the token of every call before anything else of it is read, and logs calls and failed logins.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use hub_core::logins::Failure;

use super::Refused;
use crate::api::ErrorCode;
use crate::app::operators::{NotAnOperator, Operators};
use crate::clock;
use crate::servers::guard::budget::Budget;
use crate::servers::guard::tcp::Guest;

/// State of the check that every call passes.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    operators: Arc<Operators>,
    /// Concurrent calls, shared by operator.
    calls: Arc<Budget<String>>,
}

impl Gate {
    /// Creates the check, with a maximum number of concurrent calls.
    pub(super) fn new(operators: Arc<Operators>, calls_max: u64) -> Self {
        Self { operators, calls: Budget::new(calls_max) }
    }
}

/// Passes a call on that carries the token of an operator; [`super::call`] checks the role.
pub(super) async fn require_operator(
    State(gate): State<Gate>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refused> {
    let guest = request.extensions().get::<Guest>().cloned();
    let address = guest.as_ref().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |guest| guest.address.ip());
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let caller = match gate.operators.who(token, clock::unix_ms()).await {
        Ok(caller) => caller,
        Err(error) => return Err(refuse(&gate.operators, address, &error)),
    };
    if let Some(guest) = guest {
        guest.known();
    }
    let name = caller.name.clone();
    let mut call = gate.calls.hold(name.clone());
    if call.grow(1).is_err() {
        return Err(Refused::new(ErrorCode::TooMany, format!("operator {name:?} has too many calls under way"))
            .hint("wait until some of them have ended"));
    }
    request.extensions_mut().insert(caller);
    let changes = (request.method() == Method::POST).then(|| request.uri().path().to_owned());
    let response = next.run(request).await;
    drop(call);
    if let Some(call) = changes {
        // Every attempt to change something, whether it succeeded or not. The handlers log what was changed.
        let status = response.status().as_u16();
        tracing::info!(operator = name, %address, call, status, "operator call");
    }
    Ok(response)
}

/// Records a failed login and answers it.
fn refuse(operators: &Operators, address: IpAddr, error: &NotAnOperator) -> Refused {
    let (reason, refused) = match error {
        NotAnOperator::Store(error) => return Refused::storage(error),
        NotAnOperator::Unknown => {
            ("unknown-token", Refused::new(ErrorCode::NotAuthorised, "the hub does not know this operator token"))
        }
        NotAnOperator::Expired { name } => {
            let problem = format!("the token of operator {name:?} has expired");
            ("expired-token", Refused::new(ErrorCode::TokenExpired, problem))
        }
    };
    telemetry::metrics::login_failed(reason);
    match operators.failed(address, Instant::now()) {
        Failure::Log { unlogged } => {
            let operator = error.name();
            tracing::warn!(%address, reason, operator, unlogged, "failed login on the admin API");
            refused
        }
        Failure::TooMany { retry_after } => {
            let seconds = retry_after.as_secs().saturating_add(1);
            Refused::new(ErrorCode::TooMany, "too many failed logins from this address")
                .hint(format!("try again in {seconds} s with a token that the hub knows"))
        }
    }
}

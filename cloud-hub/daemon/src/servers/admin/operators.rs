//! Calls about operators and their tokens.

use std::sync::Arc;

use super::Refused;
use super::call::Call;
use crate::api::endpoints::{CreateOperator, ListOperators, RenewOperator, RevokeOperator};
use crate::api::{ErrorCode, OperatorCreated, OperatorList, OperatorRevoked, PAGE_MAX, Role};
use crate::app::operators::{CreateOperatorError, Operators, RevokeOperatorError, local};
use crate::clock;

/// Answers `POST /operators`: creates an operator.
pub(super) async fn create(operators: Arc<Operators>, call: Call<CreateOperator>) -> Result<OperatorCreated, Refused> {
    let Call { by, body, .. } = call;
    operators.create(&by, &body.name, body.role, body.ttl_days, clock::unix_ms()).await.map_err(refused)
}

/// Answers `POST /operators/renew`: an operator renews its own token, an admin anybody's.
pub(super) async fn renew(operators: Arc<Operators>, call: Call<RenewOperator>) -> Result<OperatorCreated, Refused> {
    let Call { by, body, .. } = call;
    let name = match body.name {
        Some(name) => name,
        None if by.name == local::NAME => {
            return Err(Refused::new(ErrorCode::BadRequest, "the request does not name the operator to renew")
                .hint("name the operator: cloud-hub operator renew NAME --config hub.toml"));
        }
        None => by.name.clone(),
    };
    if name != by.name && !by.role.includes(Role::Admin) {
        let problem = format!("operator {:?} has the role {}, and only an admin renews others", by.name, by.role);
        return Err(Refused::new(ErrorCode::Forbidden, problem)
            .hint("renew your own token: cloud-hub operator renew, or ask an admin"));
    }
    operators.renew(&by, &name, body.ttl_days, clock::unix_ms()).await.map_err(refused)
}

/// Answers `GET /operators`, in pages.
pub(super) async fn list(operators: Arc<Operators>, call: Call<ListOperators>) -> Result<OperatorList, Refused> {
    let all = operators.list(clock::unix_ms()).await.map_err(|error| Refused::storage(&error))?;
    let limit = call.query.limit.map_or(usize::MAX, |limit| limit.clamp(1, PAGE_MAX) as usize);
    let after = call.query.after;
    let behind = |name: &str| after.as_deref().is_none_or(|after| name > after);
    let mut names: Vec<String> = all.iter().map(|view| view.name.clone()).filter(|name| behind(name)).collect();
    names.dedup();
    // A renewed operator has two tokens, which stay on one page: pages are cut between names.
    let next = names.get(limit.saturating_sub(1)).filter(|_last| names.len() > limit).cloned();
    let is_on_page = |name: &str| behind(name) && next.as_deref().is_none_or(|last| name <= last);
    let operators = all.into_iter().filter(|view| is_on_page(&view.name)).collect();
    Ok(OperatorList { operators, next })
}

/// Answers `POST /operators/{operator}/revoke`.
pub(super) async fn revoke(operators: Arc<Operators>, call: Call<RevokeOperator>) -> Result<OperatorRevoked, Refused> {
    operators.revoke(&call.by, &call.id, clock::unix_ms()).await.map_err(|error| match &error {
        RevokeOperatorError::Unknown { .. } => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see all of them: cloud-hub operator list")
        }
        RevokeOperatorError::Last { .. } => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("make another admin first: cloud-hub operator create NAME --out FILE"),
        RevokeOperatorError::Store(cause) => Refused::storage(cause),
    })
}

fn refused(error: CreateOperatorError) -> Refused {
    match &error {
        CreateOperatorError::Name | CreateOperatorError::Ttl => Refused::new(ErrorCode::BadRequest, error.to_string()),
        CreateOperatorError::Exists { .. } => Refused::new(ErrorCode::Conflict, error.to_string())
            .hint("choose another name, or renew that one: cloud-hub operator renew NAME --out FILE"),
        CreateOperatorError::Unknown { .. } => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see all of them: cloud-hub operator list")
        }
        CreateOperatorError::Store(cause) => Refused::storage(cause),
    }
}

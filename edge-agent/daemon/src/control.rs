//! Orders of the device's owner to the running agent: `POST /sanderling/v1/models/<model>/order`.
//!
//! Fed by `edge-agent model`, which reads the token of this run from the state folder: whoever may write there may give
//! orders, and no application or web page that only knows the port may.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use axum::{Json, Router};
use edge_core::update::orders::OwnerOrder;
use serde::{Deserialize, Serialize};
use store::files::{self, FileError, Mode};
use tokio::sync::oneshot;
use types::{Digest, ModelName, Version};

use crate::state::Folder;
use crate::updater::{Command, NotOrdered, Updaters};

/// Longest wait until an order is stored: a disk that is slower has stalled.
const STORED_WITHIN: Duration = Duration::from_secs(30);

/// Number of random bytes of a token: as many as of a key that nobody guesses.
const TOKEN_BYTES: usize = 32;

/// Maximum size of the token's file in bytes.
const TOKEN_FILE_BYTES_MAX: u64 = 256;

/// Order in the body of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum OrderBody {
    /// Serve the version before the one that serves.
    Rollback,
    /// Serve this version until it is unpinned.
    Pin {
        /// Version to serve.
        version: Version,
    },
    /// End the pin.
    Unpin,
    /// Take no version from the hub.
    Hold,
    /// End the hold.
    Resume,
}

impl From<OrderBody> for OwnerOrder {
    fn from(body: OrderBody) -> Self {
        match body {
            OrderBody::Rollback => Self::Rollback,
            OrderBody::Pin { version } => Self::Pin(version),
            OrderBody::Unpin => Self::Unpin,
            OrderBody::Hold => Self::Hold,
            OrderBody::Resume => Self::Resume,
        }
    }
}

/// Response to an order that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderTaken {
    /// Name of the model.
    pub model: ModelName,
    /// Effect of the order, for people.
    pub effect: String,
}

/// Token of one run of the agent, without which it takes no orders.
#[derive(Clone)]
pub struct ControlToken(Arc<str>);

impl std::fmt::Debug for ControlToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlToken(..)")
    }
}

impl ControlToken {
    /// Makes a new token and writes it to the state folder, readable by the owner of the folder alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(folder: &Folder) -> Result<Self, FileError> {
        let bytes: [u8; TOKEN_BYTES] = rand::random();
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        files::write_atomic(&folder.control_token(), token.as_bytes(), Mode::Private)?;
        Ok(Self(token.into()))
    }

    /// Reads the token of the running agent.
    ///
    /// # Errors
    /// When the file is missing or may not be read.
    pub fn read(folder: &Folder) -> Result<Self, FileError> {
        let bytes = files::read_bounded(&folder.control_token(), TOKEN_FILE_BYTES_MAX)?;
        Ok(Self(String::from_utf8_lossy(&bytes).trim().into()))
    }

    /// Returns the value of the header that carries the token.
    #[must_use]
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Compares digests, so that the time of the comparison tells nothing about the token.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
        Digest::of(given) == Digest::of(self.authorization().as_bytes())
    }
}

#[derive(Debug, Clone)]
struct Control {
    token: Option<ControlToken>,
    updaters: Arc<Updaters>,
}

/// Makes the routes of the orders. Without a token every order is refused.
pub fn router(token: Option<ControlToken>, updaters: Arc<Updaters>) -> Router {
    let control = Control { token, updaters };
    Router::new().route("/sanderling/v1/models/{model}/order", post(order)).with_state(control)
}

type Refused = (StatusCode, Json<serde_json::Value>);

fn refused(status: StatusCode, message: &str) -> Refused {
    (status, Json(serde_json::json!({ "error": message })))
}

async fn order(
    State(control): State<Control>,
    Path(model): Path<String>,
    headers: HeaderMap,
    Json(body): Json<OrderBody>,
) -> Result<Json<OrderTaken>, Refused> {
    if !control.token.is_some_and(|token| token.is_in(&headers)) {
        let message =
            "orders need the token of this run: give them with `edge-agent model` as the owner of the state folder";
        return Err(refused(StatusCode::FORBIDDEN, message));
    }
    let unknown = |_error| refused(StatusCode::NOT_FOUND, "the name of the model is malformed");
    let model: ModelName = model.parse().map_err(unknown)?;
    let (done, stored) = oneshot::channel();
    let sent = control.updaters.send(&model, Command::Owner(body.into(), done));
    sent.map_err(|error| explained(&error))?;
    let stored = tokio::time::timeout(STORED_WITHIN, stored).await.ok().and_then(Result::ok);
    match stored.unwrap_or(Err(NotOrdered::Busy)) {
        Ok(effect) => Ok(Json(OrderTaken { model, effect })),
        Err(error) => Err(explained(&error)),
    }
}

fn explained(error: &NotOrdered) -> Refused {
    let status = match error {
        NotOrdered::UnknownModel(_) => StatusCode::NOT_FOUND,
        NotOrdered::Busy => StatusCode::SERVICE_UNAVAILABLE,
        NotOrdered::Disabled | NotOrdered::Refused(_) => StatusCode::CONFLICT,
    };
    refused(status, &telemetry::chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_of_this_run_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let token = ControlToken::create(&folder).unwrap();
        let read = ControlToken::read(&folder).unwrap();
        let with = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert!(token.is_in(&with(&read.authorization())));
        let other = ControlToken::create(&folder).unwrap();
        for wrong in ["", "Bearer ", &other.authorization(), &read.authorization()[..40], &(read.authorization() + "0")]
        {
            assert!(!token.is_in(&with(wrong)), "{wrong}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
        assert!(!format!("{token:?}").contains(&*token.0));
    }

    #[test]
    fn the_body_of_an_order_stays_as_it_is() {
        let pin = OrderBody::Pin { version: Version::new(7).unwrap() };
        for (body, text) in [
            (OrderBody::Rollback, r#""rollback""#),
            (pin, r#"{"pin":{"version":7}}"#),
            (OrderBody::Unpin, r#""unpin""#),
            (OrderBody::Hold, r#""hold""#),
            (OrderBody::Resume, r#""resume""#),
        ] {
            assert_eq!(serde_json::to_string(&body).unwrap(), text);
            assert_eq!(serde_json::from_str::<OrderBody>(text).unwrap(), body);
        }
    }
}

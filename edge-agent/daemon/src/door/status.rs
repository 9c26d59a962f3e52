//! `GET /sanderling/v1/status`: what the agent says of itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Door;
use crate::board::Status;

pub(super) async fn status(State(door): State<Arc<Door>>) -> Json<Status> {
    Json(door.board.status(&door.models))
}

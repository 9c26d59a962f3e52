//! `ModelStreamInfer`: requests and responses on one stream, in order, one request at a time.
//!
//! An error of a request is a message of the stream, which goes on. A parameter of the request asks for a mark on its last
//! response, as Triton gives it for models with several responses.

use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt as _};
use tonic::{Status, Streaming};
use types::InferenceError;

use super::infer::{Call, Read, read, written};
use super::inference::infer_parameter::ParameterChoice;
use super::inference::{InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use super::read::is_true;
use crate::Endpoint;
use crate::budget::Hold;

/// Parameter of a request that asks for the mark.
const WANTS_MARK: &str = "triton_enable_empty_final_response";
/// Parameter of a response that is the mark.
const MARK: &str = "triton_final_response";

/// A message for the client, and the memory it takes until the next one is asked for.
type Sent = (Result<ModelStreamInferResponse, Status>, Option<Hold>);

/// Answers the requests of a stream one after the other.
pub(super) fn responses(
    endpoint: Arc<Endpoint>,
    call: Call,
    messages: Streaming<ModelInferRequest>,
) -> impl Stream<Item = Result<ModelStreamInferResponse, Status>> + Send {
    let answered = messages.flat_map(move |message| {
        let (endpoint, call) = (Arc::clone(&endpoint), call.clone());
        stream::once(async move { answer(endpoint, call, message).await }).flatten().boxed()
    });
    // Each message is counted until the next one is asked for.
    answered.scan(None, |counted: &mut Option<Hold>, (message, hold): Sent| {
        *counted = hold;
        std::future::ready(Some(message))
    })
}

async fn answer(
    endpoint: Arc<Endpoint>,
    call: Call,
    message: Result<ModelInferRequest, Status>,
) -> stream::BoxStream<'static, Sent> {
    let message = match message {
        Ok(message) => message,
        // The stream itself is broken: nothing more can be read from it.
        Err(status) => return stream::iter([(Err(status), None)]).boxed(),
    };
    call.works();
    let id = message.id.clone();
    let answered = match endpoint.find(&message.model_name) {
        Ok(model) => {
            let work = several(&endpoint, &model, &call, message);
            endpoint.observed(&model, work).await
        }
        Err(unknown) => {
            endpoint.note_unknown(&unknown);
            Err(unknown)
        }
    };
    match answered {
        Ok(answered) => answered,
        Err(error) => stream::iter([(Ok(refused(id, &error)), None)]).boxed(),
    }
}

/// Starts a request and returns the stream of its responses.
async fn several(
    endpoint: &Arc<Endpoint>,
    model: &types::ModelName,
    call: &Call,
    message: ModelInferRequest,
) -> Result<stream::BoxStream<'static, Sent>, InferenceError> {
    let wants_mark = is_true(&message.parameters, WANTS_MARK);
    let permit = endpoint.permit()?;
    let Read { request, wanted, hold } = read(endpoint, model, call, message)?;
    let id = request.id.to_string();
    let mut responses = endpoint.service.infer_stream(request).await?;
    let first = responses.next().await;
    drop((permit, hold));
    let (endpoint, call) = (Arc::clone(endpoint), call.clone());
    let name = model.to_string();
    let state = Some((first, responses));
    let sent = stream::unfold(state, move |state| {
        let (endpoint, call, wanted) = (Arc::clone(&endpoint), call.clone(), wanted.clone());
        let (id, name) = (id.clone(), name.clone());
        async move {
            let (current, mut responses) = state?;
            let Some(current) = current else {
                // A request without any response still tells its end.
                let empty = ModelInferResponse { model_name: name, id, ..Default::default() };
                return wants_mark.then(|| ((Ok(message_of(marked(empty, true))), None), None));
            };
            let response = match current {
                Ok(response) => response,
                Err(error) => return Some(((Ok(refused(id, &error)), None), None)),
            };
            endpoint.note(&response.receipt);
            match written(&endpoint, &call, &wanted, response).await {
                Err(error) => Some(((Ok(refused(id, &error)), None), None)),
                Ok((message, hold)) => {
                    let next = responses.next().await;
                    let is_last = next.is_none();
                    let message = if wants_mark { marked(message, is_last) } else { message };
                    let rest = (!is_last).then_some((next, responses));
                    Some(((Ok(message_of(message)), Some(hold)), rest))
                }
            }
        }
    });
    Ok(sent.boxed())
}

fn marked(mut message: ModelInferResponse, is_last: bool) -> ModelInferResponse {
    let choice = Some(ParameterChoice::BoolParam(is_last));
    message.parameters.insert(MARK.to_owned(), InferParameter { parameter_choice: choice });
    message
}

fn message_of(message: ModelInferResponse) -> ModelStreamInferResponse {
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(message) }
}

/// Makes the message of an error; the id tells the client which request it belongs to.
fn refused(id: String, error: &InferenceError) -> ModelStreamInferResponse {
    let infer_response = ModelInferResponse { id, ..Default::default() };
    ModelStreamInferResponse { error_message: error.message.clone(), infer_response: Some(infer_response) }
}

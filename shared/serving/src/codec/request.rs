//! A request for an inference, from the bytes of its body.
//!
//! Fed by the servers; yields tensors and options, checked for form and limits. Holding them against a model's signature
//! comes later, where the model is known.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use types::limits::{RANK_MAX, TENSOR_BYTES_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX};
use types::policy::{Offline, PrivacyClass, RequestRules, TAGS_MAX, check_tags};
use types::{Amend, DType, NamedTensor, PolicyMode, QueuePriority, RequestId, Tensor, TensorError};

use super::scalar::{Id, Size};
use super::{BinaryPart, CodecError, Room, bounded_list, elements, shorten, split_body};

/// Longest deadline that a request may ask for.
///
/// A day: longer than any inference, and far from where adding it to a clock would overflow.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

/// One output that the request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedOutput {
    /// Its name in the model.
    pub name: String,
    /// True to send its elements as binary data.
    pub binary: bool,
    /// Number of its largest elements to list in place of the tensor (Triton's classification extension); 0 for the tensor.
    pub classes: usize,
}

/// A well-formed request for an inference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferCall {
    /// Id that the client chose for this request.
    pub id: Option<RequestId>,
    /// The policy for this request alone; the model's own where `None`.
    pub policy: Option<PolicyMode>,
    /// Time that the client waits, counted from the arrival of the whole request.
    pub deadline: Option<Duration>,
    /// Further rules of the policy for this request alone.
    pub rules: RequestRules,
    /// The inputs, in the order of the request.
    pub inputs: Vec<NamedTensor>,
    /// Outputs that the request asks for.
    pub wanted: Wanted,
}

/// The outputs that a request asks for, and how each shall come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The outputs by name; all of the model's where empty.
    pub outputs: Vec<WantedOutput>,
    /// True to send outputs that are not named as binary data.
    pub binary_by_default: bool,
}

impl Wanted {
    /// Returns whether an output comes as binary data.
    #[must_use]
    pub fn is_binary(&self, name: &str) -> bool {
        let named = self.outputs.iter().find(|output| output.name == name);
        named.map_or(self.binary_by_default, |output| output.binary)
    }

    /// Returns the names of the wanted outputs; none when all are wanted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.outputs.iter().map(|output| output.name.clone()).collect()
    }
}

impl InferCall {
    /// Reads a request: `header_length` is the header [`super::HEADER_LENGTH`], where there was one.
    ///
    /// Binary tensors share the memory of `body`; elements that come as JSON take memory of their own, which `room` is asked
    /// for.
    ///
    /// # Errors
    /// [`CodecError`], a sentence for the author of the client.
    pub fn parse(header_length: Option<&str>, body: &Bytes, room: Room<'_>) -> Result<Self, CodecError> {
        let (json, binary) = split_body(header_length, body)?;
        let request: RequestJson<'_> = serde_json::from_slice(&json).map_err(|error| CodecError::Json(error.into()))?;
        let parameters = request.parameters.unwrap_or_default();
        if parameters.belongs_to_a_sequence() {
            return Err(CodecError::Sequence);
        }
        let binary_by_default = parameters.binary_data_output.unwrap_or(false);
        Ok(Self {
            id: read_id(request.id)?,
            policy: read_policy(parameters.policy.as_deref())?,
            deadline: read_deadline(parameters.deadline_ms, parameters.timeout)?,
            rules: read_rules(parameters.rules())?,
            inputs: read_inputs(request.inputs, binary, room)?,
            wanted: Wanted {
                outputs: read_outputs(request.outputs.unwrap_or_default().0, binary_by_default)?,
                binary_by_default,
            },
        })
    }
}

/// The JSON of a request. Unknown fields and parameters are passed over, as the protocol asks of servers.
#[derive(Deserialize)]
struct RequestJson<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Option<RequestParameters>,
    #[serde(borrow, deserialize_with = "bounded_list::<_, _, TENSORS_MAX>")]
    inputs: Vec<InputJson<'a>>,
    /// Some clients write `null` for "all".
    #[serde(default)]
    outputs: Option<OutputList>,
}

#[derive(Default, Deserialize)]
struct OutputList(#[serde(deserialize_with = "bounded_list::<_, _, TENSORS_MAX>")] Vec<OutputJson>);

#[derive(Default, Deserialize)]
struct RequestParameters {
    #[serde(default)]
    policy: Option<String>,
    /// Deadline of the request in milliseconds.
    #[serde(default)]
    deadline_ms: Option<u64>,
    /// Microseconds: Triton's name for the same wish; zero means none.
    #[serde(default)]
    timeout: Option<u64>,
    #[serde(default)]
    hedge_after_ms: Option<u64>,
    #[serde(default)]
    privacy: Option<String>,
    #[serde(default)]
    consent: Option<bool>,
    /// Tags with commas between them.
    #[serde(default)]
    tags: Option<String>,
    #[serde(default)]
    offline: Option<String>,
    #[serde(default)]
    amend: Option<String>,
    #[serde(default)]
    amend_url: Option<String>,
    #[serde(default)]
    queue_priority: Option<String>,
    #[serde(default)]
    binary_data_output: Option<bool>,
    /// Zero and empty text mean none.
    #[serde(default)]
    sequence_id: Option<Id>,
    #[serde(default)]
    sequence_start: Option<bool>,
    #[serde(default)]
    sequence_end: Option<bool>,
}

impl RequestParameters {
    fn rules(&self) -> RuleTexts<'_> {
        RuleTexts {
            hedge_after_ms: self.hedge_after_ms,
            privacy: self.privacy.as_deref(),
            consent: self.consent,
            tags: self.tags.as_deref(),
            offline: self.offline.as_deref(),
            amend: self.amend.as_deref(),
            amend_url: self.amend_url.as_deref(),
            queue_priority: self.queue_priority.as_deref(),
        }
    }

    fn belongs_to_a_sequence(&self) -> bool {
        self.sequence_id.as_ref().is_some_and(|id| id.0)
            || self.sequence_start == Some(true)
            || self.sequence_end == Some(true)
    }
}

#[derive(Deserialize)]
struct InputJson<'a> {
    name: String,
    #[serde(deserialize_with = "bounded_list::<_, _, RANK_MAX>")]
    shape: Vec<Size>,
    datatype: String,
    #[serde(default)]
    parameters: Option<InputParameters>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    #[serde(default)]
    binary_data_size: Option<usize>,
    #[serde(default)]
    shared_memory_region: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    #[serde(default)]
    parameters: Option<OutputParameters>,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    #[serde(default)]
    binary_data: Option<bool>,
    /// Number of classes; zero means the tensor itself.
    #[serde(default)]
    classification: Option<usize>,
    #[serde(default)]
    shared_memory_region: Option<IgnoredAny>,
}

pub(crate) fn read_id(id: Option<String>) -> Result<Option<RequestId>, CodecError> {
    // tritonclient and others send an empty id for "none".
    id.filter(|id| !id.is_empty()).map(|id| id.parse().map_err(CodecError::Id)).transpose()
}

pub(crate) fn read_policy(policy: Option<&str>) -> Result<Option<PolicyMode>, CodecError> {
    let bad =
        |error: types::policy::UnknownPolicy| CodecError::Parameter { name: "policy", problem: error.to_string() };
    policy.map(|text| text.parse().map_err(bad)).transpose()
}

pub(crate) fn read_deadline(deadline_ms: Option<u64>, timeout_us: Option<u64>) -> Result<Option<Duration>, CodecError> {
    let (name, deadline) = match (deadline_ms, timeout_us.filter(|&timeout| timeout > 0)) {
        (Some(milliseconds), _) => ("deadline_ms", Duration::from_millis(milliseconds)),
        (None, Some(microseconds)) => ("timeout", Duration::from_micros(microseconds)),
        (None, None) => return Ok(None),
    };
    check_deadline(deadline).map(Some).map_err(|problem| CodecError::Parameter { name, problem })
}

/// Parameters of a request for its policy, as they were sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RuleTexts<'a> {
    /// Milliseconds until the second place is asked too.
    pub(crate) hedge_after_ms: Option<u64>,
    /// Name of a privacy class.
    pub(crate) privacy: Option<&'a str>,
    /// Consent to the use of the input by the hub.
    pub(crate) consent: Option<bool>,
    /// Tags with commas between them.
    pub(crate) tags: Option<&'a str>,
    /// Name of an offline behaviour.
    pub(crate) offline: Option<&'a str>,
    /// Name of a delivery of the hub's later answer.
    pub(crate) amend: Option<&'a str>,
    /// Address for that answer.
    pub(crate) amend_url: Option<&'a str>,
    /// Name of a priority.
    pub(crate) queue_priority: Option<&'a str>,
}

/// Reads the rules of a request for its policy.
///
/// # Errors
/// Returns the first parameter that is wrong: a privacy class that is not understood must not count as none.
pub(crate) fn read_rules(texts: RuleTexts<'_>) -> Result<RequestRules, CodecError> {
    let wrong = |name: &'static str| move |problem: String| CodecError::Parameter { name, problem };
    let hedge_after = texts.hedge_after_ms.map(Duration::from_millis);
    if hedge_after.is_some_and(|after| after > DEADLINE_MAX) {
        return Err(wrong("hedge_after_ms")("give at most 24 hours".to_owned()));
    }
    let parsed = |name: &'static str| move |error: &dyn std::error::Error| wrong(name)(error.to_string());
    let privacy = texts.privacy.map(str::parse::<PrivacyClass>).transpose();
    let offline = texts.offline.map(str::parse::<Offline>).transpose();
    let amend = Amend::read(texts.amend, texts.amend_url);
    let priority = texts.queue_priority.map(str::parse::<QueuePriority>).transpose();
    let tags: Vec<String> = texts.tags.map(tags).unwrap_or_default();
    check_tags(&tags).map_err(wrong("tags"))?;
    Ok(RequestRules {
        hedge_after,
        privacy: privacy.map_err(|error| parsed("privacy")(&error))?,
        consent: texts.consent,
        tags,
        offline: offline.map_err(|error| parsed("offline")(&error))?,
        amend: amend.map_err(|error| parsed("amend")(&error))?,
        queue_priority: priority.map_err(|error| parsed("queue_priority")(&error))?.unwrap_or_default(),
    })
}

/// Splits a list of tags; one more than the limit is enough to refuse it.
fn tags(text: &str) -> Vec<String> {
    let tags = text.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    tags.take(TAGS_MAX + 1).map(str::to_owned).collect()
}

/// Holds a wished deadline against its limits.
///
/// # Errors
/// A sentence when it is zero or longer than a day.
pub fn check_deadline(deadline: Duration) -> Result<Duration, String> {
    if deadline.is_zero() || deadline > DEADLINE_MAX {
        return Err("give more than zero and at most 24 hours".to_owned());
    }
    Ok(deadline)
}

fn read_inputs(
    inputs: Vec<InputJson<'_>>,
    binary: Option<Bytes>,
    room: Room<'_>,
) -> Result<Vec<NamedTensor>, CodecError> {
    let mut binary = BinaryPart { rest: binary.unwrap_or_default() };
    let tensors = inputs.into_iter().map(|input| read_input(input, &mut binary, room)).collect::<Result<_, _>>()?;
    binary.finish()?;
    Ok(tensors)
}

fn read_input(input: InputJson<'_>, binary: &mut BinaryPart, room: Room<'_>) -> Result<NamedTensor, CodecError> {
    if input.name.len() > TENSOR_NAME_BYTES_MAX {
        return Err(CodecError::NameTooLong(input.name.len()));
    }
    let parameters = input.parameters.unwrap_or_default();
    if parameters.shared_memory_region.is_some() {
        return Err(NO_SHARED_MEMORY);
    }
    let bad = |source| CodecError::Tensor { name: shorten(&input.name), source };
    let dtype: DType = input.datatype.parse().map_err(bad)?;
    let shape = input.shape.iter().map(|&Size(size)| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_over| bad(TensorError::TooLarge { dtype, shape: vec![usize::MAX] }))?;
    let data = match (input.data, parameters.binary_data_size) {
        (Some(text), None) => elements::read(&input.name, dtype, text, room)?.into(),
        (None, Some(size)) if size > TENSOR_BYTES_MAX => return Err(bad(TensorError::TooLarge { dtype, shape })),
        (None, Some(size)) => binary.take(&input.name, size)?,
        (Some(_), Some(_)) => return Err(CodecError::DataSource { name: shorten(&input.name), given: "both" }),
        (None, None) => return Err(CodecError::DataSource { name: shorten(&input.name), given: "neither" }),
    };
    let tensor = Tensor::new(dtype, shape, data).map_err(bad)?;
    Ok(NamedTensor { name: input.name, tensor })
}

/// Refuses shared memory: a path into this process's memory from a request is how other servers were broken into.
const NO_SHARED_MEMORY: CodecError =
    CodecError::Unsupported { what: "shared memory regions", instead: "send tensors in the body" };

fn read_outputs(outputs: Vec<OutputJson>, binary_by_default: bool) -> Result<Vec<WantedOutput>, CodecError> {
    let mut wanted: Vec<WantedOutput> = Vec::with_capacity(outputs.len());
    for output in outputs {
        let parameters = output.parameters.unwrap_or_default();
        if output.name.len() > TENSOR_NAME_BYTES_MAX {
            return Err(CodecError::NameTooLong(output.name.len()));
        }
        if parameters.shared_memory_region.is_some() {
            return Err(NO_SHARED_MEMORY);
        }
        if wanted.iter().any(|earlier| earlier.name == output.name) {
            return Err(CodecError::OutputTwice(shorten(&output.name)));
        }
        let classes = parameters.classification.unwrap_or(0);
        let binary = parameters.binary_data.unwrap_or(binary_by_default);
        wanted.push(WantedOutput { name: output.name, binary, classes });
    }
    Ok(wanted)
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;

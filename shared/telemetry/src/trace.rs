//! W3C trace context that a request carries from the application through the agent to the hub.
//!
//! Does no I/O: the servers parse a received context or create one from given random bytes; `protocol` carries the
//! text. Format: <https://www.w3.org/TR/trace-context/#traceparent-header>.

use std::fmt;
use std::str::FromStr;

/// Length of `00-<32 hex>-<16 hex>-<2 hex>`.
const LEN_V0: usize = 55;

/// Bit 0 of the flags: the caller records this trace.
const FLAG_SAMPLED: u8 = 1;

/// Trace id, span id and flags of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    sampled: bool,
}

/// Error: a text is not a W3C traceparent. As the recommendation says, the receiver then starts a new trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("read traceparent: not of the form 00-<32 hex>-<16 hex>-<2 hex> with ids that are not zero")]
pub struct InvalidTraceparent;

impl TraceContext {
    /// Creates a trace from random bytes; not sampled, because no caller requested it.
    #[must_use]
    pub fn from_random(random: [u8; 24]) -> Self {
        let mut trace_id = [0; 16];
        let mut span_id = [0; 8];
        trace_id.copy_from_slice(&random[..16]);
        span_id.copy_from_slice(&random[16..]);
        // Zero is the one value the format forbids.
        trace_id[15] |= u8::from(trace_id == [0; 16]);
        span_id[7] |= u8::from(span_id == [0; 8]);
        Self { trace_id, span_id, sampled: false }
    }

    /// Returns the context of the next hop in the same trace, with a span id from random bytes.
    #[must_use]
    pub fn child(self, random: [u8; 8]) -> Self {
        let mut span_id = random;
        span_id[7] |= u8::from(span_id == [0; 8]);
        Self { span_id, ..self }
    }

    /// Returns the trace id as 32 hex digits, for log fields.
    #[must_use]
    pub fn trace_id(self) -> String {
        hex(&self.trace_id)
    }

    /// Returns the span id as 16 hex digits.
    #[must_use]
    pub fn span_id(self) -> String {
        hex(&self.span_id)
    }

    /// Whether the caller records this trace.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.sampled
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id(), self.span_id(), u8::from(self.sampled) * FLAG_SAMPLED)
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceparent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        parse(text).ok_or(InvalidTraceparent)
    }
}

fn parse(text: &str) -> Option<TraceContext> {
    let head = text.get(..LEN_V0)?;
    let mut parts = head.split('-');
    let version: [u8; 1] = unhex(parts.next()?)?;
    let trace_id: [u8; 16] = unhex(parts.next()?)?;
    let span_id: [u8; 8] = unhex(parts.next()?)?;
    let flags: [u8; 1] = unhex(parts.next()?)?;
    // A later version may append fields after a dash; version 0 may not, and ff is reserved.
    let rest = &text[LEN_V0..];
    let whole = if version == [0] { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
    let lawful = whole && version != [0xff] && trace_id != [0; 16] && span_id != [0; 8] && parts.next().is_none();
    lawful.then_some(TraceContext { trace_id, span_id, sampled: flags[0] & FLAG_SAMPLED != 0 })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses lower-case hex digits; upper case is invalid by the recommendation.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(ascii: u8) -> Option<u8> {
    match ascii {
        b'0'..=b'9' => Some(ascii - b'0'),
        b'a'..=b'f' => Some(ascii - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Example from the recommendation.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_recommendation_reads_back_as_written() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.to_string(), EXAMPLE);
    }

    #[test]
    fn a_malformed_traceparent_is_refused() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        let upper = EXAMPLE.to_uppercase();
        let longer = format!("{EXAMPLE}-00");
        let wrong =
            ["", "00", zero_trace.as_str(), zero_span, &upper, &longer, &EXAMPLE[..54], "é".repeat(40).as_str()]
                .map(str::to_owned);
        for text in wrong.iter().chain([&EXAMPLE.replace("00-4b", "ff-4b"), &EXAMPLE.replace('-', "_")]) {
            assert_eq!(text.parse::<TraceContext>(), Err(InvalidTraceparent), "{text}");
        }
    }

    #[test]
    fn a_later_version_with_more_fields_is_understood() {
        let text = format!("{}-more", EXAMPLE.replace("00-4b", "01-4b"));
        assert_eq!(text.parse(), EXAMPLE.parse::<TraceContext>());
    }

    #[test]
    fn a_child_stays_in_the_trace_and_no_id_is_ever_zero() {
        let root = TraceContext::from_random([0; 24]);
        assert_eq!(root.to_string().parse(), Ok(root));
        let child = root.child([0; 8]);
        assert_eq!(child.trace_id(), root.trace_id());
        assert_ne!(child.span_id(), "0".repeat(16));
    }
}

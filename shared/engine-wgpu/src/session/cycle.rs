//! Runs a `Loop` or `Scan` on the host: the steps of the body once for each iteration.

use std::time::Instant;

use engine::RunError;

use super::run::{Crossing, Runner, Step, Stopped, Values};
use crate::error::{ModelError, OpError};
use crate::ir::{ElementType, Literal, ValueId};
use crate::segments::{Cycle, ITERATIONS_MAX, Scanned, Stacked};

/// Iterations that a warm-up runs: zeros say nothing of how often a loop goes round.
const ITERATIONS_WARMING: usize = 1;

/// A tensor that is put together during a run.
type Slices = Vec<Literal>;

impl Runner<'_> {
    /// Runs a loop: its inputs from `values`, its outputs into them.
    pub(super) fn cycle(&mut self, cycle: &Cycle, steps: &mut [Step], values: &mut Values) -> Result<(), Stopped> {
        let invalid = |clause: String| at_node(cycle, OpError::Invalid(clause));
        let find = |values: &Values, id: ValueId| {
            let crossing = values.get(&id).map(|crossing| crossing.literal.clone());
            let found = crossing.or_else(|| cycle.constants.get(&id).cloned());
            found.ok_or_else(|| invalid("it reads a value that nothing computes".into()))
        };
        let number = |values: &Values, id: ValueId| {
            let literal = find(values, id)?;
            let first = literal.to_i64s().first().copied().filter(|_one| literal.elements() == 1);
            first.ok_or_else(|| invalid(format!("its count or condition is {literal:?}, not one number")))
        };
        let wanted = cycle.count.map(|id| number(values, id)).transpose()?;
        let mut count = wanted.map_or(usize::MAX, |count| usize::try_from(count.max(0)).unwrap_or(usize::MAX));
        let mut goes_on = cycle.condition.map(|id| number(values, id)).transpose()?.is_none_or(|flag| flag != 0);
        let mut wholes = Vec::with_capacity(cycle.scanned.len());
        for scanned in &cycle.scanned {
            wholes.push(Along::of(scanned, find(values, scanned.whole)?).map_err(|error| at_node(cycle, error))?);
        }
        if let Some(first) = wholes.first() {
            count = first.n;
            if wholes.iter().any(|whole| whole.n != count) {
                return Err(invalid("its inputs have different lengths".into()).into());
            }
        }
        if self.warming {
            // A loop over nothing still gets its kernels; a loop without end comes to one.
            (count, goes_on) = (ITERATIONS_WARMING.min(wholes.first().map_or(usize::MAX, |whole| whole.n)), true);
        }
        let mut state = Vec::with_capacity(cycle.carried.len());
        for carried in &cycle.carried {
            state.push(find(values, carried.initial)?);
        }
        let mut stacks: Vec<Slices> = vec![Slices::new(); cycle.stacked.len()];
        let (mut iteration, mut bytes) = (0, 0_u64);
        while iteration < count && goes_on {
            self.check_asked()?;
            if iteration >= ITERATIONS_MAX {
                return Err(invalid(format!("it runs for more than {ITERATIONS_MAX} iterations")).into());
            }
            let mut give = |id: Option<ValueId>, literal: Literal| {
                id.map(|id| values.insert(id, Crossing { literal, known: false }));
            };
            let place = i64::try_from(iteration).unwrap_or(i64::MAX);
            give(cycle.number, Literal::from_i64s(ElementType::I64, Vec::new(), &[place]));
            give(cycle.condition_inside, Literal::from_i64s(ElementType::Bool, Vec::new(), &[1]));
            for (carried, literal) in cycle.carried.iter().zip(state.drain(..)) {
                give(Some(carried.inside), literal);
            }
            for (scanned, whole) in cycle.scanned.iter().zip(&wholes) {
                give(Some(scanned.inside), whole.slice(iteration));
            }
            self.in_cycles += 1;
            let ran = self.run(steps, values);
            self.in_cycles -= 1;
            ran?;
            goes_on = cycle.condition_next.map(|id| number(values, id)).transpose()?.is_none_or(|flag| flag != 0);
            for carried in &cycle.carried {
                state.push(find(values, carried.next)?);
            }
            for (stacked, slices) in cycle.stacked.iter().zip(&mut stacks) {
                if stacked.whole.is_some() {
                    let slice = find(values, stacked.slice)?;
                    bytes = bytes.saturating_add(u64::try_from(slice.bytes().len()).unwrap_or(u64::MAX));
                    slices.push(slice);
                }
            }
            if bytes > self.budget {
                return Err(ModelError::OverBudget { needed: bytes, budget: self.budget }.into());
            }
            iteration += 1;
        }
        for (carried, literal) in cycle.carried.iter().zip(state) {
            if let Some(id) = carried.last {
                values.insert(id, Crossing { literal, known: false });
            }
        }
        for (stacked, slices) in cycle.stacked.iter().zip(stacks) {
            if let Some(id) = stacked.whole {
                let literal = stack(stacked, slices).map_err(|error| at_node(cycle, error))?;
                values.insert(id, Crossing { literal, known: false });
            }
        }
        Ok(())
    }

    /// Fails once the caller does not want the answer any more.
    fn check_asked(&self) -> Result<(), Stopped> {
        if self.control.cancel.is_cancelled() {
            return Err(Stopped::Asked(RunError::Cancelled));
        }
        match self.control.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            true => Err(Stopped::Asked(RunError::Deadline)),
            false => Ok(()),
        }
    }
}

fn at_node(cycle: &Cycle, source: OpError) -> ModelError {
    ModelError::Node { node: cycle.name.clone(), operator: cycle.operator.clone(), source }
}

/// Returns the axis as a position among `rank` dimensions.
fn position(axis: i64, rank: usize) -> Result<usize, OpError> {
    crate::shape::axis(axis, rank)
}

/// A tensor cut along an axis.
#[derive(Debug)]
struct Along {
    literal: Literal,
    /// Bytes of the elements behind the axis.
    inner: usize,
    n: usize,
    shape: Vec<usize>,
    reversed: bool,
}

impl Along {
    fn of(scanned: &Scanned, literal: Literal) -> Result<Self, OpError> {
        let at = position(scanned.axis, literal.shape().len())?;
        let width = whole_bytes(&literal)?;
        let mut shape = literal.shape().to_vec();
        let n = shape.remove(at);
        let inner = literal.shape()[at + 1..].iter().product::<usize>() * width;
        Ok(Self { literal, inner, n, shape, reversed: scanned.reversed })
    }

    fn slice(&self, iteration: usize) -> Literal {
        let at = if self.reversed { self.n - 1 - iteration } else { iteration };
        let rows = self.literal.bytes().chunks_exact((self.n * self.inner).max(1));
        let bytes: Vec<u8> = rows.flat_map(|row| &row[at * self.inner..(at + 1) * self.inner]).copied().collect();
        let made = Literal::new(self.literal.dtype(), self.shape.clone(), bytes.into());
        // Bytes and shape agree; empty ones alike.
        made.unwrap_or_else(|| Literal::from_i64s(self.literal.dtype(), self.shape.clone(), &[]))
    }
}

/// Bytes of an element.
fn whole_bytes(literal: &Literal) -> Result<usize, OpError> {
    let bits = literal.dtype().bits();
    if bits < 8 { Err(OpError::unsupported("4-bit integers in a loop")) } else { Ok(bits / 8) }
}

/// Puts slices together along a new axis.
fn stack(stacked: &Stacked, mut slices: Slices) -> Result<Literal, OpError> {
    let Some(first) = slices.first() else {
        let (dtype, mut shape) = stacked.declared.clone().unwrap_or((ElementType::F32, Vec::new()));
        let at = position(stacked.axis, shape.len() + 1)?;
        shape.insert(at, 0);
        return Ok(Literal::from_i64s(dtype, shape, &[]));
    };
    let (dtype, mut shape) = (first.dtype(), first.shape().to_vec());
    if let Some(other) = slices.iter().find(|slice| slice.dtype() != dtype || slice.shape() != shape) {
        return Err(OpError::invalid(format!("its iterations give {first:?} and {other:?}")));
    }
    let at = position(stacked.axis, shape.len() + 1)?;
    let inner = shape[at..].iter().product::<usize>() * whole_bytes(first)?;
    let outer: usize = shape[..at].iter().product();
    if stacked.reversed {
        slices.reverse();
    }
    let mut bytes = Vec::with_capacity(outer * inner * slices.len());
    for row in 0..outer {
        for slice in &slices {
            bytes.extend_from_slice(&slice.bytes()[row * inner..(row + 1) * inner]);
        }
    }
    shape.insert(at, slices.len());
    Literal::new(dtype, shape.clone(), bytes.into()).ok_or(OpError::TooLarge(shape))
}

//! Model-local functions: which there are, and how many nodes they become where they are called.
//!
//! Engines write a function's body in place of every call. Ten functions that each call the next ten times would become
//! ten thousand million nodes, and one that calls itself would never end: both are counted here before that.

use std::collections::BTreeMap;

use super::Refusal;

/// Domain, name and overload of a function, as node and function write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Operator<'a> {
    pub(super) domain: &'a [u8],
    pub(super) name: &'a [u8],
    pub(super) overload: &'a [u8],
}

/// Number of uses of each operator in a graph or in the body of a function.
pub(super) type Uses<'a> = BTreeMap<Operator<'a>, usize>;

/// Deepest chain of functions that call each other; exporters make two or three levels.
const CALL_DEPTH_MAX: usize = 32;

/// Counts the nodes of the main graph with all functions written out; stops above the limit.
pub(super) fn expanded_nodes<'a>(
    main: &Uses<'a>,
    functions: &BTreeMap<Operator<'a>, Uses<'a>>,
    limit: usize,
) -> Result<usize, Refusal> {
    let mut expansion = Expansion { functions, known: BTreeMap::new() };
    let nodes = expansion.count(main, &mut Vec::new())?;
    if nodes > limit { Err(Refusal::Nodes { limit }) } else { Ok(nodes) }
}

struct Expansion<'f, 'a> {
    functions: &'f BTreeMap<Operator<'a>, Uses<'a>>,
    /// Nodes of each function that was counted already: with it, every body is walked once.
    known: BTreeMap<Operator<'a>, usize>,
}

impl<'a> Expansion<'_, 'a> {
    fn count(&mut self, uses: &Uses<'a>, callers: &mut Vec<Operator<'a>>) -> Result<usize, Refusal> {
        let mut nodes = 0_usize;
        for (operator, &times) in uses {
            let each = self.count_one(operator, callers)?;
            nodes = nodes.saturating_add(each.saturating_mul(times));
        }
        Ok(nodes)
    }

    fn count_one(&mut self, operator: &Operator<'a>, callers: &mut Vec<Operator<'a>>) -> Result<usize, Refusal> {
        let Some(body) = self.functions.get(operator) else { return Ok(1) };
        if let Some(&known) = self.known.get(operator) {
            return Ok(known);
        }
        if callers.contains(operator) {
            let function = String::from_utf8_lossy(operator.name).chars().take(80).collect();
            return Err(Refusal::Recursion { function });
        }
        if callers.len() >= CALL_DEPTH_MAX {
            return Err(Refusal::Depth { what: "functions", limit: CALL_DEPTH_MAX });
        }
        callers.push(*operator);
        let nodes = self.count(body, callers)?.max(1);
        callers.pop();
        self.known.insert(*operator, nodes);
        Ok(nodes)
    }
}

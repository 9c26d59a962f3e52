//! Loops over data in WGSL, in one place because of drivers that end them early (see [`super::SOFTWARE_ROUNDS_MAX`]).

/// Steps of one thread above which several are taken in one round.
///
/// Far below the limit: a thread may have more loops than one, and a byte kernel makes four elements a thread.
const STEPS_LONG: usize = 4096;

/// Most steps of one round; makes a million of them in [`super::SOFTWARE_ROUNDS_MAX`] rounds.
const STEPS_A_ROUND: usize = 16;

/// WGSL that runs `body` for each `var` from 0 to below `end`, which is `count` steps, and how many rounds that makes.
///
/// The body may neither `break` nor `continue`.
#[must_use]
pub fn steps(var: &str, end: &str, count: usize, body: &str) -> (String, usize) {
    nested_steps(var, end, 1, count, body)
}

/// As [`steps`], for the innermost of several loops: it is come to `outer` times, whose rounds count too.
#[must_use]
pub fn nested_steps(var: &str, end: &str, outer: usize, count: usize, body: &str) -> (String, usize) {
    let long = outer.saturating_mul(count) > STEPS_LONG;
    let each = if long { STEPS_A_ROUND.min(count) } else { 1 };
    let rounds = outer.saturating_mul(count.div_ceil(each) + 1);
    if each == 1 {
        return (format!("    for (var {var} = 0u; {var} < {end}; {var}++) {{ {body} }}\n"), rounds);
    }
    let step = |at: usize| format!("        {{ let {var} = {var}_first + {at}u; if ({var} < {end}) {{ {body} }} }}\n");
    let round: String = (0..each).map(step).collect();
    let text =
        format!("    for (var {var}_first = 0u; {var}_first < {end}; {var}_first += {each}u) {{\n{round}    }}\n");
    (text, rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_steps_fit_the_rounds_of_a_software_adapter() {
        for (outer, count) in [(1, 4096), (1, 4097), (1, 1_000_000), (1000, 1000), (512 * 9, 3)] {
            let (_text, rounds) = nested_steps("k", "n", outer, count, "sum += k;");
            assert!(rounds as u64 <= super::super::SOFTWARE_ROUNDS_MAX + 2000, "{outer} times {count}: {rounds}");
            assert!(rounds * STEPS_A_ROUND >= outer * count);
        }
    }
}

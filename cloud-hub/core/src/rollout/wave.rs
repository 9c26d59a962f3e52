//! Waves of a rollout: which part of the cohort each of them admits, read from and written as text.
//!
//! | text | admits |
//! |---|---|
//! | `3` | devices until 3 take part |
//! | `5%` | the first 5 % of the cohort in the order of the rollout's draw, rounded up |
//! | `label:tier=canary` | every device of the cohort with this label |
//! | `20/min` | 20 more devices each minute until the whole cohort takes part |
//! | `10/min*2` | 10 devices in the first minute and twice as many in each following one |
//!
//! Each may end in `@2h`: its devices serve at least that long before the next wave begins.

use std::fmt;

/// Maximum number of waves of a rollout.
pub const WAVES_MAX: usize = 32;

/// Maximum length of a list of waves as text, in bytes.
pub const WAVES_BYTES_MAX: usize = 1024;

/// Maximum soak of a wave in seconds: 30 days.
pub const SOAK_S_MAX: u64 = 30 * 86_400;

/// Maximum rate of a wave in devices per minute. Larger fleets use a share of 100 %.
pub const RATE_MAX: u64 = 100_000;

/// Maximum growth of a rate in each minute, in thousandths: five times.
const GROWTH_MAX: u64 = 5_000;

/// The whole cohort as a share, in parts per million.
const WHOLE: u32 = 1_000_000;

/// One wave of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// Part of the cohort that takes part once the wave has begun.
    pub scope: Scope,
    /// Minimum time in seconds between the installation on the wave's devices and the next wave.
    pub soak_s: u64,
}

/// Part of a cohort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// This many devices in all.
    Count(u64),
    /// Share of the cohort in parts per million.
    Share(u32),
    /// Devices with a label.
    Label {
        /// Key of the label.
        key: String,
        /// Value of the label.
        value: String,
    },
    /// A number of devices each minute, up to the whole cohort.
    Rate {
        /// Devices in the first minute.
        per_minute: u64,
        /// Growth of the rate with each minute in thousandths; 1000 keeps it.
        growth: u64,
    },
}

/// Error for a text that is not a list of waves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaveError {
    /// A wave is not readable.
    #[error(
        "wave {text:?}: {problem}; write a count (3), a share (5%), a label (label:tier=canary) or a rate (20/min, 10/min*2), \
         each with an optional soak (@2h)"
    )]
    Wave {
        /// Text of the wave.
        text: String,
        /// Reason of the refusal.
        problem: &'static str,
    },
    /// There are no waves or too many.
    #[error("a rollout has 1 to {WAVES_MAX} waves, and this one {0}")]
    Number(usize),
    /// A wave is smaller than the one before it.
    #[error(
        "wave {later} admits no more devices than wave {earlier} before it: write growing waves, like 1,5%,25%,100%"
    )]
    NotGrowing {
        /// Text of the wave before.
        earlier: String,
        /// Text of the smaller wave.
        later: String,
    },
    /// The last wave leaves devices out.
    #[error("the last wave is {0}, which does not reach the whole cohort: end with 100% or a rate like 20/min")]
    NotWhole(String),
}

impl Scope {
    /// Returns whether the scope reaches every device of the cohort.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Share(share) => *share == WHOLE,
            Self::Rate { .. } => true,
            Self::Count(_) | Self::Label { .. } => false,
        }
    }

    /// Returns the number of devices that take part `elapsed_s` seconds after the wave has begun, of a cohort of `cohort`
    /// devices. A label has no number: `None`.
    #[must_use]
    pub fn quota(&self, cohort: u64, elapsed_s: u64) -> Option<u64> {
        match self {
            Self::Count(count) => Some((*count).min(cohort)),
            Self::Share(share) => Some(cohort.saturating_mul(u64::from(*share)).div_ceil(u64::from(WHOLE))),
            Self::Rate { per_minute, growth } => Some(released(*per_minute, *growth, elapsed_s, cohort)),
            Self::Label { .. } => None,
        }
    }
}

/// Returns the number of devices that a rate has released after `elapsed_s` seconds, at most `cohort`. The first one is
/// released at once.
fn released(per_minute: u64, growth: u64, elapsed_s: u64, cohort: u64) -> u64 {
    let (mut rate, mut total, mut left_s) = (per_minute, 0_u64, elapsed_s);
    while left_s >= 60 && total < cohort {
        if growth <= 1000 || rate >= RATE_MAX {
            total = total.saturating_add(rate.saturating_mul(left_s / 60));
            left_s %= 60;
            break;
        }
        total = total.saturating_add(rate);
        rate = rate.saturating_mul(growth).div_ceil(1000).min(RATE_MAX);
        left_s -= 60;
    }
    let begun = rate.saturating_mul(left_s.min(60)) / 60;
    total.saturating_add(begun).max(1).min(cohort)
}

/// Parses a list of waves, separated by commas.
///
/// # Errors
/// [`WaveError`] with the wave and what to write.
pub fn parse(text: &str) -> Result<Vec<Wave>, WaveError> {
    let pieces: Vec<&str> = text.split(',').map(str::trim).collect();
    if text.len() > WAVES_BYTES_MAX || pieces.len() > WAVES_MAX || text.trim().is_empty() {
        return Err(WaveError::Number(if text.trim().is_empty() { 0 } else { pieces.len() }));
    }
    let waves = pieces.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
    check(&waves)?;
    Ok(waves)
}

/// Checks that waves grow and that the last one reaches the whole cohort.
///
/// # Errors
/// [`WaveError`] for the first wave that does not.
pub fn check(waves: &[Wave]) -> Result<(), WaveError> {
    if waves.is_empty() || waves.len() > WAVES_MAX {
        return Err(WaveError::Number(waves.len()));
    }
    for pair in waves.windows(2) {
        let [earlier, later] = pair else { continue };
        let is_smaller = match (&earlier.scope, &later.scope) {
            (Scope::Count(before), Scope::Count(after)) => after <= before,
            (Scope::Share(before), Scope::Share(after)) => after <= before,
            (whole, _) => whole.is_whole(),
        };
        if is_smaller {
            return Err(WaveError::NotGrowing { earlier: earlier.to_string(), later: later.to_string() });
        }
    }
    match waves.last() {
        Some(last) if !last.scope.is_whole() => Err(WaveError::NotWhole(last.to_string())),
        Some(_) | None => Ok(()),
    }
}

fn one(text: &str) -> Result<Wave, WaveError> {
    let refuse = |problem| WaveError::Wave { text: text.chars().take(80).collect(), problem };
    let (scope, soak) = text.rsplit_once('@').map_or((text, None), |(scope, soak)| (scope, Some(soak)));
    let soak_s = match soak {
        Some(soak) => seconds(soak).filter(|soak| *soak <= SOAK_S_MAX),
        None => Some(0),
    };
    let soak_s =
        soak_s.ok_or_else(|| refuse("the soak after @ is not a time of at most 30d, like 90s, 15m, 2h or 1d"))?;
    Ok(Wave { scope: self::scope(scope.trim()).map_err(refuse)?, soak_s })
}

fn scope(text: &str) -> Result<Scope, &'static str> {
    if let Some(label) = text.strip_prefix("label:") {
        let Some((key, value)) = label.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty())
        else {
            return Err("a label is KEY=VALUE");
        };
        return Ok(Scope::Label { key: key.to_owned(), value: value.to_owned() });
    }
    if let Some(share) = text.strip_suffix('%') {
        let share = share_of(share).filter(|share| (1..=WHOLE).contains(share));
        return share.map(Scope::Share).ok_or("a share is above 0 % and at most 100 %, with at most 4 decimals");
    }
    if let Some((rate, growth)) = text.split_once("/min") {
        let per_minute = rate.trim().parse().ok().filter(|rate| (1..=RATE_MAX).contains(rate));
        let per_minute = per_minute.ok_or("a rate is 1 to 100000 devices each minute")?;
        let growth = match growth.trim() {
            "" => Some(1000),
            growth => growth.strip_prefix('*').and_then(|growth| thousandths(growth.trim())),
        };
        let growth = growth.filter(|growth| (1000..=GROWTH_MAX).contains(growth));
        return Ok(Scope::Rate {
            per_minute,
            growth: growth.ok_or("the growth of a rate is *1 to *5, like 10/min*2")?,
        });
    }
    match text.parse() {
        Ok(count) if count > 0 => Ok(Scope::Count(count)),
        Ok(_) => Err("a count is at least 1"),
        Err(_not_a_number) => Err("this is not a wave"),
    }
}

/// Reads a percentage with up to four decimals as parts per million.
fn share_of(text: &str) -> Option<u32> {
    fixed(text, 4).and_then(|share| u32::try_from(share).ok())
}

/// Reads a number with up to three decimals as thousandths.
fn thousandths(text: &str) -> Option<u64> {
    fixed(text, 3)
}

/// Reads a decimal number with at most `decimals` decimals as an integer of its smallest unit.
fn fixed(text: &str, decimals: usize) -> Option<u64> {
    let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 9 || part.len() > decimals || !is_digits(whole) || !is_digits(part) {
        return None;
    }
    format!("{whole}{part:0<decimals$}").parse().ok()
}

/// Reads a time like `90s`, `15m`, `2h` or `1d` in seconds; a number alone is seconds.
#[must_use]
pub fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_number| is_number)?.checked_mul(unit)
}

/// Writes a time in its largest whole unit, so that [`seconds`] reads the same.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(size, _name)| seconds >= *size && seconds.is_multiple_of(*size));
    unit.map_or_else(|| format!("{seconds}s"), |(size, name)| format!("{}{name}", seconds / size))
}

impl fmt::Display for Wave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.scope.fmt(f)?;
        if self.soak_s > 0 { write!(f, "@{}", duration(self.soak_s)) } else { Ok(()) }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Share(share) => write!(f, "{}%", decimal(u64::from(*share), 4)),
            Self::Label { key, value } => write!(f, "label:{key}={value}"),
            Self::Rate { per_minute, growth: 1000 } => write!(f, "{per_minute}/min"),
            Self::Rate { per_minute, growth } => write!(f, "{per_minute}/min*{}", decimal(*growth, 3)),
        }
    }
}

/// Writes an integer of a smallest unit as a decimal number without zeros at its end.
fn decimal(number: u64, decimals: u32) -> String {
    let unit = 10_u64.pow(decimals);
    let width = decimals as usize;
    let text = format!("{}.{:0width$}", number / unit, number % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(waves: &[Wave]) -> String {
        waves.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn every_kind_of_wave_is_read_and_written_alike() {
        for waves in [
            "1,5%,25%,100%",
            "label:tier=canary@2h,0.5%@15m,100%",
            "1@90s,20/min",
            "3,10/min*2",
            "3,10/min*1.5@1d",
            "100%",
            "0.0001%,100%",
        ] {
            assert_eq!(text(&parse(waves).unwrap()), waves);
        }
        assert_eq!(text(&parse(" 1 @ 60s , 5.50% , 100% ").unwrap()), "1@1m,5.5%,100%");
    }

    #[test]
    fn what_is_no_wave_is_refused_with_what_to_write() {
        for (waves, problem) in [
            ("", "1 to 32 waves, and this one 0"),
            ("0,100%", "at least 1"),
            ("0%,100%", "above 0 %"),
            ("100.5%", "above 0 %"),
            ("5.00001%,100%", "4 decimals"),
            ("-5%,100%", "above 0 %"),
            ("1e3%,100%", "above 0 %"),
            ("1,5%", "5%, which does not reach the whole cohort"),
            ("1", "does not reach"),
            ("label:tier=canary", "does not reach"),
            ("25%,5%,100%", "5% admits no more devices than wave 25%"),
            ("100%,100%", "admits no more"),
            ("20/min,100%", "admits no more"),
            ("5,3,100%", "3 admits no more"),
            ("label:tier,100%", "KEY=VALUE"),
            ("0/min", "1 to 100000"),
            ("10/min*0.5", "*1 to *5"),
            ("10/min*9", "*1 to *5"),
            ("1@later,100%", "soak"),
            ("1@31d,100%", "soak"),
            ("1@99999999999999999999d,100%", "soak"),
            ("one,100%", "not a wave"),
        ] {
            let error = parse(waves).unwrap_err().to_string();
            assert!(error.contains(problem), "{waves}: {error}");
        }
        assert!(matches!(parse(&"1,".repeat(40)), Err(WaveError::Number(41))));
    }

    #[test]
    fn a_share_is_rounded_up_and_a_rate_grows() {
        let scope = |wave: &str| super::scope(wave).unwrap();
        let share = |share: &str, cohort| scope(share).quota(cohort, 0);
        assert_eq!(share("5%", 0), Some(0));
        assert_eq!(share("5%", 1), Some(1));
        assert_eq!(share("5%", 20), Some(1));
        assert_eq!(share("5%", 21), Some(2));
        assert_eq!(share("100%", 7), Some(7));
        assert_eq!(scope("3").quota(2, 0), Some(2));
        let steady: Vec<_> = [0, 3, 30, 60, 90, 600].map(|at| scope("20/min").quota(100, at)).into();
        assert_eq!(steady, [1, 1, 10, 20, 30, 100].map(Some));
        let doubling: Vec<_> = [0, 60, 120, 180, 240].map(|at| scope("10/min*2").quota(1000, at)).into();
        assert_eq!(doubling, [1, 10, 30, 70, 150].map(Some));
        assert_eq!(scope("1/min*1.001").quota(u64::MAX, u64::MAX), Some(u64::MAX), "ends soon whatever the numbers");
    }
}

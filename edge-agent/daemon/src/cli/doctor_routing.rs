//! The part of `edge-agent doctor` that looks at where requests are answered: the share of the hub, and why.

use types::PolicyMode;

use super::doctor::Check;
use crate::status::ModelStatus;

/// Least number of answers from which a share tells something.
const ANSWERS_TELLING: u64 = 20;

/// Share of answers from the hub, in percent, from which a device that should answer itself hardly does.
const SHARE_HIGH_PERCENT: u64 = 95;

/// Checks what share of a model's requests the hub answers. `None` before the first answer where nothing is wrong.
pub(super) fn routing(model: &ModelStatus) -> Option<Check> {
    const NAME: &str = "routing";
    let name = &model.model;
    if let Some(problem) = model.without_threshold() {
        let advice = "push a version with a `threshold` for this variant, or use the policy prefer-device";
        return Some(Check::warning(NAME, format!("{name}: {problem}"), advice));
    }
    if let Some(refit) = &model.refit {
        let advice =
            "calibrate on recent inputs and roll out that version; `cloud-hub calibration show` has the audits";
        return Some(Check::warning(NAME, format!("{name}: {}", refit.sentence()), advice));
    }
    if let Some(drift) = &model.drift {
        let advice = "calibrate again on recent inputs, or set on_drift = \"defer\" so that the hub answers meanwhile";
        return Some(Check::warning(NAME, format!("{name}: {}", drift.sentence()), advice));
    }
    let share = model.share()?;
    let found = format!("{name}: {share}");
    let nearly_all = model.answered_by_hub.saturating_mul(100) >= model.answered.saturating_mul(SHARE_HIGH_PERCENT);
    let meant = matches!(model.policy, PolicyMode::OnlyHub | PolicyMode::PreferHub);
    if model.answered >= ANSWERS_TELLING && nearly_all && !meant {
        let advice =
            "the reason tells why: a threshold that is too high, a score rule that does not fit, or no local model";
        return Some(Check::warning(NAME, found, advice));
    }
    Some(Check::ok(NAME, found))
}

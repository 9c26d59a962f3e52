//! Layer of the application, kept for the record of the request.

use types::PolicyMode;
use types::policy::RequestRules;

/// Layer of the application: what the request itself asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Mode of the policy.
    pub mode: Option<PolicyMode>,
    /// Whether the request brought a deadline.
    pub has_deadline: bool,
    /// Further rules of the policy.
    pub rules: RequestRules,
}

//! Paging of lists: a limit and the cursor of the page before.

use serde::{Deserialize, Serialize};

/// Maximum number of entries of one page. A page of 1,000 devices has about 1 MB.
pub const PAGE_MAX: u32 = 1000;

/// Query of a list without a filter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Maximum number of entries, at most [`PAGE_MAX`]. Without it the list is complete, as for clients of 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Cursor: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

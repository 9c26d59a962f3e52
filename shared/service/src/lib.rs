//! Parts that both daemons need.

//! House rules, checked: dependency directions, pure cores, module headers, examples, documents.
//!
//! Each module here looks at one thing and answers with sentences about what it found wrong; its own tests plant a
//! violation and see it found. `tests/` holds the real workspace against them.

pub mod deny;
pub mod documents;
pub mod english;
pub mod graph;
pub mod help;
pub mod licences;
pub mod sources;
pub mod tree;

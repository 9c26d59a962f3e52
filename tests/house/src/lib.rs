//! Checks of the house rules: dependency directions, pure cores, module headers, examples, documents, English.
//!
//! Each module here checks one subject and returns a sentence for each violation; its own tests contain violations that
//! must be found. `tests/` applies the checks to the real workspace.

pub mod circles;
pub mod deny;
pub mod documents;
pub mod english;
pub mod graph;
pub mod help;
pub mod licences;
pub mod sources;
pub mod tree;

//! Verbs of the operator.

//! Parts that both daemons need, so that each exists once.
//!
//! | module | provides |
//! |---|---|
//! | [`stop`] | the stop requests of a daemon and how its drain ended |
//! | [`signals`] | the process's signals: stop, stop at once, reload |
//! | [`logs`] | the log filter in force, and its reload |
//! | [`listening`] | `listening.json`, which names the bound addresses |
//! | [`metrics`] | `GET /metrics` |
//! | [`clock`] | the wall clock and its readings for people |
//! | [`units`] | bytes and durations for people |
//! | [`engine_host`] | engines in child processes |
//! | [`check`] | the verb that tells whether an engine can run a model file |
//! | [`config_verb`] | the verbs that check and print configuration |
//! | [`doctor`] | the checks that both `doctor` verbs make |
//! | [`trial`] | the steps of `doctor` that run in a child process |
//!
//! Deliberately absent: inference (`serving`), and anything that only one daemon does.

pub mod check;
pub mod clock;
pub mod config_verb;
pub mod doctor;
pub mod engine_host;
pub mod listening;
pub mod logs;
pub mod metrics;
pub mod policy_verb;
pub mod signals;
pub mod stop;
pub mod trial;
pub mod units;

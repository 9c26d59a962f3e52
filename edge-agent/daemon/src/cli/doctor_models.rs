//! The part of `edge-agent doctor` that looks at the followed models: what is installed, what was given up and why, and
//! whether updates come at all.

use std::path::Path;
use std::sync::Arc;

use console::ExitKind;
use console::doctor::Check;
use edge_core::slots::Slots;
use edge_core::update::{Failure, FailureKind};
use store::{LockError, SledStore, Store, Table, owner};
use types::{ModelName, Version};

use crate::config::AgentConfig;
use crate::records::{self, v1};
use crate::state::Folder;
use crate::status::{ModelStatus, Status, UnreadableRecord};
use crate::updater::read_slots;

/// A version that this device does not try again by itself.
struct GivenUp {
    model: String,
    version: Version,
    kind: String,
    detail: String,
}

/// Looks at every followed model.
pub(super) fn checks(config: &AgentConfig, folder: &Folder, running: Option<&Status>) -> Vec<Check> {
    let mut checks: Vec<Check> = config.models.keys().map(|model| installed(folder, model)).collect();
    let problems = running.iter().flat_map(|status| &status.models);
    let problems = problems.filter_map(|model| Some((&model.model, model.hub_problem.as_ref()?)));
    checks.extend(problems.map(|(model, problem)| {
        let advice = format!("compare [models.{model}] in agent.toml with `cloud-hub model list`");
        Check::warning("hub's models", problem.clone(), advice)
    }));
    checks.extend(running.iter().flat_map(|status| &status.models).filter_map(moved));
    checks.push(updates(config));
    let stored = match running {
        Some(status) => Ok(Stored { given_up: told(status), unreadable: status.unreadable_records.clone() }),
        None => stored(folder),
    };
    match stored {
        Ok(Stored { given_up, unreadable }) => {
            checks.extend(given_up.iter().filter(|one| follows(config, &one.model)).map(one_given_up));
            checks.extend(unreadable.iter().map(one_unreadable));
        }
        Err(problem) => checks.push(Check::warning(
            "given-up updates",
            problem,
            "restart the agent: it begins a new store when this one is damaged",
        )),
    }
    checks
}

fn follows(config: &AgentConfig, model: &str) -> bool {
    config.models.keys().any(|followed| followed.as_str() == model)
}

fn installed(folder: &Folder, model: &ModelName) -> Check {
    const NAME: &str = "model";
    match read_slots(folder, model) {
        Err(error) => Check::failed(NAME, ExitKind::Storage, telemetry::chain(&error), "check the disk"),
        Ok(Slots { active: None, .. }) => {
            let advice = "it is fetched when the hub offers it: see `edge-agent status` and `cloud-hub model list`";
            Check::warning(NAME, format!("{model}: no version is installed yet"), advice)
        }
        Ok(Slots { active: Some(active), .. }) => match is_missing(&folder.version(model, active.version)) {
            true => {
                let found = format!("{model}: the files of version {} are not there", active.version);
                Check::failed(NAME, ExitKind::Storage, found, "restart the agent: it falls back and fetches again")
            }
            false => Check::ok(NAME, format!("{model}: version {} {}", active.version, active.variant)),
        },
    }
}

fn is_missing(place: &Path) -> bool {
    !place.join(crate::state::MANIFEST_FILE).exists()
}

/// Says why a model was moved away from the version or engine that its pointer names, if it was.
fn moved(model: &ModelStatus) -> Option<Check> {
    const NAME: &str = "engine of a model";
    let failover = model.failover.as_ref()?;
    let (name, from, cause) = (&model.model, failover.from, &failover.cause);
    Some(match failover.to {
        Some(to) if to == from => {
            Check::warning(NAME, format!("an older version of {name} serves: {cause}"), "push a mended version")
        }
        Some(to) => {
            let advice = "push a mended version, or mend the device of that engine and restart the agent";
            Check::warning(NAME, format!("{name} was moved from {from} to {to}: {cause}"), advice)
        }
        None => {
            let advice = "push a mended version, or mend the device of that engine and restart the agent; meanwhile the \
                          hub answers requests with policy prefer-device";
            Check::warning(NAME, format!("{name} does not run on this device any more: {cause}"), advice)
        }
    })
}

fn updates(config: &AgentConfig) -> Check {
    const NAME: &str = "updates";
    match config.updates.enabled {
        true => Check::ok(NAME, "new versions are taken"),
        false => Check::warning(
            NAME,
            "updates.enabled is false: no new version is taken, and a model without a version never gets one",
            "set updates.enabled = true in agent.toml and restart the agent",
        ),
    }
}

/// Returns the versions that a running agent has given up.
fn told(status: &Status) -> Vec<GivenUp> {
    let of_model = |model: &ModelStatus| {
        let name = model.model.to_string();
        let given_up = model.failed.iter().map(move |failed| GivenUp {
            model: name.clone(),
            version: failed.version,
            kind: failed.kind.clone(),
            detail: failed.detail.clone(),
        });
        given_up.collect::<Vec<_>>()
    };
    status.models.iter().flat_map(of_model).collect()
}

/// The records of the store that a person should know of.
#[derive(Default)]
struct Stored {
    given_up: Vec<GivenUp>,
    unreadable: Vec<UnreadableRecord>,
}

/// Reads the store of a stopped agent.
fn stored(folder: &Folder) -> Result<Stored, String> {
    let path = folder.store();
    if !path.exists() {
        return Ok(Stored::default());
    }
    // A running agent has the lock; it was asked before, and did not answer.
    let _lock = match folder.lock() {
        Ok(lock) => lock,
        Err(LockError::Newer(newer)) => return Err(newer.to_string()),
        Err(LockError::Held { .. } | LockError::Io { .. }) => return Ok(Stored::default()),
    };
    let read = || -> Result<Stored, String> {
        let (store, _state) = SledStore::open(&path).map_err(|error| telemetry::chain(&error))?;
        let store: Arc<dyn Store> = Arc::new(store);
        let failed: Table<v1::FailedVersion> = Table::new(Arc::clone(&store));
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
        let found = runtime.block_on(async {
            Ok((failed.list().await?.records, store::aside::find(store.as_ref(), &records::TABLES).await?))
        });
        let (failed, unreadable) = found.map_err(|error: store::StoreError| telemetry::chain(&error))?;
        Ok(Stored {
            given_up: failed.into_iter().filter_map(given_up).collect(),
            unreadable: unreadable.into_iter().map(Into::into).collect(),
        })
    };
    let read = read();
    // With `sudo` the store has new files of root by now, and the agent would not open them.
    owner::give_to_owner(folder.root()).map_err(|error| error.to_string())?;
    read
}

fn given_up((key, failure): (String, Failure)) -> Option<GivenUp> {
    let (model, version) = key.rsplit_once('/')?;
    let kind = failure.kind.as_str().to_owned();
    Some(GivenUp { model: model.to_owned(), version: version.parse().ok()?, kind, detail: failure.detail })
}

fn one_unreadable(record: &UnreadableRecord) -> Check {
    let UnreadableRecord { table, key, reason } = record;
    let advice = "nothing is to be done for the device to serve: the record is kept in the store, and comes back with the \
                  version of the agent that can read it";
    Check::warning("stored records", format!("record {key} of table {table} was set aside: {reason}"), advice)
}

fn one_given_up(given_up: &GivenUp) -> Check {
    let GivenUp { model, version, kind, detail } = given_up;
    let found = format!("{model} version {version} was given up: {kind}: {detail}");
    let again = format!("then let the devices try again: cloud-hub model offer {model} {version}");
    let advice = if kind == FailureKind::NoVariant.as_str() {
        "push a version with a variant that this device can run, or correct models.*.variant and engine.engines in agent.toml"
            .to_owned()
    } else if kind == FailureKind::GoldenMismatch.as_str() {
        "the model answers otherwise on this device than its author's golden answers say: push a version with another \
         variant or another golden tolerance"
            .to_owned()
    } else if kind == FailureKind::ModelRefused.as_str() {
        "see what the engine says of it (`edge-agent check FILE`), and push a corrected version".to_owned()
    } else if kind == FailureKind::BadManifest.as_str() {
        "push it again with a cloud-hub of the version that this agent has".to_owned()
    } else if kind == FailureKind::DiskFull.as_str() || kind == FailureKind::Storage.as_str() {
        format!("mend the disk of the state folder, {again}")
    } else if [FailureKind::Tampered, FailureKind::NotSigned, FailureKind::TrustRefused]
        .iter()
        .any(|one| kind == one.as_str())
    {
        format!("the hub does not have what was signed: push the version again there, {again}")
    } else {
        format!("remove the cause, {again}")
    };
    Check::warning("given-up updates", found, advice)
}

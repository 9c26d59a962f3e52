//! `cloud-hub model push | list | status | figures | offer | assign | withdraw | delete | gc | init | check | inspect | compress |
//! calibrate | evaluate | compare`.

use clap::Subcommand;
use console::CliError;
use hub_cli::model::{self, AssignArgs, GcArgs, ListArgs, OfferArgs, OneArgs};

use super::locate::own_hub;
use super::withdraw::Removal;
use super::{calibrate, check, compare, compress, evaluate, inspect, new_form, push, withdraw};

#[derive(Debug, Subcommand)]
pub(super) enum ModelVerb {
    /// Pack, sign and publish one version of a model, and offer it to devices that follow it.
    Push(push::PushArgs),
    /// List all models.
    #[command(after_help = "Example:\n  cloud-hub model list")]
    List(ListArgs),
    /// Show one model: its versions, and how far each device has come.
    #[command(after_help = "\
Example:
  cloud-hub model status digits

Shows the number and share of the requests that this hub served since it started, by the reason for
which devices sent them. The hub does not see requests that devices serve themselves: `edge-agent
status` on a device shows the share that it sends to the hub.")]
    Status(OneArgs),
    /// Show what devices count and measure of a model's versions: answers, errors, audits, latency, memory.
    #[command(after_help = "\
Example:
  cloud-hub model figures digits --json | jq '.versions[] | {version, audited, agreed}'

Figures cover the last day. Latencies are upper bounds, at most 19 % above the true value.")]
    Figures(OneArgs),
    /// Make a version current and offer it to every device at once, or offer one again that failed.
    #[command(after_help = "\
Example:
  cloud-hub model offer digits 2

`cloud-hub rollout create` brings a version to devices in waves instead.")]
    Offer(OfferArgs),
    /// Let devices follow a model beside those of their own configuration.
    #[command(after_help = "\
Examples:
  cloud-hub model assign digits --filter 'site=berlin'
  cloud-hub model assign digits --none

The owner of a device can forbid it in agent.toml.")]
    Assign(AssignArgs),
    /// Take back a version that no device took, for example one with a wrong number.
    #[command(after_help = "\
Example:
  cloud-hub model withdraw digits 20 --keys offline-keys

Refused when a device has the version or may have it: a number that a device knows never gets other content.
The number is free again afterwards, and devices follow the version that was offered before.")]
    Withdraw(withdraw::WithdrawArgs),
    /// Delete a past version that no device holds any more, with its files on the hub.
    #[command(after_help = "\
Example:
  cloud-hub model delete digits 3 --keys offline-keys

Refused when devices are offered the version or hold it, and the error names them. `cloud-hub model gc --dry-run` lists
versions that could be deleted. Devices cannot return to a deleted version, and its number is not used again.")]
    Delete(withdraw::WithdrawArgs),
    /// Remove files that nothing needs: remains of failed pushes, and deltas that no device can use.
    #[command(after_help = "\
Example:
  cloud-hub model gc --dry-run

Lists the versions that no device holds, too. They stay until you delete them: see `cloud-hub model delete --help`.")]
    Gc(GcArgs),
    /// Write a commented model.toml for an ONNX file.
    #[command(after_help = new_form::HELP)]
    Init(new_form::InitModelArgs),
    /// Check whether an engine can run a model file, and list everything that prevents it.
    Check(check::CheckArgs),
    /// Show what is in a model file: inputs, operators, weights, arithmetic, and which engine runs it.
    Inspect(inspect::InspectArgs),
    /// Make small, fast variants of a model file, and measure what they cost.
    Compress(Box<compress::CompressArgs>),
    /// Find the threshold of each device variant with which few answers are kept that differ from the full model's.
    #[command(after_help = calibrate::HELP)]
    Calibrate(calibrate::CalibrateArgs),
    /// Measure the variants, the full model and the cascade of both on examples.
    #[command(after_help = evaluate::HELP)]
    Evaluate(evaluate::EvaluateArgs),
    /// Compare two models on the same examples: which is better, and where they disagree.
    #[command(after_help = compare::HELP)]
    Compare(compare::CompareArgs),
}

pub(super) fn run(verb: &ModelVerb) -> Result<(), CliError> {
    match verb {
        ModelVerb::Push(args) => push::run(args),
        ModelVerb::Withdraw(args) => withdraw::run(args, Removal::Withdraw),
        ModelVerb::Delete(args) => withdraw::run(args, Removal::Delete),
        ModelVerb::Gc(args) => model::gc(args, own_hub),
        ModelVerb::Init(args) => new_form::run(args),
        ModelVerb::Check(args) => check::run(args),
        ModelVerb::Inspect(args) => inspect::run(args),
        ModelVerb::Compress(args) => compress::run(args),
        ModelVerb::Calibrate(args) => calibrate::run(args),
        ModelVerb::Evaluate(args) => evaluate::run(args),
        ModelVerb::Compare(args) => compare::run(args),
        ModelVerb::List(args) => model::list(args, own_hub),
        ModelVerb::Status(args) => model::status(args, own_hub),
        ModelVerb::Figures(args) => model::figures(args, own_hub),
        ModelVerb::Offer(args) => model::offer(args, own_hub),
        ModelVerb::Assign(args) => model::assign(args, own_hub),
    }
}

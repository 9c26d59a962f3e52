//! `cloud-hub trust status | renew | rotate | add-signer | remove-signer | sign | publish | keygen | passphrase`.
//!
//! The offline keys never leave the operator's machine: the verbs fetch what is in force from the hub ([`site`]), write and
//! sign what follows here ([`finish`], with keys from [`keys`]), and the hub checks it as a device would before it counts.

mod finish;
pub(super) mod keys;
mod pinned;
mod rotate;
mod site;
mod status;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use console::{CliError, ExitKind, OrExit};
use jiff::Timestamp;
use model_tools::sign::{Authority, CHANGE_BYTES_MAX, Change, KeyPair, PublicKey, Role, Roles};
use store::files;

pub(super) use finish::write_change;
use keys::{KeyArgs, Keyring, NewPassphrase};
pub(super) use pinned::checked_root;
pub(super) use site::Site;
use site::SiteArgs;

#[derive(Debug, Subcommand)]
pub(super) enum TrustVerb {
    /// Show who may sign what, until when, and what to do.
    #[command(after_help = "\
Examples:
  cloud-hub trust status
  cloud-hub trust status --json | jq '.roles[] | select(.days_left < 60)'
  cloud-hub trust status --config hub/hub.toml        # of a hub that is stopped")]
    Status(status::StatusArgs),
    /// Sign root and list of versions again, with a new expiry; works after they have expired too.
    #[command(after_help = "\
Examples:
  cloud-hub trust renew --keys offline-keys
  cloud-hub trust renew --keys targets-only --targets
  cloud-hub trust renew --keys mine --out change.json   # when further holders must sign: trust sign, trust publish")]
    Renew(RenewArgs),
    /// Replace keys: those of the root, those of the list of versions, or the hub's own.
    #[command(after_help = "\
Examples:
  cloud-hub trust rotate root --keys offline-keys
  cloud-hub trust rotate targets --keys offline-keys
  cloud-hub trust rotate online --keys offline-keys     # after a break-in at the hub

A new key of root or targets is written into the folder of keys; the old one is kept there as retired.
The new keys of the hub are made on the hub and never leave it. `rotate targets` replaces them as well: devices keep the
version of the list in what these keys sign.")]
    Rotate(rotate::RotateArgs),
    /// Let one more key sign root or targets, or change how many must sign.
    #[command(
        name = "add-signer",
        after_help = "\
Examples:
  cloud-hub trust add-signer targets alice.pub --threshold 2 --keys offline-keys
  cloud-hub trust add-signer root --threshold 2 --keys offline-keys"
    )]
    AddSigner(SignerArgs),
    /// Take a key of root or targets away, for example one that was lost.
    #[command(
        name = "remove-signer",
        after_help = "Example:\n  cloud-hub trust remove-signer targets alice.pub --threshold 1 --keys offline-keys"
    )]
    RemoveSigner(SignerArgs),
    /// Add signatures to a prepared change, on the machine of a holder of keys. Speaks to no hub.
    #[command(after_help = "Example:\n  cloud-hub trust sign change.json --key /media/usb/alice.key")]
    Sign(SignArgs),
    /// Publish a prepared change that has enough signatures.
    #[command(after_help = "\
Examples:
  cloud-hub trust publish change.json
  cloud-hub trust publish signed-by-alice.json signed-by-bob.json     # their signatures are put together")]
    Publish(PublishArgs),
    /// Make a key for a holder: FILE.key stays private, FILE.pub goes to `add-signer`.
    #[command(after_help = "Example:\n  cloud-hub trust keygen alice --passphrase")]
    Keygen(KeygenArgs),
    /// Change the passphrase of a key file, set one, or take it away.
    #[command(after_help = "\
Examples:
  cloud-hub trust passphrase offline-keys/root.key
  cloud-hub trust passphrase offline-keys/root.key --none")]
    Passphrase(PassphraseArgs),
}

/// A role whose keys are offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OfflineRole {
    /// The keys of every role.
    Root,
    /// The list of versions that devices may install.
    Targets,
}

impl OfflineRole {
    fn role(self) -> Role {
        match self {
            Self::Root => Role::Root,
            Self::Targets => Role::Targets,
        }
    }
}

/// Argument for a change that needs further signatures.
#[derive(Debug, Args)]
struct OutArgs {
    /// Write the change to this file instead of publishing it: further holders add their signatures.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RenewArgs {
    /// Renew the root.
    #[arg(long)]
    root: bool,
    /// Renew the list of versions. Without --root and --targets both are renewed.
    #[arg(long)]
    targets: bool,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Debug, Args)]
pub(super) struct SignerArgs {
    /// Role whose signers change.
    role: OfflineRole,
    /// Public key: a file that `trust keygen` made, or 64 hex digits.
    #[arg(value_name = "KEY")]
    signer: Option<String>,
    /// Number of keys that must sign from now on.
    #[arg(long, value_name = "N")]
    threshold: Option<usize>,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// The prepared change; signatures are added to this file.
    file: PathBuf,
    #[command(flatten)]
    keys: KeyArgs,
}

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// The prepared change; further files of the same change add their signatures.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Debug, Args)]
pub(super) struct KeygenArgs {
    /// Name of the files without ending: NAME.key and NAME.pub are written; neither may exist.
    name: PathBuf,
    #[command(flatten)]
    passphrase: NewPassphrase,
}

#[derive(Debug, Args)]
pub(super) struct PassphraseArgs {
    /// The key file.
    file: PathBuf,
    /// File with the old passphrase in its first line [default: SANDERLING_KEY_PASSPHRASE, or a prompt].
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// File with the new passphrase in its first line [default: a prompt].
    #[arg(long, value_name = "FILE", conflicts_with = "none")]
    new_passphrase_file: Option<PathBuf>,
    /// Store the key without a passphrase.
    #[arg(long)]
    none: bool,
}

pub(super) fn run(verb: &TrustVerb) -> Result<(), CliError> {
    match verb {
        TrustVerb::Status(args) => status::run(args),
        TrustVerb::Renew(args) => renew(args),
        TrustVerb::Rotate(args) => rotate::run(args),
        TrustVerb::AddSigner(args) => change_signers(args, Edit::Add),
        TrustVerb::RemoveSigner(args) => change_signers(args, Edit::Remove),
        TrustVerb::Sign(args) => sign(args),
        TrustVerb::Publish(args) => publish(args),
        TrustVerb::Keygen(args) => keygen(args),
        TrustVerb::Passphrase(args) => passphrase(args),
    }
}

/// Files in force at the hub, checked from the root beside the keys.
struct InForce {
    root: Vec<u8>,
    targets: Vec<u8>,
    roles: Roles,
}

fn in_force(site: &Site, keys: &Keyring) -> Result<InForce, CliError> {
    let root = checked_root(site, keys.folder())?;
    let targets = site.file("targets.json")?;
    let roles = Roles::read(&root).or_exit(ExitKind::Refused)?;
    Ok(InForce { root, targets, roles })
}

fn renew(args: &RenewArgs) -> Result<(), CliError> {
    let (site, keys) = (args.site.open()?, args.keys.open()?);
    let InForce { root, targets, roles } = in_force(&site, &keys)?;
    let now = Timestamp::now();
    let both = args.root == args.targets;
    let change = if args.root || both {
        Change::of_roles(&root, &targets, &roles, both, now)
    } else {
        Change::of_targets(&root, &targets, now)
    };
    let change = change.or_exit(ExitKind::Refused)?;
    finish::finish(&site, change, &keys, args.out.out.as_deref(), args.site.output()).map(drop)
}

/// Edit of the signers of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    Add,
    Remove,
}

fn change_signers(args: &SignerArgs, edit: Edit) -> Result<(), CliError> {
    let (site, keys) = (args.site.open()?, args.keys.open()?);
    let InForce { root, targets, mut roles } = in_force(&site, &keys)?;
    let authority = match args.role {
        OfflineRole::Root => &mut roles.root,
        OfflineRole::Targets => &mut roles.targets,
    };
    let key = args.signer.as_deref().map(keys::public_key).transpose()?;
    edit_authority(authority, edit, key, args.threshold)?;
    let change = Change::of_roles(&root, &targets, &roles, false, Timestamp::now()).or_exit(ExitKind::Usage)?;
    finish::finish(&site, change, &keys, args.out.out.as_deref(), args.site.output()).map(drop)
}

fn edit_authority(
    authority: &mut Authority,
    edit: Edit,
    key: Option<PublicKey>,
    threshold: Option<usize>,
) -> Result<(), CliError> {
    let usage = |problem: String| CliError::new(ExitKind::Usage, problem);
    if key.is_none() && (threshold.is_none() || edit == Edit::Remove) {
        return Err(usage("nothing is to be changed".to_owned()).hint("name a public key, or give --threshold"));
    }
    let place = key.and_then(|key| authority.keys.iter().position(|known| *known == key));
    match (edit, key, place) {
        (Edit::Add, Some(key), Some(_)) => {
            return Err(CliError::new(ExitKind::Conflict, format!("key {key} may sign already")));
        }
        (Edit::Add, Some(key), None) => authority.keys.push(key),
        (Edit::Remove, Some(_), Some(place)) => drop(authority.keys.remove(place)),
        (Edit::Remove, Some(key), None) => {
            return Err(CliError::new(ExitKind::NotFound, format!("key {key} is none of the role's"))
                .hint("see the keys of each role: cloud-hub trust status"));
        }
        (Edit::Add | Edit::Remove, None, _) => {}
    }
    authority.threshold = threshold.unwrap_or(authority.threshold);
    if authority.threshold == 0 || authority.threshold > authority.keys.len() {
        let (keys, threshold) = (authority.keys.len(), authority.threshold);
        return Err(
            usage(format!("{threshold} of {keys} keys cannot sign")).hint("give a lower --threshold, from 1 up")
        );
    }
    Ok(())
}

fn sign(args: &SignArgs) -> Result<(), CliError> {
    let mut change = finish::read(&args.file)?;
    let keys = args.keys.open()?;
    pinned::note_root(&change.previous_root, keys.folder())?;
    for line in change.summary().or_exit(ExitKind::Refused)? {
        console::print_line(&line)?;
    }
    let signed = finish::sign(&mut change, &keys)?;
    if signed == 0 {
        return Err(CliError::new(
            ExitKind::Refused,
            "none of these keys may sign this change, or they signed it already",
        )
        .hint("see which keys are needed: cloud-hub trust status"));
    }
    write_change(&args.file, &change)?;
    for line in finish::still_needed(&change, &args.file)? {
        console::print_line(&line)?;
    }
    Ok(())
}

fn publish(args: &PublishArgs) -> Result<(), CliError> {
    let mut files = args.files.iter().map(|file| finish::read(file));
    let mut change = files.next().unwrap_or_else(|| Err(CliError::new(ExitKind::Usage, "no file is named")))?;
    for other in files {
        change.merge(&other?).or_exit(ExitKind::Conflict)?;
    }
    let site = args.site.open()?;
    finish::publish(&site, &change, args.site.output())
}

fn keygen(args: &KeygenArgs) -> Result<(), CliError> {
    let key = KeyPair::generate().or_exit(ExitKind::Failed)?;
    let passphrase = args.passphrase.read("new key")?;
    let path = keys::with_ending(&args.name, "key");
    keys::save(&key, &path, passphrase.as_ref())?;
    let public = keys::with_ending(&args.name, "pub");
    console::print_line(&format!(
        "{} holds the private key: keep it to yourself\n{} holds the public key {}: give it to whoever runs add-signer",
        path.display(),
        public.display(),
        key.public()
    ))?;
    Ok(())
}

fn passphrase(args: &PassphraseArgs) -> Result<(), CliError> {
    let old = KeyArgs::of_passphrase_file(args.passphrase_file.clone());
    let key = old.open_file(&args.file)?;
    let new = match (&args.new_passphrase_file, args.none) {
        (_, true) => None,
        (Some(file), false) => Some(keys::passphrase_in(file)?),
        (None, false) => Some(keys::prompt_twice(&args.file.display().to_string())?),
    };
    key.replace(&args.file, new.as_ref()).or_exit(ExitKind::Storage)?;
    let state = if new.is_some() { "is under the new passphrase" } else { "has no passphrase any more" };
    console::print_line(&format!("{} {state}", args.file.display()))?;
    Ok(())
}

/// Reads a file of a change, bounded.
fn read_bounded(path: &std::path::Path) -> Result<Vec<u8>, CliError> {
    files::read_bounded(path, CHANGE_BYTES_MAX).map_err(|error| {
        let kind = if error.is_not_found() { ExitKind::NotFound } else { ExitKind::Storage };
        CliError::new(kind, error)
    })
}

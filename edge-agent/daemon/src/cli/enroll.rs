//! `edge-agent enroll`: makes this machine a device of a hub.

use std::io::Read as _;
use std::time::Duration;

use bundle::trust::{Trust, TrustError};
use bytes::Bytes;
use clap::Args;
use console::{CliError, ExitKind, OrExit};
use protocol::v1::{EnrolRequest, EnrolResponse, Enrolled, Refusal, RefusalCode};
use protocol::{JoinToken, TokenError};
use serde::Serialize;
use service::clock;
use store::files::{self, Mode};
use store::{StateLock, owner};
use transport::{Alpn, DeviceKey, DialError, DialErrorKind, Dialer, DialerConfig, ExchangeError, Limits, Priority};
use types::Digest;

use super::{Context, folder_of};
use crate::config::AgentConfig;
use crate::crash::{CrashPoint, crash_at};
use crate::identity::{self, Enrolment, HubRecord, pending};
use crate::state::Folder;

/// Longest wait for the hub: handshake, issuing a certificate, and a poor mobile link.
const ENROL_WITHIN: Duration = Duration::from_secs(30);
/// Longest token that is read from standard input, in bytes; see `protocol::token::TOKEN_CHARS_MAX`.
const TOKEN_BYTES_MAX: u64 = 8192;

/// Bytes that an identity and the trust root take at most, on a disk of 4 KiB blocks.
const IDENTITY_BYTES: usize = 64 * 1024;

/// Advice after a failure of this machine's disk: the hub answers the same key again while the token is good.
const AGAIN: &str = "free some space, then run the same command again with the same token";

/// Makes this machine a device of a hub, with a join token.
///
/// The key is made here and never leaves this machine. The token works for one machine and for an hour at most; after a
/// power cut or a lost answer, run the same command again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        cloud-hub token create                       (on the operator's machine)\n  \
                        edge-agent enroll sandjoin1_…\n  \
                        edge-agent enroll - < token.txt              keeps the token out of the process list\n  \
                        sudo edge-agent enroll sandjoin1_…           for the user that owns the state folder\n  \
                        edge-agent enroll --force sandjoin1_…        replaces a revoked or expired identity\n\n\
                        The agent must not be running; start it afterwards with `edge-agent run`.")]
pub struct Enroll {
    /// The token, or - to read it from standard input
    token: String,
    /// Replaces the identity that this machine already has
    #[arg(long)]
    force: bool,
}

/// Result of an enrolment.
#[derive(Debug, Serialize)]
struct Outcome {
    device: String,
    hub: Vec<String>,
    certificate_not_after_unix_s: i64,
    state_dir: String,
}

impl Enroll {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        store::files::make_private_by_default();
        let config = context.configuration()?;
        let token = read_token(&self.token)?;
        let folder = folder_of(&config);
        let _lock = take_folder(&folder)?;
        let enrolled = self.enrolled(&config, &folder, &token);
        // With `sudo` some files are root's by now, and the agent would not read them; also after a failure.
        let given = owner::give_to_owner(folder.root());
        let outcome = enrolled?;
        given.or_exit_try(ExitKind::Storage, "give the state folder to the user that the agent runs as: chown -R")?;
        context.output.print(&outcome, human).or_exit(ExitKind::Storage)
    }

    /// Enrols with everything that can go wrong before the token is used up checked first.
    fn enrolled(&self, config: &AgentConfig, folder: &Folder, token: &JoinToken) -> Result<Outcome, CliError> {
        if let Some(outcome) = finished_before(folder, token)? {
            return Ok(outcome);
        }
        self.check_earlier(folder, token)?;
        check_room(folder)?;
        let key = pending::key_for(&folder.identity(), token.secret.digest()).or_exit_try(ExitKind::Storage, AGAIN)?;
        crash_at(CrashPoint::EnrolKeyStored);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let waiting = console::spinner("asking the hub");
        let enrolled = runtime.block_on(enrol(config, token, &key));
        waiting.done("");
        let enrolled = enrolled?;
        crash_at(CrashPoint::EnrolAnswered);
        keep(folder, token, &key, enrolled)
    }

    /// Everything that can go wrong without the hub, before the token is used up.
    fn check_earlier(&self, folder: &Folder, token: &JoinToken) -> Result<(), CliError> {
        let earlier = match identity::read(&folder.identity()) {
            Ok(Some(earlier)) => earlier,
            Ok(None) => return Ok(()),
            // A damaged identity is what enrolling again is for.
            Err(_damaged) if self.force => return Ok(()),
            Err(damaged) => {
                return Err(CliError::new(ExitKind::Storage, damaged).hint("add --force to replace the identity"));
            }
        };
        if Digest::of(&earlier.ca_der) != token.ca {
            let said = format!("this machine is device {} of another hub", earlier.hub.device);
            let hint = "give another folder with --state-dir, or move the old one away";
            return Err(CliError::new(ExitKind::Conflict, said).hint(hint));
        }
        let now = clock::signed_unix_s();
        if !self.force && earlier.identity.not_after_unix_s() > now {
            let said = format!("this machine is enrolled already, as device {}", earlier.hub.device);
            return Err(CliError::new(ExitKind::Conflict, said).hint("add --force to replace its identity"));
        }
        Ok(())
    }
}

/// Returns what an earlier run with this token brought, if only its last step was cut off.
fn finished_before(folder: &Folder, token: &JoinToken) -> Result<Option<Outcome>, CliError> {
    let identity = folder.identity();
    identity::finish_replacement(&identity).or_exit(ExitKind::Storage)?;
    match identity::read(&identity) {
        Ok(Some(enrolment)) if pending::is_done(&identity, token.secret.digest(), &enrolment) => {
            pending::forget(&identity).or_exit(ExitKind::Storage)?;
            Ok(Some(outcome(folder, enrolment)))
        }
        // Anything else is for the checks that follow.
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Writes as much as an identity takes, and removes it: a full disk must not cost the token.
fn check_room(folder: &Folder) -> Result<(), CliError> {
    let trial = folder.identity().join("room.trial");
    let written = files::write_atomic(&trial, &[0; IDENTITY_BYTES], Mode::Private);
    files::remove_file(&trial).and(written).or_exit_try(ExitKind::Storage, AGAIN)
}

fn read_token(argument: &str) -> Result<JoinToken, CliError> {
    let mut text = argument.to_owned();
    if argument == "-" {
        text.clear();
        std::io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut text).or_exit(ExitKind::Storage)?;
    }
    text.trim().parse().map_err(|error: TokenError| CliError::new(ExitKind::Usage, error))
}

fn take_folder(folder: &Folder) -> Result<StateLock, CliError> {
    let hint = "check that the folder is on a writable disk with free space, and who owns it";
    folder.create().or_exit_try(ExitKind::Storage, hint)?;
    folder.lock().map_err(|error| match error.is_held() {
        true => CliError::new(ExitKind::Conflict, error).hint("stop the agent, enrol, then start it again"),
        false => CliError::new(ExitKind::Storage, error).hint(hint),
    })
}

async fn enrol(config: &AgentConfig, token: &JoinToken, key: &DeviceKey) -> Result<Enrolled, CliError> {
    let request = EnrolRequest {
        secret: token.secret.clone(),
        csr_der: key.csr_der()?,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let dialer = Dialer::new(DialerConfig {
        identity: None,
        trust: transport::Trust::CaFingerprint(token.ca),
        server_name: token.server_name.clone(),
        alpn: Alpn::Enrol,
        limits: Limits::agent(),
        congestion: config.hub.congestion,
    })?;
    let connection = dialer.dial(&token.hub).await.map_err(explain_dial)?;
    let asked = connection.request::<_, EnrolResponse>(Priority::Control, &request, &[]);
    let answered = tokio::time::timeout(ENROL_WITHIN, asked).await;
    let answered =
        answered.or_exit_try(ExitKind::Unavailable, "the hub is slow or gone: try again with the same token")?;
    let (response, _exchange) = answered.map_err(explain_exchange)?;
    connection.close(transport::CloseCode::Done, "enrolled");
    connection.drain().await;
    match response {
        EnrolResponse::Enrolled(enrolled) => Ok(enrolled),
        EnrolResponse::Refused(refusal) => Err(explain_refusal(refusal)),
    }
}

/// Checks what the hub gave and writes it down; the certificate comes last.
fn keep(folder: &Folder, token: &JoinToken, key: &DeviceKey, enrolled: Enrolled) -> Result<Outcome, CliError> {
    let ca: Bytes = enrolled.ca_der;
    if Digest::of(&ca) != token.ca {
        let said = "the hub sent another CA than the join token names";
        return Err(CliError::new(ExitKind::Refused, said).hint("ask the hub's operator: this may be an attack"));
    }
    let identity = key.identity(&enrolled.chain_der).or_exit(ExitKind::Refused)?;
    if identity.device().or_exit(ExitKind::Refused)? != enrolled.device {
        return Err(CliError::new(ExitKind::Refused, "the hub issued a certificate for another device"));
    }
    Trust::open(&folder.trust(), &enrolled.root_json).map_err(explain_trust)?;
    crash_at(CrashPoint::EnrolTrustStored);
    let hub =
        HubRecord { device: enrolled.device, addresses: token.hub.clone(), server_name: token.server_name.clone() };
    let enrolment = Enrolment { identity, ca_der: ca, hub };
    identity::store(&folder.identity(), key, &enrolment).or_exit_try(ExitKind::Storage, AGAIN)?;
    crash_at(CrashPoint::EnrolIdentityStored);
    pending::forget(&folder.identity()).or_exit(ExitKind::Storage)?;
    Ok(outcome(folder, enrolment))
}

fn outcome(folder: &Folder, enrolment: Enrolment) -> Outcome {
    Outcome {
        device: enrolment.hub.device.to_string(),
        hub: enrolment.hub.addresses,
        certificate_not_after_unix_s: enrolment.identity.not_after_unix_s(),
        state_dir: folder.root().display().to_string(),
    }
}

fn human(outcome: &Outcome) -> String {
    let until = clock::rfc3339(outcome.certificate_not_after_unix_s);
    format!(
        "enrolled as device {} of hub {}\ncertificate good until {until}, renewed by the agent before that\nnext: edge-agent run",
        outcome.device,
        outcome.hub.join(", ")
    )
}

/// The kind of a failed dial, and what to do about it; shared with `doctor`.
pub(super) fn dial_exit(error: &DialError) -> ExitKind {
    match error.kind() {
        DialErrorKind::Unreachable | DialErrorKind::Busy | DialErrorKind::Other => ExitKind::Unavailable,
        DialErrorKind::WrongCa
        | DialErrorKind::CertificateTime
        | DialErrorKind::NotAuthorised
        | DialErrorKind::Version => ExitKind::Refused,
        DialErrorKind::Local => ExitKind::Failed,
    }
}

fn explain_dial(error: DialError) -> CliError {
    let (kind, advice) = (dial_exit(&error), error.advice());
    CliError::new(kind, error).hint(advice)
}

fn explain_exchange(error: ExchangeError) -> CliError {
    CliError::new(ExitKind::Unavailable, error).hint("look into the hub's log, then try again with the same token")
}

fn explain_refusal(refusal: Refusal) -> CliError {
    let (kind, hint) = match refusal.code {
        RefusalCode::TokenUsed => {
            (ExitKind::Refused, "a token enrols one machine, once: make another with `cloud-hub token create`")
        }
        RefusalCode::TokenExpired => (ExitKind::Refused, "make another with `cloud-hub token create`"),
        RefusalCode::TokenUnknown => (
            ExitKind::Refused,
            "the hub never made this token, or was set up anew: make one with `cloud-hub token create`",
        ),
        RefusalCode::Busy | RefusalCode::ShuttingDown => (ExitKind::Unavailable, "try again in a minute"),
        RefusalCode::UnknownModel
        | RefusalCode::BadInput
        | RefusalCode::TooLarge
        | RefusalCode::DeadlineExceeded
        | RefusalCode::Cancelled
        | RefusalCode::NotAuthorised
        | RefusalCode::Revoked
        | RefusalCode::Unsupported
        | RefusalCode::NotFound
        | RefusalCode::Internal => (ExitKind::Failed, "ask the hub's operator: the hub's log holds the cause"),
    };
    CliError::new(kind, refusal).hint(hint)
}

fn explain_trust(error: TrustError) -> CliError {
    let (kind, hint) = match &error {
        TrustError::OtherRoot(_) => {
            (ExitKind::Conflict, "give another folder with --state-dir, or move the old one away, and make a new token")
        }
        TrustError::Storage { .. } => (ExitKind::Storage, AGAIN),
        TrustError::BadRoot(_)
        | TrustError::NoRoot(_)
        | TrustError::Source { .. }
        | TrustError::TooLarge { .. }
        | TrustError::Expired { .. }
        | TrustError::Rollback { .. }
        | TrustError::Signatures { .. }
        | TrustError::Refused(_)
        | TrustError::ManyRoots
        | TrustError::Incomplete
        | TrustError::Interrupted
        | TrustError::NotListed { .. } => (ExitKind::Refused, "ask the hub's operator: its trust root is not usable"),
    };
    CliError::new(kind, error).hint(hint)
}

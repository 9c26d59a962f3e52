//! Every call of the API.

use types::{DeviceId, Digest, ModelName};

use crate::audit::{AuditPage, AuditQuery, AuditVerification};
use crate::endpoint::{Body, Description, Endpoint, FileBytes, Method, NoBody, NoQuery};
use crate::trust::{OnlineKeysView, TrustChange, TrustChanged, TrustView};
use crate::{
    AssignRequest, AssignmentView, BackupSnapshot, BlobStored, CalibrationList, CalibrationReset, CalibrationResetDone,
    DeleteRequest, Deleted, DeviceList, DeviceListQuery, DeviceView, ExplainQuery, Garbage, GarbageRequest, HubStatus,
    LabelChange, ModelFigures, ModelList, ModelView, OfferRequest, OperatorCreated, OperatorList, OperatorRenewal,
    OperatorRequest, OperatorRevoked, PageQuery, PinRequest, PinView, PublishRequest, Published, RevokeRequest, Role,
    RolloutAction, RolloutDetail, RolloutExplanation, RolloutList, RolloutRequest, RolloutView, TokenCreated,
    TokenRequest, WithdrawRequest, Withdrawn,
};

/// Defines the endpoints and the list of them.
macro_rules! endpoints {
    ($(
        $(#[$doc:meta])*
        $name:ident = $method:ident $path:literal ($id:ty) $query:ty [$($parameter:literal),*] $request:ty => $response:ty,
        $role:ident, [$($verb:literal),*], $summary:literal;
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub struct $name;

            impl Endpoint for $name {
                type Id = $id;
                type Query = $query;
                type Request = $request;
                type Response = $response;

                const METHOD: Method = Method::$method;
                const PATH: &'static str = $path;
                const ROLE: Role = Role::$role;
                const QUERY: &'static [&'static str] = &[$($parameter),*];
                const SUMMARY: &'static str = $summary;
                const VERBS: &'static [&'static str] = &[$($verb),*];
            }
        )*

        /// Describes every endpoint, in the order of the reference page.
        #[must_use]
        pub fn all() -> Vec<Description> {
            vec![$(Description::of::<$name>()),*]
        }
    };
}

endpoints! {
    /// Reads the status of the hub.
    Status = Get "/status" (()) NoQuery [] NoBody => HubStatus, Viewer, ["status"],
        "gives a summary of the hub's state";
    /// Creates a join token.
    CreateToken = Post "/tokens" (()) NoQuery [] TokenRequest => TokenCreated, Operator, ["token create"],
        "creates a join token, good once and for at most an hour; `warnings` names addresses in it that no device can reach";
    /// Lists devices, filtered and in pages.
    ListDevices = Get "/devices" (()) DeviceListQuery ["filter", "limit", "after"] NoBody => DeviceList, Viewer, ["device list"],
        "lists devices by name: connection, certificate, labels, models, last report; `renewable_until_unix_ms` once the certificate has expired, `cloned` while two machines use the identity, `unknown` for devices without a record";
    /// Reads the state of one device.
    ShowDevice = Get "/devices/{device}" (DeviceId) NoQuery [] NoBody => DeviceView, Viewer, ["device show"],
        "gives one device";
    /// Changes the labels of a device.
    LabelDevice = Post "/devices/{device}/labels" (DeviceId) NoQuery [] LabelChange => DeviceView, Operator, ["device label"],
        "sets and removes labels of a device";
    /// Revokes a device for ever.
    RevokeDevice = Post "/devices/{device}/revoke" (DeviceId) NoQuery [] RevokeRequest => DeviceView, Operator, ["device revoke"],
        "revokes a device, at once and for ever";
    /// Takes up a device without a record.
    ReadmitDevice = Post "/devices/{device}/readmit" (DeviceId) NoQuery [] NoBody => DeviceView, Operator, ["device readmit"],
        "lets a device in that has no record and showed a certificate of this hub's CA (`unknown` in `GET /devices`)";
    /// Lists models in pages.
    ListModels = Get "/models" (()) PageQuery ["limit", "after"] NoBody => ModelList, Viewer, ["model list"],
        "lists models by name with their versions, the state of each device, and `answered`: requests that this hub answered by the devices' reason, with their share of these (`share_percent`)";
    /// Reads the state of one model.
    ShowModel = Get "/models/{model}" (ModelName) NoQuery [] NoBody => ModelView, Viewer, ["model status"],
        "gives one model";
    /// Reads the figures of one model.
    ShowFigures = Get "/models/{model}/figures" (ModelName) NoQuery [] NoBody => ModelFigures, Viewer, ["model figures"],
        "gives what devices count and measure of a model's versions: answers, deferrals, errors, audits, latency, memory";
    /// Publishes a version of a model.
    PublishVersion = Post "/models/{model}/versions" (ModelName) NoQuery [] PublishRequest => Published, Releaser, ["model push", "trust publish"],
        "publishes a version whose files are uploaded; `targets` is the newly signed metadata";
    /// Offers a version to devices.
    OfferVersion = Post "/models/{model}/offer" (ModelName) NoQuery [] OfferRequest => Published, Releaser, ["model offer"],
        "offers a version to the devices that follow the model";
    /// Withdraws a version of a model.
    WithdrawVersion = Post "/models/{model}/withdraw" (ModelName) NoQuery [] WithdrawRequest => Withdrawn, Releaser, ["model withdraw", "trust publish"],
        "withdraws a version that no device has or may have; `targets` is the signed metadata without it";
    /// Deletes a version of a model.
    DeleteVersion = Post "/models/{model}/delete" (ModelName) NoQuery [] DeleteRequest => Deleted, Releaser, ["model delete", "trust publish"],
        "deletes a version that is not offered and that no device holds, with the files that only it has; `targets` is the signed metadata without it";
    /// Removes files that nothing needs.
    CollectGarbage = Post "/garbage" (()) NoQuery [] GarbageRequest => Garbage, Releaser, ["model gc"],
        "removes files of failed pushes and deltas that no device can use, or counts them with `dry_run`; `versions` could be deleted";
    /// Lets devices follow a model.
    AssignModel = Post "/models/{model}/assignment" (ModelName) NoQuery [] AssignRequest => AssignmentView, Releaser, ["model assign"],
        "lets the devices of a filter follow the model beside those of their own configuration; without `to` it ends that";
    /// Keeps a version of a model on a device.
    PinDevice = Post "/devices/{device}/pins" (DeviceId) NoQuery [] PinRequest => PinView, Releaser, ["device pin"],
        "keeps a version of a model on a device, also an earlier one; without `version` it ends the pin";
    /// Creates a rollout.
    CreateRollout = Post "/rollouts" (()) NoQuery [] RolloutRequest => RolloutView, Releaser, ["rollout create", "model push"],
        "brings a published version to a cohort in waves; refused (`conflict`) while another rollout of the model may have the same devices";
    /// Lists rollouts.
    ListRollouts = Get "/rollouts" (()) NoQuery [] NoBody => RolloutList, Viewer, ["rollout list"],
        "lists the rollouts that the hub keeps, newest first";
    /// Reads the state of one rollout.
    ShowRollout = Get "/rollouts/{rollout}" (String) NoQuery [] NoBody => RolloutDetail, Viewer, ["rollout show"],
        "gives one rollout with its devices; `{rollout}` is its number, or the name of a model for its newest one";
    /// Acts on a rollout.
    ActOnRollout = Post "/rollouts/{rollout}/actions" (String) NoQuery [] RolloutAction => RolloutView, Releaser, ["rollout pause", "rollout resume", "rollout abort", "rollout approve", "rollout skip", "rollout retry", "rollout rollback"],
        "pauses, resumes, aborts, approves, skips, retries or rolls back";
    /// Explains a rollout.
    ExplainRollout = Get "/rollouts/{rollout}/explanation" (String) ExplainQuery ["device"] NoBody => RolloutExplanation, Viewer, ["rollout explain"],
        "gives each decision of a rollout with its evidence in words, and the part of one device in it";
    /// Lists the thresholds that are kept valid in the field.
    ListCalibrations = Get "/calibrations" (()) NoQuery [] NoBody => CalibrationList, Viewer, ["calibration list"],
        "lists the thresholds that audits keep valid: group of devices, threshold in force, audits, bounds; `notes` names variants of offered versions that are not watched";
    /// Reads the thresholds of one model.
    ShowCalibration = Get "/calibrations/{model}" (ModelName) NoQuery [] NoBody => CalibrationList, Viewer, ["calibration show"],
        "gives the thresholds of one model that audits keep valid";
    /// Puts the author's thresholds in force again.
    ResetCalibration = Post "/calibrations/{model}/reset" (ModelName) NoQuery [] CalibrationReset => CalibrationResetDone, Releaser, ["calibration reset"],
        "puts the author's thresholds in force again and forgets the audits, of one version and group or of all";
    /// Checks for an uploaded file.
    HeadBlob = Head "/blobs/{digest}" (Digest) NoQuery [] NoBody => NoBody, Releaser, ["model push"],
        "answers 200 when a file is there and whole, otherwise 404";
    /// Uploads the bytes of a file.
    PutBlob = Put "/blobs/{digest}" (Digest) NoQuery [] FileBytes => BlobStored, Releaser, ["model push"],
        "uploads a file, which must have this digest";
    /// Reads the state of the signed metadata.
    ShowTrust = Get "/trust" (()) NoQuery [] NoBody => TrustView, Viewer, ["trust status"],
        "gives every role's version, expiry, keys, threshold and what to do";
    /// Reads a file of the signed metadata.
    ReadMetadata = Get "/trust/{file}" (String) NoQuery [] NoBody => FileBytes, Viewer, ["trust status", "model push"],
        "gives a file of the signed metadata as it is";
    /// Creates the next online keys.
    MakeOnlineKeys = Post "/trust/online-keys" (()) NoQuery [] NoBody => OnlineKeysView, Admin, ["trust rotate"],
        "creates the hub's next online keys, or returns those that wait; gives their public halves";
    /// Changes the signed metadata.
    ChangeTrust = Post "/trust/changes" (()) NoQuery [] TrustChange => TrustChanged, Admin, ["trust renew", "trust rotate", "trust publish"],
        "publishes a newly signed root, a newly signed list of the same versions, or both";
    /// Lists operators in pages.
    ListOperators = Get "/operators" (()) PageQuery ["limit", "after"] NoBody => OperatorList, Viewer, ["operator list", "operator renew"],
        "lists operators by name: role, creation, expiry, last use; `warning` once a token ends soon or has ended, `fingerprint` (of the token's SHA-256)";
    /// Creates an operator with a token.
    CreateOperator = Post "/operators" (()) NoQuery [] OperatorRequest => OperatorCreated, Admin, ["operator create"],
        "creates an operator with a token; a name in use is refused (`conflict`); without `role` it is an admin";
    /// Renews the token of an operator.
    RenewOperator = Post "/operators/renew" (()) NoQuery [] OperatorRenewal => OperatorCreated, Viewer, ["operator renew"],
        "creates the next token of an operator, of the caller without `name`; only an admin may name another one; the earlier token ends within a day";
    /// Revokes an operator at once.
    RevokeOperator = Post "/operators/{operator}/revoke" (String) NoQuery [] NoBody => OperatorRevoked, Admin, ["operator revoke"],
        "removes every token of an operator; its next call is refused";
    /// Reads the audit log.
    ReadAudit = Get "/audit" (()) AuditQuery ["limit", "before"] NoBody => AuditPage, Operator, ["audit"],
        "gives the audit log, newest event first";
    /// Checks the audit log.
    VerifyAudit = Get "/audit/verification" (()) NoQuery [] NoBody => AuditVerification, Operator, ["audit --verify"],
        "checks the chain of the whole audit log and names the first place where it is broken";
    /// Writes a snapshot for a backup.
    Backup = Post "/backup" (()) NoQuery [] NoBody => BackupSnapshot, Admin, ["backup create"],
        "writes a snapshot of the records into the hub's own state folder and gives its file name, never its content";
}

/// Implements [`Body`] for JSON types.
macro_rules! bodies {
    ($($type:ty = $example:expr;)*) => {
        $(impl Body for $type {
            const EXAMPLE: &'static str = $example;
        })*
    };
}

bodies! {
    HubStatus = include_str!("../examples/status.json");
    TokenRequest = r#"{"device":"kitchen","replace":true,"ttl_s":600}"#;
    TokenCreated = r#"{"token":"sandjoin1_…","device":"kitchen","expires_unix_ms":1800000600000,"warnings":["…"]}"#;
    DeviceList = include_str!("../examples/devices.json");
    DeviceView = include_str!("../examples/device.json");
    LabelChange = r#"{"set":{"site":"berlin"},"remove":["floor"]}"#;
    RevokeRequest = r#"{"reason":"stolen"}"#;
    ModelList = include_str!("../examples/models.json");
    ModelView = include_str!("../examples/model.json");
    ModelFigures = include_str!("../examples/figures.json");
    DeleteRequest = r#"{"version":2,"targets":"…"}"#;
    Deleted = r#"{"model":"digits","version":2,"files":{"files":5,"bytes":600000}}"#;
    GarbageRequest = r#"{"dry_run":true}"#;
    Garbage = r#"{"dry_run":true,"orphans":{"files":1,"bytes":600000},"deltas":{"files":2,"bytes":30000},"versions":[{"model":"digits","version":1,"files":{"files":5,"bytes":600000}}]}"#;
    PublishRequest = r#"{"version":2,"manifest":"sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4","targets":"…","hold":true,"offer":true,"force":true,"strict":true}"#;
    Published = r#"{"model":"digits","version":2,"devices_told":3,"offered":2,"unchanged":false,"warnings":["…"]}"#;
    OfferRequest = r#"{"version":2}"#;
    WithdrawRequest = r#"{"version":2,"targets":"…"}"#;
    Withdrawn = r#"{"model":"digits","version":2,"offered":1}"#;
    AssignRequest = r#"{"to":"site=berlin"}"#;
    AssignmentView = r#"{"model":"digits","to":"site=berlin","devices":12,"told":9,"warnings":["…"]}"#;
    PinRequest = r#"{"model":"digits","version":6}"#;
    PinView = r#"{"device":"kitchen","model":"digits","version":6,"told":true,"warnings":["…"]}"#;
    RolloutRequest = r#"{"model":"digits","version":7,"to":"site=berlin and engine=ort","waves":"1@2h,5%,25%,100%","gate":"…","approve":true,"start_unix_ms":1800000000000,"max_per_site":"site=2","on_breach":"rollback","patience_s":86400,"silent_after_s":3600}"#;
    RolloutAction = r#"{"action":"pause","reason":"errors in shop 7"}"#;
    RolloutView = include_str!("../examples/rollout.json");
    RolloutList = include_str!("../examples/rollouts.json");
    RolloutDetail = include_str!("../examples/rollout_detail.json");
    RolloutExplanation = include_str!("../examples/rollout_explanation.json");
    CalibrationList = include_str!("../examples/calibrations.json");
    CalibrationReset = r#"{"version":2,"group":"site=berlin"}"#;
    CalibrationResetDone = r#"{"model":"digits","reset":1}"#;
    BlobStored = r#"{"digest":"sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4","bytes":600000}"#;
    TrustView = include_str!("../examples/trust.json");
    OnlineKeysView = r#"{"snapshot":"9f…","timestamp":"a0…"}"#;
    TrustChange = r#"{"root":"…","targets":"…"}"#;
    TrustChanged = r#"{"root_version":2,"targets_version":7,"unchanged":false}"#;
    OperatorList = r#"{"operators":[{"name":"ci","role":"releaser","created_unix_ms":1800000000000,"expires_unix_ms":1807776000000,"last_used_unix_ms":1800000600000,"warning":"…","fingerprint":"9372c470eeadd5ec"}],"next":"ci"}"#;
    OperatorRequest = r#"{"name":"ci","ttl_days":90,"role":"releaser"}"#;
    OperatorCreated = r#"{"name":"ci","token":"sandop1_…","expires_unix_ms":1807776000000,"role":"releaser"}"#;
    OperatorRenewal = r#"{"name":"ci","ttl_days":90}"#;
    OperatorRevoked = r#"{"name":"ci","tokens":1}"#;
    AuditPage = include_str!("../examples/audit.json");
    AuditVerification = r#"{"intact":false,"checked":12,"first":1,"last":13,"head":"sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4","problem":"event 7 was changed"}"#;
    BackupSnapshot = r#"{"file":"backup-7f3a.snapshot"}"#;
}

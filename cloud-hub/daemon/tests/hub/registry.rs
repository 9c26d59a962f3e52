//! Tests the checks of a version on its way into the registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bundle::Manifest;
use cloud_hub::api::PublishRequest;
use cloud_hub::app::operators::Caller;
use cloud_hub::app::registry::Registry;
use cloud_hub::app::registry::metadata::{Metadata, MetadataName};
use cloud_hub::app::registry::publish::{Publication, PublishError};
use cloud_hub::config::{GatewayTable, InferenceTable};
use cloud_hub::storage::blobs::{BlobError, FolderBlobs};
use cloud_hub::storage::folder::Folder;
use cloud_hub::workers::load::{LoadFailed, Loader};
use futures_util::FutureExt;
use hub_core::registry::Change;
use jiff::Timestamp;
use model_tools::pack::{Packed, pack};
use model_tools::sign::{KeyPair, Role, Signed, add_target};
use protocol::v1::{HubRequest, Offer};
use store::{MemoryStore, Store};
use tempfile::TempDir;
use types::{Digest, Version};

use super::site::{Site, catalog, ort};

/// A registry on a folder that `cloud-hub init` made, and the keys that belong to it.
struct Bench {
    folder: TempDir,
    store: Arc<dyn Store>,
    registry: Registry,
    loader: Loader,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        init(folder.path());
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let registry = open(folder.path(), &store, false).await;
        let inference = InferenceTable { run_limit: Duration::from_secs(30), ..InferenceTable::default() };
        let loader = Loader { engine: ort(), inference, gateway: GatewayTable::default() };
        Self { folder, store, registry, loader }
    }

    fn targets_key(&self) -> KeyPair {
        KeyPair::load(&self.folder.path().join("keys/targets.key")).unwrap()
    }

    async fn metadata(&self, name: MetadataName) -> Vec<u8> {
        self.registry.metadata(&name).await.unwrap().unwrap().to_vec()
    }

    async fn upload(&self, bytes: Vec<u8>) -> Result<u64, BlobError> {
        let mut upload = self.registry.blobs().begin(Digest::of(&bytes), 1 << 30).await?;
        upload.write(bytes.into()).await?;
        upload.commit().await
    }

    async fn upload_all(&self, packed: &Packed) {
        for file in &packed.files {
            self.upload(std::fs::read(&file.path).unwrap()).await.unwrap();
        }
        self.upload(packed.manifest_bytes.clone()).await.unwrap();
    }

    /// Signs a version onto the hub's present list.
    async fn request(&self, packed: &Packed, key: &KeyPair) -> PublishRequest {
        let (root, old) = (self.metadata(MetadataName::Root).await, self.metadata(MetadataName::Targets).await);
        let path = Manifest::target_path(&packed.manifest.model, packed.manifest.version);
        let signed = add_target(&root, &old, &path, &packed.manifest_bytes, &[key], Timestamp::now()).unwrap();
        of(packed, signed)
    }

    async fn publish(&self, packed: &Packed, request: &PublishRequest) -> Result<Publication, PublishError> {
        self.registry.publish(&self.loader, &packed.manifest.model, request).await
    }

    async fn timestamp_version(&self) -> u64 {
        let timestamp = self.metadata("timestamp.json".parse().unwrap()).await;
        Signed::read(Role::Timestamp, &timestamp).unwrap().version
    }
}

fn of(packed: &Packed, signed: Signed) -> PublishRequest {
    PublishRequest {
        version: packed.manifest.version,
        manifest: Digest::of(&packed.manifest_bytes),
        targets: String::from_utf8(signed.bytes).unwrap(),
        hold: false,
        offer: true,
        force: false,
        strict: false,
    }
}

fn init(folder: &Path) {
    let init = std::process::Command::new(env!("CARGO_BIN_EXE_cloud-hub"))
        .arg("init")
        .arg("--dir")
        .arg(folder.join("hub"))
        .arg("--keys")
        .arg(folder.join("keys"))
        .output()
        .unwrap();
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
}

async fn open(folder: &Path, store: &Arc<dyn Store>, is_rebuilt: bool) -> Registry {
    let layout = Folder::new(&folder.join("hub"));
    let metadata = Metadata::open(layout.clone()).unwrap();
    let registry =
        Registry::open(Arc::clone(store), Arc::new(FolderBlobs::new(layout)), metadata, is_rebuilt).await.unwrap();
    assert_eq!(registry.damage(), Vec::<String>::new());
    registry
}

fn digits(version: &str) -> Packed {
    pack(&catalog().join(version)).unwrap()
}

/// A copy of a version's folder with one text of its form replaced.
fn altered(bench: &Bench, version: &str, from: &str, to: &str) -> PathBuf {
    let copy = bench.folder.path().join(format!("{version}-copy"));
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(catalog().join(version)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let form = copy.join("model.toml");
    let text = std::fs::read_to_string(&form).unwrap();
    assert!(text.contains(from), "{from} is not in the form");
    std::fs::write(form, text.replace(from, to)).unwrap();
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_signed_version_is_published_and_answers() {
    let bench = Bench::new().await;
    let packed = digits("v1");
    bench.upload_all(&packed).await;
    let request = bench.request(&packed, &bench.targets_key()).await;
    let publication = bench.publish(&packed, &request).await.unwrap();
    assert_eq!(publication.change, Change::Current(Version::new(1).unwrap()));
    assert_eq!(publication.pool.unwrap().facts().variant.as_str(), "full");
    assert!(bench.registry.is_fetchable(&request.manifest));
    let again = bench.publish(&packed, &request).await.unwrap();
    assert!(again.unchanged && again.pool.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_a_missing_file_is_not_seen_by_anybody() {
    let bench = Bench::new().await;
    let packed = digits("v1");
    let before = bench.timestamp_version().await;
    let request = bench.request(&packed, &bench.targets_key()).await;
    assert!(matches!(bench.publish(&packed, &request).await, Err(PublishError::MissingBlob { .. })));
    bench.upload(packed.manifest_bytes.clone()).await.unwrap();
    assert!(matches!(bench.publish(&packed, &request).await, Err(PublishError::MissingBlob { .. })));
    assert_eq!(bench.timestamp_version().await, before);
    assert!(!bench.registry.is_fetchable(&request.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_signed_with_other_keys_is_refused() {
    let bench = Bench::new().await;
    let packed = digits("v1");
    bench.upload_all(&packed).await;
    let honest = bench.request(&packed, &bench.targets_key()).await;
    // A whole other hub: its list is in order, but not for this one.
    let other = Bench::new().await;
    let foreign = other.request(&packed, &other.targets_key()).await;
    let refused = bench.publish(&packed, &foreign).await;
    assert!(matches!(refused, Err(PublishError::NotTrusted(_))), "{refused:?}");
    let tampered = PublishRequest { targets: honest.targets.replacen("\"length\":", "\"length\":1", 1), ..honest };
    let refused = bench.publish(&packed, &tampered).await;
    assert!(matches!(refused, Err(PublishError::NotTrusted(_))), "{refused:?}");
    assert!(!bench.registry.is_fetchable(&foreign.manifest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_made_before_somebody_else_published_is_refused() {
    let bench = Bench::new().await;
    let (one, two) = (digits("v1"), digits("v2"));
    let key = bench.targets_key();
    let late = bench.request(&two, &key).await;
    bench.upload_all(&one).await;
    bench.upload_all(&two).await;
    bench.publish(&one, &bench.request(&one, &key).await).await.unwrap();
    // Signed over the empty list: taking it would drop version 1.
    let refused = bench.publish(&two, &late).await;
    assert!(matches!(refused, Err(PublishError::Moved)), "{refused:?}");
    bench.publish(&two, &bench.request(&two, &key).await).await.unwrap();
    assert_eq!(bench.registry.current(&two.manifest.model), Version::new(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_never_given_to_other_content_nor_a_lower_one_after_a_higher() {
    let bench = Bench::new().await;
    let (one, two) = (digits("v1"), digits("v2"));
    let key = bench.targets_key();
    bench.upload_all(&two).await;
    bench.publish(&two, &bench.request(&two, &key).await).await.unwrap();
    bench.upload_all(&one).await;
    let lower = bench.publish(&one, &bench.request(&one, &key).await).await;
    assert!(matches!(lower, Err(PublishError::Registry(_))), "{lower:?}");
    let other = pack(&altered(&bench, "v2", "licence = \"MIT\"", "licence = \"Apache-2.0\"")).unwrap();
    bench.upload_all(&other).await;
    let targets = String::from_utf8(bench.metadata(MetadataName::Targets).await).unwrap();
    let request = PublishRequest {
        version: other.manifest.version,
        manifest: Digest::of(&other.manifest_bytes),
        targets,
        hold: false,
        offer: true,
        force: false,
        strict: false,
    };
    let taken = bench.publish(&other, &request).await;
    assert!(matches!(taken, Err(PublishError::Registry(_))), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_model_that_does_not_load_or_answers_wrongly_is_refused() {
    let bench = Bench::new().await;
    let key = bench.targets_key();
    // The small model under the golden answers of the full one.
    let wrong = pack(&altered(&bench, "v1", "file = \"full.onnx\"", "file = \"fp32.onnx\"")).unwrap();
    bench.upload_all(&wrong).await;
    let refused = bench.publish(&wrong, &bench.request(&wrong, &key).await).await;
    let is_disagreement = matches!(refused, Err(PublishError::Load { source: LoadFailed::Disagreement(_), .. }));
    assert!(is_disagreement, "{refused:?}");
    let folder = altered(&bench, "v2", "version = 2", "version = 2");
    std::fs::write(folder.join("full.onnx"), b"no model").unwrap();
    let broken = pack(&folder).unwrap();
    bench.upload_all(&broken).await;
    let refused = bench.publish(&broken, &bench.request(&broken, &key).await).await;
    assert!(matches!(refused, Err(PublishError::Load { source: LoadFailed::Load(_), .. })), "{refused:?}");
    assert!(bench.registry.current(&broken.manifest.model).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_every_device_would_refuse_is_refused_at_the_push() {
    let bench = Bench::new().await;
    let folder = altered(&bench, "v1", "version = 1", "version = 1");
    std::fs::write(folder.join("int8-qdq.onnx"), b"no model").unwrap();
    let hostile = pack(&folder).unwrap();
    bench.upload_all(&hostile).await;
    let refused = bench.publish(&hostile, &bench.request(&hostile, &bench.targets_key()).await).await;
    assert!(matches!(&refused, Err(PublishError::Hostile { file, .. }) if file == "int8-qdq.onnx"), "{refused:?}");
    assert!(bench.registry.current(&hostile.manifest.model).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_lost_come_back_from_what_is_signed() {
    let bench = Bench::new().await;
    let packed = digits("v1");
    bench.upload_all(&packed).await;
    let mut request = bench.request(&packed, &bench.targets_key()).await;
    request.hold = true;
    bench.publish(&packed, &request).await.unwrap();
    let model = &packed.manifest.model;
    // A restart knows that it is held; a lost store offers the newest, for want of better knowledge.
    let restarted = open(bench.folder.path(), &bench.store, false).await;
    assert_eq!(restarted.current(model), None);
    assert!(restarted.manifest(model, packed.manifest.version).is_some());
    let empty: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let rebuilt = open(bench.folder.path(), &empty, true).await;
    assert_eq!(rebuilt.current(model), Some(packed.manifest.version));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_signed_anew_before_it_expires_and_not_before() {
    let bench = Bench::new().await;
    let now = Timestamp::now();
    let before = bench.timestamp_version().await;
    assert!(!bench.registry.renew_metadata(now).await.unwrap());
    let later = now + jiff::SignedDuration::from_hours(4 * 24);
    assert!(bench.registry.renew_metadata(later).await.unwrap());
    assert!(bench.timestamp_version().await > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_operator_hangs_up_is_offered_and_answered_all_the_same() {
    let site = Site::start().await;
    let device = site.device("kitchen").await;
    assert_eq!(device.hello(None).await, []);
    let (hub, packed) = (&site.hub, digits("v1"));
    let files = packed.files.iter().map(|file| std::fs::read(&file.path).unwrap());
    for bytes in files.chain([packed.manifest_bytes.clone()]) {
        let mut upload = hub.services.registry.blobs().begin(Digest::of(&bytes), 1 << 30).await.unwrap();
        upload.write(bytes.into()).await.unwrap();
        upload.commit().await.unwrap();
    }
    let file = async |name| hub.services.registry.metadata(&name).await.unwrap().unwrap();
    let (root, old) = (file(MetadataName::Root).await, file(MetadataName::Targets).await);
    let path = Manifest::target_path(&packed.manifest.model, packed.manifest.version);
    let key = KeyPair::load(&site.path("keys/targets.key")).unwrap();
    let signed = add_target(&root, &old, &path, &packed.manifest_bytes, &[&key], Timestamp::now()).unwrap();
    // Begun, then dropped, as a server drops the call of a client that went away.
    let call = hub.app.models.publish(&Caller::machine(), &packed.manifest.model, of(&packed, signed)).now_or_never();
    assert!(call.is_none(), "{call:?}");
    let offer = Offer { model: "digits".parse().unwrap(), version: Version::new(1).unwrap() };
    assert_eq!(device.notice().await, HubRequest::Offer(offer));
    assert!(
        hub.services.workers.is_loaded(&packed.manifest.model, packed.manifest.version),
        "the hub does not answer with it"
    );
}

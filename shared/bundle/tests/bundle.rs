//! Tests of bundles on a device: only the signed bytes are ever loaded as a model.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test stop it as its own lines do")]

mod support;

use std::path::{Path, PathBuf};

use bundle::fetch::Download;
use bundle::golden::compare;
use bundle::trust::{TrustError, Trusted};
use bundle::{Bundle, Manifest, VerifyError, read_manifest};
use model_tools::pack::{self, Packed};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use support::{World, digits, now, version};
use tempfile::TempDir;
use types::{Digest, VariantName};

fn small() -> VariantName {
    "small".parse().unwrap()
}

/// Creates an author's folder with a model of a few bytes.
fn author(folder: &Path, number: u64) {
    let form = format!(
        r#"
schema = 1
model = "digits"
version = {number}
task = "classification"
description = "A test."
licence = "MIT"
[[input]]
name = "x"
datatype = "FP32"
shape = ["batch", 2]
[[output]]
name = "y"
datatype = "FP32"
[[variant]]
name = "small"
runs_on = "device"
engines = ["ort"]
precision = "fp32"
file = "small.onnx"
[variant.golden]
file = "small.safetensors"
max_abs = 0.5
"#
    );
    std::fs::write(folder.join("model.toml"), form).unwrap();
    std::fs::write(folder.join("small.onnx"), format!("not really a model, version {number}")).unwrap();
    let values = [1.0_f32, 2.0].map(f32::to_le_bytes).concat();
    let view = || TensorView::new(Dtype::F32, vec![1, 2], &values).unwrap();
    let golden = safetensors::serialize([("input.x", view()), ("output.y", view())], None).unwrap();
    std::fs::write(folder.join("small.safetensors"), golden).unwrap();
}

/// A hub with versions 1 and 2 of a model and a device that has refreshed.
struct Scene {
    trusted: Trusted,
    packed: Vec<Packed>,
    folders: Vec<TempDir>,
}

impl Scene {
    async fn new() -> Self {
        let mut world = World::new();
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut all = Vec::new();
        for (folder, number) in folders.iter().zip(1..) {
            author(folder.path(), number);
            let packed = pack::pack(folder.path()).unwrap();
            let path = Manifest::target_path(&packed.manifest.model, packed.manifest.version);
            world.add(&path, &packed.manifest_bytes, now());
            std::fs::write(folder.path().join("manifest.json"), &packed.manifest_bytes).unwrap();
            all.push(packed);
        }
        let trusted = world.device().refresh(&world.shelf, now()).await.unwrap();
        Self { trusted, packed: all, folders: folders.into() }
    }

    fn folder(&self, number: usize) -> PathBuf {
        self.folders[number - 1].path().to_owned()
    }

    fn verify(&self, number: usize) -> Result<Bundle<bundle::Verified>, VerifyError> {
        let wanted = version(u64::try_from(number).unwrap());
        Bundle::load(&self.folder(number)).and_then(|bundle| bundle.verify(&self.trusted, &digits(), wanted, &small()))
    }
}

#[tokio::test]
async fn a_signed_bundle_is_packed_fetched_verified_and_read() {
    let scene = Scene::new().await;
    let packed = &scene.packed[1];
    let device = tempfile::tempdir().unwrap();
    // The manifest is received first, then the files that it names, in ranges.
    let manifest = read_manifest(&scene.trusted, &digits(), version(2), &packed.manifest_bytes).unwrap();
    for (file, source) in manifest.files().into_iter().zip(&packed.files) {
        let content = std::fs::read(&source.path).unwrap();
        let mut download = Download::open(file.clone(), &device.path().join("part")).unwrap();
        while let Some(range) = download.next_range() {
            let start = usize::try_from(range.offset).unwrap();
            download.push(&content[start..start + usize::try_from(range.length).unwrap()]).unwrap();
        }
        download.finish(&device.path().join(&file.name)).unwrap();
    }
    let bundle = Bundle::open(device.path(), &packed.manifest_bytes);
    let bundle = bundle.verify(&scene.trusted, &digits(), version(2), &small()).unwrap();
    assert_eq!(bundle.model_bytes().unwrap(), b"not really a model, version 2".as_slice());
    assert_eq!(bundle.variant().name, small());
    let golden = bundle.golden().unwrap().unwrap();
    let tolerance = bundle.variant().golden_tolerance.unwrap();
    assert!(compare(&golden.outputs, &golden.outputs, &tolerance).is_ok());
    // Later, offline and without trust metadata.
    let installed = Bundle::open(device.path(), &packed.manifest_bytes);
    let again = installed.verify_installed(bundle.manifest_digest(), &digits(), version(2), &small()).unwrap();
    assert_eq!(again.manifest(), bundle.manifest());
}

#[tokio::test]
async fn every_flipped_byte_of_a_bundle_is_refused() {
    let scene = Scene::new().await;
    for name in ["manifest.json", "small.onnx", "small.safetensors"] {
        let path = scene.folder(1).join(name);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            std::fs::write(&path, &bad).unwrap();
            let refused = scene.verify(1).expect_err("a flipped byte was taken");
            assert!(refused.is_refusal(), "byte {at} of {name}: {refused:?}");
        }
        std::fs::write(&path, &good).unwrap();
    }
    scene.verify(1).unwrap();
}

#[tokio::test]
async fn a_file_of_the_wrong_length_is_refused_unread() {
    let scene = Scene::new().await;
    for name in ["manifest.json", "small.onnx"] {
        let path = scene.folder(1).join(name);
        let good = std::fs::read(&path).unwrap();
        for bad in [&good[..good.len() - 1], &[good.as_slice(), b" "].concat()] {
            std::fs::write(&path, bad).unwrap();
            let refused = scene.verify(1).unwrap_err();
            assert!(refused.to_string().contains("were signed"), "{refused}");
        }
        std::fs::write(&path, &good).unwrap();
    }
    // Sparse, with a length of a terabyte.
    let path = scene.folder(1).join("small.onnx");
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1 << 40).unwrap();
    assert!(scene.verify(1).unwrap_err().is_refusal());
}

#[tokio::test]
async fn the_parts_of_two_versions_do_not_mix() {
    let scene = Scene::new().await;
    let (one, two) = (&scene.packed[0].manifest_bytes, &scene.packed[1].manifest_bytes);
    let as_version = |bytes: &[u8], number| {
        Bundle::open(&scene.folder(1), bytes).verify(&scene.trusted, &digits(), version(number), &small())
    };
    as_version(one, 1).unwrap();
    assert!(matches!(as_version(one, 2), Err(VerifyError::WrongManifest { .. })), "an older version as the newer");
    assert!(matches!(as_version(two, 2), Err(VerifyError::WrongFile { .. })), "the files of the older version");
    assert!(matches!(as_version(one, 3), Err(VerifyError::Trust(TrustError::NotListed { .. }))));
    let other: VariantName = "large".parse().unwrap();
    let unknown = Bundle::open(&scene.folder(1), one).verify(&scene.trusted, &digits(), version(1), &other);
    assert!(matches!(unknown, Err(VerifyError::UnknownVariant { .. })));
}

#[tokio::test]
async fn a_manifest_signed_under_another_path_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    author(folder.path(), 1);
    let packed = pack::pack(folder.path()).unwrap();
    let mut world = World::new();
    world.add("digits/7/manifest.json", &packed.manifest_bytes, now());
    let trusted = world.device().refresh(&world.shelf, now()).await.unwrap();
    let refused = read_manifest(&trusted, &digits(), version(7), &packed.manifest_bytes).unwrap_err();
    assert!(refused.to_string().contains("is for digits version 1"), "{refused}");
}

#[tokio::test]
async fn a_link_in_the_place_of_a_file_is_refused() {
    let scene = Scene::new().await;
    let path = scene.folder(1).join("small.onnx");
    let elsewhere = scene.folder(2).join("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    assert!(matches!(scene.verify(1), Err(VerifyError::Io { .. })), "a missing file is no refusal");
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(scene.verify(1).is_err());
}

#[tokio::test]
async fn a_file_that_changes_after_it_was_verified_is_not_read() {
    let scene = Scene::new().await;
    let bundle = scene.verify(1).unwrap();
    let path = scene.folder(1).join("small.onnx");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(bundle.model_bytes(), Err(VerifyError::WrongFile { .. })));
    std::fs::remove_file(scene.folder(1).join("small.safetensors")).unwrap();
    assert!(matches!(bundle.golden(), Err(VerifyError::Io { .. })));
}

#[tokio::test]
async fn an_installed_bundle_is_held_to_the_digest_that_was_written_down() {
    let scene = Scene::new().await;
    let bytes = &scene.packed[0].manifest_bytes;
    let again =
        |digest| Bundle::open(&scene.folder(1), bytes).verify_installed(digest, &digits(), version(1), &small());
    again(Digest::of(bytes)).unwrap();
    assert!(matches!(again(Digest::of(b"other")), Err(VerifyError::WrongManifest { .. })));
}

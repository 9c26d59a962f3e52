//! Tests that devices fetch nothing that is held or withdrawn, and no byte that the disk has changed.

use hub_core::registry::Standing;
use protocol::v1::{RefusalCode, UpdateOutcome};
use types::update::Stage;
use types::{Digest, Place, Version};

use super::site::Site;

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

/// The manifest and the model file for devices of a version of `digits`.
fn digests(site: &Site, pushed: &serde_json::Value, number: u64) -> (Digest, Digest, u64) {
    let manifest = pushed["manifest"].as_str().unwrap().parse().unwrap();
    let known = site.hub.services.registry.manifest(&"digits".parse().unwrap(), version(number)).unwrap();
    let file = &known.variants_for(Place::Device).next().unwrap().file;
    (manifest, file.digest, file.size)
}

async fn withdraw(site: &Site, number: &str) -> (Option<i32>, String) {
    let keys = site.path("keys");
    let args = ["model", "withdraw", "digits", number, "--keys", keys.to_str().unwrap()];
    let (code, _out, err) = site.try_operate(&args).await;
    (code, err)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_version_is_fetched_by_nobody_until_it_is_offered() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let held = site.push("v2", &["--hold"]).await;
    let (manifest, file, size) = digests(&site, &held, 2);
    let device = site.device("kitchen").await;
    device.hello(Some(1)).await;
    for digest in [manifest, file] {
        assert_eq!(device.blob(digest, 0, 100).await.unwrap_err(), RefusalCode::NotFound);
    }
    site.operate(&["model", "offer", "digits", "2"]).await;
    assert_eq!(device.blob(file, 0, 100).await.unwrap().1, size);
    device.blob(manifest, 0, 100).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_range_of_a_file_is_served_as_it_was_signed() {
    let site = Site::start().await;
    let pushed = site.push("v1", &[]).await;
    let (manifest, file, size) = digests(&site, &pushed, 1);
    let device = site.device("kitchen").await;
    device.hello(None).await;
    for digest in [manifest, file] {
        let (all, total) = device.blob(digest, 0, 1 << 23).await.unwrap();
        assert_eq!(Digest::of(&all), digest);
        assert_eq!(total, all.len() as u64);
        for (offset, length) in [(0, 1), (1, 1), (7, 1000), (total - 1, 1), (total - 1, 99), (total, 5), (1 << 31, 5)] {
            let (part, _total) = device.blob(digest, offset, length).await.unwrap();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
            let end = start.saturating_add(usize::try_from(length).unwrap()).min(all.len());
            assert_eq!(part, all[start..end], "{offset} {length}");
        }
    }
    assert!(size > 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_any_kind_is_refused_shown_and_mended_by_the_same_push() {
    let site = Site::start().await;
    let pushed = site.push("v1", &[]).await;
    let (manifest, file, _size) = digests(&site, &pushed, 1);
    let device = site.device("kitchen").await;
    device.hello(None).await;
    let path = |digest: &Digest| site.path("hub/blobs/sha256").join(digest.to_hex());
    for digest in [manifest, file] {
        let good = std::fs::read(path(&digest)).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let longer = [good.as_slice(), b"more"].concat();
        for bad in [Some(flipped), Some(good[..good.len() - 1].to_vec()), Some(longer), Some(Vec::new()), None] {
            match &bad {
                Some(bytes) => std::fs::write(path(&digest), bytes).unwrap(),
                None => std::fs::remove_file(path(&digest)).unwrap(),
            }
            let length = good.len() as u64;
            assert_eq!(
                device.blob(digest, 0, length).await.unwrap_err(),
                RefusalCode::Internal,
                "{:?}",
                bad.map(|b| b.len())
            );
            let status = site.operate(&["status"]).await["warnings"].to_string();
            assert!(status.contains(&digest.to_hex()) && status.contains("digits/1"), "{status}");
            let again = site.push("v1", &[]).await;
            assert_eq!(again["unchanged"], true, "{again}");
            assert_eq!(std::fs::read(path(&digest)).unwrap(), good);
            device.blob(digest, 0, length).await.unwrap();
            let status = site.operate(&["status"]).await["warnings"].to_string();
            assert!(!status.contains("damaged"), "{status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_no_device_has_is_withdrawn_and_its_files_go_with_it() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let pushed = site.push("v2", &["--offer"]).await;
    let (manifest, file, _size) = digests(&site, &pushed, 2);
    let device = site.device("kitchen").await;
    device.hello(Some(1)).await;
    device.blob(manifest, 0, 100).await.unwrap();
    let (code, err) = withdraw(&site, "2").await;
    assert!(code != Some(0) && err.contains("kitchen"), "{err}");
    device.blob(file, 0, 100).await.unwrap();
    let gave_up = UpdateOutcome::Rejected("does not load".to_owned());
    device.report(2, Stage::Loading, gave_up).await;
    assert_eq!(withdraw(&site, "2").await.0, Some(0));
    for digest in [manifest, file] {
        assert_eq!(device.blob(digest, 0, 100).await.unwrap_err(), RefusalCode::NotFound);
        assert!(!site.path("hub/blobs/sha256").join(digest.to_hex()).exists(), "a file stays behind");
    }
    let registry = site.hub.services.registry.snapshot();
    let versions: Vec<_> = registry.model(&"digits".parse().unwrap()).unwrap().versions().collect();
    assert!(
        matches!(versions.as_slice(), [(record, Standing::Current)] if record.version == version(1)),
        "{versions:?}"
    );
    // The one that serves is not: the greeting says so.
    let (code, err) = withdraw(&site, "1").await;
    assert!(code != Some(0) && err.contains("kitchen"), "{err}");
    let again = site.push("v2", &["--offer"]).await;
    assert_eq!(again["unchanged"], false, "{again}");
    assert_eq!(device.hello(Some(1)).await.len(), 1, "it is offered like any new version");
}

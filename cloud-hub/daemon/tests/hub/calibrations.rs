//! Thresholds that are kept valid in the field, from the audits of devices to the orders that they get.

use bundle::Manifest;
use cloud_hub::app::calibrations::{Calibrations, Parts};
use protocol::v1::{AuditScores, DeviceRequest, DriftAlarm, Evidence, HubResponse, ModelCounters, ScoreBin};
use tokio_util::task::TaskTracker;
use types::{ModelName, Version};

use super::device::Device;
use super::site::Site;

fn digits() -> ModelName {
    "digits".parse().unwrap()
}

fn period(sequence: u64) -> ModelCounters {
    ModelCounters {
        model: digits(),
        version: Version::new(1).unwrap(),
        sequence,
        from_unix_s: sequence * 60,
        seconds: 60,
        kept: 10,
        deferred: 0,
        failed: 0,
        crashed: 0,
        audited: 10,
        agreed: 10,
        shadowed: 0,
        shadow_agreed: 0,
        latency: vec![0, 10],
        memory_bytes: None,
    }
}

fn scores(variant: &str, bins: Vec<ScoreBin>) -> AuditScores {
    AuditScores { model: digits(), version: Version::new(1).unwrap(), variant: variant.parse().unwrap(), bins }
}

fn bin(least: f32, agreed: u32, differing: u32) -> ScoreBin {
    ScoreBin { threshold_bits: Some(least.to_bits()), agreed, differing }
}

async fn send(device: &Device, sequence: u64, scores: Vec<AuditScores>) {
    let evidence = Evidence { counters: vec![period(sequence)], scores };
    let (response, _exchange) = device.ask(&DeviceRequest::Evidence(evidence), &[]).await.unwrap();
    assert_eq!(response, HubResponse::Accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn audits_are_counted_once_break_a_promise_and_are_known_after_a_restart() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let device = site.device("kitchen").await;
    device.hello(None).await;
    let registry = &site.hub.services.registry;
    let manifest: std::sync::Arc<Manifest> = registry.manifest(&digits(), Version::new(1).unwrap()).unwrap();
    let variant = manifest.variants.iter().find(|variant| !variant.score_grid().is_empty()).unwrap();
    let (name, strictest) = (variant.name.to_string(), variant.score_grid()[0]);
    let unknown = bin(0.123, 1, 0);
    for _ in 0..2 {
        // The second time the device has not heard the answer: counted once.
        send(&device, 1, vec![scores(&name, vec![bin(strictest, 50, 1), unknown]), scores("absent", vec![unknown])])
            .await;
    }
    // A version that the hub does not have, and scores without counters, are ignored.
    let other = AuditScores { version: Version::new(9).unwrap(), ..scores(&name, vec![unknown]) };
    send(&device, 2, vec![other]).await;
    let list = site.operate(&["calibration", "list"]).await;
    let view = &list["calibrations"][0];
    assert_eq!((&view["audits"], &view["wrong"], &view["state"]), (&52.into(), &1.into(), &"author".into()), "{list}");
    assert!(view["low"].as_f64() < view["high"].as_f64(), "{view}");

    for sequence in 3..8 {
        send(&device, sequence, vec![scores(&name, vec![bin(strictest, 10, 40)])]).await;
    }
    let view = &site.operate(&["calibration", "show", "digits"]).await["calibrations"][0];
    assert_eq!(
        (&view["state"], &view["refits"], &view["changes"]),
        (&"withdrawn".into(), &1.into(), &1.into()),
        "{view}"
    );
    assert!(view["threshold"].is_null() && view["audits_needed"].as_u64() > Some(100), "{view}");
    let log = site.operate(&["audit"]).await;
    assert_eq!(log["events"][0]["action"], "calibration.refit", "{log}");

    // What a hub knows that starts on the same store.
    let parts = Parts {
        fleet: site.hub.services.fleet.clone(),
        registry: registry.clone(),
        config: cloud_hub::config::CalibrationTable::default(),
        notices: TaskTracker::new(),
    };
    let again = Calibrations::open(site.hub.store.clone(), parts).await.unwrap();
    let known = again.show(&digits()).unwrap();
    // Through text, as the API sends it: a threshold has the digits of an f32.
    let known = serde_json::to_string(&known.calibrations[0]).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&known).unwrap(), *view);

    let (code, _out, err) = site.try_operate(&["calibration", "reset", "digits", "--group", "site=mars"]).await;
    assert!(code != Some(0) && err.contains("nothing was reset"), "{err}");
    assert_eq!(site.operate(&["calibration", "reset", "digits"]).await["reset"], 1);
    let list = site.operate(&["calibration", "list"]).await;
    assert_eq!(list["calibrations"].as_array().map(Vec::len), Some(0), "{list}");
    assert!(list["notes"].to_string().contains("no audit has arrived yet"), "{list}");
    assert!(site.operate(&["audit", "--verify"]).await["intact"].as_bool().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_of_drift_is_shown_until_the_device_says_that_it_has_ended() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let device = site.device("kitchen").await;
    device.hello(Some(1)).await;
    let alarm = DriftAlarm {
        model: digits(),
        version: Version::new(1).unwrap(),
        is_less_sure: false,
        since_unix_s: 1_800_000_000,
    };
    let unknown = DriftAlarm { model: "other".parse().unwrap(), ..alarm.clone() };
    for (alarms, shift) in [(vec![alarm, unknown], Some("more-sure")), (Vec::new(), None)] {
        let (response, _exchange) = device.ask(&DeviceRequest::Drift(alarms), &[]).await.unwrap();
        assert_eq!(response, HubResponse::Accepted);
        let shown = site.operate(&["device", "show", "kitchen"]).await;
        assert_eq!(shown["models"][0]["drift"]["shift"].as_str(), shift, "{shown}");
        assert_eq!(shown["models"].as_array().map(Vec::len), Some(1), "a model that the greeting did not name");
    }
}

//! Counters and measurements of devices, from the connection to the operator's verbs.

use cloud_hub::app::counters::{CELLS_PER_DEVICE_MAX, Counters, RETENTION_S};
use protocol::v1::{DeviceRequest, HubResponse, Measurement, ModelCounters, VariantFigures};
use types::{DeviceId, EngineName, ModelName, Version};

use super::device::Device;
use super::site::Site;

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn digits() -> ModelName {
    "digits".parse().unwrap()
}

/// A period of a minute with 10 kept answers. The test's device says that its clock is at 0 when it greets.
fn period(number: u64, sequence: u64, from_unix_s: u64) -> ModelCounters {
    ModelCounters {
        model: digits(),
        version: version(number),
        sequence,
        from_unix_s,
        seconds: 60,
        kept: 10,
        deferred: 3,
        failed: 1,
        crashed: 0,
        audited: 4,
        agreed: 3,
        shadowed: 2,
        shadow_agreed: 1,
        latency: vec![0, 0, 0, 0, 12, 2],
        memory_bytes: Some(5_000_000),
    }
}

async fn send(device: &Device, periods: Vec<ModelCounters>) {
    let (response, _exchange) = device.ask(&DeviceRequest::Counters(periods), &[]).await.unwrap();
    assert_eq!(response, HubResponse::Accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_counted_once_shown_to_operators_and_known_after_a_restart() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let device = site.device("kitchen").await;
    device.hello(None).await;
    send(&device, vec![period(1, 1, 0), period(1, 2, 60)]).await;
    // The device has not heard the answer and sends the second period again, with a new one.
    send(&device, vec![period(1, 2, 60), period(1, 3, 120)]).await;
    // Versions that the hub does not have would let a device fill the store with names.
    send(&device, vec![period(9, 4, 180), ModelCounters { model: "other".parse().unwrap(), ..period(1, 5, 180) }])
        .await;

    let shown = site.operate(&["model", "figures", "digits"]).await;
    assert_eq!(shown["versions"].as_array().unwrap().len(), 1, "{shown}");
    let figures = &shown["versions"][0];
    for (field, wanted) in [
        ("version", 1),
        ("devices", 1),
        ("kept", 30),
        ("deferred", 9),
        ("failed", 3),
        ("crashed", 0),
        ("audited", 12),
        ("agreed", 9),
        ("shadowed", 6),
        ("shadow_agreed", 3),
        ("memory_bytes_max", 5_000_000),
    ] {
        assert_eq!(figures[field], wanted, "{field}: {figures}");
    }
    // Bucket 4 ends at 100 us * 2^(4/4).
    assert_eq!(figures["p50_ms_max"], 0.2, "{figures}");
    let status = site.operate(&["model", "status", "digits"]).await;
    assert_eq!(&status["figures"][0], figures, "{status}");
    let of_device = site.operate(&["device", "show", "kitchen"]).await;
    assert_eq!(&of_device["models"][0]["figures"][0], figures, "{of_device}");
    let (code, _out, err) = site.try_operate(&["model", "figures", "nothing"]).await;
    assert!(code != Some(0) && err.contains("no model is called nothing"), "{err}");

    // What a hub knows that starts on the same store.
    let again = Counters::open(site.hub.store.clone()).await.unwrap();
    let (kitchen, registry): (DeviceId, _) = ("kitchen".parse().unwrap(), &site.hub.services.registry);
    again.take(registry, &kitchen, vec![period(1, 3, 120)], 0).await.unwrap();
    let cells = again.cells(&digits(), &kitchen).await.unwrap();
    assert_eq!(cells.iter().map(|cell| cell.tally.kept).sum::<u64>(), 30);
    // A device that lost its state counts from 0 again, at a later time.
    again
        .take(registry, &kitchen, vec![period(1, 0, 240)], i64::try_from(cloud_hub::clock::unix_s()).unwrap())
        .await
        .unwrap();
    let cells = again.cells(&digits(), &kitchen).await.unwrap();
    assert_eq!(cells.iter().map(|cell| cell.tally.kept).sum::<u64>(), 40);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_measurement_before_a_switch_is_shown() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let device = site.device("kitchen").await;
    device.hello(None).await;
    let figures = |number, p95_us| VariantFigures {
        version: version(number),
        variant: "int8-qdq".parse().unwrap(),
        engine: EngineName::Ort,
        p50_us: 900,
        p95_us,
        memory_bytes: None,
        compared: 20,
        agreed: 19,
        refused: Some("too slow\u{1b}[31m".to_owned()),
    };
    let measured = Measurement {
        model: digits(),
        version: version(1),
        variants: vec![figures(1, 1_500)],
        active: Some(figures(1, 1_000)),
    };
    let (response, _exchange) = device.ask(&DeviceRequest::Measured(measured), &[]).await.unwrap();
    assert_eq!(response, HubResponse::Accepted);
    let shown = site.operate(&["model", "figures", "digits"]).await;
    let measured = &shown["measured"][0];
    assert_eq!((&measured["device"], &measured["variants"][0]["p95_ms"]), (&"kitchen".into(), &1.5.into()), "{shown}");
    assert_eq!(measured["active"]["p95_ms"], 1.0, "{shown}");
    assert!(!shown.to_string().contains('\u{1b}') && !shown.to_string().contains("\\u001b"), "{shown}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_counters_go_and_one_device_does_not_fill_the_store() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let counters = &site.hub.services.counters;
    let (kitchen, registry): (DeviceId, _) = ("kitchen".parse().unwrap(), &site.hub.services.registry);
    let now = cloud_hub::clock::unix_s();
    let take = |periods| counters.take(registry, &kitchen, periods, 0);
    take(vec![period(1, 1, now - RETENTION_S + 2 * 3600), period(1, 2, now - 60)]).await.unwrap();
    // A period that is too old is not stored; one from the future ends now.
    take(vec![period(1, 3, now.saturating_sub(2 * RETENTION_S)), period(1, 4, now + 1_000_000)]).await.unwrap();
    let cells = counters.cells(&digits(), &kitchen).await.unwrap();
    assert!(
        cells.iter().all(|cell| cell.from_unix_s <= now && cell.from_unix_s + RETENTION_S > now - 3600),
        "{cells:?}"
    );
    assert_eq!(cells.iter().map(|cell| cell.tally.kept).sum::<u64>(), 30);
    counters.sweep(now + 3 * 3600).await.unwrap();
    let cells = counters.cells(&digits(), &kitchen).await.unwrap();
    assert_eq!(cells.iter().map(|cell| cell.tally.kept).sum::<u64>(), 20, "{cells:?}");

    // 168 hours of one version are far below the limit for one device, so it is reached by a store of earlier cells.
    let crowded = "crowded".parse::<DeviceId>().unwrap();
    let store = site.hub.store.clone();
    for hours in (0..CELLS_PER_DEVICE_MAX).collect::<Vec<_>>().chunks(512) {
        let batch = hours.iter().fold(store::Batch::new(), |batch, hour| {
            let from = now - now % 3600 - 3600 * (*hour as u64 + 1);
            let key = format!("counters/digits/crowded/{from:012}/1");
            let value = format!(
                r#"{{"schema":1,"version":1,"from_unix_s":{from},"last_from_unix_s":0,"last_sequence":0,"kept":1}}"#
            );
            batch.put(key, value)
        });
        store.apply(batch).await.unwrap();
    }
    let full = Counters::open(store).await.unwrap();
    let one_more = ModelCounters { version: version(1), ..period(1, 1, now) };
    full.take(registry, &crowded, vec![one_more], 0).await.unwrap();
    let cells = full.cells(&digits(), &crowded).await.unwrap();
    assert_eq!(cells.len(), CELLS_PER_DEVICE_MAX);
    full.sweep(now).await.unwrap();
    assert!(full.cells(&digits(), &crowded).await.unwrap().len() <= 170);
    site.stop().await;
}

//! The device server: a real QUIC client, real ONNX Runtime, real digits.

use std::sync::Arc;

use cloud_hub::hub;
use protocol::JoinToken;
use protocol::v1::{
    DeviceRequest, HubRequest, HubResponse, InferRequest, Offer, RefusalCode, UpdateOutcome, UpdateReport, join_body,
};
use service::stop::Stopped;
use tokio_util::task::TaskTracker;
use transport::{CloseCode, CloseReason, DeviceKey, Priority, Trust};
use types::update::Stage;
use types::{Digest, NamedTensor, Reason, Tensor, Version};

use super::device::{Device, dialer, enrol};
use super::site::{PATIENCE, Site, catalog, golden, metrics, ort, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_device_is_answered_by_the_full_model() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let device = site.device("kitchen").await;
    assert_eq!(
        device.hello(None).await,
        [Offer { model: "digits".parse().unwrap(), version: Version::new(1).unwrap() }]
    );
    let golden = golden();
    let answers = device.infer(&golden.inputs, Some(10_000)).await.unwrap();
    let tolerance = bundle::GoldenTolerance { max_abs: Some(0.001), top1: Some(1.0) };
    bundle::golden::compare(&golden.outputs, &answers, &tolerance).unwrap();
    let shown = site.operate(&["device", "show", "kitchen"]).await;
    assert_eq!((&shown["state"], &shown["connected"]), (&"enrolled".into(), &true.into()), "{shown}");
    assert_eq!(site.stop().await, Stopped::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_answered_is_refused_with_its_reason() {
    let site = Site::start().await;
    let device = site.device("kitchen").await;
    let golden = golden();
    assert_eq!(device.infer(&golden.inputs, None).await.unwrap_err(), RefusalCode::UnknownModel);
    site.push("v1", &[]).await;
    let wrong = NamedTensor { name: "image".to_owned(), tensor: Tensor::from_f32(vec![1, 2], &[0.0, 0.0]).unwrap() };
    assert_eq!(device.infer(&[wrong], None).await.unwrap_err(), RefusalCode::BadInput);
    assert_eq!(device.infer(&golden.inputs, Some(0)).await.unwrap_err(), RefusalCode::DeadlineExceeded);
    device.infer(&golden.inputs, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_key_and_a_forged_one_for_none() {
    let site = Site::start().await;
    let token = site.token("kitchen").await;
    let forged = JoinToken { secret: protocol::JoinSecret::from_bytes([7; 32]), ..token.clone() };
    let (key, other) = (DeviceKey::generate().unwrap(), DeviceKey::generate().unwrap());
    assert_eq!(enrol(&forged, &key).await.unwrap_err(), RefusalCode::TokenUnknown);
    let enrolled = enrol(&token, &key).await.unwrap();
    assert_eq!(enrolled.device.as_str(), "kitchen");
    assert_eq!(Digest::of(&enrolled.ca_der), token.ca);
    bundle::trust::inspect_root(&enrolled.root_json).unwrap();
    assert_eq!(enrol(&token, &other).await.unwrap_err(), RefusalCode::TokenUsed);
    // The machine whose answer was lost asks again with the same key.
    enrol(&token, &key).await.unwrap();
    let (code, _out, err) = site.try_operate(&["token", "create", "--name", "kitchen"]).await;
    assert_eq!(code, Some(7), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_fetch_what_is_published_for_them_and_nothing_else() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let device = site.device("kitchen").await;
    let timestamp = device.metadata("timestamp.json").await.unwrap();
    assert!(timestamp.starts_with(b"{"), "{timestamp:?}");
    assert_eq!(device.metadata("9.root.json").await, None);
    let file = std::fs::read(catalog().join("v1/int8-qdq.onnx")).unwrap();
    let digest = Digest::of(&file);
    let (all, total) = device.blob(digest, 0, 1 << 20).await.unwrap();
    assert_eq!((&all[..], total), (&file[..], file.len() as u64));
    let (tail, _total) = device.blob(digest, 1000, 500).await.unwrap();
    assert_eq!(&tail[..], &file[1000..1500]);
    let full = Digest::of(&std::fs::read(catalog().join("v1/full.onnx")).unwrap());
    assert_eq!(device.blob(full, 0, 10).await.unwrap_err(), RefusalCode::NotFound, "the full model stays on the hub");
    assert_eq!(device.blob(Digest::of(b"x"), 0, 10).await.unwrap_err(), RefusalCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_cut_off_and_stays_out_also_when_it_resumes() {
    let site = Site::start().await;
    let device = site.device("kitchen").await;
    device.hello(None).await;
    site.operate(&["device", "revoke", "kitchen", "--why", "stolen"]).await;
    assert_eq!(device.closed().await, CloseCode::Revoked);
    // The same dialer resumes its TLS session, which skips the check of the certificate.
    let closed = match device.dialer.dial(&device.token.hub).await {
        Ok(connection) => tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap().code(),
        Err(transport::DialError::NotAuthorised { source, .. }) => source.code(),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(closed, Some(CloseCode::Revoked));
    let shown = site.operate(&["device", "show", "kitchen"]).await;
    assert_eq!((&shown["state"], &shown["reason"]), (&"revoked".into(), &"stolen".into()), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_with_a_new_key_and_the_old_one_ends() {
    let site = Site::start().await;
    let device = site.device("kitchen").await;
    let key = DeviceKey::generate().unwrap();
    let request = DeviceRequest::Renew { csr_der: key.csr_der().unwrap() };
    let (response, _exchange) = device.ask(&request, &[]).await.unwrap();
    let HubResponse::Renewed { chain_der } = response else { panic!("{response:?}") };
    let ca_der = site.hub.services.issuer.ca.cert_der();
    // The device may lose power before it has stored the new one: the old key still opens.
    device.dialer.dial(&device.token.hub).await.unwrap();
    let identity = key.identity(&chain_der).unwrap();
    let renewed = dialer(&device.token, Some(identity), Trust::CaDer(ca_der)).dial(&device.token.hub).await.unwrap();
    let renewed = Device { token: device.token.clone(), dialer: device.dialer, connection: renewed };
    renewed.hello(None).await;
    let old = match renewed.dialer.dial(&renewed.token.hub).await {
        Ok(connection) => tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap().code(),
        Err(transport::DialError::NotAuthorised { source, .. }) => source.code(),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(old, Some(CloseCode::NotAuthorised), "the old key still opens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_is_offered_at_once_and_its_outcome_is_shown() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let device = site.device("kitchen").await;
    assert!(device.hello(Some(1)).await.is_empty(), "it serves the offered version already");
    let held = site.push("v2", &["--hold"]).await;
    assert_eq!((&held["held"], &held["devices_told"]), (&true.into(), &0.into()), "{held}");
    let offered = site.operate(&["model", "offer", "digits", "2"]).await;
    assert_eq!(offered["devices_told"], 1, "{offered}");
    let version = Version::new(2).unwrap();
    assert_eq!(device.notice().await, HubRequest::Offer(Offer { model: "digits".parse().unwrap(), version }));
    let cause = "file \"int8-qdq.onnx\" is not the signed one\u{1b}[31m".to_owned();
    device.report(2, Stage::Verifying, UpdateOutcome::Rejected(cause)).await;
    let status = site.operate(&["model", "status", "digits"]).await;
    let report = &status["devices"][0]["report"];
    assert_eq!((&report["version"], &report["outcome"]), (&2.into(), &"rejected".into()), "{status}");
    assert!(!report["detail"].as_str().unwrap().contains('\u{1b}'), "{report}");
    // Not offered again by itself, but when the operator says so.
    assert!(device.hello(Some(1)).await.is_empty());
    assert_eq!(site.operate(&["model", "offer", "digits", "2"]).await["devices_told"], 1);
    device.notice().await;
    device.report(2, Stage::Active, UpdateOutcome::Active(())).await;
    let shown = site.operate(&["device", "show", "kitchen"]).await;
    assert_eq!(shown["models"][0]["active"]["version"], 2, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_device_twice_keeps_its_newer_connection() {
    let site = Site::start().await;
    let device = site.device("kitchen").await;
    device.hello(None).await;
    let newer = device.dialer.dial(&device.token.hub).await.unwrap();
    assert_eq!(device.closed().await, CloseCode::Replaced);
    let newer = Device { token: device.token.clone(), dialer: device.dialer, connection: newer };
    newer.hello(None).await;
    assert_eq!(site.hub.services.fleet.online(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_hear_goodbye_and_the_end() {
    let site = Site::start().await;
    let device = site.device("kitchen").await;
    device.hello(None).await;
    let told = async {
        assert!(matches!(device.notice().await, HubRequest::Goodbye { .. }));
        device.closed().await
    };
    let (stopped, code) = tokio::join!(site.stop(), told);
    assert_eq!((stopped, code), (Stopped::Drained, CloseCode::ShuttingDown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_request_leaves_the_line() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let device = site.device("kitchen").await;
    let golden = golden();
    let inputs = golden.inputs;
    let (tensors, body) = join_body(&inputs);
    for _ in 0..20 {
        let request = InferRequest {
            request_id: "r1".parse().unwrap(),
            model: "digits".parse().unwrap(),
            version: None,
            reason: Reason::Policy,
            deadline_left_ms: None,
            traceparent: None,
            outputs: Vec::new(),
            tensors: tensors.clone(),
        };
        let mut exchange = device.connection.open(Priority::Inference).await.unwrap();
        exchange.send(&DeviceRequest::Infer(request), &body).await.unwrap();
        drop(exchange);
    }
    until("an empty line", async || {
        site.hub.services.workers.load() == (0, 0) && site.hub.services.in_flight.is_empty()
    })
    .await;
    device.infer(&inputs, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_a_certificate_is_served_nothing_but_enrolment() {
    let site = Site::start().await;
    let token = site.token("kitchen").await;
    let connection = dialer(&token, None, Trust::CaFingerprint(token.ca)).dial(&token.hub).await.unwrap();
    let request = DeviceRequest::Metadata { name: "timestamp.json".to_owned(), bytes_max: 1000 };
    let asked = connection.request::<_, HubResponse>(Priority::Control, &request, &[]).await;
    assert!(asked.is_err(), "{asked:?}");
    let reason: CloseReason = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert_eq!(reason.code(), Some(CloseCode::Done), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_knows_everything_again_after_a_restart() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let device = site.device("kitchen").await;
    device.hello(Some(1)).await;
    let config = site.hub.config.as_ref().clone();
    let Site { folder, hub, running } = site;
    hub.stop.drain.cancel();
    running.await.unwrap().unwrap();
    drop((hub, device.connection));
    let running = hub::start_with_engine(config, ort()).await.unwrap();
    let hub = Arc::clone(running.hub());
    let running = TaskTracker::new().spawn(running.run(metrics().clone()));
    let site = Site { folder, hub, running };
    let shown = site.operate(&["device", "show", "kitchen"]).await;
    assert_eq!(shown["models"][0]["active"]["version"], 1, "{shown}");
    let port = site.operate(&["status"]).await["listening"]["quic"].as_str().unwrap().to_owned();
    let connection = device.dialer.dial(&[port]).await.unwrap();
    let device = Device { token: device.token, dialer: device.dialer, connection };
    device.hello(Some(1)).await;
    device.infer(&golden().inputs, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_on_an_invented_model_makes_no_time_series() {
    let site = Site::start().await;
    let device = site.device("kitchen").await;
    device.hello(None).await;
    let report = UpdateReport {
        model: "invented-by-a-device".parse().unwrap(),
        version: Version::new(1).unwrap(),
        variant: None,
        stage: Stage::Fetching,
        outcome: UpdateOutcome::Retrying("none".to_owned()),
    };
    device.ask(&DeviceRequest::Report(report), &[]).await.unwrap();
    let text = metrics().render();
    assert!(text.contains("sanderling_updates_total") && !text.contains("invented-by-a-device"), "{text}");
}

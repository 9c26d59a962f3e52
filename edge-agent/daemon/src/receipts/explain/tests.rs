//! Tests of explanations: every end of a request has its reason and what would have had to differ.

use super::*;
use types::PolicyMode;

fn request(mode: &str, place: &str, reason: &str, hub: Option<&str>) -> RequestRecord {
    let form = r#"{"version":1,"variant":"int8","digest":"sha256:DIGEST","engine":"ort","provider":"CPU"}"#;
    let hub = hub.map_or_else(String::new, |hub| format!(r#""hub":{hub},"#));
    let json = format!(
        r#"{{"request":"r","model":"m","input":{{"bytes":100}},"policy":{{"mode":"{mode}","class":"shared",
        "deadline_us":50000,"hedge_us":200000,"hub_bytes_max":64}},"form":{form},
        "calibration":{{"state":"certified","threshold":0.875,"alpha":0.02,"confidence":0.95}},
        "device":{{"outcome":"answered","score":0.5}},{hub}
        "end":{{"answered":{{"place":"{place}","reason":"{reason}","final":true,"form":{form}}}}},"total_us":1000}}"#
    );
    let digest = "0".repeat(64);
    serde_json::from_str(&json.replace("DIGEST", &digest)).unwrap()
}

#[test]
fn every_reason_has_a_sentence_and_an_alternative_of_its_own() {
    for reason in Reason::ALL {
        let place = match reason {
            Reason::Policy
            | Reason::Confident
            | Reason::HubUnreachable
            | Reason::HubFailed
            | Reason::HubTooLate
            | Reason::HubPredictedLate
            | Reason::NeverLeaves
            | Reason::NoConsent
            | Reason::MeteredLink
            | Reason::BatteryLow
            | Reason::OutsideHours
            | Reason::NoTag
            | Reason::BytesSpent
            | Reason::CallsSpent
            | Reason::EscalationsSpent
            | Reason::Cached => "device",
            Reason::LowConfidence
            | Reason::NotCalibrated
            | Reason::NoLocalModel
            | Reason::DeviceBusy
            | Reason::DeviceFailed
            | Reason::NoScore
            | Reason::Hedged
            | Reason::DeviceTooLate
            | Reason::Downloading
            | Reason::Drifted
            | Reason::BoundBroken => "hub",
        };
        for mode in PolicyMode::ALL {
            let told = explain(&request(mode.as_str(), place, reason.as_str(), None), &[], &[]);
            assert!(!told.because.is_empty() && !told.otherwise.is_empty(), "{mode} {reason}: {told:?}");
            let all = [told.because, told.otherwise].concat().join(" ");
            assert!(!all.contains("for the reason"), "{mode} {reason}: {all}");
        }
    }
    let later = explain(&request("cascade", "hub", "a-reason-of-later", None), &[], &[]);
    assert_eq!(later.because, ["The hub answered for the reason a-reason-of-later."]);
}

#[test]
fn the_figures_of_the_decision_are_named() {
    let text = |request: &RequestRecord| {
        let told = explain(request, &[], &[]);
        [told.because, told.otherwise].concat().join(" ")
    };
    let low = text(&request("cascade", "hub", "low-confidence", None));
    assert!(low.contains("0.500") && low.contains("0.875"), "{low}");
    let late = request("cascade", "device", "hub-too-late", None);
    assert!(
        text(&late).contains("Too little time was left to ask it, with 50.00 ms left at the start"),
        "{}",
        text(&late)
    );
    let hub = r#"{"reason":"low-confidence","outcome":"failed","failure":"too-late","wait_us":48000,"took_us":48000}"#;
    let waited = text(&request("cascade", "device", "hub-too-late", Some(hub)));
    assert!(waited.contains("did not answer within the 48.00 ms"), "{waited}");
    let hub = r#"{"reason":"low-confidence","outcome":"failed","failure":"busy","wait_us":48000,"took_us":2000}"#;
    let busy = text(&request("prefer-hub", "device", "hub-failed", Some(hub)));
    assert!(busy.contains("after 2.00 ms: its queue was full"), "{busy}");
    // 100 bytes of input are over the 64 of hub_bytes_max.
    let kept = text(&request("cascade", "device", "policy", None));
    assert!(kept.contains("100 bytes, over the 64 of hub_bytes_max") && kept.contains("0.500"), "{kept}");
}

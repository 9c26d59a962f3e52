//! Labels and filters of devices, through the real program.

use super::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_labelled_filtered_and_listed_in_pages() {
    let site = Site::start().await;
    for name in ["attic", "cellar", "kitchen"] {
        let device = site.device(name).await;
        drop(device);
    }
    site.operate(&["device", "label", "kitchen", "site=berlin", "floor=2"]).await;
    site.operate(&["device", "label", "attic", "site=paris", "floor=10"]).await;
    let names = |list: &serde_json::Value| -> Vec<String> {
        let devices = list["devices"].as_array().unwrap();
        devices.iter().map(|device| device["device"].as_str().unwrap().to_owned()).collect()
    };
    for (filter, wanted) in [
        ("site=berlin", vec!["kitchen"]),
        ("site", vec!["attic", "kitchen"]),
        ("floor>2", vec!["attic"]),
        ("not site", vec!["cellar"]),
        ("name in (cellar, kitchen) and site!=paris", vec!["cellar", "kitchen"]),
        ("version<3", vec![]),
    ] {
        let list = site.operate(&["device", "list", "--filter", filter]).await;
        assert_eq!(names(&list), wanted, "{filter}");
    }
    let shown = site.operate(&["device", "label", "kitchen", "floor-", "site=rome"]).await;
    assert_eq!(shown["labels"], serde_json::json!({"site": "rome"}));
    // Labels are part of the device's record: a revoked device and one that is enrolled anew keep them.
    site.operate(&["device", "revoke", "kitchen"]).await;
    let token = site.operate(&["token", "create", "--name", "kitchen", "--replace"]).await;
    let key = transport::DeviceKey::generate().unwrap();
    super::device::enrol(&token["token"].as_str().unwrap().parse().unwrap(), &key).await.unwrap();
    let shown = site.operate(&["device", "show", "kitchen"]).await;
    assert_eq!((&shown["state"], &shown["labels"]["site"]), (&"enrolled".into(), &"rome".into()), "{shown}");
    let (code, _out, err) = site.try_operate(&["device", "list", "--filter", "version<x"]).await;
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains("filter, column 9: version<\"x\": a version is a whole number"), "{err}");
    let (code, _out, err) = site.try_operate(&["device", "label", "kitchen", "Site=x"]).await;
    assert!(code != Some(0) && err.contains("label key \"Site\" is not valid"), "{err}");
    let page = |query: cloud_hub::api::DeviceListQuery| {
        let fleet = site.hub.app.devices.clone();
        async move { fleet.list(&query).await.unwrap() }
    };
    let query = |after: Option<String>| cloud_hub::api::DeviceListQuery { filter: None, limit: Some(2), after };
    let first = page(query(None)).await;
    assert_eq!((first.devices.len(), first.next.as_deref()), (2, Some("cellar")));
    let last = page(query(first.next)).await;
    assert_eq!((last.devices.len(), last.devices[0].device.as_str(), last.next), (1, "kitchen", None));
}

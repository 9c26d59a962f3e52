//! The admin server: nobody without a token, and refusals that tell nothing of the inside.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use cloud_hub::api::{ApiError, ErrorCode, PREFIX};
use cloud_hub::servers::admin::router;
use hub_core::logins::FAILURES_BURST;
use tower::ServiceExt;
use types::Digest;

use super::site::Site;

/// Every call of the API, with something in its placeholders.
fn calls() -> Vec<(Method, String)> {
    let digest = Digest::of(b"x");
    [
        (Method::GET, "/status".to_owned()),
        (Method::POST, "/tokens".to_owned()),
        (Method::POST, "/operators".to_owned()),
        (Method::GET, "/devices".to_owned()),
        (Method::GET, "/devices/kitchen".to_owned()),
        (Method::POST, "/devices/kitchen/revoke".to_owned()),
        (Method::GET, "/models".to_owned()),
        (Method::GET, "/models/digits".to_owned()),
        (Method::POST, "/models/digits/versions".to_owned()),
        (Method::POST, "/models/digits/offer".to_owned()),
        (Method::GET, "/trust/root.json".to_owned()),
        (Method::HEAD, format!("/blobs/{digest}")),
        (Method::PUT, format!("/blobs/{digest}")),
        (Method::DELETE, "/devices/kitchen".to_owned()),
        (Method::GET, "/nothing".to_owned()),
    ]
    .into()
}

async fn call(site: &Site, request: Request<Body>) -> (StatusCode, Vec<u8>) {
    let response = router(&site.hub.app).oneshot(request).await.unwrap();
    let status = response.status();
    (status, axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
}

fn request(method: &Method, path: &str, token: Option<&str>, body: &'static str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(format!("{PREFIX}{path}"));
    request = request.header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Body::from(body)).unwrap()
}

fn own_token(site: &Site) -> String {
    let context: toml::Table = std::fs::read_to_string(site.path("hub/operator.toml")).unwrap().parse().unwrap();
    context["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_served_without_an_operators_token() {
    let site = Site::start().await;
    let own = own_token(&site);
    let mut failures = 0;
    for (method, path) in calls() {
        for token in [None, Some(""), Some("sandop1_00"), Some(&own[..own.len() - 1])] {
            let (status, body) = call(&site, request(&method, &path, token, "{}")).await;
            // From some failure on the address is told that it had too many.
            let expected =
                if failures < FAILURES_BURST { StatusCode::UNAUTHORIZED } else { StatusCode::TOO_MANY_REQUESTS };
            let refused = [expected, StatusCode::UNAUTHORIZED].contains(&status);
            assert!(refused, "{method} {path} with {token:?}: {status}");
            failures += 1;
            if method != Method::HEAD {
                let error: ApiError = serde_json::from_slice(&body).unwrap();
                assert!(matches!(error.code, ErrorCode::NotAuthorised | ErrorCode::TooMany), "{:?}", error.code);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_no_path_and_no_address_of_the_hub() {
    let site = Site::start().await;
    let own = own_token(&site);
    let inside = site.folder.path().display().to_string();
    let listening = site.operate(&["status"]).await["listening"]["quic"].as_str().unwrap().to_owned();
    for (method, path) in calls() {
        for body in ["{}", "", "{\"unknown\": 1}", "not json", "{\"version\": 0}"] {
            let (status, answer) = call(&site, request(&method, &path, Some(&own), body)).await;
            let answer = String::from_utf8(answer).unwrap();
            if status.is_success() {
                continue;
            }
            assert!(!answer.contains(&inside) && !answer.contains("blobs/sha256"), "{method} {path}: {answer}");
            assert!(!answer.contains(&listening), "{method} {path}: {answer}");
            if method != Method::HEAD {
                serde_json::from_str::<ApiError>(&answer).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_out_of_the_folder_is_refused() {
    let site = Site::start().await;
    let own = own_token(&site);
    for path in
        ["/trust/..%2Fonline%2Fsnapshot.key", "/trust/online", "/blobs/sha256:..", "/models/..%2F..", "/devices/a%2Fb"]
    {
        let (status, answer) = call(&site, request(&Method::GET, path, Some(&own), "")).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(status == StatusCode::BAD_REQUEST || status == StatusCode::NOT_FOUND, "{path}: {status} {answer}");
        assert!(!answer.contains("PRIVATE KEY"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_over_the_limit_or_of_other_bytes_is_refused() {
    let site = Site::start_with(|config| config.admin.blob_bytes_max = 10).await;
    let own = own_token(&site);
    let path = |bytes: &[u8]| format!("/blobs/{}", Digest::of(bytes));
    let (status, _) = call(&site, request(&Method::PUT, &path(b"0123456789"), Some(&own), "0123456789")).await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = call(&site, request(&Method::PUT, &path(b"01234567890"), Some(&own), "01234567890")).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{}", String::from_utf8_lossy(&body));
    let (status, body) = call(&site, request(&Method::PUT, &path(b"0123456789"), Some(&own), "other")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{}", String::from_utf8_lossy(&body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_operator_may_do_what_the_first_may() {
    let site = Site::start().await;
    let out = site.path("second.toml");
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_cloud-hub"))
        .args(["operator", "create", "second", "--ttl-days", "1", "--out"])
        .arg(&out)
        .env("SANDERLING_OPERATOR", site.path("hub/operator.toml"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let context: toml::Table = std::fs::read_to_string(&out).unwrap().parse().unwrap();
    let (status, _body) = call(&site, request(&Method::GET, "/status", context["token"].as_str(), "")).await;
    assert_eq!(status, StatusCode::OK);
}

//! Roles: every endpoint is called with every role over the real server, and the audit log knows who changed what.

use std::sync::Arc;

use cloud_hub::api::endpoint::{Description, Kind, Method};
use cloud_hub::api::{PREFIX, Role, endpoints};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::site::Site;

/// Client for any path with any token.
struct Caller {
    agent: ureq::Agent,
    url: String,
}

impl Caller {
    fn new(site: &Site) -> Self {
        let ca = std::fs::read(site.path("hub/ca/ca.pem")).or_else(|_| std::fs::read(site.hub.folder.ca_certificate()));
        let ca = Certificate::from_pem(&ca.unwrap()).unwrap();
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::Specific(Arc::new(vec![ca])))
            .unversioned_rustls_crypto_provider(transport::crypto_provider())
            .build();
        // A refused upload ends its connection: none is used twice.
        let agent = ureq::Agent::config_builder();
        let agent = agent.http_status_as_error(false).max_idle_connections(0).tls_config(tls).build().new_agent();
        Self { agent, url: format!("https://{}{PREFIX}", site.hub.listening.admin) }
    }

    /// Makes a call with something in its placeholder and the example as its body. Returns status and body.
    fn call(&self, call: &Description, token: &str) -> (u16, String) {
        let digest = types::Digest::of(b"x").to_string();
        let id = match call.placeholder() {
            Some("digest") => &digest,
            Some("file") => "root.json",
            Some("model") => "digits",
            _ => "nobody",
        };
        let placeholder = format!("{{{}}}", call.placeholder().unwrap_or_default());
        let url = format!("{}{}", self.url, call.path.replace(&placeholder, id));
        let bearer = format!("Bearer {token}");
        let body = match (call.request.kind, call.name) {
            // Without a name it is the caller's own token.
            (_, "RenewOperator") | (Kind::None | Kind::Bytes, _) => "{}",
            (Kind::Json, _) => call.request.example,
        };
        let response = match call.method {
            Method::Get => self.agent.get(url).header("authorization", bearer).call(),
            Method::Head => self.agent.head(url).header("authorization", bearer).call(),
            Method::Post => {
                let post = self.agent.post(url).header("authorization", bearer);
                post.header("content-type", "application/json").send(body)
            }
            Method::Put => self.agent.put(url).header("authorization", bearer).send(body),
        };
        let mut response = response.unwrap();
        let text = response.body_mut().read_to_string().unwrap_or_default();
        (response.status().as_u16(), text)
    }
}

/// Makes an operator with a role and returns its token.
async fn operator(site: &Site, role: &str) -> String {
    let out = site.path(&format!("{role}.toml"));
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_cloud-hub"))
        .args(["operator", "create", role, "--role", role, "--out"])
        .arg(&out)
        .env("SANDERLING_OPERATOR", site.path("hub/operator.toml"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let context: toml::Table = std::fs::read_to_string(&out).unwrap().parse().unwrap();
    context["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_is_open_to_its_role_and_the_higher_ones_and_to_no_other() {
    let site = Site::start().await;
    let mut tokens = Vec::new();
    for role in Role::ALL {
        tokens.push((role, operator(&site, role.as_str()).await));
    }
    let caller = Caller::new(&site);
    tokio::task::spawn_blocking(move || {
        for call in endpoints::all() {
            for (role, token) in &tokens {
                let (status, body) = caller.call(&call, token);
                let told = format!("{} {} as {role}: {status} {body}", call.method, call.path);
                assert!(!body.contains("no such call"), "{told}");
                if role.includes(call.role) {
                    assert!(![401, 403, 405, 500].contains(&status), "{told}");
                } else {
                    assert_eq!(status, 403, "{told}");
                    assert!(call.method == Method::Head || body.contains(r#""code":"forbidden""#), "{told}");
                }
            }
            let (status, body) = caller.call(&call, "sandop1_00");
            assert!([401, 429].contains(&status), "{} {} without a token: {status} {body}", call.method, call.path);
        }
    })
    .await
    .unwrap();
    // Only what was allowed has changed anything.
    let log = site.operate(&["audit", "--limit", "1000"]).await;
    for event in log["events"].as_array().unwrap() {
        let (actor, action) = (event["actor"].as_str().unwrap(), event["action"].as_str().unwrap());
        assert!(actor != "viewer" || action == "operator.renew", "{event}");
        assert!(actor != "releaser" || !action.starts_with("device."), "{event}");
    }
    assert!(site.operate(&["audit", "--verify"]).await["intact"].as_bool().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_renews_its_own_token_and_only_an_admin_that_of_others() {
    let site = Site::start().await;
    let viewer = operator(&site, "viewer").await;
    let caller = Caller::new(&site);
    let renew = |token: &str, body: &str| {
        let post = caller.agent.post(format!("{}/operators/renew", caller.url));
        let post = post.header("authorization", format!("Bearer {token}")).header("content-type", "application/json");
        post.send(body).unwrap().status().as_u16()
    };
    assert_eq!(renew(&viewer, r#"{"name":"viewer"}"#), 200);
    assert_eq!(renew(&viewer, r#"{"name":"init"}"#), 403);
    let admin = operator(&site, "admin").await;
    assert_eq!(renew(&admin, r#"{"name":"viewer"}"#), 200);
    let list = site.operate(&["operator", "list"]).await;
    let roles: Vec<_> = list["operators"].as_array().unwrap().iter().map(|one| (&one["name"], &one["role"])).collect();
    assert!(
        roles.contains(&(&"viewer".into(), &"viewer".into())) && roles.contains(&(&"init".into(), &"admin".into()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_says_who_changed_what_from_what_to_what() {
    let site = Site::start().await;
    site.push("v1", &[]).await;
    let _device = site.device("kitchen").await;
    site.operate(&["device", "label", "kitchen", "site=berlin"]).await;
    site.operate(&["device", "revoke", "kitchen", "--reason", "stolen"]).await;
    let (code, _out, err) = site.try_operate(&["device", "revoke", "absent"]).await;
    assert_ne!(code, Some(0), "{err}");
    let log = site.operate(&["audit"]).await;
    let events: Vec<String> = log["events"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|event| {
            let text = |field: &str| event[field].as_str().unwrap_or("-").to_owned();
            let after = text("after").split(", manifest").next().unwrap_or_default().to_owned();
            let after = after.split(" until").next().unwrap_or_default().to_owned();
            format!("{} {} {}: {} -> {after}", text("actor"), text("action"), text("object"), text("before"))
        })
        .collect();
    assert_eq!(
        events,
        [
            "(state folder) operator.create init: - -> admin, token",
            "init model.publish digits/1: - -> offered 1",
            "init token.create kitchen: - -> open",
            "kitchen device.enrol kitchen: - -> enrolled",
            "init device.label kitchen:  -> site=berlin",
            "init device.revoke kitchen: enrolled -> revoked: stolen",
        ]
    );
    let verified = site.operate(&["audit", "--verify"]).await;
    assert_eq!((&verified["intact"], &verified["checked"]), (&true.into(), &6.into()), "{verified}");
    // The same log, damaged in the store of the running hub.
    let key = b"audit/00000000000000000004";
    let stored = site.hub.store.get(key).await.unwrap().unwrap();
    let forged = String::from_utf8(stored.to_vec()).unwrap().replace("device.enrol", "device.enroI");
    site.hub.store.apply(store::Batch::new().put(&key[..], forged)).await.unwrap();
    let (code, out, err) = site.try_operate(&["audit", "--verify"]).await;
    assert_ne!(code, Some(0));
    assert!(out.contains("event 4 was changed") && err.contains("event 4 was changed"), "{out} {err}");
}

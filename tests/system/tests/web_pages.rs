//! Tests of web pages in a browser on the device: only configured pages may use the agent's ports.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Agent, Raw, RawReply, Site, skip, story};

const JSON: &str = "Content-Type: application/json";
const FRIEND: &str = "https://app.example";

fn agent(site: &Site, origins: Vec<String>) -> Result<Agent> {
    let mut agent = site.agent("kitchen")?;
    agent.config().set("inference.hosts", vec!["kitchen.lan".to_owned(), "hall.lan:8000".to_owned()])?;
    agent.config().set("inference.origins", origins)?;
    agent.start()?;
    Ok(agent)
}

fn ask(address: &str, line: &str, headers: &[&str]) -> Result<RawReply> {
    Raw::connect(address)?.request(line, headers, if line.starts_with("POST") { "{}" } else { "" })
}

/// Returns both ports, reading and writing, with a request line for each.
fn targets(agent: &Agent) -> Result<Vec<(String, &'static str)>> {
    let (http, metrics) = (agent.address("http")?, agent.address("metrics")?);
    Ok(vec![
        (http.clone(), "GET /v2 HTTP/1.1"),
        (http.clone(), "GET /sanderling/v1/status HTTP/1.1"),
        (http, "POST /v2/repository/index HTTP/1.1"),
        (metrics, "GET /metrics HTTP/1.1"),
    ])
}

#[test]
fn only_names_of_this_device_are_answered() {
    story(|site| {
        let agent = agent(site, vec![])?;
        for (address, line) in targets(&agent)? {
            let with = |host: &str| ask(&address, line, &[&format!("Host: {host}"), JSON]);
            for host in [
                "localhost",
                "LOCALHOST:1",
                "localhost.",
                "a.localhost",
                "127.0.0.1",
                "127.0.0.1:8000",
                "127.8.8.8",
                "[::1]",
                "[::1]:8000",
                "kitchen.lan",
                "Kitchen.Lan:9",
                "hall.lan:8000",
            ] {
                let reply = with(host)?;
                ensure!(reply.status == 200, "{line}, {host}: {reply:?}");
                ensure!(reply.header("cross-origin-resource-policy") == Some("same-origin"), "{line}: {reply:?}");
            }
            for host in [
                "evil.example",
                "evil.example:8000",
                "localhost.evil.example",
                "127.0.0.1.nip.io",
                "notkitchen.lan",
                "a.kitchen.lan",
                "hall.lan",
                "hall.lan:80",
                "10.0.0.1",
                "0.0.0.0",
                "[fd00::1]",
                "user@localhost",
                "",
                "localhost:99999",
                "localhost, evil.example",
                "2130706433",
                "%6cocalhost",
            ] {
                let reply = with(host)?;
                ensure!(matches!(reply.status, 400 | 403), "{line}, {host:?}: {reply:?}");
                ensure!(reply.status == 400 || reply.body.contains("inference.hosts"), "{line}, {host:?}: {reply:?}");
            }
            let none = ask(&address, line, &[JSON])?;
            ensure!(none.status == 400 && none.body.contains("Host"), "{line}, no host: {none:?}");
            let two = ask(&address, line, &["Host: localhost", "Host: evil.example", JSON])?;
            ensure!(two.status == 400, "{line}, two hosts: {two:?}");
            let old = ask(&address, &line.replace("1.1", "1.0"), &[JSON])?;
            ensure!(old.status == 200, "{line}, HTTP/1.0 without a host: {old:?}");
            let old = ask(&address, &line.replace("1.1", "1.0"), &["Host: evil.example", JSON])?;
            ensure!(old.status == 403, "{line}, HTTP/1.0 with a foreign host: {old:?}");
            for (authority, host, status) in [
                ("localhost", "localhost", 200),
                ("evil.example", "localhost", 403),
                ("localhost", "evil.example", 403),
                ("user@localhost", "localhost", 403),
            ] {
                let absolute = line.replacen(" /", &format!(" http://{authority}/"), 1);
                let reply = ask(&address, &absolute, &[&format!("Host: {host}"), JSON])?;
                ensure!(reply.status == status, "{absolute}, {host}: {reply:?}");
            }
        }
        let mut newer = Raw::connect(&agent.address("http")?)?;
        newer.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let answer = String::from_utf8_lossy(&newer.read_to_end()?).into_owned();
        ensure!(!answer.contains(" 200 "), "HTTP/2 was answered: {answer}");
        Ok(())
    });
}

#[test]
fn foreign_pages_are_refused_and_configured_ones_are_served() {
    story(|site| {
        let agent = agent(site, vec![FRIEND.to_owned()])?;
        for (address, line) in targets(&agent)? {
            let with = |headers: &[&str]| ask(&address, line, &[&["Host: localhost:8000", JSON], headers].concat());
            let foreign: [&[&str]; 12] = [
                &["Origin: https://evil.example"],
                &["Origin: null"],
                &["Origin: http://app.example"],
                &["Origin: https://app.example:8443"],
                &["Origin: https://app.example.evil.example"],
                &["Origin: http://localhost:3000"],
                &["Origin: "],
                &["Origin: https://app.example", "Origin: https://evil.example"],
                &["Sec-Fetch-Site: cross-site"],
                &["Sec-Fetch-Site: same-site"],
                &["Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"],
                &["Origin: https://evil.example", "Sec-Fetch-Site: same-origin"],
            ];
            for headers in foreign {
                let reply = with(headers)?;
                ensure!(
                    reply.status == 403 && reply.body.contains("inference.origins"),
                    "{line}, {headers:?}: {reply:?}"
                );
                ensure!(reply.header("access-control-allow-origin").is_none(), "{line}, {headers:?}: {reply:?}");
            }
            let own: [&[&str]; 4] =
                [&[], &["Sec-Fetch-Site: none"], &["Sec-Fetch-Site: same-origin"], &["Origin: http://localhost:8000"]];
            for headers in own {
                let reply = with(headers)?;
                ensure!(reply.status == 200, "{line}, {headers:?}: {reply:?}");
                ensure!(reply.header("access-control-allow-origin").is_none(), "{line}, {headers:?}: {reply:?}");
            }
            for headers in
                [&["Origin: https://app.example"][..], &["Origin: https://app.example", "Sec-Fetch-Site: cross-site"]]
            {
                let reply = with(headers)?;
                ensure!(reply.status == 200, "{line}, {headers:?}: {reply:?}");
                ensure!(reply.header("access-control-allow-origin") == Some(FRIEND), "{line}: {reply:?}");
                // Beside `vary: accept-encoding`, which compression adds.
                ensure!(reply.head.contains("\r\nvary: origin"), "{line}: {reply:?}");
            }
            // The name also counts for a configured page.
            let rebound = ask(&address, line, &["Host: evil.example", "Origin: https://app.example", JSON])?;
            ensure!(rebound.status == 403, "{line}: {rebound:?}");
        }
        preflights(&agent)
    });
}

fn preflights(agent: &Agent) -> Result<()> {
    let address = agent.address("http")?;
    let line = "OPTIONS /v2/models/digits/infer HTTP/1.1";
    let asked =
        ["Host: localhost", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type"];
    let friend =
        [&asked[..], &["Origin: https://app.example", "Access-Control-Request-Private-Network: true"]].concat();
    let reply = ask(&address, line, &friend)?;
    ensure!(reply.status == 204, "{reply:?}");
    for (name, word) in [
        ("access-control-allow-origin", FRIEND),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "content-type"),
        ("access-control-allow-headers", "inference-header-content-length"),
        ("access-control-allow-private-network", "true"),
    ] {
        ensure!(reply.header(name).is_some_and(|value| value.contains(word)), "{name}: {reply:?}");
    }
    ensure!(reply.header("access-control-allow-credentials").is_none(), "{reply:?}");
    for origin in ["Origin: https://evil.example", "Origin: null"] {
        let reply = ask(&address, line, &[&asked[..], &[origin]].concat())?;
        ensure!(reply.status == 403 && reply.header("access-control-allow-origin").is_none(), "{origin}: {reply:?}");
    }
    let plain = ask(&address, line, &["Host: localhost"])?;
    ensure!(plain.status == 405, "OPTIONS of no page: {plain:?}");
    Ok(())
}

#[test]
fn only_bodies_that_no_page_can_send_unasked_are_taken() {
    story(|site| {
        let agent = agent(site, vec![])?;
        let address = agent.address("http")?;
        let with = |headers: &[&str]| {
            ask(&address, "POST /v2/repository/index HTTP/1.1", &[&["Host: localhost"], headers].concat())
        };
        let taken: [&[&str]; 5] = [
            &[],
            &[JSON],
            &["Content-Type: Application/JSON; charset=utf-8"],
            &["Content-Type: application/octet-stream"],
            &["content-type:application/json"],
        ];
        for headers in taken {
            let reply = with(headers)?;
            ensure!(reply.status == 200, "{headers:?}: {reply:?}");
        }
        let refused: [&[&str]; 8] = [
            &["Content-Type: text/plain"],
            &["Content-Type: text/plain; application/json"],
            &["Content-Type: application/x-www-form-urlencoded"],
            &["Content-Type: multipart/form-data; boundary=x"],
            &["Content-Type: "],
            &["Content-Type: application/jsonp"],
            &["Content-Type: text/plain, application/json"],
            &["Content-Type: application/json", "Content-Type: text/plain"],
        ];
        for headers in refused {
            let reply = with(headers)?;
            ensure!(reply.status == 415 && reply.body.contains("application/json"), "{headers:?}: {reply:?}");
        }
        Ok(())
    });
}

/// Path of the browser in Debian's package.
const CHROMIUM: &str = "/usr/bin/chromium";

/// Page that tries every way to reach the agent and reports each by name to its own server.
const PAGE: &str = r#"<!doctype html><iframe name="sink" hidden></iframe><script>
const agent = "AGENT";
const tries = {
  text: () => fetch(agent + "/v2/repository/index", {method: "POST", headers: {"Content-Type": "text/plain"}, body: "{}"}),
  json: () => fetch(agent + "/v2/repository/index", {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"}),
  untyped: () => fetch(agent + "/v2/repository/index", {method: "POST", body: new Blob(["{}"])}),
  blind: () => fetch(agent + "/v2/repository/index", {method: "POST", mode: "no-cors", body: "{}"}),
  read: () => fetch(agent + "/sanderling/v1/status"),
};
(async () => {
  let report = [];
  for (const [name, attempt] of Object.entries(tries)) {
    try {
      const response = await attempt();
      report.push(name + "=" + (response.type === "opaque" ? "opaque" : response.status + ":" + (await response.text()).length));
    } catch (error) { report.push(name + "=refused"); }
  }
  const form = document.createElement("form");
  form.method = "POST"; form.action = agent + "/v2/repository/index"; form.target = "sink"; form.enctype = "text/plain";
  document.body.append(form); form.submit();
  document.title = report.join(" ");
  await fetch("/report?" + encodeURIComponent(report.join(" ")));
})();
</script>"#;

/// Serves [`PAGE`] until the page has reported; returns the report.
fn report(listener: &TcpListener, page: &str) -> Result<String> {
    for connection in listener.incoming() {
        let mut connection = connection?;
        connection.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut request = [0; 8192];
        let length = connection.read(&mut request).unwrap_or(0);
        let text = String::from_utf8_lossy(request.get(..length).unwrap_or_default()).into_owned();
        let path = text.split(' ').nth(1).unwrap_or_default();
        let body = if path == "/" { page } else { "" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        connection.write_all((head + body).as_bytes()).ok();
        if let Some(said) = path.strip_prefix("/report?") {
            return Ok(said.replace("%3D", "=").replace("%20", " ").replace("%3A", ":"));
        }
    }
    anyhow::bail!("the page's server ended")
}

#[test]
fn a_real_browser_keeps_a_foreign_page_out_and_lets_a_configured_one_in() {
    if !Path::new(CHROMIUM).is_file() {
        skip("chromium is not installed (apt install chromium)");
        return;
    }
    story(|site| {
        for configured in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let origin = format!("http://{}", listener.local_addr()?);
            let mut agent = agent(site, if configured { vec![origin.clone()] } else { vec![] })?;
            // Another name for the same machine: a cross-site request, as from any page on the web.
            let page = PAGE.replace("AGENT", &format!("http://localhost:{}", port(&agent)?));
            let serving = thread::spawn(move || report(&listener, &page));
            let profile = site.folder().join(format!("profile-{configured}"));
            let mut browser = Command::new(CHROMIUM)
                .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"])
                .arg(format!("--user-data-dir={}", profile.display()))
                .arg(&origin)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("start chromium")?;
            let said = testkit::wait::until("the page reports", || Ok(serving.is_finished().then_some(())));
            browser.kill().ok();
            browser.wait().ok();
            said?;
            let said = serving.join().map_err(|_panicked| anyhow::anyhow!("the page's server panicked"))??;
            for name in ["text", "json", "untyped", "read"] {
                let refused = said.contains(&format!("{name}=refused"));
                let served = said.contains(&format!("{name}=200:"));
                // text/plain is refused for every page, and a configured page may read the reason.
                let expected = match (configured, name) {
                    (false, _) => refused,
                    (true, "text") => said.contains("text=415:"),
                    (true, _) => served,
                };
                ensure!(expected, "configured {configured}, {name}: {said}");
            }
            // No request of the foreign page has reached a handler.
            let log = agent.daemon()?.log()?;
            ensure!(configured || log.contains("may not use this server"), "{log}");
            agent.stop()?;
        }
        Ok(())
    });
}

fn port(agent: &Agent) -> Result<String> {
    Ok(agent.address("http")?.rsplit(':').next().context("a port")?.to_owned())
}

//! Promises of later answers, shown on real daemons: by poll, by a stream of events, and by a callback.

mod waiting;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use testkit::{Fleet, InferOptions, story};
use waiting::{alone, answer, ask, poll, restart, runs};

/// Returns the options of a request that takes the hub's answer later.
fn amending(id: &str, amend: &str) -> InferOptions {
    InferOptions { id: Some(id.to_owned()), ..InferOptions::policy("prefer-hub").with("amend", amend) }
}

/// Request that a server of this test has read: its first line, its headers and its body.
struct Posted {
    head: String,
    body: Value,
}

/// Reads one request and answers it with a status line and headers.
fn serve(listener: &TcpListener, answer: &str) -> Result<Posted> {
    let (stream, _from) = listener.accept().context("accept")?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            bail!("the request ends in its head: {head}");
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().context("a length")?;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut stream: TcpStream = reader.into_inner();
    stream.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())?;
    Ok(Posted { head, body: serde_json::from_slice(&body)? })
}

#[test]
fn the_device_answers_at_once_and_the_hub_later_also_over_restarts_of_both() {
    story(|site| {
        let mut fleet = alone(site, &[("models.digits.policy.offline", "queue".into())])?;
        // By the owner's policy alone: the application asks for nothing.
        let plain = InferOptions { id: Some("plain".to_owned()), ..InferOptions::policy("prefer-hub") };
        for options in [plain, amending("polled", "poll")] {
            let reply = ask(&fleet, 3, &options)?.ok()?;
            ensure!(
                reply.parameter("place") == "device" && reply.parameter("reason") == "hub-unreachable",
                "{}",
                reply.json
            );
            ensure!(reply.parameter("final") == "false" && reply.parameter("provisional") == "true", "{}", reply.json);
            ensure!(!reply.parameter("amendment_expires_unix_s").is_empty(), "{}", reply.json);
            let path = reply.parameter("amendment");
            let (status, value) = fleet.client()?.get(&path)?;
            ensure!(status == 202 && value["state"] == "waiting", "{path}: {status} {value}");
        }
        let sure = ask(&fleet, 3, &InferOptions::policy("only-device"))?.ok()?;
        ensure!(sure.parameter("final") == "true" && sure.parameter("provisional").is_empty(), "{}", sure.json);
        fleet.agent.kill()?;
        fleet.agent.start()?;
        fleet.hub.start()?;
        for id in ["plain", "polled"] {
            let later = answer(&fleet.agent, id)?;
            ensure!(later["parameters"]["place"] == "hub" && later["parameters"]["final"] == true, "{later}");
        }
        restart(&mut fleet, &[])?;
        let later = answer(&fleet.agent, "polled")?;
        ensure!(later["parameters"]["reason"] == "policy" && later["model_version"] == "1", "{later}");
        let binary = raw_get(&fleet, "/sanderling/v1/requests/polled?binary=true")?.to_lowercase();
        ensure!(binary.starts_with("http/1.1 200") && binary.contains("inference-header-content-length"), "{binary}");
        // With the hub there, the application still has the answer of the device at once.
        fleet.agent.wait_hub(true)?;
        let reply = ask(&fleet, 4, &amending("online", "poll"))?.ok()?;
        ensure!(reply.parameter("place") == "device" && reply.parameter("provisional") == "true", "{}", reply.json);
        ensure!(answer(&fleet.agent, "online")?["parameters"]["place"] == "hub");
        ensure!(runs(&fleet.hub)? == (3.0, 0.0), "{:?}", runs(&fleet.hub)?);
        Ok(())
    });
}

#[test]
fn a_stream_of_events_ends_with_the_answer() {
    story(|site| {
        let mut fleet = alone(site, &[])?;
        let reply = ask(&fleet, 5, &amending("streamed", "stream"))?.ok()?;
        let path = reply.parameter("amendment");
        ensure!(path == "/sanderling/v1/requests/streamed/events", "{}", reply.json);
        let (client, events) = (fleet.client()?, path.clone());
        let reading = thread::spawn(move || client.get(&events));
        fleet.hub.start()?;
        let (status, text) = reading.join().map_err(|_panicked| anyhow::anyhow!("the reader panicked"))??;
        let text = text.as_str().context("a stream of events")?.to_owned();
        ensure!(status == 200 && text.contains("event: answer"), "{status} {text}");
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).context("data")?;
        let event: Value = serde_json::from_str(data)?;
        ensure!(event["parameters"]["place"] == "hub" && event["id"] == "streamed", "{event}");
        ensure!(event == answer(&fleet.agent, "streamed")?);
        // A stream of what has ended without an answer says so, and one of what waits ends with the agent.
        fleet.agent.run(["outbox", "drop", "streamed"])?.ok()?;
        let (_status, text) = fleet.client()?.get(&path)?;
        ensure!(text.as_str().is_some_and(|text| text.contains("event: ended")), "{text}");
        fleet.hub.kill()?;
        fleet.agent.wait_hub(false)?;
        let reply = ask(&fleet, 6, &amending("cut", "stream"))?.ok()?;
        let (client, events) = (fleet.client()?, reply.parameter("amendment"));
        let reading = thread::spawn(move || client.get(&events));
        fleet.agent.stop()?;
        let _ended_or_refused = reading.join().map_err(|_panicked| anyhow::anyhow!("the reader panicked"))?;
        Ok(())
    });
}

#[test]
fn a_callback_on_this_machine_gets_the_answer_without_redirects_also_after_a_restart() {
    story(|site| {
        let mut fleet = alone(site, &[])?;
        let (callback, elsewhere) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        elsewhere.set_nonblocking(true)?;
        let url = format!("http://{}/answers?for=test", callback.local_addr()?);
        let reply = ask(&fleet, 7, &amending("called", "callback").with("amend_url", url.as_str()))?.ok()?;
        ensure!(reply.parameter("provisional") == "true", "{}", reply.json);
        refuse_wrong_callbacks(&fleet)?;
        fleet.agent.kill()?;
        fleet.agent.start()?;
        fleet.hub.start()?;
        let redirect = format!("302 Found\r\nLocation: http://{}/", elsewhere.local_addr()?);
        serve(&callback, &redirect)?;
        serve(&callback, "500 Internal Server Error")?;
        let Posted { head, body } = serve(&callback, "204 No Content")?;
        ensure!(head.starts_with("POST /answers?for=test HTTP/1.1"), "{head}");
        ensure!(head.to_lowercase().contains("sanderling-request-id: called"), "{head}");
        ensure!(body["parameters"]["place"] == "hub" && body["id"] == "called", "{body}");
        ensure!(elsewhere.accept().is_err(), "the redirect was followed");
        // It was taken once and is not posted again, also not after a restart.
        restart(&mut fleet, &[])?;
        fleet.agent.wait_hub(true)?;
        let second = amending("second", "callback").with("amend_url", url.as_str());
        ask(&fleet, 8, &second)?.ok()?;
        let posted = serve(&callback, "200 OK")?;
        ensure!(posted.body["id"] == "second", "{}", posted.body);
        Ok(())
    });
}

/// Sends a request and returns the response as text, whatever it is.
fn raw_get(fleet: &Fleet, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(fleet.agent.address("http")?)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

fn refuse_wrong_callbacks(fleet: &Fleet) -> Result<()> {
    for url in ["http://10.0.0.1/", "https://127.0.0.1/", "http://example.org/", "http://127.0.0.1@example.org/"] {
        let reply = ask(fleet, 0, &amending("wrong", "callback").with("amend_url", url))?;
        ensure!(
            reply.status == 400 && reply.error().contains("this machine"),
            "{url}: {} {}",
            reply.status,
            reply.json
        );
    }
    for options in [
        amending("wrong", "callback"),
        amending("wrong", "mail"),
        amending("wrong", "poll").with("amend_url", "http://127.0.0.1/"),
    ] {
        let reply = ask(fleet, 0, &options)?;
        ensure!(reply.status == 400, "{} {}", reply.status, reply.json);
    }
    ensure!(poll(&fleet.agent, "wrong")?.0 == 404);
    Ok(())
}

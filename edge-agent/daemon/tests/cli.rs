//! The command line as its users run it: every kind of failure has its exit code and says what to do.
//!
//! What needs ONNX Runtime is skipped, and says so, where `cargo xtask setup` has not run.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn agent(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-agent"));
    command
        .env_remove("SANDERLING_AGENT_CONFIG")
        .env_remove("SANDERLING_LOG")
        .env("SANDERLING_AGENT_STATE_DIR", folder.join("state"));
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn config(folder: &Path, more: &str) -> PathBuf {
    let path = folder.join("agent.toml");
    let text =
        format!("[inference]\nhttp = \"127.0.0.1:0\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n[models.digits]\n{more}");
    std::fs::write(&path, text).unwrap();
    path
}

/// ONNX Runtime as tests find it, or a line that says why the test is skipped.
fn onnxruntime() -> Option<PathBuf> {
    let named = std::env::var_os(engine::library::LIBRARY_VARIABLE).map(PathBuf::from);
    let found = named.or_else(engine::library::developer_library).filter(|library| library.exists());
    if found.is_none() {
        eprintln!("skipped: no ONNX Runtime here, run `cargo xtask setup`");
    }
    found
}

/// A running agent that is killed at the end of its test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(folder: &Path, config: &Path, library: &Path) -> Daemon {
    let mut command = agent(folder);
    command.args(["run", "--config"]).arg(config).env("SANDERLING_ONNXRUNTIME", library).stderr(Stdio::null());
    let daemon = Daemon(command.spawn().unwrap());
    let until = Instant::now() + Duration::from_secs(60);
    while !folder.join("state/listening.json").exists() {
        assert!(Instant::now() < until, "the agent did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon
}

#[test]
fn help_teaches_with_examples_and_completions_complete() {
    let folder = tempfile::tempdir().unwrap();
    let (code, help, _) = run(agent(folder.path()).arg("--help"));
    assert_eq!(code, 0);
    for taught in ["edge-agent enroll", "edge-agent infer digits --image", "Exit codes:", "9  "] {
        assert!(help.contains(taught), "{taught:?} is not in the help");
    }
    for verb in ["enroll", "run", "infer", "status", "doctor", "check"] {
        let (code, help, _) = run(agent(folder.path()).args([verb, "--help"]));
        assert!(code == 0 && help.contains("Examples:"), "{verb} --help shows no examples");
    }
    let (code, script, _) = run(agent(folder.path()).args(["completions", "bash"]));
    assert!(code == 0 && script.contains("enroll"));
}

#[test]
fn a_config_file_is_told_all_its_mistakes_with_exit_code_3() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "polcy = \"cascade\"\n[engine]\nqueue = 0\n");
    for verb in [&["config", "check"][..], &["run", "--config"]] {
        let (code, _, stderr) = run(agent(folder.path()).args(verb).arg(&path));
        assert_eq!(code, 3, "{stderr}");
        assert!(stderr.contains("models.digits.polcy") && stderr.contains("engine.queue"), "{stderr}");
    }
    let (code, example, _) = run(agent(folder.path()).args(["config", "example"]));
    std::fs::write(&path, example).unwrap();
    assert_eq!((code, run(agent(folder.path()).args(["config", "check"]).arg(&path)).0), (0, 0));
}

#[test]
fn a_typo_in_a_join_token_is_told_apart_from_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(agent(folder.path()).args(["enroll", "hello"]));
    assert!(code == 2 && stderr.contains("not a join token"), "{stderr}");
    let mut command = agent(folder.path());
    let mut child = command.args(["enroll", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"sandjoin1_AQ9sb2NhbGhvc3Q6NDE2MjIJbG9j\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("damaged in copying"));
}

#[test]
fn a_missing_onnx_runtime_has_exit_code_9_and_says_where_it_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "");
    let nowhere = folder.path().join("nowhere.so");
    let (code, _, stderr) =
        run(agent(folder.path()).args(["run", "--config"]).arg(&path).env("SANDERLING_ONNXRUNTIME", &nowhere));
    assert_eq!(code, 9, "{stderr}");
    assert!(stderr.contains("nowhere.so") && stderr.contains("try:"), "{stderr}");
    // A file that is no library is told apart from none.
    std::fs::write(&nowhere, "not a library").unwrap();
    let (code, _, stderr) =
        run(agent(folder.path()).args(["run", "--config"]).arg(&path).env("SANDERLING_ONNXRUNTIME", &nowhere));
    assert_eq!(code, 9, "{stderr}");
}

#[test]
fn asking_an_agent_that_does_not_run_has_exit_code_6() {
    let folder = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{closed}");
    let (code, _, stderr) = run(agent(folder.path()).args(["status", "--url", &url]));
    assert!(code == 6 && stderr.contains("edge-agent run"), "{stderr}");
}

#[test]
fn a_second_agent_on_the_folder_and_a_taken_port_have_exit_code_7() {
    let Some(library) = onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "");
    let first = start(folder.path(), &path, &library);
    let second = || {
        let mut command = agent(folder.path());
        command.env("SANDERLING_ONNXRUNTIME", &library).args(["run", "--config"]).arg(&path);
        command
    };
    let (code, _, stderr) = run(&mut second());
    assert_eq!(code, 7, "{stderr}");
    assert!(stderr.contains(&format!("process {}", first.0.id())), "{stderr}");
    let (code, stdout, _) = run(agent(folder.path()).args(["status", "--json"]));
    let status: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &status["hub"]["state"]), (0, &"not-enrolled".into()), "the first goes on");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let port = taken.local_addr().unwrap().port();
    std::fs::write(&path, text.replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1)).unwrap();
    let other = folder.path().join("other");
    let (code, _, stderr) = run(second().env("SANDERLING_AGENT_STATE_DIR", &other));
    assert_eq!(code, 7, "{stderr}");
    assert!(stderr.contains("inference.http"), "{stderr}");
}

#[test]
fn sigterm_ends_the_agent_with_exit_code_0_and_takes_its_address_away() {
    let Some(library) = onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "");
    let mut daemon = start(folder.path(), &path, &library);
    let pid = daemon.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
    assert!(!folder.path().join("state/listening.json").exists());
    if let Ok(Some(_)) = daemon.0.try_wait() {
        // A stopped agent leaves its folder to the next one.
        drop(start(folder.path(), &path, &library));
    } else {
        panic!("the agent still runs");
    }
}

/// An ONNX model of one node, with float inputs and outputs of one element.
fn model_of(operator: &str) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    // TypeProto.tensor_type { elem_type: FLOAT, shape { dim { dim_value: 1 } } }
    let tensor = field(1, &[&[1 << 3, 1][..], &field(2, &field(1, &[1 << 3, 1]))].concat());
    let value = |name: &[u8]| [field(1, name), field(2, &tensor)].concat();
    let node = [field(1, b"x"), field(2, b"y"), field(3, b"the-node"), field(4, operator.as_bytes())].concat();
    let graph = [field(1, &node), field(2, b"g"), field(11, &value(b"x")), field(12, &value(b"y"))].concat();
    [vec![1 << 3, 8], field(7, &graph), field(8, &[2 << 3, 17])].concat()
}

#[cfg(feature = "wgpu")]
#[test]
fn checking_a_model_lists_everything_that_stands_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    let check = |content: &[u8]| {
        std::fs::write(&file, content).unwrap();
        let (code, stdout, stderr) =
            run(agent(folder.path()).arg("check").arg(&file).args(["--engine", "wgpu", "--json"]));
        (code, serde_json::from_str::<serde_json::Value>(&stdout).unwrap(), stderr)
    };
    let (code, checked, stderr) = check(&model_of("Relu"));
    assert!(code == 0 && checked["can_run"] == true, "{checked} {stderr}");
    let (code, checked, stderr) = check(&model_of("Frobnicate"));
    assert!(code == 1 && checked["can_run"] == false, "{checked} {stderr}");
    let first = &checked["unsupported"][0];
    assert_eq!((first["operator"].as_str(), first["first_node"].as_str()), (Some("Frobnicate"), Some("the-node")));
    assert_eq!(
        (first["domain"].as_str(), first["opset"].as_i64(), first["count"].as_i64()),
        (Some("ai.onnx"), Some(17), Some(1))
    );
    assert!(first["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{checked}");
    let (code, checked, stderr) = check(b"not a model");
    assert!(code == 3 && checked["can_run"] == false && stderr.contains("cannot run it"), "{checked} {stderr}");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(run(agent(folder.path()).arg("check").arg(&file)).0, 4);
}

#[cfg(feature = "wgpu")]
#[test]
fn doctor_tells_of_an_engine_that_is_missing_beside_another_without_failing() {
    let Some(library) = onnxruntime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let more = "[engine]\nengines = [\"wgpu\", \"ort\"]\n[engine.wgpu]\nadapter = \"no GPU has this name\"\n";
    let path = config(folder.path(), more);
    let mut command = agent(folder.path());
    command.env("SANDERLING_ONNXRUNTIME", &library).args(["doctor", "--json", "--config"]).arg(&path);
    let (code, stdout, stderr) = run(&mut command);
    let checks: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
    let result = |name: &str| checks.iter().find(|check| check["check"] == name).unwrap()["result"].clone();
    assert_eq!((code, result("wgpu"), result("ONNX Runtime")), (0, "warning".into(), "ok".into()), "{stdout} {stderr}");
}

/// One of each kind: type, unknown table, unknown field, key, range, enum, element of a list, duration, cross-field.
#[test]
fn ten_mistakes_of_different_kinds_are_told_at_once_each_with_its_line() {
    let text = "\
[agent]
stop_grace = \"1h\"
[inference]
http = \"127.0.0.1:8002\"
body_bytes_max = \"many\"
requests_max = -1
timeout = \"1s\"
[engine]
engines = [\"ort\", \"tpu\", \"ort\"]
sessions = 0
providers = [\"cpu\", \"abacus\"]
run_limit = 30
[engine.wgpu]
power = \"medium\"
memory_bytes = 1
[hub]
addresses = [\"hub.example\", 7]
[update]
enabled = false
[updates]
enabled = \"yes\"
[log]
filter = \"a=loud\"
[models.\"Bad Name\"]
policy = \"cascade\"
[models.digits]
policy = \"always-hub\"
deadline = \"0s\"
";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    let (code, _, told) = run(agent(folder.path()).args(["config", "check"]).arg(&file));
    assert_eq!(code, 3, "{told}");
    for mistake in [
        "agent.stop_grace (line 2)",
        "inference.body_bytes_max (line 5)",
        "inference.requests_max (line 6)",
        "inference.timeout (line 7)",
        "engine.engines[1] (line 9)",
        "engine.sessions (line 10)",
        "engine.providers[1] (line 11)",
        "engine.run_limit (line 12)",
        "engine.wgpu.power (line 14)",
        "engine.wgpu.memory_bytes (line 15)",
        "hub.addresses[1] (line 17)",
        "update (line 18)",
        "updates.enabled (line 21)",
        "log.filter (line 23)",
        "Bad Name",
        "models.digits.policy (line 27)",
        "models.digits.deadline (line 28)",
        "metrics.listen",
    ] {
        assert!(told.contains(mistake), "no {mistake} in:\n{told}");
    }
}

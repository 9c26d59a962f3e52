//! Tests of engines in child processes. The child is a real process: this very program.

#![expect(unsafe_code, reason = "a native crash is what is tested")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use engine::host::{MODEL_DEATHS_MAX, serve};
use engine::{
    CancelFlag, Engine, EngineDescription, HostOptions, LoadError, LoadOptions, ModelBytes, ProcessEngine, RunControl,
    RunError, Session,
};
use types::{DType, Dim, EngineName, NamedTensor, Signature, Tensor, TensorSpec};

/// Set in children of this test.
const CHILD: &str = "ENGINE_HOST_TEST_CHILD";

/// A model that a pre-check lets through: an empty graph of ONNX (`ir_version` 8, an empty `graph`).
const MODEL: &[u8] = &[0x08, 0x08, 0x3a, 0x00];

/// Not a test of its own: the child.
#[test]
fn child_process() {
    if std::env::var_os(CHILD).is_some() {
        serve(|config, _keepsake| Ok(Arc::new(Chaos { dies_at_load: config["dies_at_load"] == true })));
        std::process::exit(1);
    }
}

/// Does what the first number of a request says.
#[derive(Debug)]
struct Chaos {
    dies_at_load: bool,
}

const SEGFAULT: f32 = 1.0;
const ABORT: f32 = 2.0;
const ENDLESS: f32 = 3.0;
const OVERFLOW: f32 = 4.0;
const MEMORY: f32 = 5.0;
const EXIT: f32 = 6.0;
const PANIC: f32 = 7.0;
const NETWORK: f32 = 8.0;
const FILES: f32 = 9.0;
const PROCESSES: f32 = 10.0;
const UNTIL_STOPPED: f32 = 11.0;
const LARGE: f32 = 12.0;

impl Engine for Chaos {
    fn name(&self) -> EngineName {
        EngineName::Fake
    }

    fn describe(&self) -> EngineDescription {
        EngineDescription { engine: EngineName::Fake, version: "chaos".into(), library: None, providers: vec![] }
    }

    fn load(&self, _model: ModelBytes, _options: &LoadOptions) -> Result<Box<dyn Session>, LoadError> {
        if self.dies_at_load {
            std::process::abort();
        }
        let spec = |name: &str| TensorSpec { name: name.into(), dtype: DType::F32, shape: Some(vec![Dim::Any]) };
        Ok(Box::new(ChaosSession(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] })))
    }
}

#[derive(Debug)]
struct ChaosSession(Signature);

impl Session for ChaosSession {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn provider(&self) -> &str {
        "Chaos"
    }

    fn run(
        &mut self,
        inputs: &[NamedTensor],
        _outputs: &[String],
        control: &RunControl,
    ) -> Result<Vec<NamedTensor>, RunError> {
        let values = inputs[0].tensor.to_f32().unwrap();
        let said = |what: std::io::Result<()>| RunError::Failed(format!("{:?}", what.map_err(|e| e.kind())).into());
        match values.first().copied().unwrap_or_default() {
            // SAFETY: not sound, and that is what it is for.
            SEGFAULT => unsafe { std::ptr::null_mut::<u8>().wrapping_add(8).write_volatile(1) },
            ABORT => std::process::abort(),
            ENDLESS => loop {
                std::hint::spin_loop();
            },
            OVERFLOW => drop(deep(u64::MAX)),
            MEMORY => {
                let hoard: Vec<Vec<u8>> = (0..64).map(|_| vec![1; 64 * 1024 * 1024]).collect();
                std::hint::black_box(hoard);
            }
            EXIT => std::process::exit(3),
            PANIC => panic!("as asked"),
            NETWORK => return Err(said(std::net::UdpSocket::bind("127.0.0.1:0").map(drop))),
            FILES => return Err(said(std::fs::File::open("/etc/passwd").map(drop))),
            PROCESSES => return Err(said(std::process::Command::new("/bin/true").status().map(drop))),
            UNTIL_STOPPED => {
                while !control.cancel.is_cancelled() {
                    thread::sleep(Duration::from_millis(1));
                }
                return Err(RunError::Cancelled);
            }
            LARGE => return Ok(vec![row("y", &vec![1.0; 3_000_000])]),
            _ => {}
        }
        let answer: Vec<f32> = values.iter().map(|value| value + 1.0).collect();
        Ok(vec![row("y", &answer)])
    }
}

#[expect(unconditional_recursion, reason = "the stack must overflow")]
fn deep(left: u64) -> [u64; 64] {
    let mut more = deep(std::hint::black_box(left - 1));
    more[0] += 1;
    more
}

fn row(name: &str, values: &[f32]) -> NamedTensor {
    NamedTensor { name: name.into(), tensor: Tensor::from_f32(vec![values.len()], values).unwrap() }
}

fn options() -> HostOptions {
    let mut options = HostOptions::new(EngineName::Fake, serde_json::json!({}));
    options.arguments = ["--exact", "child_process", "--nocapture", "--test-threads=1"].map(Into::into).to_vec();
    options.environment.push((CHILD.into(), "1".into()));
    options
}

fn engine() -> ProcessEngine {
    ProcessEngine::open(options()).unwrap()
}

fn load(engine: &ProcessEngine, name: &str, trial: bool) -> Box<dyn Session> {
    let options = LoadOptions { name: name.into(), trial, ..LoadOptions::default() };
    engine.load(ModelBytes::from(MODEL.to_vec()), &options).unwrap()
}

fn ask(session: &mut dyn Session, values: &[f32]) -> Result<Vec<f32>, RunError> {
    let answer = session.run(&[row("x", values)], &[], &RunControl::default())?;
    Ok(answer[0].tensor.to_f32().unwrap())
}

fn expect_well(session: &mut dyn Session) {
    assert_eq!(ask(session, &[100.0]).unwrap(), [101.0]);
}

#[test]
fn a_session_in_a_child_answers_as_one_inside() {
    let engine = engine();
    let mut session = load(&engine, "a", false);
    assert_eq!(session.provider(), "Chaos");
    assert_eq!(engine.describe().version, "chaos");
    for length in [1, 0, 30_000, 3, 2_000_000] {
        let values = vec![20.0; length];
        assert_eq!(ask(session.as_mut(), &values).unwrap(), vec![21.0; length]);
    }
    assert_eq!(ask(session.as_mut(), &[LARGE]).unwrap().len(), 3_000_000);
    expect_well(session.as_mut());
}

#[test]
fn a_native_crash_costs_one_request_and_no_other_model() {
    for (cause, said) in [(SEGFAULT, "SIGSEGV"), (ABORT, "SIGABRT"), (OVERFLOW, "SIG"), (EXIT, "code 3")] {
        let engine = engine();
        let (mut bad, mut good) = (load(&engine, "bad", false), load(&engine, "good", false));
        let error = ask(bad.as_mut(), &[cause]).unwrap_err();
        let RunError::Died(death) = &error else { panic!("{error:?}") };
        assert!(death.to_string().contains(said), "{death}");
        expect_well(good.as_mut());
        expect_well(bad.as_mut());
        // By now it is alone: its second crash does not even restart the other's process.
        let shared = engine.hosts()[0].clone();
        assert!(ask(bad.as_mut(), &[cause]).is_err());
        expect_well(good.as_mut());
        assert_eq!(engine.hosts()[0].pid, shared.pid);
        let refused = ask(bad.as_mut(), &[cause]).unwrap_err();
        assert!(matches!(refused, RunError::Quarantined { deaths: 2, .. }), "{refused:?}");
        expect_well(bad.as_mut());
    }
}

#[test]
fn a_panic_of_an_engine_costs_nothing_but_the_request() {
    let engine = engine();
    let mut session = load(&engine, "a", false);
    assert!(matches!(ask(session.as_mut(), &[PANIC]), Err(RunError::Failed(_))));
    expect_well(session.as_mut());
    assert_eq!(engine.hosts()[0].restarts, 0);
}

#[test]
fn a_request_of_another_model_that_runs_meanwhile_is_answered_all_the_same() {
    let engine = engine();
    let (mut bad, mut good) = (load(&engine, "bad", false), load(&engine, "good", false));
    let (done, answered) = sync_channel(1);
    let waits = thread::spawn(move || {
        let control = RunControl { cancel: CancelFlag::default(), ..RunControl::default() };
        let cancel = control.cancel.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(1500));
            cancel.cancel();
        });
        let ended = good.run(&[row("x", &[UNTIL_STOPPED])], &[], &control);
        done.send(()).unwrap();
        (good, ended)
    });
    thread::sleep(Duration::from_millis(200));
    assert!(matches!(ask(bad.as_mut(), &[ABORT]), Err(RunError::Died(_))));
    answered.recv_timeout(Duration::from_secs(60)).unwrap();
    let (mut good, ended) = waits.join().unwrap();
    // It ran again, in a process of its own, until it was cancelled.
    assert!(matches!(ended, Err(RunError::Cancelled)), "{ended:?}");
    expect_well(good.as_mut());
}

#[test]
fn an_endless_run_is_ended_after_the_longest_one_and_its_grace() {
    let engine = ProcessEngine::open(HostOptions { run_limit: Duration::from_millis(50), ..options() }).unwrap();
    let mut session = load(&engine, "a", false);
    let error = ask(session.as_mut(), &[ENDLESS]).unwrap_err();
    assert!(matches!(&error, RunError::Died(death) if death.to_string().contains("no answer in time")), "{error:?}");
    expect_well(session.as_mut());
}

#[test]
fn a_run_takes_no_more_memory_than_it_may() {
    let engine = ProcessEngine::open(HostOptions { memory_max: Some(256 * 1024 * 1024), ..options() }).unwrap();
    let mut session = load(&engine, "a", false);
    // 4 GiB: Rust aborts where memory runs out; ONNX Runtime says so.
    assert!(matches!(ask(session.as_mut(), &[MEMORY]), Err(RunError::Died(_))));
    expect_well(session.as_mut());
    assert!(engine.hosts().iter().all(|host| host.memory_max_bytes.is_none_or(|most| most < 1024 * 1024 * 1024)));
}

/// Waits for the process that a model is in.
fn pid_of(engine: &ProcessEngine, name: &str) -> u32 {
    loop {
        let hosts = engine.hosts();
        if let Some(pid) = hosts.iter().find(|host| host.sessions == [name]).and_then(|host| host.pid) {
            return pid;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_child_that_is_killed_from_outside_is_started_again_and_nobody_is_blamed() {
    let engine = engine();
    let mut session = load(&engine, "a", false);
    for _ in 0..3 {
        expect_well(session.as_mut());
        let pid = pid_of(&engine, "a");
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        // Even when its end is not noticed yet.
        expect_well(session.as_mut());
    }
}

#[test]
fn a_model_on_trial_is_alone_until_it_is_proven() {
    let engine = engine();
    let mut proven = load(&engine, "proven", false);
    let mut trial = load(&engine, "trial", true);
    assert_eq!(engine.hosts().len(), 2);
    let shared = engine.hosts()[0].pid;
    assert!(ask(trial.as_mut(), &[ABORT]).is_err());
    expect_well(proven.as_mut());
    expect_well(trial.as_mut());
    assert_eq!(engine.hosts()[0].pid, shared, "the shared process was not touched");
    trial.hosted().unwrap().promote().unwrap();
    expect_well(trial.as_mut());
    let hosts = engine.hosts();
    assert_eq!(hosts[0].sessions, ["proven", "trial"]);
    assert_eq!(hosts.len(), 1, "{hosts:?}");
}

#[test]
fn a_model_that_keeps_ending_its_child_is_not_run_any_more() {
    let engine = engine();
    let (mut bad, mut good) = (load(&engine, "bad", false), load(&engine, "good", false));
    let mut last = VecDeque::new();
    for number in 0..=MODEL_DEATHS_MAX {
        // Another request each time, so that none is quarantined.
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let values = [ABORT, number as f32];
        last.push_back(ask(bad.as_mut(), &values).unwrap_err());
    }
    assert!(matches!(last.back(), Some(RunError::Condemned(_))), "{last:?}");
    assert!(matches!(ask(bad.as_mut(), &[100.0]), Err(RunError::Condemned(_))));
    assert!(bad.hosted().unwrap().condemned().is_some());
    expect_well(good.as_mut());
}

#[test]
fn a_model_that_ends_its_child_at_load_is_an_error() {
    let dying = HostOptions { config: serde_json::json!({ "dies_at_load": true }), ..options() };
    let engine = ProcessEngine::open(dying).unwrap();
    let options = LoadOptions { trial: true, ..LoadOptions::default() };
    let refused = engine.load(ModelBytes::from(MODEL.to_vec()), &options).unwrap_err();
    assert!(matches!(refused, LoadError::Died(_)), "{refused:?}");
}

#[test]
fn a_child_reaches_no_network_no_file_and_no_other_program() {
    let engine = engine();
    let mut session = load(&engine, "a", false);
    for way in [NETWORK, FILES, PROCESSES] {
        let error = ask(session.as_mut(), &[way]).unwrap_err();
        let RunError::Failed(said) = &error else { panic!("{error:?}") };
        assert_eq!(said.to_string(), "Err(PermissionDenied)", "{way}");
    }
}

#[test]
fn a_cancelled_or_late_run_ends_between_two_operators() {
    let engine = engine();
    let mut session = load(&engine, "a", false);
    let control = RunControl::default();
    let cancel = control.cancel.clone();
    let canceller = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        cancel.cancel();
    });
    let ended = session.run(&[row("x", &[UNTIL_STOPPED])], &[], &control);
    assert!(matches!(ended, Err(RunError::Cancelled)), "{ended:?}");
    canceller.join().unwrap();
    assert_eq!(engine.hosts()[0].restarts, 0);
    // One that was cancelled before it began does not run.
    let control = RunControl::default();
    control.cancel.cancel();
    assert!(session.run(&[row("x", &[UNTIL_STOPPED])], &[], &control).is_err());
    expect_well(session.as_mut());
}

#[test]
fn a_program_that_is_no_child_of_ours_is_an_error() {
    for (program, arguments) in [("/bin/false", vec![]), ("/bin/sh", vec!["-c", "echo garbage >&0; sleep 1"])] {
        let arguments = arguments.into_iter().map(Into::into).collect();
        let options = HostOptions { program: program.into(), arguments, ..options() };
        assert!(matches!(ProcessEngine::open(options), Err(LoadError::Host(_))));
    }
}

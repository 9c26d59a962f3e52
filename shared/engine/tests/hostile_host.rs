//! A host process that was taken over says anything to its daemon: each lie costs the session or the host, never the daemon.
//!
//! This very program is the child. It plays the protocol of a host with messages that a script gives, one for each phase.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use engine::{Engine, HostOptions, LoadError, LoadOptions, ModelBytes, ProcessEngine, RunControl, RunError, Session};
use proptest::prelude::*;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use types::{DType, Dim, EngineName, NamedTensor, Signature, Tensor, TensorSpec};

/// Set in children of this test.
const CHILD: &str = "HOSTILE_HOST_TEST_CHILD";

/// A model that a pre-check lets through: an empty graph of ONNX (`ir_version` 8, an empty `graph`).
const MODEL: &[u8] = &[0x08, 0x08, 0x3a, 0x00];

/// Messages of more bytes than this are refused by the daemon.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// One thing that the child does.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Step {
    /// Sends this text as one message.
    Text(String),
    /// Sends so many spaces as one message.
    Spaces(usize),
    /// Sends these bytes as one message.
    Bytes(Vec<u8>),
    /// Sends this text with three descriptors that nobody asked for.
    Descriptors(String),
    /// Sends this text until the daemon is gone.
    Endless(String),
    /// Writes these bytes to the beginning of the shared region.
    Region(Vec<u8>),
    /// Sets the length of the shared region.
    Resize(u64),
    /// Writes lines to the standard error.
    Lines(u32),
    /// Closes the session's socket.
    Close,
    /// Answers as a host does.
    Answer,
}

/// Steps of the child in each phase.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Script {
    opening: Vec<Step>,
    load: Vec<Step>,
    run: Vec<Step>,
    /// Loads after which the child reads no more orders.
    reads_until: Option<u32>,
}

impl Script {
    /// Returns a script that answers as a host does in every phase.
    fn honest() -> Self {
        Self { opening: vec![Step::Answer], load: vec![Step::Answer], run: vec![Step::Answer], reads_until: None }
    }

    fn opening(steps: Vec<Step>) -> Self {
        Self { opening: steps, ..Self::honest() }
    }

    fn load(steps: Vec<Step>) -> Self {
        Self { load: steps, ..Self::honest() }
    }

    fn run(steps: Vec<Step>) -> Self {
        Self { run: steps, ..Self::honest() }
    }
}

fn text(value: &Value) -> Step {
    Step::Text(value.to_string())
}

/// Not a test of its own: the child.
#[test]
fn child_process() {
    if std::env::var_os(CHILD).is_some() {
        play();
        std::process::exit(0);
    }
}

/// The child's side: reads orders and does what the script says.
fn play() {
    let control = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let (first, _kept) = receive(control.as_fd()).unwrap();
    let script = Script::deserialize(&first["Open"]["config"]).unwrap();
    let description = json!({ "engine": "fake", "version": "hostile", "library": null, "providers": [] });
    let opened = json!({ "Opened": { "description": description, "data_bytes": 0, "notes": [] } });
    perform(&script.opening, control.as_fd(), None, &opened);
    let mut loads = 0;
    while let Some((order, descriptors)) = receive(control.as_fd()) {
        if order.get("Load").is_none() {
            continue;
        }
        let [_model, region, socket] = <[OwnedFd; 3]>::try_from(descriptors).unwrap();
        let script = script.clone();
        let until = script.reads_until;
        thread::spawn(move || host(&script, &region, &socket));
        loads += 1;
        while until == Some(loads) {
            thread::park();
        }
    }
}

/// One session of the child.
fn host(script: &Script, region: &OwnedFd, socket: &OwnedFd) {
    let described = described();
    rustix::fs::ftruncate(region, 64 * 1024).unwrap();
    rustix::io::pwrite(region, described.as_bytes(), 0).unwrap();
    perform(&script.load, socket.as_fd(), Some(region), &json!({ "Loaded": { "length": described.len() } }));
    while let Some((run, _none)) = receive(socket.as_fd()) {
        let at = run["outputs_at"].as_u64().unwrap();
        rustix::io::pwrite(region, &7.0_f32.to_le_bytes(), at).unwrap();
        let output = json!({ "dtype": "FP32", "shape": [1], "offset": at, "length": 4 });
        perform(
            &script.run,
            socket.as_fd(),
            Some(region),
            &json!({ "Answer": { "run": run["run"], "outputs": [output] } }),
        );
    }
}

fn described() -> String {
    let spec = |name: &str| TensorSpec { name: name.into(), dtype: DType::F32, shape: Some(vec![Dim::Any]) };
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
    json!({ "signature": signature, "provider": "Hostile", "keepsake": null }).to_string()
}

fn perform(steps: &[Step], socket: BorrowedFd<'_>, region: Option<&OwnedFd>, honest: &Value) {
    for step in steps {
        match step {
            Step::Text(text) => drop(rustix::net::send(socket, text.as_bytes(), SendFlags::NOSIGNAL).ok()),
            Step::Spaces(count) => drop(rustix::net::send(socket, &vec![b' '; *count], SendFlags::NOSIGNAL).ok()),
            Step::Bytes(bytes) => drop(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL).ok()),
            Step::Descriptors(text) => send_with_descriptors(socket, text),
            Step::Endless(text) => while rustix::net::send(socket, text.as_bytes(), SendFlags::NOSIGNAL).is_ok() {},
            Step::Region(bytes) => drop(region.map(|region| rustix::io::pwrite(region, bytes, 0))),
            Step::Resize(length) => drop(region.map(|region| rustix::fs::ftruncate(region, *length))),
            Step::Lines(count) => (0..*count).for_each(|line| eprintln!("{line} \x1b[2J {}", "x".repeat(5000))),
            Step::Close => drop(rustix::net::shutdown(socket, rustix::net::Shutdown::Both).ok()),
            Step::Answer => drop(rustix::net::send(socket, honest.to_string().as_bytes(), SendFlags::NOSIGNAL).ok()),
        }
    }
}

fn send_with_descriptors(socket: BorrowedFd<'_>, text: &str) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let (out, err) = (std::io::stdout(), std::io::stderr());
    let sent = [out.as_fd(), err.as_fd(), socket];
    assert!(control.push(SendAncillaryMessage::ScmRights(&sent)));
    rustix::net::sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL).ok();
}

/// Receives one message of the daemon; `None` when it is gone.
fn receive(socket: BorrowedFd<'_>) -> Option<(Value, Vec<OwnedFd>)> {
    let mut buffer = vec![0; 2 * MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut buffer)];
    let length = rustix::net::recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?.bytes;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Some((serde_json::from_slice(buffer.get(..length).filter(|bytes| !bytes.is_empty())?).ok()?, descriptors))
}

/// Starts the child with a script.
fn open(script: &Script) -> Result<ProcessEngine, LoadError> {
    let mut options = HostOptions::new(EngineName::Fake, serde_json::to_value(script).unwrap());
    options.arguments = ["--exact", "child_process", "--nocapture", "--test-threads=1"].map(Into::into).to_vec();
    options.environment.push((CHILD.into(), "1".into()));
    // A host that says nothing is given up after this and the grace.
    options.run_limit = Duration::from_millis(50);
    ProcessEngine::open(options)
}

fn load(engine: &ProcessEngine) -> Result<Box<dyn Session>, LoadError> {
    engine.load(ModelBytes::from(MODEL.to_vec()), &LoadOptions::default())
}

fn ask(session: &mut dyn Session) -> Result<Vec<NamedTensor>, RunError> {
    let input = NamedTensor { name: "x".into(), tensor: Tensor::from_f32(vec![1], &[1.0]).unwrap() };
    session.run(&[input], &[], &RunControl::default())
}

fn one() -> Vec<NamedTensor> {
    vec![NamedTensor { name: "y".into(), tensor: Tensor::from_f32(vec![1], &[7.0]).unwrap() }]
}

/// Demands that the daemon's side is as well as before: another host of it works.
fn expect_well() {
    let engine = open(&Script::honest()).unwrap();
    let mut session = load(&engine).unwrap();
    assert_eq!(ask(session.as_mut()).unwrap(), one());
}

#[test]
fn an_honest_child_is_believed() {
    expect_well();
}

#[test]
fn lies_about_the_engine_are_an_error_of_the_start() {
    let opened = |version: &str, engine: &str, notes: Value| {
        let description = json!({ "engine": engine, "version": version, "library": null, "providers": [] });
        text(&json!({ "Opened": { "description": description, "data_bytes": 0, "notes": notes } }))
    };
    for lie in [
        vec![],
        vec![Step::Close],
        vec![Step::Bytes(vec![])],
        vec![Step::Bytes(vec![0xff; 1000])],
        vec![Step::Text("{".repeat(10_000))],
        vec![Step::Spaces(MESSAGE_BYTES_MAX + 1)],
        vec![text(&json!({ "Loaded": { "length": 1 } }))],
        vec![text(&json!({ "Failed": { "why": "\u{1b}[2J".repeat(1000) } }))],
        vec![opened("1", "no such engine", json!([]))],
        vec![opened("1", "fake", json!("no list"))],
    ] {
        // One that says nothing at all would be waited for: it ends instead.
        let lie = if lie.is_empty() { vec![Step::Close] } else { lie };
        let refused = open(&Script::opening(lie.clone())).map(drop).unwrap_err();
        assert!(matches!(refused, LoadError::Host(_)), "{lie:?}: {refused:?}");
    }
    // What is only too much is taken as it is, once.
    let notes = json!(vec!["note"; 5000]);
    let engine = open(&Script::opening(vec![opened(&"1".repeat(1000), "fake", notes), Step::Lines(1000)])).unwrap();
    assert_eq!(ask(load(&engine).unwrap().as_mut()).unwrap(), one());
    expect_well();
}

#[test]
fn lies_about_a_loaded_model_are_the_end_of_that_host_and_an_error_of_the_load() {
    let loaded = |length: usize| text(&json!({ "Loaded": { "length": length } }));
    let described = |json: &Value| {
        let json = json.to_string().into_bytes();
        let length = json.len();
        vec![Step::Resize(8 * 1024 * 1024), Step::Region(json), loaded(length)]
    };
    let spec =
        |name: &str, dims: usize| json!({ "name": name, "dtype": "FP32", "shape": vec![json!({"Fixed": 1}); dims] });
    let says = |inputs: Value, outputs: Value| {
        described(&json!({ "signature": { "inputs": inputs, "outputs": outputs }, "provider": "p", "keepsake": null }))
    };
    for lie in [
        vec![Step::Close],
        vec![Step::Bytes(vec![])],
        vec![Step::Bytes(vec![0; 100])],
        vec![Step::Spaces(MESSAGE_BYTES_MAX + 1)],
        vec![loaded(0)],
        vec![loaded(usize::MAX)],
        vec![loaded(4 * 1024 * 1024 + 1)],
        // Longer than the region is.
        vec![loaded(1024 * 1024)],
        vec![Step::Region(vec![b'['; 1000]), loaded(1000)],
        vec![text(&json!({ "Answer": { "run": 1, "outputs": [] } })), Step::Answer],
        vec![text(&json!({ "NoAnswer": { "run": 1, "problem": "Deadline" } })), Step::Answer],
        vec![text(&json!({ "NotLoaded": { "Unheard": {} } }))],
        says(json!([spec("x", 17)]), json!([])),
        says(json!(vec![spec("x", 1); 257]), json!([])),
        says(json!([]), json!(vec![spec("y", 1); 257])),
        says(json!([{ "name": "x", "dtype": "no type", "shape": null }]), json!([])),
        says(json!({}), json!([])),
    ] {
        let engine = open(&Script::load(lie.clone())).unwrap();
        let refused = load(&engine).map(drop).unwrap_err();
        assert!(matches!(refused, LoadError::Died(_)), "{lie:?}: {refused:?}");
    }
    // What is a lawful answer is not the end of the host.
    for problem in [
        json!({ "Failed": { "cause": "\u{0}\u{1b}".repeat(1000) } }),
        json!({ "Provider": { "provider": "cuda", "cause": "" } }),
        json!({ "Unsupported": { "is_input": true, "name": "", "what": "" } }),
    ] {
        let engine = open(&Script::load(vec![text(&json!({ "NotLoaded": problem }))])).unwrap();
        let refused = load(&engine).map(drop).unwrap_err();
        assert!(!matches!(refused, LoadError::Died(_)), "{problem}: {refused:?}");
        assert_eq!(engine.hosts()[0].restarts, 0);
    }
    expect_well();
}

#[test]
fn a_region_that_the_host_shrinks_or_grows_harms_nobody() {
    // Shrinking is refused by the seal, so the honest answer is still there.
    let engine = open(&Script::run(vec![Step::Resize(0), Step::Answer])).unwrap();
    assert_eq!(ask(load(&engine).unwrap().as_mut()).unwrap(), one());
    // A terabyte of nothing: the daemon maps what was asked for.
    let engine = open(&Script::run(vec![Step::Resize(1 << 40), Step::Answer])).unwrap();
    let mut session = load(&engine).unwrap();
    for _time in 0..3 {
        assert_eq!(ask(session.as_mut()).unwrap(), one());
    }
    expect_well();
}

#[test]
fn lies_about_a_run_are_the_end_of_that_host_and_an_error_of_the_request() {
    let answer = |run: u64, outputs: &Value| text(&json!({ "Answer": { "run": run, "outputs": outputs } }));
    let output = |dtype: &str, shape: Value, offset: usize, length: usize| json!({ "dtype": dtype, "shape": shape, "offset": offset, "length": length });
    let one_output = |dtype: &str, shape: Value, offset: usize, length: usize| {
        answer(1, &json!([output(dtype, shape, offset, length)]))
    };
    for lie in [
        vec![Step::Close],
        vec![Step::Bytes(vec![])],
        vec![Step::Bytes((0..=255).collect())],
        vec![Step::Spaces(MESSAGE_BYTES_MAX + 1)],
        vec![Step::Endless("{}".to_owned())],
        vec![Step::Endless("x".repeat(60_000))],
        vec![text(&json!({ "Loaded": { "length": 1 } }))],
        // No answer to this request.
        vec![answer(0, &json!([]))],
        vec![answer(u64::MAX, &json!([])), Step::Answer],
        vec![text(&json!({ "NoAnswer": { "run": 2, "problem": "Deadline" } })), Step::Answer],
        vec![answer(1, &json!([]))],
        vec![answer(1, &json!(vec![output("FP32", json!([1]), 0, 4); 2]))],
        vec![one_output("FP32", json!([1]), usize::MAX, 4)],
        vec![one_output("FP32", json!([1]), 1 << 40, 4)],
        vec![one_output("FP32", json!([2]), 0, 4)],
        vec![one_output("FP32", json!([usize::MAX, usize::MAX]), 0, 4)],
        vec![one_output("no type", json!([1]), 0, 4)],
        vec![one_output("BYTES", json!([1]), 0, 4000)],
        vec![one_output("UINT8", json!([1 << 30]), 0, 1 << 30)],
        vec![one_output("FP32", json!(vec![1; 17]), 0, 4)],
        vec![one_output("FP32", json!([-1]), 0, 4)],
    ] {
        let engine = open(&Script::run(lie.clone())).unwrap();
        let mut session = load(&engine).unwrap();
        let refused = ask(session.as_mut()).unwrap_err();
        assert!(matches!(refused, RunError::Died(_)), "{lie:?}: {refused:?}");
    }
    expect_well();
}

#[test]
fn an_answer_too_many_ends_the_host_at_the_next_request() {
    // The first is right; the second lies in the socket when the next request goes out.
    let engine = open(&Script::run(vec![Step::Answer, Step::Answer])).unwrap();
    let mut session = load(&engine).unwrap();
    assert_eq!(ask(session.as_mut()).unwrap(), one());
    assert!(matches!(ask(session.as_mut()), Err(RunError::Died(_))));
    // Loaded again, in a process that begins the same way.
    assert_eq!(ask(session.as_mut()).unwrap(), one());
    expect_well();
}

#[test]
fn words_of_a_host_are_an_error_with_a_bounded_text_and_descriptors_are_dropped() {
    let engine = open(&Script::run(vec![text(
        &json!({ "NoAnswer": { "run": 1, "problem": { "TooLarge": { "output": "y", "dtype": "?", "shape": [] } } } }),
    )]))
    .unwrap();
    let refused = ask(load(&engine).unwrap().as_mut()).unwrap_err();
    assert!(matches!(refused, RunError::Failed(_)), "{refused:?}");
    // Descriptors that come with an answer are not taken in.
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let at = json!([{ "dtype": "FP32", "shape": [1], "offset": 0, "length": 4 }]);
    let messages =
        (1..=50).map(|run| Step::Descriptors(json!({ "Answer": { "run": run, "outputs": at } }).to_string()));
    let engine = open(&Script::load([Step::Answer].into_iter().chain(messages).collect())).unwrap();
    let mut session = load(&engine).unwrap();
    let before = open_files();
    for _run in 0..50 {
        ask(session.as_mut()).unwrap();
    }
    // Other tests of this program have files open too.
    assert!(open_files() < before + 100, "{before} files before, {} after", open_files());
}

#[test]
fn a_host_that_writes_without_end_is_not_listened_to() {
    let engine = open(&Script::run(vec![Step::Lines(5000), Step::Answer])).unwrap();
    assert_eq!(ask(load(&engine).unwrap().as_mut()).unwrap(), one());
}

#[test]
fn a_host_that_reads_no_orders_is_killed_when_they_do_not_fit_any_more() {
    const SESSIONS: u32 = 300;
    let engine = open(&Script { reads_until: Some(SESSIONS), ..Script::honest() }).unwrap();
    let sessions: Vec<_> = (0..SESSIONS).map(|_| load(&engine).unwrap()).collect();
    // Each tells the host that it needs its memory no more; nobody may wait for that.
    drop(sessions);
    // A load whose order did not fit is an error, as of any host that ends; so is one that begins before it has ended.
    let mut session = (0..5).find_map(|_attempt| load(&engine).ok()).unwrap();
    assert_eq!(ask(session.as_mut()).unwrap(), one());
    assert_eq!(engine.hosts()[0].restarts, 1);
}

fn damaged(message: &str, at: usize, bytes: &[u8], cut: usize) -> Vec<u8> {
    let mut damaged = message.as_bytes().to_vec();
    let at = at % damaged.len();
    damaged.splice(at..at, bytes.iter().copied());
    let left = damaged.len() - cut % damaged.len();
    damaged.truncate(left);
    damaged
}

proptest! {
    // Each case starts two processes.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_at_load_and_at_a_run_leave_the_daemon_well(
        loads in any::<bool>(),
        is_random in any::<bool>(),
        random in proptest::collection::vec(any::<u8>(), 1..300),
        at in any::<usize>(),
        inserted in proptest::collection::vec(any::<u8>(), 0..3),
        cut in prop_oneof![Just(0_usize), any::<usize>()],
    ) {
        let honest = json!({ "Answer": { "run": 1, "outputs": [{ "dtype": "FP32", "shape": [1], "offset": 64, "length": 4 }] } });
        let honest = if loads { json!({ "Loaded": { "length": 150 } }) } else { honest };
        let bytes = if is_random { random } else { damaged(&honest.to_string(), at, &inserted, cut) };
        let lie = vec![Step::Bytes(bytes), Step::Close];
        let engine = open(&if loads { Script::load(lie) } else { Script::run(lie) }).unwrap();
        if let Ok(mut session) = load(&engine)
            && let Ok(answer) = ask(session.as_mut())
        {
            // Damage that leaves a lawful message: the answer is bounded and has the shape that it says.
            prop_assert_eq!(answer.len(), 1);
            prop_assert!(answer[0].tensor.data().len() <= 64 * 1024);
        }
        drop(engine);
    }
}

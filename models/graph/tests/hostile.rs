//! Files that mean harm are refused with a reason before they take memory.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may do what tests may")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use onnx_graph::proto::tensor_proto::DataLocation;
use onnx_graph::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto};
use onnx_graph::{ExternalError, Model, ReadError, ReadLimits, Refusal, Values};
use proptest::prelude::*;
use prost::Message;

/// A field of that number that holds these bytes.
fn field(number: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = inner.len();
    while length > 0x7f {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes.extend(inner);
    bytes
}

fn refusal(bytes: Vec<u8>) -> Refusal {
    match Model::from_bytes(bytes.into()) {
        Err(ReadError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_million_empty_nodes_are_refused_before_they_take_memory() {
    let nodes = field(1, &[]).repeat(1_000_000);
    assert_eq!(refusal(field(7, &nodes)), Refusal::Count { what: "nodes", limit: 200_000 });
}

#[test]
fn empty_messages_of_any_kind_are_charged_for_the_memory_they_would_take() {
    // Attributes of one node, dimensions of one input. of metadata.
    let attributes = field(7, &field(1, &field(5, &[]).repeat(4_000_000)));
    let dims = field(7, &field(11, &field(2, &field(1, &field(2, &field(1, &[]).repeat(8_000_000))))));
    for bytes in [attributes, dims] {
        assert!(matches!(refusal(bytes), Refusal::Memory { .. }));
    }
}

#[test]
fn graphs_nested_deeper_than_any_real_one_are_refused() {
    let mut graph = Vec::new();
    for _ in 0..20 {
        graph = field(1, &field(5, &field(6, &graph)));
    }
    assert_eq!(refusal(field(7, &graph)), Refusal::Depth { what: "graphs", limit: 8 });
}

#[test]
fn what_is_cut_short_or_no_protocol_buffer_is_refused() {
    assert!(matches!(refusal(vec![0x3a, 0x7f, 1]), Refusal::Unreadable { .. }));
    assert!(matches!(refusal(vec![0xff; 40]), Refusal::Unreadable { .. }));
    assert!(matches!(Model::from_bytes(vec![].into()), Err(ReadError::NoGraph)));
}

#[test]
fn a_file_over_the_limit_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, [0; 100]).unwrap();
    let limits = ReadLimits { file_bytes: 99, ..ReadLimits::default() };
    let refused = Model::open_within(&path, &limits);
    assert!(matches!(refused, Err(ReadError::Refused(Refusal::FileSize { bytes: 100, limit: 99 }))), "{refused:?}");
}

/// A model whose one weight of 4 × f32 is at `location`.
fn outside(folder: &Path, location: &str, offset: &str, length: &str) -> Result<Model, ReadError> {
    let entry = |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    let tensor = TensorProto {
        name: Some("w".into()),
        data_type: Some(1),
        dims: vec![4],
        data_location: Some(DataLocation::External.into()),
        external_data: vec![entry("location", location), entry("offset", offset), entry("length", length)],
        ..TensorProto::default()
    };
    let inner = AttributeProto::tensor("value", tensor.clone());
    let node = NodeProto::new("Constant", "c", &[], &["c"]).with(inner);
    let graph = GraphProto { initializer: vec![tensor], node: vec![node], ..GraphProto::default() };
    let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
    fs::write(folder.join("model.onnx"), model.encode_to_vec()).unwrap();
    Model::open(&folder.join("model.onnx"))
}

#[test]
fn weights_are_read_under_the_models_folder_only_and_never_through_links() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, secret) = (folder.path(), elsewhere.path().join("secret"));
    fs::write(&secret, [1; 64]).unwrap();
    fs::write(here.join("w.bin"), [2; 64]).unwrap();
    fs::create_dir_all(here.join("sub")).unwrap();
    fs::write(here.join("sub/w.bin"), [3; 64]).unwrap();
    symlink(&secret, here.join("link")).unwrap();
    symlink(elsewhere.path(), here.join("linked")).unwrap();
    symlink("w.bin", here.join("inner_link")).unwrap();

    let model = outside(here, "w.bin", "16", "16").unwrap();
    assert_eq!(model.graph.initializer("w").unwrap().raw().unwrap().as_ref(), [2; 16]);
    assert!(outside(here, "sub/w.bin", "0", "16").is_ok());
    assert!(outside(here, "./sub/./w.bin", "0", "16").is_ok());

    for location in [secret.to_str().unwrap(), "../secret", "sub/../../secret", "", ".", "/dev/zero", "a\0b"] {
        let refused = outside(here, location, "0", "16");
        assert!(matches!(refused, Err(ReadError::External(ExternalError::Outside { .. }))), "{location:?} {refused:?}");
    }
    for location in ["link", "linked/secret", "inner_link", "absent"] {
        let refused = outside(here, location, "0", "16");
        assert!(matches!(refused, Err(ReadError::External(ExternalError::File { .. }))), "{location:?} {refused:?}");
    }
    let refused = outside(here, "sub", "0", "16");
    assert!(matches!(refused, Err(ReadError::External(ExternalError::NotFile { .. }))), "{refused:?}");
}

#[test]
fn weights_beyond_the_end_of_their_file_or_of_another_size_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("w.bin"), [2; 64]).unwrap();
    for (offset, length) in [("56", "16"), ("18446744073709551615", "16"), ("0", "12"), ("0", "64")] {
        let refused = outside(folder.path(), "w.bin", offset, length);
        assert!(matches!(refused, Err(ReadError::External(ExternalError::Length { .. }))), "{offset} {length}");
    }
    let refused = outside(folder.path(), "w.bin", "-1", "16");
    assert!(matches!(refused, Err(ReadError::External(ExternalError::Entry { key: "offset", .. }))), "{refused:?}");
}

#[test]
fn a_pipe_in_place_of_weights_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    let refused = outside(folder.path(), "pipe", "0", "16");
    assert!(matches!(refused, Err(ReadError::External(ExternalError::NotFile { .. }))), "{refused:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _verdict = Model::from_bytes(bytes.into());
    }
}

#[test]
fn sparse_constants_together_are_held_against_one_limit() {
    use onnx_graph::proto::SparseTensorProto;
    let sparse = |rows: i64| SparseTensorProto {
        values: Some(TensorProto {
            data_type: Some(1),
            dims: vec![1],
            float_data: vec![1.0],
            ..TensorProto::default()
        }),
        indices: Some(TensorProto { data_type: Some(7), dims: vec![1], int64_data: vec![5], ..TensorProto::default() }),
        dims: vec![rows, rows],
    };
    let model = |count: usize, rows: i64| {
        let graph = GraphProto { sparse_initializer: vec![sparse(rows); count], ..GraphProto::default() };
        ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
    };
    let limit = 256 << 20;
    for (count, rows) in [(24, 8192), (2, 8192), (2_000, 512), (1, i64::MAX)] {
        assert_eq!(refusal(model(count, rows)), Refusal::Constants { limit }, "{count} of {rows}");
    }
    assert!(Model::from_bytes(model(1, 8192).into()).is_ok());
    assert!(Model::from_bytes(model(200, 256).into()).is_ok());
}

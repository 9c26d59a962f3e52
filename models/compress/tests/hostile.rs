//! Every reader of the ONNX format refuses every file of the one hostile corpus ([`testkit::hostile`]).

use engine::{ModelLimits, precheck};
use onnx_graph::Model;

#[test]
fn every_reader_refuses_every_hostile_file() {
    let mut accepted = Vec::new();
    for file in testkit::hostile::files() {
        let readers: [(&str, bool); 3] = [
            ("the pre-check of engines", precheck::check(&file.bytes, &ModelLimits::default()).is_ok()),
            ("onnx-graph", Model::from_bytes(file.bytes.clone().into()).is_ok()),
            ("engine-wgpu", engine_wgpu::check::check(&file.bytes).is_ok_and(|report| report.can_run())),
        ];
        accepted.extend(readers.into_iter().filter(|(_, is_read)| *is_read).map(|(reader, _)| (reader, file.kind)));
    }
    assert!(accepted.is_empty(), "(reader, file): {accepted:?}");
}

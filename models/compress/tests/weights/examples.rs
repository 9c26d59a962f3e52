//! From files of examples to the sums that GPTQ and pruning stand on.

use compress::weight_only::{Method, Options, quantize};
use compress::{Examples, Grams, Selection};
use engine::{Engine as _, LoadOptions};
use npyz::WriterBuilder as _;

use crate::{digits, judge};

#[test]
fn sums_over_a_file_of_examples_teach_what_sums_over_requests_do() {
    let Some(engine) = judge::runtime() else { return };
    let model = digits::model("v1/full.onnx");
    let (requests, _labels) = digits::requests();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digits.npz");
    let pixels = requests[0][0].tensor.to_f32().unwrap();
    let mut archive = npyz::npz::NpzWriter::create(&path).unwrap();
    let mut writer = archive
        .array("image", Default::default())
        .unwrap()
        .default_dtype()
        .shape(&[100, 1, 28, 28])
        .begin_nd()
        .unwrap();
    writer.extend(pixels).unwrap();
    writer.finish().unwrap();
    drop(archive);
    let session = engine.load(model.to_bytes().unwrap().into(), &LoadOptions::default()).unwrap();
    let examples = Examples::open(&path, session.signature()).unwrap();
    let selection = Selection { operators: ["Gemm".to_owned()].into(), ..Selection::default() };
    let from_file = Grams::observe(&engine, &model, &examples, &selection).unwrap();
    let mut from_requests = Grams::of(&model, &selection);
    judge::observe(&engine, &model, &from_requests.values(), &requests[..1], |values| {
        from_requests.add(values).unwrap()
    });
    assert_eq!(from_file.values(), from_requests.values());
    let made = |grams: &Grams| {
        let options = Options { method: Method::Gptq { act_order: true }, ..Options::default() };
        let (made, report) = quantize(&model, &options, grams).unwrap();
        assert_eq!(report.notes, [""; 0], "every product was seen");
        judge::firsts(&judge::answers(&engine, &made, &requests[1..2]))
    };
    // Sums of other batches differ in their last bits.
    assert!(judge::least_cosine(&made(&from_file), &made(&from_requests)) > 0.9999);
}

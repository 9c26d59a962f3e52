//! What is told of a model is true of it.

mod support;

use std::collections::HashMap;

use onnx_graph::inspect::{EngineSupport, Inspection, inspect, page};
use support::{read, real_models};

fn inspected(name: &str, sizes: &[(&str, i64)]) -> Option<Inspection> {
    let case = real_models().into_iter().find(|case| case.name == name)?;
    let sizes: HashMap<String, i64> = sizes.iter().map(|&(name, size)| (name.to_owned(), size)).collect();
    Some(inspect(&read(&case), &sizes, Vec::new()))
}

#[test]
fn published_figures_of_known_networks_are_found() {
    // ResNet-50 (He et al. 2015) has 25.6 million parameters and takes 3.8 to 4.1 thousand million multiplications, SqueezeNet
    // 1.0 (Iandola et al. 2016) 1.25 million parameters.
    let Some(resnet) = inspected("light_resnet50_random", &[]) else { return };
    assert!((25_500_000..25_800_000).contains(&resnet.parameters), "{}", resnet.parameters);
    assert!((3_800_000_000..4_200_000_000).contains(&resnet.macs), "{}", resnet.macs);
    assert_eq!(resnet.macs_unknown, 0);
    assert_eq!(resnet.operators[0].operator, "Conv");
    let Some(squeezenet) = inspected("light_squeezenet_random", &[]) else { return };
    assert!((1_230_000..1_260_000).contains(&squeezenet.parameters), "{}", squeezenet.parameters);
}

#[test]
fn open_dimensions_count_as_one_or_as_given() {
    let Some(one) = inspected("digits_v1_fp32", &[]) else { return };
    let batch = one.dims.keys().next().unwrap().clone();
    let many = inspected("digits_v1_fp32", &[(batch.as_str(), 10)]).unwrap();
    assert!(one.macs > 0);
    assert_eq!(many.macs, 10 * one.macs);
    assert_eq!((many.parameters, many.bytes), (one.parameters, one.bytes));
}

#[test]
fn bytes_by_operator_and_by_type_are_all_bytes() {
    for case in real_models() {
        let told = inspect(&read(&case), &HashMap::new(), Vec::new());
        assert_eq!(told.operators.iter().map(|row| row.bytes).sum::<u64>(), told.bytes, "{}", case.name);
        assert_eq!(told.dtypes.iter().map(|row| row.bytes).sum::<u64>(), told.bytes, "{}", case.name);
        assert!(told.bytes <= u64::try_from(case.model.len()).unwrap(), "{}", case.name);
        println!("{}: {} parameters, {} MAC, {} unknown", case.name, told.parameters, told.macs, told.macs_unknown);
    }
}

#[test]
fn names_of_a_model_cannot_write_into_the_page() {
    let Some(case) = real_models().into_iter().find(|case| case.name == "digits_v1_fp32") else { return };
    let mut model = read(&case);
    let evil = "</td><script>alert(1)</script><!--";
    model.graph.inputs[0].name = Some(evil.into());
    model.rest.producer_name = Some(evil.into());
    for node in &mut model.graph.nodes {
        node.op_type = Some(evil.into());
    }
    let support = EngineSupport { engine: evil.into(), can_run: Some(false), problems: vec![evil.into()] };
    let told = inspect(&model, &HashMap::new(), vec![support]);
    let page = page(evil, &told).unwrap();
    assert!(!page.contains("<script") && !page.contains("<!--"), "{page}");
    assert!(page.contains("<svg"));
    serde_json::to_string(&told).unwrap();
}

//! Tests of manifests: there is one text, no unknown field, and no hostile text does harm.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test stop it as its own lines do")]

use std::collections::BTreeMap;

use bundle::manifest::{Calibration, CurvePoint, MANIFEST_BYTES_MAX, Precision, VARIANTS_MAX};
use bundle::{FileRef, GoldenTolerance, Manifest, ManifestError, ScoreFrom, ScoreKind, ScoreRule, Variant};
use proptest::prelude::*;
use types::{DType, Digest, Dim, EngineName, Place, TensorSpec, Version};

fn file(name: &str, content: &[u8]) -> FileRef {
    bundle::file::describe(name.parse().unwrap(), content, u64::MAX).unwrap()
}

fn variant(name: &str) -> Variant {
    Variant {
        name: name.parse().unwrap(),
        runs_on: Place::Device,
        engines: vec![EngineName::Ort],
        precision: Precision::Int8,
        file: file(&format!("{name}.onnx"), b"model"),
        golden: Some(file("golden.safetensors", b"golden")),
        golden_tolerance: Some(GoldenTolerance { max_abs: Some(0.05), top1: None }),
        score: None,
        threshold: Some(0.9),
        calibration: Some(Calibration {
            examples: 1000,
            confidence: 0.95,
            curve: vec![CurvePoint { threshold: 0.99, coverage: 0.41, differing: 0.0, bound: 0.003 }],
        }),
        preprocess: BTreeMap::new(),
    }
}

fn manifest() -> Manifest {
    let batch = Dim::Symbol("batch".into());
    Manifest {
        schema: 1,
        model: "digits".parse().unwrap(),
        version: Version::new(2).unwrap(),
        task: "classification".into(),
        description: "Digits.".into(),
        licence: "MIT".into(),
        labels: vec!["zero".into(), "one".into()],
        inputs: vec![TensorSpec {
            name: "image".into(),
            dtype: DType::F32,
            shape: Some(vec![batch, Dim::Fixed(28), Dim::Any]),
        }],
        outputs: vec![TensorSpec { name: "logits".into(), dtype: DType::F32, shape: None }],
        score: Some(ScoreRule::new(ScoreKind::Top1Probability, "logits", ScoreFrom::Logits)),
        policy: None,
        preprocess: BTreeMap::new(),
        variants: vec![variant("int8")],
    }
}

/// Golden text on disk: if this fails, a new schema is needed, not a new text here.
const GOLDEN: &str = r#"{"schema":1,"model":"digits","version":2,"task":"classification","description":"Digits.","licence":"MIT","labels":["zero","one"],"inputs":[{"name":"image","datatype":"FP32","shape":["batch",28,"?"]}],"outputs":[{"name":"logits","datatype":"FP32"}],"score":{"kind":"top1-probability","output":"logits","from":"logits"},"variants":[{"name":"int8","runs_on":"device","engines":["ort"],"precision":"int8","file":{"name":"int8.onnx","size":5,"digest":"sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4","chunks":["sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"]},"golden":{"name":"golden.safetensors","size":6,"digest":"sha256:DIGEST","chunks":["sha256:DIGEST"]},"golden_tolerance":{"max_abs":0.05},"threshold":0.9,"calibration":{"examples":1000,"confidence":0.95,"curve":[{"threshold":0.99,"coverage":0.41,"differing":0.0,"bound":0.003}]}}]}"#;

#[test]
fn a_manifest_has_one_text_and_reads_back_from_it() {
    let bytes = manifest().to_bytes().unwrap();
    let expected = GOLDEN.replace("DIGEST", &Digest::of(b"golden").to_hex());
    assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
    assert_eq!(Manifest::parse(&bytes).unwrap(), manifest());
    assert_eq!(manifest().files().len(), 2);
    assert_eq!(Manifest::target_path(&manifest().model, manifest().version), "digits/2/manifest.json");
}

#[test]
fn another_text_of_the_same_manifest_is_refused() {
    let text = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
    let others = [
        format!("{text}\n"),
        text.replacen(':', ": ", 1),
        text.replacen("\"threshold\":0.9", "\"threshold\":0.90", 1),
        text.replacen("\"threshold\":0.9", "\"threshold\":9e-1", 1),
        text.replacen("Digits.", "Digit\\u0073.", 1),
        text.replacen("\"schema\":1,\"model\":\"digits\"", "\"model\":\"digits\",\"schema\":1", 1),
    ];
    for other in others {
        assert_ne!(other, text);
        assert!(matches!(Manifest::parse(other.as_bytes()), Err(ManifestError::NotCanonical)), "{other}");
    }
}

#[test]
fn unknown_missing_and_doubled_fields_are_refused() {
    let text = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
    let others = [
        text.replacen("{\"schema\":1,", "{\"schema\":1,\"extra\":1,", 1),
        text.replacen("\"max_abs\":0.05", "\"max_abs\":0.05,\"min\":1", 1),
        text.replacen("\"size\":5,", "", 1),
        text.replacen("{\"schema\":1,", "{\"schema\":1,\"schema\":1,", 1),
        text.replacen("\"int8.onnx\"", "\"../int8.onnx\"", 1),
        text.replacen("\"int8.onnx\"", "\"manifest.json\"", 1),
        text.replacen("\"size\":5", "\"size\":-5", 1),
        text.replacen("\"version\":2", "\"version\":0", 1),
        text.replacen("[\"batch\",28,", "[\"batch\",-28,", 1),
        text.replacen("\"ort\"", "\"onnx\"", 1),
    ];
    for other in others {
        assert_ne!(other, text);
        assert!(matches!(Manifest::parse(other.as_bytes()), Err(ManifestError::Json(_))), "{other}");
    }
}

/// Returns the path of the mistake that [`Manifest::validate`] finds.
fn path_of(mistake: impl FnOnce(&mut Manifest)) -> String {
    let mut manifest = manifest();
    mistake(&mut manifest);
    match manifest.validate() {
        Err(ManifestError::Field { path, .. }) => path,
        other => panic!("expected a mistake in a field, not {other:?}"),
    }
}

#[test]
fn a_mistake_is_named_by_its_place() {
    assert_eq!(path_of(|m| m.schema = 2), "schema");
    assert_eq!(path_of(|m| m.task = " ".into()), "task");
    assert_eq!(path_of(|m| m.description = "\x1b[31m".into()), "description");
    assert_eq!(path_of(|m| m.inputs.clear()), "inputs");
    assert_eq!(path_of(|m| m.inputs.push(m.inputs[0].clone())), "inputs[1].name");
    assert_eq!(path_of(|m| m.inputs[0].shape = Some(vec![Dim::Any; 17])), "inputs[0].shape");
    assert_eq!(path_of(|m| m.outputs[0].name = "y".into()), "score.output");
    assert_eq!(path_of(|m| m.outputs[0].dtype = DType::I64), "score.output");
    assert_eq!(path_of(|m| m.variants.clear()), "variants");
    assert_eq!(path_of(|m| m.variants.push(variant("int8"))), "variants[1].name");
    assert_eq!(path_of(|m| m.variants[0].engines.clear()), "variants[0].engines");
    assert_eq!(path_of(|m| m.variants[0].engines.push(EngineName::Ort)), "variants[0].engines");
    assert_eq!(path_of(|m| m.variants[0].file.size = 0), "variants[0].file");
    assert_eq!(path_of(|m| m.variants[0].file.size = u64::MAX), "variants[0].file");
    assert_eq!(path_of(|m| m.variants[0].file.chunks.clear()), "variants[0].file");
    assert_eq!(path_of(|m| m.variants[0].file.chunks[0] = Digest::of(b"x")), "variants[0].file");
    assert_eq!(path_of(|m| m.variants[0].golden_tolerance = None), "variants[0].golden_tolerance");
    let nothing = Some(GoldenTolerance::default());
    assert_eq!(path_of(|m| m.variants[0].golden_tolerance = nothing), "variants[0].golden_tolerance");
    let nan = Some(GoldenTolerance { max_abs: Some(f32::NAN), top1: None });
    assert_eq!(path_of(|m| m.variants[0].golden_tolerance = nan), "variants[0].golden_tolerance.max_abs");
    assert_eq!(path_of(|m| m.variants[0].threshold = Some(1.5)), "variants[0].threshold");
    assert_eq!(path_of(|m| m.variants[0].threshold = Some(f32::NAN)), "variants[0].threshold");
    let clash = |m: &mut Manifest| {
        m.variants.push(Variant { golden: Some(file("golden.safetensors", b"other")), ..variant("fp32") });
    };
    assert_eq!(path_of(clash), "variants");
}

#[test]
fn a_million_variants_are_refused() {
    let one = serde_json::to_string(&variant("v")).unwrap();
    let million = format!("{{\"schema\":1,\"variants\":[{}]}}", vec![one.as_str(); 1_000_000].join(","));
    assert!(matches!(Manifest::parse(million.as_bytes()), Err(ManifestError::TooLarge(_))));
    let nulls = format!("{{\"schema\":1,\"variants\":[{}]}}", vec!["0"; 1_000_000].join(","));
    assert!(matches!(Manifest::parse(nulls.as_bytes()), Err(ManifestError::Json(_))));
    let mut many = manifest();
    many.variants = (0..=VARIANTS_MAX).map(|at| variant(&format!("v{at}"))).collect();
    assert!(matches!(many.to_bytes(), Err(ManifestError::Field { .. })));
    let spaces = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert!(matches!(Manifest::parse(&spaces), Err(ManifestError::TooLarge(_))));
}

#[test]
fn deep_and_broken_json_is_refused_without_a_panic() {
    let deep = "[".repeat(100_000);
    for text in ["", "null", "[]", "{}", "{\"schema\":", "\u{0}", &deep, &format!("{{\"inputs\":{deep}")] {
        assert!(matches!(Manifest::parse(text.as_bytes()), Err(ManifestError::Json(_))), "{:.20}", text);
    }
}

#[test]
fn every_flipped_byte_reads_as_another_manifest_or_none() {
    let bytes = manifest().to_bytes().unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(Manifest::parse(&flipped).ok() != Some(manifest()), "bit {bit} of byte {at}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::parse(&bytes).is_err());
    }

    #[test]
    fn any_share_reads_back_to_the_last_bit(threshold in 0.0_f32..=1.0, bound in 0.0_f32..=1.0) {
        let mut manifest = manifest();
        manifest.variants[0].threshold = Some(threshold);
        manifest.variants[0].calibration.as_mut().unwrap().curve[0].bound = bound;
        let bytes = manifest.to_bytes().unwrap();
        prop_assert_eq!(Manifest::parse(&bytes).unwrap(), manifest);
    }
}

/// Returns the part of a manifest's text that contains the rule.
fn rule_text(rule: ScoreRule) -> String {
    let bytes = Manifest { score: Some(rule), ..manifest() }.to_bytes().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let rule = text.split_once("\"score\":").unwrap().1;
    rule.split_once('}').unwrap().0.to_owned() + "}"
}

#[test]
fn later_rules_for_scores_have_one_text_each_and_leave_the_older_ones_as_they_are() {
    let rule = |kind, axis| ScoreRule { axis, ..ScoreRule::new(kind, "logits", ScoreFrom::Logits) };
    for (rule, text) in [
        (rule(ScoreKind::Top1Probability, None), r#"{"kind":"top1-probability","output":"logits","from":"logits"}"#),
        (
            rule(ScoreKind::Top1Probability, Some(-3)),
            r#"{"kind":"top1-probability","output":"logits","from":"logits","axis":-3}"#,
        ),
        (rule(ScoreKind::Sigmoid, None), r#"{"kind":"sigmoid","output":"logits","from":"logits"}"#),
        (rule(ScoreKind::BoxMaximum, None), r#"{"kind":"box-maximum","output":"logits","from":"logits"}"#),
        (rule(ScoreKind::Margin, Some(1)), r#"{"kind":"margin","output":"logits","from":"logits","axis":1}"#),
        (rule(ScoreKind::Energy, None), r#"{"kind":"energy","output":"logits","from":"logits"}"#),
        (
            ScoreRule { temperature: Some(1.5), ..rule(ScoreKind::Entropy, None) },
            r#"{"kind":"entropy","output":"logits","from":"logits","temperature":1.5}"#,
        ),
        (
            ScoreRule { weights: Some([0.25, 1.0, -2.0, 0.0, 3.5]), ..rule(ScoreKind::Learned, None) },
            r#"{"kind":"learned","output":"logits","from":"logits","weights":[0.25,1.0,-2.0,0.0,3.5]}"#,
        ),
    ] {
        assert_eq!(rule_text(rule.clone()), text);
        let bytes = Manifest { score: Some(rule.clone()), ..manifest() }.to_bytes().unwrap();
        assert_eq!(Manifest::parse(&bytes).unwrap().score, Some(rule));
    }
}

#[test]
fn a_variant_has_a_rule_of_its_own_over_the_same_output() {
    let common = ScoreRule::new(ScoreKind::Top1Probability, "logits", ScoreFrom::Logits);
    let own = ScoreRule { temperature: Some(0.5), ..ScoreRule::new(ScoreKind::Margin, "logits", ScoreFrom::Logits) };
    let with = |common: Option<&ScoreRule>, own: &ScoreRule| {
        let variants = vec![Variant { score: Some(own.clone()), ..variant("int8") }];
        Manifest { score: common.cloned(), variants, ..manifest() }
    };
    let manifest = with(Some(&common), &own);
    let text = String::from_utf8(manifest.to_bytes().unwrap()).unwrap();
    let golden = r#","golden_tolerance":{"max_abs":0.05},"score":{"kind":"margin","output":"logits","from":"logits","temperature":0.5},"threshold":0.9,"#;
    assert!(text.contains(golden), "{text}");
    let read = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(read.score_of(&read.variants[0]), Some(&own));
    assert_eq!(read.score_of(&variant("fp32")), Some(&common));

    let refused = |manifest: &Manifest, wanted: &str| match manifest.to_bytes() {
        Err(ManifestError::Field { path, .. }) => assert_eq!(path, wanted),
        other => panic!("{wanted}: {other:?}"),
    };
    refused(&with(None, &own), "variants[0].score");
    refused(&with(Some(&common), &ScoreRule { axis: Some(0), ..own.clone() }), "variants[0].score");
    refused(
        &with(Some(&common), &ScoreRule { temperature: Some(0.0), ..own.clone() }),
        "variants[0].score.temperature",
    );
    refused(
        &with(Some(&common), &ScoreRule { temperature: Some(f32::NAN), ..own.clone() }),
        "variants[0].score.temperature",
    );
    refused(&with(Some(&common), &ScoreRule { weights: Some([0.0; 5]), ..own.clone() }), "variants[0].score.weights");
    let learned = ScoreRule::new(ScoreKind::Learned, "logits", ScoreFrom::Logits);
    refused(&with(Some(&common), &learned), "variants[0].score.weights");
    let endless = ScoreRule { weights: Some([f32::INFINITY, 0.0, 0.0, 0.0, 0.0]), ..learned };
    refused(&with(Some(&common), &endless), "variants[0].score.weights");
    let energy = ScoreRule::new(ScoreKind::Energy, "logits", ScoreFrom::Probabilities);
    refused(&with(Some(&common), &energy), "variants[0].score.from");
}

#[test]
fn a_rule_that_is_not_known_is_refused_and_so_is_an_axis_that_cannot_be() {
    // An agent handles a kind of a later release like this: it refuses the version and keeps the present one.
    let text = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
    for (old, new) in [
        ("\"kind\":\"top1-probability\"", "\"kind\":\"conformal\""),
        ("\"from\":\"logits\"", "\"from\":\"logits\",\"chill\":2"),
    ] {
        assert!(matches!(Manifest::parse(text.replacen(old, new, 1).as_bytes()), Err(ManifestError::Json(_))), "{new}");
    }
    for (kind, axis) in [
        (ScoreKind::Sigmoid, 1),
        (ScoreKind::BoxMaximum, -1),
        (ScoreKind::Top1Probability, 16),
        (ScoreKind::Top1Probability, -17),
        (ScoreKind::Top1Probability, i64::MIN),
    ] {
        let rule = ScoreRule { axis: Some(axis), ..ScoreRule::new(kind, "logits", ScoreFrom::Logits) };
        let refused = Manifest { score: Some(rule), ..manifest() }.to_bytes();
        assert!(matches!(refused, Err(ManifestError::Field { path, .. }) if path == "score.axis"), "{kind:?} {axis}");
    }
}

#[test]
fn what_a_version_takes_away_is_listed() {
    use bundle::manifest::regress::{warnings, worse};
    let old = manifest();
    let newer = || Manifest { version: Version::new(3).unwrap(), ..manifest() };
    assert_eq!(worse(&old, &newer()), Vec::<String>::new());
    assert_eq!(warnings(&newer()), Vec::<String>::new());
    let of_variant = |change: fn(&mut Variant)| {
        let mut new = newer();
        change(&mut new.variants[0]);
        new
    };
    let no_golden = |variant: &mut Variant| (variant.golden, variant.golden_tolerance) = (None, None);
    let open = |spec: &mut TensorSpec, shape| spec.shape = Some(shape);
    let mut narrower = newer();
    open(&mut narrower.inputs[0], vec![Dim::Fixed(1), Dim::Fixed(28), Dim::Any]);
    let mut renamed = newer();
    renamed.inputs[0].name = "picture".into();
    let cases = [
        (of_variant(|variant| variant.threshold = None), "no threshold"),
        (of_variant(|variant| (variant.threshold, variant.name) = (None, "other".parse().unwrap())), "no threshold"),
        (of_variant(no_golden), "no golden"),
        (Manifest { score: None, ..newer() }, "no score rule"),
        (Manifest { labels: vec!["zero".into(), "two".into()], ..newer() }, "class 1 is called \"two\""),
        (Manifest { labels: vec!["zero".into()], ..newer() }, "names 1 classes"),
        (narrower, "is \"image\" FP32[batch,28,?] in version 2"),
        (renamed, "needs the input \"picture\""),
    ];
    for (new, word) in cases {
        let listed = worse(&old, &new);
        assert!(listed.iter().any(|line| line.contains(word)), "{word}: {listed:?}");
    }
    let mut free = newer();
    open(&mut free.inputs[0], vec![Dim::Symbol("N".into()), Dim::Any, Dim::Symbol("w".into())]);
    assert_eq!(worse(&old, &free), Vec::<String>::new(), "names are free text, and more is taken than before");
    assert_eq!(warnings(&of_variant(|variant| variant.threshold = None)).len(), 1);
}

#[test]
fn a_looser_bound_than_the_version_before_states_is_listed() {
    use bundle::manifest::regress::looser;
    let of = |bound: f32, confidence: f32, threshold: f32| {
        let mut manifest = manifest();
        let points = [(0.9, bound / 2.0), (0.5, bound), (0.1, 0.5)];
        let curve = points.map(|(threshold, bound)| CurvePoint { threshold, coverage: 0.5, differing: 0.0, bound });
        for variant in &mut manifest.variants {
            variant.threshold = Some(threshold);
            variant.calibration = Some(Calibration { examples: 1000, confidence, curve: curve.to_vec() });
        }
        manifest
    };
    let old = of(0.02, 0.95, 0.5);
    assert_eq!(looser(&old, &of(0.0205, 0.95, 0.5)), Vec::<String>::new());
    assert_eq!(looser(&old, &of(0.02, 0.99, 0.95)), Vec::<String>::new(), "a stricter threshold keeps less");
    // Between two points of the curve the looser one counts.
    assert!(
        looser(&old, &of(0.02, 0.95, 0.4))[0].contains("at most 50.00 % differing answers, version 2 at most 2.00 %")
    );
    assert!(looser(&old, &of(0.03, 0.95, 0.5))[0].contains("at most 3.00 %"));
    assert!(looser(&old, &of(0.02, 0.9, 0.5))[0].contains("90.00 % confidence"));
    let mut bare = of(0.02, 0.95, 0.5);
    bare.variants.iter_mut().for_each(|variant| variant.calibration = None);
    assert!(looser(&old, &bare)[0].contains("no calibration"));
    assert_eq!(looser(&bare, &old), Vec::<String>::new());
    bare.variants.iter_mut().for_each(|variant| variant.threshold = None);
    assert_eq!(looser(&old, &bare), Vec::<String>::new(), "a missing threshold is listed by `worse`");
}

/// Golden text of a policy: fields are added, never changed.
const GOLDEN_POLICY: &str = r#""policy":{"mode":"cascade","deadline_ms":200,"hedge_after_ms":50,"privacy":"personal","offline":"fail","audit_share_max":0.01,"hub_when":{"consent":true,"unmetered":true,"battery_min_percent":20,"hours":"08:00-20:00","tags":["urgent"]},"budget":{"request_bytes":1,"metered_bytes_per_day":2,"unmetered_bytes_per_day":3,"hub_calls_per_day":4,"escalations_per_minute":5}}"#;

#[test]
fn the_policy_of_an_author_reads_back_and_its_mistakes_are_told_at_once() {
    let text = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
    let text = text.replace(r#","variants""#, &format!(r#",{GOLDEN_POLICY},"variants""#));
    let read = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(read.to_bytes().unwrap(), text.as_bytes());
    let policy = read.policy.clone().unwrap();
    assert_eq!(policy.deadline_ms, Some(200));
    let wrong = types::policy::PolicyLayer { deadline_ms: Some(0), hedge_after_ms: Some(u64::MAX), ..policy };
    let mistakes = Manifest { policy: Some(wrong), ..read }.mistakes();
    let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert!(told[0].starts_with("policy.deadline_ms:") && told[1].starts_with("policy.hedge_after_ms:"), "{told:?}");
    let queue = text.replace(r#""offline":"fail""#, r#""offline":"queue""#);
    let read = Manifest::parse(queue.as_bytes()).unwrap();
    assert_eq!(read.policy.unwrap().offline, Some(types::policy::Offline::Queue));
    let unknown = text.replace(r#""offline":"fail""#, r#""offline":"later""#);
    let refused = Manifest::parse(unknown.as_bytes()).unwrap_err();
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("use answer, fail or queue"));
}

#[test]
fn preprocessing_has_one_text_and_its_mistakes_are_named_by_their_place() {
    use types::preprocess::{Colour, Filter, Fit, InputRule, PictureRule};

    let mut with = manifest();
    with.inputs[0].shape = Some(vec![Dim::Any, Dim::Fixed(3), Dim::Fixed(28), Dim::Fixed(28)]);
    let plain = PictureRule::default();
    let full = PictureRule {
        colour: Some(Colour::Bgr),
        size: Some([28, 28]),
        fit: Fit::ContainTopLeft,
        pad: Some(114),
        filter: Filter::Lanczos,
        scale: Some(0.5),
        mean: vec![0.5],
        std: vec![0.25, 0.25, 0.5],
        ..plain.clone()
    };
    with.preprocess = BTreeMap::from([("image".to_owned(), InputRule::Picture(plain.clone()))]);
    with.variants[0].preprocess = BTreeMap::from([("image".to_owned(), InputRule::Picture(full.clone()))]);
    let bytes = with.to_bytes().unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(text.contains(r#""preprocess":{"image":{"kind":"picture"}},"variants""#), "{text}");
    let of_variant = r#""preprocess":{"image":{"kind":"picture","colour":"bgr","size":[28,28],"fit":"contain-top-left","pad":114,"filter":"lanczos","scale":0.5,"mean":[0.5],"std":[0.25,0.25,0.5]}}}]}"#;
    assert!(text.ends_with(of_variant), "{text}");
    assert_eq!(Manifest::parse(&bytes).unwrap(), with);
    assert_eq!(with.preprocess_of(&with.variants[0]), with.variants[0].preprocess);
    let unknown = text.replacen(r#"{"kind":"picture"}"#, r#"{"kind":"picture","zoom":2}"#, 1);
    assert!(matches!(Manifest::parse(unknown.as_bytes()), Err(ManifestError::Json(_))), "an unknown field");
    let later = text.replacen(r#"{"kind":"picture"}"#, r#"{"kind":"sound"}"#, 1);
    assert!(matches!(Manifest::parse(later.as_bytes()), Err(ManifestError::Json(_))), "an unknown kind");
    let mut wrong = with.clone();
    wrong.preprocess.insert("other".to_owned(), InputRule::Picture(plain.clone()));
    wrong.variants[0]
        .preprocess
        .insert("image".to_owned(), InputRule::Picture(PictureRule { pad: None, size: Some([1, 1]), ..full }));
    let paths: Vec<String> = wrong.mistakes().into_iter().map(|mistake| mistake.to_string()).collect();
    assert_eq!(paths.len(), 2, "{paths:?}");
    assert!(paths[0].starts_with("preprocess: there is no input \"other\""), "{paths:?}");
    assert!(paths[1].starts_with("variants[0].preprocess.image.size: "), "{paths:?}");
}

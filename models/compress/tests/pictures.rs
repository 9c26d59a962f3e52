//! Tests of pictures as examples: folders named like classes, tables that name files, and everything that can be wrong with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use compress::{CompressError, ExampleRules, Examples, Label};
use types::preprocess::{InputRule, PictureRule};
use types::{DType, Dim, Signature, TensorSpec};

fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/preprocess/tests/golden").join(name)
}

fn signature(dims: &[Dim]) -> Signature {
    let input = TensorSpec { name: "image".to_owned(), dtype: DType::F32, shape: Some(dims.to_vec()) };
    Signature { inputs: vec![input], outputs: Vec::new() }
}

fn image() -> Signature {
    signature(&[Dim::Any, Dim::Fixed(3), Dim::Fixed(8), Dim::Fixed(8)])
}

fn rules() -> BTreeMap<String, InputRule> {
    BTreeMap::from([("image".to_owned(), InputRule::Picture(PictureRule::default()))])
}

fn classes() -> Vec<String> {
    vec!["cat".to_owned(), "dog".to_owned()]
}

fn open(path: &Path, signature: &Signature) -> Result<Examples, CompressError> {
    Examples::open_as(path, signature, &ExampleRules { classes: &classes(), preprocess: &rules() })
}

fn refused(path: &Path, signature: &Signature, words: &[&str]) {
    let told = match open(path, signature) {
        Ok(examples) => examples.iter().find_map(Result::err).map(|error| error.to_string()).unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    for word in words {
        assert!(told.contains(word), "{word:?} is missing in {told:?}");
    }
}

#[test]
fn folders_that_are_named_like_classes_are_labels() {
    let folder = tempfile::tempdir().unwrap();
    for (class, name) in [("dog", "noise.png"), ("dog", "plain.jpg"), ("cat", "tall.png"), ("7", "noise.webp")] {
        fs::create_dir_all(folder.path().join(class)).unwrap();
        fs::copy(picture(name), folder.path().join(class).join(name)).unwrap();
    }
    fs::write(folder.path().join("dog/notes.txt"), "no picture").unwrap();
    fs::write(folder.path().join(".DS_Store"), "hidden").unwrap();
    let examples = open(folder.path(), &image()).unwrap();
    assert!(examples.are_labelled() && examples.can_be_joined());
    let labels: Vec<Option<Label>> = examples.iter().map(|example| example.unwrap().label).collect();
    assert_eq!(labels, [7.0, 0.0, 1.0, 1.0].map(|number| Some(Label(vec![number]))));
    assert_eq!(examples.place(3), format!("file dog{}plain.jpg", std::path::MAIN_SEPARATOR));
    let batch = examples.batches(3).next().unwrap().unwrap();
    assert_eq!(batch.inputs[0].tensor.shape(), [3, 3, 8, 8]);
    let (calibration, rest) = examples.split(2);
    assert_eq!((calibration.len(), rest.len()), (2, 2));
}

#[test]
fn a_folder_of_pictures_alone_has_no_labels_and_a_free_size_is_not_joined() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["noise.png", "tall.png", "noise.bmp"] {
        fs::copy(picture(name), folder.path().join(name)).unwrap();
    }
    let examples = open(folder.path(), &signature(&[Dim::Any, Dim::Fixed(3), Dim::Any, Dim::Any])).unwrap();
    assert!(!examples.are_labelled() && !examples.can_be_joined());
    let shapes: Vec<Vec<usize>> =
        examples.iter().map(|example| example.unwrap().inputs[0].tensor.shape().to_vec()).collect();
    assert_eq!(shapes, [vec![1, 3, 23, 37], vec![1, 3, 23, 37], vec![1, 3, 61, 20]]);
}

#[test]
fn a_table_names_the_file_of_each_example_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    fs::copy(picture("noise.png"), folder.path().join("in/a.png")).unwrap();
    fs::copy(picture("plain.jpg"), folder.path().join("in/b.jpg")).unwrap();
    for column in ["file", "image"] {
        let table = folder.path().join(format!("{column}.csv"));
        fs::write(&table, format!("{column},label\nin/a.png,dog\nin/b.jpg,0\n")).unwrap();
        let examples: Vec<_> = open(&table, &image()).unwrap().iter().map(Result::unwrap).collect();
        assert_eq!(examples[0].label, Some(Label(vec![1.0])));
        assert_eq!(examples[1].label, Some(Label(vec![0.0])));
        let file = fs::read(picture("noise.png")).unwrap();
        let wanted = preprocess::tensor(&file, &rules()["image"], &image().inputs[0]).unwrap();
        assert_eq!(examples[0].inputs, [wanted]);
    }
    let table = folder.path().join("wrong.csv");
    fs::write(&table, "file,label\nin/a.png,dog\nin/c.png,cat\n,cat\n").unwrap();
    refused(&table, &image(), &["row 1", "there is no file", "c.png", "row 2", "names no file"]);
    fs::write(&table, "x,label\nin/a.png,dog\n").unwrap();
    refused(&table, &image(), &["no column \"image\" or \"file\""]);
}

#[test]
fn what_is_wrong_with_pictures_is_said_before_the_work_or_with_the_name_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(picture("noise.png"), folder.path().join("a.png")).unwrap();
    let without = Examples::open_as(folder.path(), &image(), &ExampleRules::default()).unwrap_err().to_string();
    assert!(without.contains("[preprocess.image] kind = \"picture\""), "{without}");
    let two = Signature { inputs: [image().inputs, image().inputs].concat(), outputs: Vec::new() };
    refused(folder.path(), &two, &["the model takes 2 inputs"]);
    refused(folder.path(), &signature(&[Dim::Any, Dim::Fixed(784)]), &["[preprocess.image] kind", "rows, columns"]);
    refused(&folder.path().join("a.png"), &image(), &["is one picture"]);
    fs::create_dir(folder.path().join("cat")).unwrap();
    refused(folder.path(), &image(), &["holds pictures and folders"]);
    fs::remove_file(folder.path().join("a.png")).unwrap();
    refused(folder.path(), &image(), &["and no pictures"]);
    fs::copy(picture("noise.png"), folder.path().join("cat/a.png")).unwrap();
    fs::create_dir(folder.path().join("bird")).unwrap();
    refused(folder.path(), &image(), &["folder \"bird\" is no class", "`labels`"]);
    fs::remove_dir(folder.path().join("bird")).unwrap();
    fs::write(folder.path().join("cat/broken.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    refused(folder.path(), &image(), &["broken.png", "the PNG picture cannot be decoded"]);
    fs::write(folder.path().join("cat/broken.png"), b"<html>").unwrap();
    refused(folder.path(), &image(), &["broken.png", "HTML"]);
}

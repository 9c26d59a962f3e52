//! The filter language: what it matches, what it refuses, and that no text breaks it.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use hub_core::filter::{Field, Filter, Operator, State, Subject, SubjectModel, parse};
use hub_core::labels::Labels;
use proptest::prelude::*;

fn labels() -> Labels {
    let pairs = [("site", "berlin"), ("floor", "2"), ("rack", "0.10"), ("name", "label"), ("city", "new york")];
    Labels::restored(pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// Asks for a device that is online and follows two models.
fn holds(filter: &str) -> bool {
    let labels = labels();
    let models = [
        SubjectModel { name: "digits", active: Some((2, "int8-qdq")) },
        SubjectModel { name: "speech", active: Some((11, "fp16")) },
        SubjectModel { name: "new", active: None },
    ];
    let subject = Subject {
        name: "kitchen",
        labels: &labels,
        is_online: true,
        is_revoked: false,
        agent: Some("0.10.1"),
        os: Some("linux"),
        arch: Some("aarch64"),
        engines: &["ort", "wgpu"],
        models: &models,
    };
    parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}")).matches(&subject)
}

#[test]
fn a_filter_matches_by_name_labels_versions_engines_and_state() {
    for filter in [
        "site=berlin and version<3",
        "name=kitchen",
        "label.name=label",
        "city=\"new york\"",
        "city='new york'",
        "site",
        "not region",
        "online",
        "online=true",
        "revoked=false",
        "not revoked and online!=false",
        "floor<10",
        "rack>0.9",
        "rack=0.10",
        "agent>=0.9",
        "agent<0.11.0",
        "engine=wgpu",
        "os=linux and arch=aarch64",
        "arch in (x86_64, aarch64)",
        "arch not in (x86_64)",
        "model=digits",
        "model!=cats",
        "variant=fp16",
        "version.digits=2",
        "version.speech>10",
        "version=11",
        "version!=3",
        "region!=eu",
        "site=paris or site=berlin and online",
        "(site=paris or site=berlin) and online",
        "not (site=paris and online)",
        "site!=paris",
    ] {
        assert!(holds(filter), "{filter}");
        assert!(!holds(&format!("not ({filter})")), "not ({filter})");
        assert_eq!(parse(&parse(filter).unwrap().to_string()).unwrap(), parse(filter).unwrap(), "{filter}");
    }
    for filter in [
        "site=berlin and version<2",
        "version.digits>2",
        "version.new>0",
        "version.absent<100",
        "region<3",
        "site<3",
        "revoked",
        "name=bath",
        "site=berlin and (online=false or floor=3)",
        "engine!=ort",
        "model in (cats, dogs)",
    ] {
        assert!(!holds(filter), "{filter}");
    }
}

#[test]
fn what_is_no_filter_is_refused_with_the_column_and_what_was_expected() {
    for (filter, told) in [
        ("", "filter, column 1: expected a field, like site, name or version, found the end of the filter"),
        (
            "site=",
            "filter, column 6: expected a value; quote one that has spaces: site=\"new york\", found the end of the filter",
        ),
        ("site=berlin version<3", "filter, column 13: expected `and`, `or` or the end, found \"version<3\""),
        ("version<abc", "filter, column 9: version<\"abc\": a version is a whole number"),
        ("floor<two", "filter, column 7: label.floor<\"two\": order needs a number, like 3 or 0.2.0"),
        ("name<3", "filter, column 6: name<\"3\": this field has no order: use =, != or in (…)"),
        (
            "version",
            "filter, column 8: expected a comparison after version: =, !=, <, <=, >, >= or in (…), found the end of the filter",
        ),
        ("online=maybe", "filter, column 8: expected true or false after online, found \"maybe\""),
        ("online>true", "filter, column 12: online has no order: write online or not online"),
        ("(site=a", "filter, column 8: expected `and`, `or` or `)`, found the end of the filter"),
        ("site in a", "filter, column 9: expected `(` after in, found \"a\""),
        ("site in (a b)", "filter, column 12: expected `,` or `)`, found \"b)\""),
        ("Site=a", "filter, column 1: \"Site\" is neither a field nor a valid label key (a-z, 0-9, '-', '_', '.')"),
        ("site=\"a", "filter, column 6: the text has no closing \""),
        ("and", "filter, column 1: expected a field, like site, name or version, found \"and\""),
        ("ä=ö and ,", "filter, column 9: expected a field, like site, name or version, found \",\""),
    ] {
        assert_eq!(parse(filter).unwrap_err().to_string(), told, "{filter}");
    }
    let deep = format!("{}site=a{}", "(".repeat(40), ")".repeat(40));
    assert!(parse(&deep).unwrap_err().to_string().contains("nested more than 32 deep"));
    assert!(parse(&"not ".repeat(200)).unwrap_err().to_string().contains("nested more than 32 deep"));
    assert!(parse(&"a".repeat(2000)).unwrap_err().to_string().contains("at most 1024 bytes"));
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        Just(Field::Name),
        Just(Field::Agent),
        Just(Field::Engine),
        Just(Field::Os),
        Just(Field::Arch),
        Just(Field::Model),
        Just(Field::Variant),
        "[a-z][a-z0-9-]{0,5}[a-z0-9]".prop_map(Field::Label),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    let versions = (proptest::option::of("[a-z]{1,6}"), any::<u32>(), 0..6_usize);
    let term = prop_oneof![
        Just(Filter::Is(State::Online)),
        Just(Filter::Is(State::Revoked)),
        "[a-z][a-z0-9-]{0,5}[a-z0-9]".prop_map(Filter::Has),
        (field(), any::<bool>(), "[^\"'\\\\]{0,8}").prop_map(|(field, is, value)| Filter::Compare(
            field,
            if is { Operator::Is } else { Operator::IsNot },
            value
        )),
        versions.prop_map(|(model, number, operator)| {
            let operators =
                [Operator::Is, Operator::IsNot, Operator::Below, Operator::AtMost, Operator::Above, Operator::AtLeast];
            Filter::Compare(Field::Version(model), operators[operator], number.to_string())
        }),
        (field(), proptest::collection::vec("[^\"'\\\\]{0,8}", 1..4)).prop_map(|(field, list)| Filter::In(field, list)),
    ];
    term.prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| Filter::And(Box::new(one), Box::new(other))),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| Filter::Or(Box::new(one), Box::new(other))),
            inner.prop_map(|inner| Filter::Not(Box::new(inner))),
        ]
    })
}

proptest! {
    #[test]
    fn a_printed_filter_parses_to_the_same_one(filter in filter()) {
        let text = filter.to_string();
        prop_assume!(text.len() <= hub_core::filter::FILTER_BYTES_MAX);
        prop_assert_eq!(parse(&text).unwrap(), filter);
    }

    #[test]
    fn no_text_breaks_the_parser(text in any::<String>()) {
        drop(parse(&text));
    }

    #[test]
    fn no_text_of_the_languages_own_words_breaks_the_parser(words in proptest::collection::vec(
        prop_oneof!["and", "or", "not", "in", "site", "version", "online", "=", "<=", "!=", "\\(", "\\)", ",", "\"", "3", "ä", " "], 0..24)) {
        let text = words.concat();
        if let Ok(filter) = parse(&text) {
            prop_assert_eq!(parse(&filter.to_string()).unwrap(), filter);
        }
        drop(parse(&words.join(" ")));
    }
}

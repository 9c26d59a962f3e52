//! Tests of every kind of mistake, alone and combined.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::*;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Agent {
    state_dir: String,
    server: Server,
    hub: Option<Hub>,
    models: Vec<Follow>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Server {
    http: SocketAddr,
    body_bytes: u32,
    #[serde(with = "crate::duration")]
    deadline: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self { http: ([127, 0, 0, 1], 8000).into(), body_bytes: 100, deadline: Duration::from_secs(10) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hub {
    address: SocketAddr,
    retries: u8,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Follow {
    name: String,
}

impl Validate for Agent {
    fn validate(&self, errors: &mut Mistakes) {
        errors.require(!self.state_dir.contains(' '), "state_dir", "must not hold spaces");
        errors.within("server", &self.server);
        if let Some(hub) = &self.hub {
            errors.require(hub.retries > 3, "hub.retries", "must be more than 3");
        }
        for (index, model) in self.models.iter().enumerate() {
            errors.require(!model.name.is_empty(), format!("models[{index}].name"), "must not be empty");
        }
    }
}

impl Validate for Server {
    fn validate(&self, errors: &mut Mistakes) {
        errors.require(self.deadline >= Duration::from_secs(1), "deadline", "must be at least 1s");
        errors.require(self.body_bytes > 0, "body_bytes", "must be more than 0");
    }
}

fn mistakes(text: &str) -> Vec<String> {
    let errors = parse::<Agent>(text, Path::new("agent.toml")).unwrap_err();
    errors.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn a_right_file_is_read_and_defaults_step_in() {
    let text =
        "[server]\ndeadline = \"2m\"\n[hub]\naddress = \"10.0.0.1:4433\"\nretries = 9\n[[models]]\nname = \"digits\"";
    let agent: Agent = parse(text, Path::new("agent.toml")).unwrap();
    assert_eq!(agent.server.deadline, Duration::from_secs(120));
    assert_eq!(agent.server.http.port(), 8000);
    assert_eq!(agent.hub.unwrap().address.port(), 4433);
    assert_eq!(agent.models[0].name, "digits");
    let empty: Agent = parse("", Path::new("agent.toml")).unwrap();
    assert!(empty.hub.is_none());
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_line() {
    let text = r#"
state_dir = "/var/lib/sand erling"
colour = "red"
[server]
htpp = "127.0.0.1:8000"
body_bytes = "many"
deadline = "0s"
[hub]
address = "nowhere"
retries = 2
[[models]]
name = "digits"
[[models]]
nam = "speech"
"#;
    let found = mistakes(text);
    let expected = [
        "agent.toml: state_dir (line 2): must not hold spaces",
        "agent.toml: colour (line 3): unknown field, known here: state_dir, server, hub, models",
        "agent.toml: server.htpp (line 5): unknown field, did you mean `http`?",
        "agent.toml: server.body_bytes (line 6): invalid type: string \"many\", expected u32",
        "agent.toml: server.deadline (line 7): must be at least 1s",
        "agent.toml: hub.address (line 9): invalid socket address syntax",
        "agent.toml: hub.retries (line 10): must be more than 3",
        "agent.toml: models[1].nam (line 14): unknown field, did you mean `name`?",
    ];
    for line in expected {
        assert!(found.iter().any(|found| found == line), "no {line:?} in {found:#?}");
    }
    assert!(found.iter().any(|line| line.contains("models[1].name") && line.contains("is missing")), "{found:#?}");
    assert_eq!(found.len(), expected.len() + 1, "{found:#?}");
}

#[test]
fn a_missing_field_is_told_and_the_next_one_too() {
    let found = mistakes("[hub]\n[server]\nhttp = 7\n");
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].contains("hub.address (line 1): is missing"), "{found:#?}");
    assert!(found[1].contains("hub.retries (line 1): is missing"), "{found:#?}");
    assert!(found[2].contains("server.http (line 3): invalid type"), "{found:#?}");
}

#[test]
fn a_table_of_the_wrong_type_does_not_hide_the_others() {
    let found = mistakes("server = 5\nmodels = \"digits\"\n[hub]\naddress = \"127.0.0.1:1\"\nretries = 1000\n");
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].contains("server (line 1)") && found[1].contains("models (line 2)"), "{found:#?}");
    assert!(found[2].contains("hub.retries (line 5)"), "{found:#?}");
}

#[test]
fn every_syntax_error_is_told_with_its_line() {
    let found = mistakes("http = \n\nstate_dir = 'open\n");
    assert!(found.len() >= 2, "{found:#?}");
    assert!(found[0].starts_with("agent.toml: line 1: "), "{found:#?}");
    let twice = mistakes("state_dir = 'a'\nstate_dir = 'b'\n");
    assert_eq!(twice.len(), 1, "{twice:#?}");
    assert!(twice[0].contains("line 2: duplicate key"), "{twice:#?}");
}

#[test]
fn a_duration_that_is_none_is_told_how_to_be_written() {
    for wrong in ["10", "\"10\"", "\"-1s\"", "\"soon\"", "\"1 month\""] {
        let found = mistakes(&format!("[server]\ndeadline = {wrong}\n"));
        assert_eq!(found.len(), 1, "{wrong}: {found:#?}");
        assert!(found[0].contains("server.deadline (line 2)") && found[0].contains("10s"), "{wrong}: {found:#?}");
    }
}

#[test]
fn a_type_that_tolerates_unknown_fields_is_judged_all_the_same() {
    #[derive(Debug, Deserialize)]
    struct Lax {
        #[serde(default)]
        _known: u8,
    }
    impl Validate for Lax {
        fn validate(&self, _: &mut Mistakes) {}
    }
    let errors = parse::<Lax>("_known = 1\nunknown = 2\n[table]\n", Path::new("x.toml")).unwrap_err();
    let paths: Vec<&str> = errors.mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
    assert_eq!(paths, ["unknown", "table"]);
}

#[test]
fn a_flood_of_mistakes_ends() {
    let text: String = (0..1000).map(|n| format!("unknown_{n} = 1\n")).collect();
    assert_eq!(mistakes(&text).len(), MISTAKES_MAX);
}

#[test]
fn a_file_that_is_not_there_or_no_config_says_so() {
    assert!(load::<Agent>(Path::new("/nonexistent/agent.toml")).unwrap_err().is_not_found());
    assert!(matches!(load::<Agent>(Path::new("/dev/zero")), Err(LoadError::TooLarge { .. })));
}

#[test]
fn a_syntax_error_does_not_hide_the_mistakes_of_other_tables_and_invents_none() {
    let text = r#"
state_dir = "/var/lib/sand erling"
[server
http = "127.0.0.1:8000"
[hub]
address = "nowhere"
retries = 1000
[[models]]
nam = "speech"
"#;
    let found = mistakes(text);
    assert!(found[0].contains("state_dir (line 2)"), "{found:#?}");
    assert!(found[1].starts_with("agent.toml: line 3: "), "{found:#?}");
    for told in ["hub.address (line 6)", "hub.retries (line 7)", "models[0].nam (line 9)"] {
        assert!(found.iter().any(|line| line.contains(told)), "no {told} in {found:#?}");
    }
    // `http` belongs to the table with the broken header: neither it nor missing fields of that table are reported.
    assert!(!found.iter().any(|line| line.contains("http")), "{found:#?}");
}

#[test]
fn a_broken_value_hides_only_its_own_table() {
    let found =
        mistakes("[server]\nhttp = 127.0.0.1:8000\ndeadline = \"0s\"\n[hub]\naddress = \"nowhere\"\nretries = 9\n");
    assert!(found[0].starts_with("agent.toml: line 2: "), "{found:#?}");
    assert!(found.iter().any(|line| line.contains("hub.address (line 5)")), "{found:#?}");
    assert!(!found.iter().any(|line| line.contains("server.deadline")), "{found:#?}");
}

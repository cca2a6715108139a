use std::io::Write;
use std::net::SocketAddr;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    listen_address: SocketAddr,
    pool_tag: String,
    threads: Option<u16>,
    minimum_difficulty: f64,
    version_rolling: bool,
    upstreams: Vec<String>,
    limits: Limits,
    template: Source,
    optional: Option<Limits>,
    several: Vec<Source>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen_address: SocketAddr::from(([127, 0, 0, 1], 34254)),
            pool_tag: "hashpool".into(),
            threads: None,
            minimum_difficulty: 1.0,
            version_rolling: true,
            upstreams: Vec::new(),
            limits: Limits::default(),
            template: Source::Embedded {
                block_interval_seconds: None,
            },
            optional: None,
            several: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    connections: u32,
    idle_timeout_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1000,
            idle_timeout_seconds: 600,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case", deny_unknown_fields)]
enum Source {
    Embedded {
        block_interval_seconds: Option<u64>,
    },
    BitcoinRpc {
        url: String,
        #[serde(default)]
        password: Option<String>,
        #[serde(default)]
        poll_seconds: Option<f64>,
        #[serde(default)]
        retries: u8,
    },
}

/// The configuration that these layers give.
fn layered(
    file: &str,
    environment: &[(&str, &str)],
    overrides: &[(&str, &str)],
) -> Result<Config, String> {
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(file.as_bytes()).unwrap();
    let load = || {
        let mut layers = Layers::new("pool");
        layers.file(on_disk.path())?;
        layers.environment(environment.iter().map(|(k, v)| (k.into(), v.into())))?;
        layers.overrides(overrides)?;
        layers.load()
    };
    load().map_err(|error: ConfigError| {
        error
            .to_string()
            .replace(&on_disk.path().display().to_string(), "pool.toml")
    })
}

fn loaded(file: &str, environment: &[(&str, &str)], overrides: &[(&str, &str)]) -> Config {
    layered(file, environment, overrides).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(file: &str, environment: &[(&str, &str)], overrides: &[(&str, &str)]) -> String {
    layered(file, environment, overrides).unwrap_err()
}

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(loaded("", &[], &[]), Config::default());
}

#[test]
fn each_layer_wins_over_the_ones_below_it() {
    let file = "pool_tag = \"file\"\n[limits]\nconnections = 1\nidle_timeout_seconds = 1";
    let environment = [
        ("HASHPOOL_POOL__POOL_TAG", "environment"),
        ("HASHPOOL_POOL__LIMITS__CONNECTIONS", "2"),
    ];
    let config = loaded(file, &environment, &[("limits.connections", "3")]);
    assert_eq!(config.pool_tag, "environment");
    assert_eq!(config.limits.connections, 3);
    assert_eq!(config.limits.idle_timeout_seconds, 1);
}

#[test]
fn a_value_from_the_environment_takes_the_type_of_its_key() {
    let config = loaded(
        "",
        &[
            ("HASHPOOL_POOL__POOL_TAG", "1234"),
            ("HASHPOOL_POOL__THREADS", "4"),
            ("HASHPOOL_POOL__MINIMUM_DIFFICULTY", "16"),
            ("HASHPOOL_POOL__VERSION_ROLLING", "false"),
            ("HASHPOOL_POOL__UPSTREAMS", r#"["a:1", "b:2"]"#),
            ("HASHPOOL_POOL__LISTEN_ADDRESS", "[::1]:1"),
            ("HASHPOOL_POOL__OPTIONAL__CONNECTIONS", "5"),
        ],
        &[],
    );
    assert_eq!(config.pool_tag, "1234");
    assert_eq!(config.threads, Some(4));
    assert!((config.minimum_difficulty - 16.0).abs() < f64::EPSILON);
    assert!(!config.version_rolling);
    assert_eq!(config.upstreams, ["a:1", "b:2"]);
    assert_eq!(config.listen_address, "[::1]:1".parse().unwrap());
    assert_eq!(config.optional.unwrap().connections, 5);
}

#[test]
fn values_behind_an_enum_tag_take_the_type_of_their_key_too() {
    let config = loaded(
        "",
        &[
            ("HASHPOOL_POOL__TEMPLATE__PASSWORD", "1234"),
            ("HASHPOOL_POOL__TEMPLATE__POLL_SECONDS", "5"),
            ("HASHPOOL_POOL__TEMPLATE__SOURCE", "bitcoin-rpc"),
            ("HASHPOOL_POOL__TEMPLATE__URL", "true"),
        ],
        &[],
    );
    assert_eq!(
        config.template,
        Source::BitcoinRpc {
            url: "true".into(),
            password: Some("1234".into()),
            poll_seconds: Some(5.0),
            retries: 0,
        }
    );
}

#[test]
fn naming_another_variant_drops_the_keys_of_the_one_below() {
    let file = "[template]\nsource = \"embedded\"\nblock_interval_seconds = 5";
    let overrides = [
        ("template.url", "http://127.0.0.1:1"),
        ("template.source", "bitcoin-rpc"),
    ];
    let config = loaded(file, &[], &overrides);
    assert!(matches!(config.template, Source::BitcoinRpc { .. }));
    // The same variant keeps them.
    let config = loaded(file, &[], &[("template.source", "embedded")]);
    assert_eq!(
        config.template,
        Source::Embedded {
            block_interval_seconds: Some(5)
        }
    );
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_known_one() {
    assert_eq!(
        refused("pool_tag = \"a\"\nlisen_address = \"b\"", &[], &[]),
        "pool.toml:2: unknown key \"lisen_address\"; did you mean \"listen_address\"?"
    );
    assert_eq!(
        refused("[limits]\nconections = 1", &[], &[]),
        "pool.toml:2: unknown key \"limits.conections\"; did you mean \"limits.connections\"?"
    );
    assert_eq!(
        refused("", &[("HASHPOOL_POOL__LIMITS__CONECTIONS", "1")], &[]),
        "HASHPOOL_POOL__LIMITS__CONECTIONS: unknown key \"limits.conections\"; \
         did you mean HASHPOOL_POOL__LIMITS__CONNECTIONS?"
    );
    assert_eq!(
        refused("", &[], &[("thread", "1")]),
        "--set thread: unknown key \"thread\"; did you mean \"threads\"?"
    );
    assert_eq!(
        refused("[limits]\nxyz = 1", &[], &[]),
        "pool.toml:2: unknown key \"limits.xyz\"; the keys here are connections, idle_timeout_seconds"
    );
}

#[test]
fn an_unknown_key_behind_an_enum_tag_is_found() {
    assert_eq!(
        refused(
            "[template]\nsource = \"bitcoin-rpc\"\nurl = \"x\"\npasword = \"y\"",
            &[],
            &[]
        ),
        "pool.toml:4: unknown key \"template.pasword\"; did you mean \"template.password\"?"
    );
}

#[test]
fn an_unknown_key_inside_an_absent_optional_table_is_found() {
    assert_eq!(
        refused("", &[("HASHPOOL_POOL__OPTIONAL__CONNECTION", "1")], &[]),
        "HASHPOOL_POOL__OPTIONAL__CONNECTION: unknown key \"optional.connection\"; \
         did you mean HASHPOOL_POOL__OPTIONAL__CONNECTIONS?"
    );
}

#[test]
fn a_wrong_type_says_what_was_expected_and_where() {
    assert_eq!(
        refused("\n\n[limits]\nconnections = \"many\"", &[], &[]),
        "pool.toml:4: \"limits.connections\": expected a whole number from 0 to 4294967295, found string \"many\""
    );
    assert_eq!(
        refused("", &[("HASHPOOL_POOL__THREADS", "70000")], &[]),
        "HASHPOOL_POOL__THREADS: \"threads\": expected a whole number from 0 to 65535, found integer `70000`"
    );
    assert_eq!(
        refused("", &[("HASHPOOL_POOL__VERSION_ROLLING", "yes")], &[]),
        "HASHPOOL_POOL__VERSION_ROLLING: \"version_rolling\": expected true or false, found string \"yes\""
    );
    assert_eq!(
        refused("limits = 5", &[], &[]),
        "pool.toml:1: \"limits\": expected a table, found integer `5`"
    );
    assert_eq!(
        refused(
            "[template]\nsource = \"bitcoin-rpc\"\nurl = \"x\"\npoll_seconds = \"y\"",
            &[],
            &[]
        ),
        "pool.toml:4: \"template.poll_seconds\": expected a number, found string \"y\""
    );
    let error = refused("listen_address = \"nowhere\"", &[], &[]);
    assert!(
        error.starts_with("pool.toml:1: \"listen_address\": "),
        "{error}"
    );
}

#[test]
fn a_wrong_type_does_not_print_a_secret() {
    let file = "[template]\nsource = \"bitcoin-rpc\"\nurl = \"x\"\npassword = 987654";
    let error = refused(file, &[], &[]);
    assert_eq!(
        error,
        "pool.toml:4: \"template.password\": expected a string"
    );
}

#[test]
fn an_unknown_variant_and_a_missing_key_are_named() {
    assert_eq!(
        refused("[template]\nsource = \"bitcoin_rpc\"", &[], &[]),
        "pool.toml:2: \"template.source\": unknown value \"bitcoin_rpc\"; did you mean \"bitcoin-rpc\"?"
    );
    assert_eq!(
        refused("[template]\nsource = \"bitcoin-rpc\"", &[], &[]),
        "pool.toml:1: the key \"template.url\" is missing"
    );
}

#[test]
fn a_missing_key_of_the_root_names_the_file() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[allow(dead_code)]
        key_file: String,
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = load::<Strict>("pool", Some(file.path()), &[]).unwrap_err();
    let name = file.path().display();
    assert_eq!(
        error.to_string(),
        format!("{name}: the key \"key_file\" is missing")
    );
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_its_line() {
    let error = refused("pool_tag = \"a\"\nthreads = = 1", &[], &[]);
    assert!(error.starts_with("pool.toml:2: "), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load::<Config>("pool", Some(Path::new("/nowhere/pool.toml")), &[]).unwrap_err();
    assert!(
        error.to_string().starts_with("/nowhere/pool.toml: "),
        "{error}"
    );
}

#[test]
fn a_variable_with_one_underscore_too_few_is_refused() {
    let error = refused("", &[("HASHPOOL_POOL_POOL_TAG", "a")], &[]);
    assert!(error.contains("HASHPOOL_POOL__POOL_TAG"), "{error}");
    // Another role's, and what is nobody's role, are none of this role's business.
    loaded(
        "",
        &[
            ("HASHPOOL_POOL_STATS__PORT", "1"),
            ("HASHPOOL_LOG_LEVEL", "x"),
        ],
        &[],
    );
}

#[test]
fn a_variable_of_no_role_is_refused() {
    let check =
        |name: &str| check_environment(&["pool", "pool-stats"], [(name.into(), "1".into())]);
    assert!(check("HASHPOOL_POOL__A").is_ok());
    assert!(check("HASHPOOL_POOL_STATS__A").is_ok());
    assert!(check("HASHPOOL_LOG_LEVEL").is_ok());
    let error = check("HASHPOOL_POLL__A").unwrap_err().to_string();
    assert!(error.contains("HASHPOOL_POLL__A"), "{error}");
}

#[test]
fn a_key_that_is_value_and_table_at_once_is_refused() {
    let whole = ("limits", "{ connections = 1 }");
    let part = ("limits.connections", "2");
    for both in [[whole, part], [part, whole]] {
        let error = refused("", &[], &both);
        assert!(error.contains("\"limits\""), "{error}");
    }
    assert_eq!(loaded("", &[], &[whole]).limits.connections, 1);
}

#[test]
fn a_table_of_a_list_is_changed_by_its_place() {
    let file = "[[several]]\nsource = \"bitcoin-rpc\"\nurl = \"a\"\n[[several]]\nsource = \"bitcoin-rpc\"\nurl = \"b\"";
    let environment = [
        ("HASHPOOL_POOL__SEVERAL__1__PASSWORD", "1234"),
        ("HASHPOOL_POOL__SEVERAL__1__POLL_SECONDS", "5"),
    ];
    let config = loaded(file, &environment, &[("several.0.url", "c")]);
    let source = |url: &str, password: Option<&str>, poll_seconds| Source::BitcoinRpc {
        url: url.into(),
        password: password.map(Into::into),
        poll_seconds,
        retries: 0,
    };
    assert_eq!(
        config.several,
        [
            source("c", None, None),
            source("b", Some("1234"), Some(5.0))
        ]
    );
    let error = refused(file, &[], &[("several.2.url", "c")]);
    assert!(error.contains("several"), "{error}");
}

#[test]
fn several_undecided_values_behind_an_enum_tag_are_decided_one_by_one() {
    let overrides = [
        ("template.poll_seconds", "5"),
        ("template.retries", "3"),
        ("template.password", "1234"),
        ("template.source", "bitcoin-rpc"),
        ("template.url", "7"),
    ];
    let shuffled = (0..overrides.len()).map(|first| {
        let mut overrides = overrides;
        overrides.rotate_left(first);
        overrides
    });
    for overrides in shuffled {
        assert_eq!(
            loaded("", &[], &overrides).template,
            Source::BitcoinRpc {
                url: "7".into(),
                password: Some("1234".into()),
                poll_seconds: Some(5.0),
                retries: 3,
            }
        );
    }
}

proptest! {
    #[test]
    fn every_string_arrives_as_it_is(text in "\\PC*") {
        let config = loaded("", &[], &[("pool_tag", &text)]);
        prop_assert_eq!(config.pool_tag, text);
    }

    #[test]
    fn every_number_arrives_through_every_layer(connections: u32) {
        let number = connections.to_string();
        let file = format!("[limits]\nconnections = {number}");
        prop_assert_eq!(loaded(&file, &[], &[]).limits.connections, connections);
        let variable = [("HASHPOOL_POOL__LIMITS__CONNECTIONS", number.as_str())];
        prop_assert_eq!(loaded("", &variable, &[]).limits.connections, connections);
        let argument = [("limits.connections", number.as_str())];
        prop_assert_eq!(loaded("", &[], &argument).limits.connections, connections);
    }

    #[test]
    fn a_known_key_with_one_letter_changed_finds_the_known_one(index in 0usize..14, letter in "[a-z]") {
        let mut key = "listen_address".to_owned();
        key.replace_range(index..=index, &letter);
        prop_assume!(key != "listen_address");
        let error = refused(&format!("{key} = 1"), &[], &[]);
        prop_assert!(error.contains(&format!("\"{key}\"")), "{}", error);
        prop_assert!(error.contains("\"listen_address\""), "{}", error);
    }

    #[test]
    fn no_file_makes_the_loader_panic(text in "\\PC*|[a-z_.\\[\\]={}\"\n0-9]*") {
        let _ = layered(&text, &[], &[]);
    }
}

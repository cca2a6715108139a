//! The binary as an operator meets it: configuration, keys, and errors that say what to do.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `hashpool`, in an environment without variables of its own.
fn hashpool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hashpool"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HASHPOOL_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

fn example(role: &str) -> String {
    let file = examples().join(format!("{role}.toml"));
    file.to_str().unwrap().to_owned()
}

#[test]
fn every_example_file_is_a_configuration_that_would_run() {
    let mut checked = Vec::new();
    for entry in fs::read_dir(examples()).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let role = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let (code, stdout, stderr) = outcome(&mut hashpool(&[
            &role,
            "--config",
            file.to_str().unwrap(),
            "--check-config",
        ]));
        assert_eq!(code, Some(0), "{role}: {stderr}");
        let shown: toml::Table = stdout.parse().unwrap();
        assert!(!shown.is_empty(), "{role}");
        checked.push(role);
    }
    checked.sort();
    assert_eq!(
        checked,
        [
            "miner",
            "pool",
            "pool-stats",
            "proxy-stats",
            "relay",
            "template-provider",
            "translator"
        ]
    );
}

/// Whoever copies an example sees in it every key there is.
#[test]
fn every_key_of_a_default_configuration_is_documented_in_its_example() {
    for role in [
        "miner",
        "pool",
        "translator",
        "pool-stats",
        "proxy-stats",
        "relay",
    ] {
        let (code, stdout, stderr) = outcome(&mut hashpool(&[
            role,
            "--config",
            &example(role),
            "--check-config",
        ]));
        assert_eq!(code, Some(0), "{stderr}");
        let text = fs::read_to_string(example(role)).unwrap();
        let shown: toml::Table = stdout.parse().unwrap();
        for key in keys(&shown) {
            assert!(text.contains(&key), "{role}.toml does not name {key}");
        }
    }
}

fn keys(table: &toml::Table) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in table {
        keys.push(key.clone());
        if let toml::Value::Table(inner) = value {
            keys.extend(self::keys(inner));
        }
    }
    keys
}

#[test]
fn a_certificate_that_cannot_be_read_is_found_when_the_configuration_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.pem");
    let file = |key| format!("tls.{key}_file={}", missing.display());
    let (certificate, key) = (file("certificate"), file("key"));
    let mut arguments = vec!["translator", "--check-config"];
    for set in ["tls.listen_address=127.0.0.1:0", &certificate, &key] {
        arguments.extend(["--set", set]);
    }
    let (code, stdout, stderr) = outcome(&mut hashpool(&arguments));
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    assert!(stderr.contains("tls.certificate_file"), "{stderr}");
}

#[test]
fn an_unknown_key_in_a_file_names_the_nearest_known_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pool.toml");
    fs::write(&file, "lisen_address = \"127.0.0.1:1\"\n").unwrap();
    let file = file.to_str().unwrap();
    let (code, stdout, stderr) =
        outcome(&mut hashpool(&["pool", "--config", file, "--check-config"]));
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (
            Some(2),
            "",
            format!("hashpool: {file}:1: unknown key \"lisen_address\"; did you mean \"listen_address\"?\n")
                .as_str()
        )
    );
}

#[test]
fn the_environment_wins_over_the_file_and_the_command_line_over_both() {
    let file = example("pool");
    let arguments = ["pool", "--config", &file, "--check-config"];
    let shown = |command: &mut Command| {
        let (code, stdout, stderr) = outcome(command);
        assert_eq!(code, Some(0), "{stderr}");
        let shown: toml::Table = stdout.parse().unwrap();
        shown["listen_address"].as_str().unwrap().to_owned()
    };
    let name = "HASHPOOL_POOL__LISTEN_ADDRESS";
    let mut command = hashpool(&arguments);
    assert_eq!(shown(command.env(name, "127.0.0.1:4242")), "127.0.0.1:4242");
    let mut command = hashpool(&arguments);
    command.env(name, "127.0.0.1:4242");
    command.args(["--set", "listen_address=127.0.0.1:4243"]);
    assert_eq!(shown(&mut command), "127.0.0.1:4243");
}

#[test]
fn a_relay_is_configured_by_short_names_alone_and_long_ones_are_over_them() {
    let shown = |command: &mut Command| {
        let (code, stdout, stderr) = outcome(command);
        assert_eq!(code, Some(0), "{stderr}");
        stdout.parse::<toml::Table>().unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    fs::write(
        &file,
        "listen_address = \"127.0.0.1:1\"\ndrain_seconds = 7\n",
    )
    .unwrap();
    let mut command = hashpool(&["relay", "--check-config"]);
    for (name, value) in [
        ("POOL_HOST", "pool.example"),
        ("POOL_PORT", "4444"),
        ("BIND_PORT", "3334"),
        ("METRICS_PORT", "9191"),
        ("CONFIG_FILE", file.to_str().unwrap()),
    ] {
        command.env(name, value);
    }
    let config = shown(&mut command);
    let pools = config["pools"].as_array().unwrap();
    assert_eq!(pools.len(), 1);
    assert_eq!(pools[0]["address"].as_str(), Some("pool.example:4444"));
    assert_eq!(config["listen_address"].as_str(), Some("0.0.0.0:3334"));
    assert_eq!(config["http_address"].as_str(), Some("127.0.0.1:9191"));
    assert_eq!(config["drain_seconds"].as_integer(), Some(7));

    command.env("HASHPOOL_RELAY__LISTEN_ADDRESS", "127.0.0.1:3335");
    let pools =
        r#"[{ name = "a", address = "a.example:1" }, { name = "b", address = "b.example:2" }]"#;
    command.env("HASHPOOL_RELAY__POOLS", pools);
    let config = shown(&mut command);
    assert_eq!(config["listen_address"].as_str(), Some("127.0.0.1:3335"));
    assert_eq!(config["pools"].as_array().unwrap().len(), 2);

    // Other roles have none.
    let mut command = hashpool(&["pool", "--check-config"]);
    command.args(["--config", &example("pool")]);
    let pool = shown(command.env("BIND_PORT", "3334"));
    assert_eq!(pool["listen_address"].as_str(), Some("0.0.0.0:34254"));

    let mut command = hashpool(&["relay", "--check-config"]);
    let (code, _, stderr) = outcome(command.env("BIND_PORT", "high"));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("BIND_PORT"), "{stderr}");
}

#[test]
fn a_misspelt_variable_is_not_ignored() {
    for (name, expected) in [
        (
            "HASHPOOL_POOL__LISEN_ADDRESS",
            "HASHPOOL_POOL__LISTEN_ADDRESS",
        ),
        (
            "HASHPOOL_POOL_LISTEN_ADDRESS",
            "HASHPOOL_POOL__LISTEN_ADDRESS",
        ),
        ("HASHPOOL_POLL__LISTEN_ADDRESS", "POOL"),
    ] {
        let file = example("pool");
        let mut command = hashpool(&["pool", "--config", &file, "--check-config"]);
        let (code, _, stderr) = outcome(command.env(name, "127.0.0.1:1"));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(
            stderr.contains(name) && stderr.contains(expected),
            "{stderr}"
        );
    }
}

#[test]
fn a_port_in_use_is_named_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = example("translator");
    let set = format!("listen_address={address}");
    let (code, _, stderr) = outcome(&mut hashpool(&[
        "translator",
        "--config",
        &file,
        "--set",
        &set,
        "--log-level",
        "error",
    ]));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&address), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_log_level_that_is_none_is_refused() {
    let file = example("miner");
    let (code, _, stderr) = outcome(&mut hashpool(&[
        "miner",
        "--config",
        &file,
        "--log-level",
        "hashpool=loud",
    ]));
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("hashpool=loud"), "{stderr}");
}

#[test]
fn keygen_writes_a_secret_for_its_owner_alone_and_prints_the_public_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority.key");
    let path = file.to_str().unwrap();
    let (code, stdout, stderr) = outcome(&mut hashpool(&["keygen", "--out", path]));
    assert_eq!(code, Some(0), "{stderr}");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");

    let secret = fs::read_to_string(&file).unwrap();
    assert!(!stdout.contains(secret.trim()) && !stderr.contains(secret.trim()));
    let secret: sv2_connection::AuthoritySecretKey = secret.trim().parse().unwrap();
    let authority = sv2_connection::Authority::new(secret).unwrap();
    assert_eq!(stdout.trim(), authority.public().to_string());
}

#[test]
fn keygen_never_writes_over_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority.key");
    fs::write(&file, "the old key").unwrap();
    let path = file.to_str().unwrap();
    let (code, stdout, stderr) = outcome(&mut hashpool(&["keygen", "--out", path]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains(path), "{stderr}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "the old key");
}

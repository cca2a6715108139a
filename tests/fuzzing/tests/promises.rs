//! A moment of what the fuzz targets do for longer.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

/// Lines of scripts that lead somewhere.
const LINES: [&str; 16] = [
    r#"> {"id":1,"method":"mining.submit","params":["a.b","$JOB","$EXTRANONCE2","$NTIME","$NONCE"]}"#,
    r#"> {"id":"x","method":"mining.submit","params":["a.b","$JOB","$EXTRANONCE2","$NTIME","$NONCE","$BITS"]}"#,
    r#"{"id":1,"method":"mining.submit","params":["a.b",null,1]}"#,
    r#"{"id":2,"method":"mining.subscribe","params":["NiceHash/1.0"]}"#,
    r#"{"id":3,"method":"mining.authorize","params":["a.b","d=1000;x"]}"#,
    r#"{"id":4,"method":"mining.configure","params":[["version-rolling","minimum-difficulty"],{"version-rolling.mask":"ffffffff"}]}"#,
    r#"{"id":5,"method":"mining.suggest_difficulty","params":[0.5]}"#,
    "!U",
    "!D",
    "!M",
    "!O20",
    "!W0",
    "!W7",
    "!C",
    "!R",
    "!N",
];

fn script() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => prop::sample::select(&LINES[..]).prop_map(|line| line.as_bytes().to_vec()),
        3 => "![AJOTWUMDajdwc][0-9]{1,3}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ];
    let opening = "!S[0-9]{1,2}";
    (opening, prop::collection::vec(line, 0..80))
        .prop_map(|(opening, lines)| [vec![opening.into_bytes()], lines].concat().join(&b'\n'))
}

proptest! {
    #[test]
    fn any_session_counts_every_share_once_and_speaks_json(script in script()) {
        fuzzing::session(&script);
    }

    #[test]
    fn any_bytes_are_the_same_lines_however_they_come(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::lines(&data);
    }

    #[test]
    fn any_text_that_is_nearly_json_is_taken_or_refused(text in r#"[\x01-\x40]([\[\]{}",:0-9.eE\\u+\n -]|"id"|"method"|"params"|null|true|"mining.submit"){0,80}"#) {
        fuzzing::lines(text.as_bytes());
    }
}

#[test]
fn recorded_conversations_and_what_the_fuzzer_found_keep_the_promises() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let play = |folder: &str, target: fn(&[u8])| {
        let mut played = 0;
        for file in fs::read_dir(root.join(folder)).unwrap() {
            target(&fs::read(file.unwrap().path()).unwrap());
            played += 1;
        }
        assert!(played > 0, "{folder} is empty");
    };
    play("roles/translator/tests/conversations", fuzzing::session);
    play("fuzz/seeds/session", fuzzing::session);
    play("fuzz/seeds/lines", fuzzing::lines);
}

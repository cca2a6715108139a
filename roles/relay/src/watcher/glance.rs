//! Jobs at a glance.
//!
//! Nearly all that a pool says are jobs, and nearly all of a job is coinbase and merkle path, which nobody here needs. So of a
//! long line that begins and ends as jobs do, only the beginning and the end are read; what is in between is the pool's affair.
//! Every other line goes through the whole parser.

/// A shorter line is read as a whole: that costs nothing.
const LONG: usize = 256;

/// How much of a line's beginning and of its end is read.
const READ: usize = 96;

/// What is needed of a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Job<'a> {
    pub(super) id: &'a str,
    pub(super) clean: bool,
}

/// The job, if the line looks like one.
pub(super) fn job(line: &[u8]) -> Option<Job<'_>> {
    if line.len() < LONG {
        return None;
    }
    let line = line.trim_ascii();
    let head = line.get(..READ)?;
    let tail = &line[line.len().checked_sub(READ)?..];
    if !(head.starts_with(b"{") && tail.ends_with(b"}")) {
        return None;
    }
    let end = tail.iter().rposition(|byte| *byte == b']')?;
    let (params, after) = tail.split_at(end);
    let clean = match params.trim_ascii_end() {
        params if params.ends_with(b"true") => true,
        params if params.ends_with(b"false") => false,
        _ => return None,
    };
    let start = find(head, b"\"params\"")?;
    let (before, rest) = head.split_at(start);
    let method = [before, after]
        .into_iter()
        .find_map(|part| value_of(part, b"\"method\""))?;
    if !method.starts_with(b"\"mining.notify\"") {
        return None;
    }
    let rest = value_of(rest, b"\"params\"")?.strip_prefix(b"[")?;
    let rest = rest.trim_ascii_start().strip_prefix(b"\"")?;
    let id = &rest[..rest.iter().position(|byte| *byte == b'"')?];
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'\\';
    let id = id.iter().all(is_plain).then_some(id)?;
    Some(Job {
        id: std::str::from_utf8(id).ok()?,
        clean,
    })
}

/// What stands behind a key and its colon.
fn value_of<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let behind = &text[find(text, key)? + key.len()..];
    let value = behind.trim_ascii_start().strip_prefix(b":")?;
    Some(value.trim_ascii_start())
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stratum_v1::{ServerMessage, parse_server_message};

    use super::*;

    const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    fn params(id: &str, clean: bool) -> String {
        format!(
            r#"["{id}","{ZEROS}","{ZEROS}","{ZEROS}",["{ZEROS}"],"20000000","1d00ffff","00000000",{clean}]"#
        )
    }

    proptest! {
        #[test]
        fn a_job_is_what_the_parser_finds(id in "[!#-\\[\\]-~]{1,20}", clean: bool, shape in 0usize..4) {
            let params = params(&id, clean);
            let line = match shape {
                0 => format!(r#"{{"id":null,"method":"mining.notify","params":{params}}}"#),
                1 => format!(r#"{{"params": {params}, "id": null, "method": "mining.notify"}}"#),
                2 => format!(r#"{{ "method" : "mining.notify" , "params" : {params} , "id" : null }}"#),
                _ => format!(r#"{{"jsonrpc":"2.0","id":7,"method":"mining.notify","params":{params}}} "#),
            };
            let Ok(ServerMessage::Notify(notify)) = parse_server_message(line.as_bytes()) else {
                panic!("{line}");
            };
            let seen = job(line.as_bytes()).unwrap();
            prop_assert!(notify.job_id == *seen.id);
            prop_assert_eq!(notify.clean_jobs, seen.clean);
        }
    }

    #[test]
    fn what_does_not_look_like_a_job_is_left_to_the_parser() {
        let params = params("j", true);
        let long = "x".repeat(300);
        for line in [
            format!(r#"{{"id":null,"method":"mining.notify","params":["j","{long}"]}}"#),
            format!(r#"{{"id":null,"method":"client.show_message","params":{params}}}"#),
            format!(r#"{{"id":1,"result":[[["mining.notify","{long}"]],"00",true],"error":null}}"#),
            format!(r#"{{"id":null,"method":"mining.notify","params":{params}"#),
            format!(r#"[{{"id":null,"method":"mining.notify","params":{params}}}]"#),
            format!(
                r#"{{"id":null,"method":"mining.notify","params":["\u0031",{}"#,
                &params[1..]
            ),
            format!(r#"{{"id":"mining.notify","method":"other","params":{params}}}"#),
            r#"{"id":null,"method":"mining.notify","params":["j",true]}"#.to_owned(),
            long,
        ] {
            assert_eq!(job(line.as_bytes()), None, "{line}");
        }
    }
}

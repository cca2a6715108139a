//! What a share costs the parser.

use stratum_v1::{Line, LineBuffer, Method, parse_request};

#[test]
fn a_submit_is_split_off_and_parsed_without_allocation() {
    let stream = concat!(
        r#"{"params": ["account.worker", "1f", "00000001", "6567fae0", "deadbeef", "1fffe000"], "id": 41, "method": "mining.submit"}"#,
        "\n",
        r#"{"params": ["acco\u0075nt", "1f", "0000000\u0031", "6567fae0", "deadbeef"], "id": 42, "method": "mining.submit"}"#,
        "\n",
    );
    let mut buffer = LineBuffer::default();
    let mut submits = 0;
    let allocations = allocation_counter::measure(|| {
        let mut lines = buffer.lines(stream.as_bytes());
        while let Some(Line::Whole(line)) = lines.next() {
            let request = parse_request(line);
            let worker = matches!(request, Ok(request)
                if matches!(request.method, Method::Submit(submit) if submit.worker == "account.worker" || submit.worker == "account"));
            submits += usize::from(worker);
        }
    });
    assert_eq!(submits, 2);
    assert_eq!(allocations.count_total, 0);
}

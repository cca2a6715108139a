//! Whole conversations, without a socket.

use stratum_core::{
    parsers_sv2::{CommonMessages, TemplateDistribution},
    template_distribution_sv2::{
        CoinbaseOutputConstraints, RequestTransactionData, SubmitSolution,
    },
};
use sv2_connection::{mining_setup, template_setup};
use templates::{BlockTransaction, Body, CoinbaseTemplate};

use super::*;

const SETTINGS: Settings = Settings {
    setup_timeout: Duration::from_secs(10),
    remembered: 3,
};

/// What the client heard, in brief.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Success,
    Refused(String),
    Template { id: u64, future: bool },
    Tip { id: u64, prev_hash: u8 },
    Transactions { id: u64, list: Vec<Vec<u8>> },
    NoTransactions { id: u64, code: String },
}

struct Client {
    session: Session,
    out: FrameBuffer,
}

impl Client {
    fn new() -> Self {
        Self {
            session: Session::new(SETTINGS, Instant::now()),
            out: FrameBuffer::new(),
        }
    }

    /// Set up, with room asked for.
    fn ready(template: Option<Arc<Template>>) -> Self {
        let mut client = Self::new();
        if let Some(template) = template {
            client.template(template);
        }
        client.set_up();
        client.constraints(100);
        client
    }

    fn say(&mut self, mut frames: FrameBuffer) -> Result<(), Fault> {
        for frame in frames.frames() {
            let _ = self.session.handle(frame, &mut self.out)?;
        }
        Ok(())
    }

    fn send(&mut self, message: TemplateDistribution<'_>) {
        let mut frames = FrameBuffer::new();
        frames.push(message).unwrap();
        self.say(frames).unwrap();
    }

    fn set_up(&mut self) {
        let request = template_setup("localhost", 8442, "test").unwrap();
        let mut frames = FrameBuffer::new();
        frames
            .push(CommonMessages::SetupConnection(request))
            .unwrap();
        self.say(frames).unwrap();
        assert_eq!(self.heard(), [Heard::Success]);
    }

    fn constraints(&mut self, bytes: u32) {
        self.send(TemplateDistribution::CoinbaseOutputConstraints(
            CoinbaseOutputConstraints {
                coinbase_output_max_additional_size: bytes,
                coinbase_output_max_additional_sigops: 4,
            },
        ));
    }

    fn ask(&mut self, template_id: u64) -> Vec<Heard> {
        self.send(TemplateDistribution::RequestTransactionData(
            RequestTransactionData { template_id },
        ));
        self.heard()
    }

    fn solve(&mut self, template_id: u64, nonce: u32, coinbase: &[u8]) -> Option<Solution> {
        self.send(TemplateDistribution::SubmitSolution(SubmitSolution {
            template_id,
            version: 0x2000_0000,
            header_timestamp: 1,
            header_nonce: nonce,
            coinbase_tx: coinbase.try_into().unwrap(),
        }));
        self.session.take_solution()
    }

    fn template(&mut self, template: Arc<Template>) {
        self.session
            .template_changed(template, &mut self.out)
            .unwrap();
    }

    fn heard(&mut self) -> Vec<Heard> {
        let heard = self.out.frames().map(|frame| {
            if frame.message_type < 0x10 {
                return match frame.common().unwrap() {
                    CommonMessages::SetupConnectionSuccess(_) => Heard::Success,
                    CommonMessages::SetupConnectionError(error) => {
                        Heard::Refused(error.error_code.as_utf8_or_hex())
                    }
                    other => panic!("{other:?}"),
                };
            }
            match frame.template_distribution().unwrap() {
                TemplateDistribution::NewTemplate(message) => Heard::Template {
                    id: message.template_id,
                    future: message.future_template,
                },
                TemplateDistribution::SetNewPrevHash(message) => Heard::Tip {
                    id: message.template_id,
                    prev_hash: message.prev_hash.as_ref()[0],
                },
                TemplateDistribution::RequestTransactionDataSuccess(message) => {
                    Heard::Transactions {
                        id: message.template_id,
                        list: message
                            .transaction_list
                            .as_slice()
                            .iter()
                            .map(|transaction| transaction.as_ref().to_vec())
                            .collect(),
                    }
                }
                TemplateDistribution::RequestTransactionDataError(message) => {
                    Heard::NoTransactions {
                        id: message.template_id,
                        code: message.error_code.as_utf8_or_hex(),
                    }
                }
                other => panic!("{other:?}"),
            }
        });
        let heard = heard.collect();
        self.out.clear();
        heard
    }
}

fn template(tip: u8) -> Arc<Template> {
    let transaction = BlockTransaction {
        bytes: vec![tip, 2, 3].into(),
        id: [1; 32],
        witness_id: [1; 32],
        weight: 400,
        fee: Some(5),
        sigops: 0,
    };
    Arc::new(Template {
        id: 1,
        prev_hash: [tip; 32],
        min_ntime: 0,
        ntime: 1,
        nbits: 0x207f_ffff,
        version: 0x2000_0000,
        coinbase: CoinbaseTemplate {
            version: 2,
            script_prefix: vec![1, 100],
            sequence: 0,
            value_remaining: 50,
            outputs: Vec::new(),
            outputs_count: 0,
            locktime: 0,
        },
        merkle_path: Vec::new(),
        body: Body::Transactions(Arc::new([Arc::new(transaction)])),
    })
}

fn both(id: u64, prev_hash: u8) -> [Heard; 2] {
    [
        Heard::Template { id, future: true },
        Heard::Tip { id, prev_hash },
    ]
}

/// Version, one input, a script of two bytes, no output.
fn coinbase() -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 1];
    bytes.extend([0; 32]);
    bytes.extend([0xff; 4]);
    bytes.extend([2, 1, 100]);
    bytes.extend([0xff; 4]);
    bytes.extend([1, 50, 0, 0, 0, 0, 0, 0, 0, 1, 0x51]);
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn a_client_gets_template_and_tip_whenever_it_comes() {
    let mut before = Client::ready(None);
    assert_eq!(before.heard(), []);
    before.template(template(7));
    assert_eq!(before.heard(), both(1, 7));

    let mut after = Client::ready(Some(template(7)));
    assert_eq!(after.heard(), both(1, 7));

    let mut between = Client::new();
    between.set_up();
    between.template(template(7));
    assert_eq!(between.heard(), [], "it has not said what room it needs");
    between.constraints(100);
    assert_eq!(between.heard(), both(1, 7));
}

#[test]
fn a_refresh_belongs_to_the_tip_and_a_new_tip_comes_with_its_template() {
    let mut client = Client::ready(Some(template(7)));
    client.heard();
    client.template(template(7));
    assert_eq!(
        client.heard(),
        [Heard::Template {
            id: 2,
            future: false
        }]
    );
    client.template(template(8));
    assert_eq!(client.heard(), both(3, 8));
    // testnet4's easy blocks: the target changes on the same tip, and only a tip carries it.
    client.template(Arc::new(Template {
        nbits: 0x207f_fffe,
        ..Template::clone(&template(8))
    }));
    assert_eq!(client.heard(), both(4, 8));
}

#[test]
fn other_room_gives_another_template_and_the_same_room_none() {
    let mut client = Client::ready(Some(template(7)));
    client.heard();
    client.constraints(100);
    assert_eq!(client.heard(), []);
    client.constraints(200);
    assert_eq!(
        client.heard(),
        [Heard::Template {
            id: 2,
            future: false
        }]
    );
}

#[test]
fn transactions_are_given_for_the_present_tip_and_refused_in_the_protocols_words() {
    let mut client = Client::ready(Some(template(7)));
    client.heard();
    let list = vec![vec![7, 2, 3]];
    assert_eq!(client.ask(1), [Heard::Transactions { id: 1, list }]);
    client.template(template(8));
    client.heard();
    let refused = |id, code: &str| {
        [Heard::NoTransactions {
            id,
            code: code.to_owned(),
        }]
    };
    assert_eq!(client.ask(1), refused(1, "stale-template-id"));
    for never_sent in [0, 3, u64::MAX] {
        let answer = client.ask(never_sent);
        assert_eq!(answer, refused(never_sent, "template-id-not-found"));
    }
    // Forgotten, though on the present tip.
    for _ in 0..SETTINGS.remembered {
        client.template(template(8));
    }
    client.heard();
    assert_eq!(client.ask(2), refused(2, "stale-template-id"));
    assert_eq!(client.session.take_tally().transaction_requests_refused, 5);
}

#[test]
fn only_a_block_is_passed_on() {
    let mut client = Client::ready(Some(template(7)));
    let mut blocks = 0;
    for nonce in 0..64 {
        if let Some(solution) = client.solve(1, nonce, &coinbase()) {
            assert_eq!((solution.nonce, solution.template.prev_hash[0]), (nonce, 7));
            assert!(solution.hash().unwrap()[31] < 0x80);
            blocks += 1;
        }
    }
    assert!((1..64).contains(&blocks), "{blocks} of 64");
    assert!(client.solve(1, 0, b"no coinbase").is_none());
    assert!(client.solve(9, 0, &coinbase()).is_none());
    let tally = client.session.take_tally();
    assert_eq!(tally.solutions, blocks);
    assert_eq!(tally.solutions_refused, 64 - blocks + 2);
}

#[test]
fn a_solution_for_the_last_tip_is_still_passed_on() {
    let mut client = Client::ready(Some(template(7)));
    client.template(template(8));
    let solution = (0..64).find_map(|nonce| client.solve(1, nonce, &coinbase()));
    assert_eq!(solution.unwrap().template.prev_hash, [7; 32]);
}

#[test]
fn who_speaks_another_protocol_is_told_and_cut_off() {
    let mut client = Client::new();
    let mut frames = FrameBuffer::new();
    let request = mining_setup(0, "localhost", 8442, "test").unwrap();
    frames
        .push(CommonMessages::SetupConnection(request))
        .unwrap();
    assert!(matches!(client.say(frames), Err(Fault::Refused(_))));
    assert_eq!(
        client.heard(),
        [Heard::Refused("unsupported-protocol".to_owned())]
    );

    let mut frames = FrameBuffer::new();
    let mut request = template_setup("localhost", 8442, "test").unwrap();
    request.flags = 1;
    frames
        .push(CommonMessages::SetupConnection(request))
        .unwrap();
    assert!(matches!(Client::new().say(frames), Err(Fault::Refused(_))));
}

#[test]
fn what_no_client_says_ends_its_connection() {
    for message_type in [0x01, 0x1a, 0x71, 0x72, 0x74, 0xff] {
        let mut frames = FrameBuffer::new();
        frames
            .push_with(0, false, message_type, 200, |_| {
                Ok::<(), MalformedMessage>(())
            })
            .unwrap();
        assert!(Client::new().say(frames.clone()).is_err());
        let fault = Client::ready(Some(template(7))).say(frames);
        assert!(fault.is_err(), "{message_type:#04x}");
    }
}

#[test]
fn room_that_no_block_has_ends_the_connection() {
    let mut client = Client::new();
    client.template(template(7));
    client.set_up();
    let mut frames = FrameBuffer::new();
    let message = CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: u32::MAX,
        coinbase_output_max_additional_sigops: 0,
    };
    frames
        .push(TemplateDistribution::CoinbaseOutputConstraints(message))
        .unwrap();
    assert!(matches!(client.say(frames), Err(Fault::TooLarge(_))));
}

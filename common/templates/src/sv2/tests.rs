//! Conversations with a provider that the test plays, and what becomes of blocks.

use std::time::Instant;

use stratum_core::{
    parsers_sv2::TemplateDistribution,
    template_distribution_sv2::{NewTemplate, RequestTransactionData, SetNewPrevHash},
};
use sv2_connection::{FrameBuffer, MalformedMessage};

use super::{
    conversation::{Conversation, Fault},
    *,
};
use crate::{Body, testing};

const NBITS: u32 = 0x207f_ffff;

fn new_template(id: u64, future_template: bool) -> NewTemplate<'static> {
    NewTemplate {
        template_id: id,
        future_template,
        version: 0x2000_0000,
        coinbase_tx_version: 2,
        coinbase_prefix: [0x02, 0x2c, 0x01][..].try_into().unwrap(),
        coinbase_tx_input_sequence: u32::MAX,
        coinbase_tx_value_remaining: 5_000_000_000,
        coinbase_tx_outputs_count: 0,
        coinbase_tx_outputs: [][..].try_into().unwrap(),
        coinbase_tx_locktime: 299,
        merkle_path: vec![(&[9; 32]).into()].try_into().unwrap(),
    }
}

fn tip(template_id: u64, prev_hash: &[u8; 32]) -> SetNewPrevHash<'_> {
    SetNewPrevHash {
        template_id,
        prev_hash: prev_hash.into(),
        header_timestamp: 1000,
        n_bits: NBITS,
        target: (&[0xff; 32]).into(),
    }
}

#[derive(Default)]
struct Provider {
    conversation: Conversation,
}

impl Provider {
    fn says(
        &mut self,
        message: TemplateDistribution<'_>,
        now: Instant,
    ) -> Result<Option<Received>, Fault> {
        let mut frames = FrameBuffer::new();
        frames.push(message).unwrap();
        let frame = frames.frames().next().unwrap();
        self.conversation.handle(frame, now)
    }

    fn offers(&mut self, message: NewTemplate<'_>) -> Result<Option<Received>, Fault> {
        self.says(TemplateDistribution::NewTemplate(message), Instant::now())
    }

    fn sets_tip(&mut self, message: SetNewPrevHash<'_>) -> Result<Option<Received>, Fault> {
        self.says(
            TemplateDistribution::SetNewPrevHash(message),
            Instant::now(),
        )
    }
}

#[test]
fn a_future_template_and_its_tip_become_one() {
    let mut provider = Provider::default();
    assert!(provider.offers(new_template(4, true)).unwrap().is_none());
    assert!(provider.offers(new_template(5, true)).unwrap().is_none());
    let received = provider.sets_tip(tip(4, &[7; 32])).unwrap().unwrap();
    assert_eq!(received.remote_id, 4);
    let template = received.template;
    assert_eq!((template.prev_hash, template.nbits), ([7; 32], NBITS));
    assert_eq!((template.min_ntime, template.ntime), (1000, 1000));
    assert_eq!(template.height(), Some(300));
    assert_eq!(template.coinbase.locktime, 299);
    assert_eq!(template.merkle_path, [[9; 32]]);
    assert!(matches!(template.body, Body::Remote));
    // A tip makes the futures before it void.
    assert!(provider.sets_tip(tip(5, &[8; 32])).is_err());
}

#[test]
fn a_later_template_joins_the_tip_and_its_clock() {
    let mut provider = Provider::default();
    let start = Instant::now();
    let later = start + Duration::from_secs(30);
    let offer = TemplateDistribution::NewTemplate(new_template(1, true));
    provider.says(offer, start).unwrap();
    let new_tip = TemplateDistribution::SetNewPrevHash(tip(1, &[7; 32]));
    provider.says(new_tip, start).unwrap();
    let refresh = TemplateDistribution::NewTemplate(new_template(2, false));
    let received = provider.says(refresh, later).unwrap().unwrap();
    assert_eq!(received.remote_id, 2);
    assert_eq!(received.template.prev_hash, [7; 32]);
    assert_eq!(
        (received.template.min_ntime, received.template.ntime),
        (1000, 1030)
    );
}

#[test]
fn what_no_provider_may_say_ends_the_connection() {
    let refused = |message: NewTemplate<'static>| {
        let result = Provider::default().offers(message);
        assert!(matches!(result, Err(Fault::Nonsense(_))), "{result:?}");
    };
    refused(new_template(1, false));
    refused(NewTemplate {
        coinbase_prefix: [0; 9][..].try_into().unwrap(),
        ..new_template(1, true)
    });
    refused(NewTemplate {
        coinbase_tx_value_remaining: crate::MAX_MONEY + 1,
        ..new_template(1, true)
    });
    refused(NewTemplate {
        coinbase_tx_outputs_count: u32::MAX,
        coinbase_tx_outputs: [0; 12][..].try_into().unwrap(),
        ..new_template(1, true)
    });
    refused(NewTemplate {
        coinbase_tx_outputs: [0; 9][..].try_into().unwrap(),
        ..new_template(1, true)
    });
    refused(NewTemplate {
        merkle_path: vec![(&[9; 32]).into(); 33].try_into().unwrap(),
        ..new_template(1, true)
    });

    let mut provider = Provider::default();
    assert!(provider.sets_tip(tip(1, &[7; 32])).is_err());
    provider.offers(new_template(1, true)).unwrap();
    let no_target = SetNewPrevHash {
        n_bits: 0,
        ..tip(1, &[7; 32])
    };
    assert!(provider.sets_tip(no_target).is_err());
    let request =
        TemplateDistribution::RequestTransactionData(RequestTransactionData { template_id: 1 });
    let result = provider.says(request, Instant::now());
    assert!(
        matches!(result, Err(Fault::Unexpected { .. })),
        "{result:?}"
    );
}

#[test]
fn garbage_is_a_fault_and_no_panic() {
    for message_type in 0..=u8::MAX {
        for size in [0, 1, 40, 300] {
            let mut frames = FrameBuffer::new();
            let fill = |payload: &mut [u8]| {
                payload.fill(message_type ^ 0xa5);
                Ok::<(), MalformedMessage>(())
            };
            frames
                .push_with(0, false, message_type, size, fill)
                .unwrap();
            let frame = frames.frames().next().unwrap();
            let result = Conversation::default().handle(frame, Instant::now());
            assert!(result.is_err(), "{message_type:#04x} of {size} bytes");
        }
    }
}

#[test]
fn futures_without_end_take_no_memory_without_end() {
    let mut provider = Provider::default();
    for id in 0..1000 {
        provider.offers(new_template(id, true)).unwrap();
    }
    assert!(provider.sets_tip(tip(1, &[7; 32])).is_err());
}

fn source() -> Arc<Source> {
    Arc::new(Source {
        board: Arc::new(Board::new("sv2", String::new(), Duration::from_secs(1))),
        state: Mutex::default(),
        tip_changed: watch::Sender::new(()),
        confirm: Duration::from_secs(30),
    })
}

/// Publishes a template on this tip, and gives it with its own id.
fn publish(source: &Source, remote_id: u64, prev_hash: [u8; 32]) -> Arc<Template> {
    let mut provider = Provider::default();
    provider.offers(new_template(remote_id, true)).unwrap();
    let received = provider.sets_tip(tip(remote_id, &prev_hash)).unwrap();
    source.publish(received.unwrap());
    source.board.subscribe().borrow().clone().unwrap()
}

/// Submits a block, and gives it with what is handed over.
async fn submitted(
    source: &Arc<Source>,
    template: &Arc<Template>,
    deliveries: &mut mpsc::Receiver<Delivery>,
) -> (Solution, Delivery, tokio::task::JoinHandle<Submission>) {
    let solution = testing::solve(template, |_| {});
    let (task_source, task_solution) = (Arc::clone(source), solution.clone());
    let task = tokio::spawn(async move { task_source.submit(task_solution).await });
    let delivery = deliveries.recv().await.unwrap();
    (solution, delivery, task)
}

#[tokio::test(start_paused = true)]
async fn a_block_is_accepted_when_it_is_the_tip() {
    let source = source();
    let mut deliveries = source.connected();
    let template = publish(&source, 77, [7; 32]);
    let (solution, delivery, task) = submitted(&source, &template, &mut deliveries).await;
    assert_eq!(delivery.remote_id, 77);
    assert_eq!(delivery.solution.coinbase, solution.coinbase);
    delivery.written.send(()).unwrap();
    publish(&source, 78, solution.hash().unwrap());
    // Another block came upon it at once.
    publish(&source, 79, [8; 32]);
    assert_eq!(task.await.unwrap(), Submission::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_block_of_which_nothing_is_heard_is_not_called_accepted() {
    let source = source();
    let mut deliveries = source.connected();
    let template = publish(&source, 1, [7; 32]);
    let (_, delivery, task) = submitted(&source, &template, &mut deliveries).await;
    delivery.written.send(()).unwrap();
    publish(&source, 2, [8; 32]);
    assert!(matches!(task.await.unwrap(), Submission::Unknown(_)));
}

#[tokio::test(start_paused = true)]
async fn a_block_is_handed_over_only_where_its_template_came_from() {
    let source = source();
    let mut deliveries = source.connected();
    let template = publish(&source, 1, [7; 32]);
    let (solution, delivery, task) = submitted(&source, &template, &mut deliveries).await;
    // The connection ends before the block is written.
    drop(delivery);
    assert!(matches!(task.await.unwrap(), Submission::Unreachable(_)));
    source.disconnected("gone".to_owned());
    let answer = source.submit(solution.clone()).await;
    assert!(matches!(answer, Submission::Unreachable(_)));
    assert_eq!(source.board.health().error.as_deref(), Some("gone"));

    // The next connection knows nothing of it, whatever its ids are.
    let mut deliveries = source.connected();
    let next = publish(&source, 1, [7; 32]);
    assert!(next.id > template.id);
    let answer = source.submit(solution).await;
    assert!(matches!(answer, Submission::Unreachable(_)));
    assert!(deliveries.try_recv().is_err());
}

//! Several nodes on a bus in memory. Time is paused: it passes when everybody waits.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::advance;

use super::*;
use crate::store::bus::Subscription;
use crate::store::memory::MemoryStore;
use crate::store::{Error, Result};

/// Reaches everybody who listens, unless it is out.
struct MemoryBus {
    texts: broadcast::Sender<String>,
    is_out: AtomicBool,
}

struct MemoryEar(broadcast::Receiver<String>);

impl MemoryBus {
    fn new() -> Arc<Self> {
        let (texts, _) = broadcast::channel(1000);
        Arc::new(MemoryBus {
            texts,
            is_out: AtomicBool::new(false),
        })
    }

    fn is_out(&self) -> Result<()> {
        if self.is_out.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("out".to_owned()));
        }
        Ok(())
    }
}

/// Ends every subscription.
const CUT: &str = "cut";

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(&self, texts: &[String]) -> Result<()> {
        self.is_out()?;
        for text in texts {
            // Nobody listens.
            let _ = self.texts.send(text.clone());
        }
        Ok(())
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>> {
        self.is_out()?;
        Ok(Box::new(MemoryEar(self.texts.subscribe())))
    }
}

#[async_trait]
impl Subscription for MemoryEar {
    async fn next(&mut self) -> Result<String> {
        match self.0.recv().await {
            Ok(text) if text != CUT => Ok(text),
            _ => Err(Error::Unavailable("cut".to_owned())),
        }
    }
}

/// Remembers what it was told.
#[derive(Default)]
struct Told {
    listened: Mutex<Vec<Id>>,
    woken: Mutex<Vec<Id>>,
    delivered: Mutex<Vec<Parcel>>,
}

#[async_trait]
impl Inbox for Told {
    fn listened(&self) -> Vec<Id> {
        self.listened.lock().unwrap().clone()
    }

    fn is_listened(&self, queue: &str) -> bool {
        let listened = self.listened.lock().unwrap();
        listened.iter().any(|other| **other == *queue)
    }

    fn woken(&self, queues: &[Id]) {
        let listened = self.listened.lock().unwrap();
        let heard = queues.iter().filter(|queue| listened.contains(queue));
        self.woken.lock().unwrap().extend(heard.cloned());
    }

    async fn delivered(&self, parcels: Vec<Parcel>) {
        self.delivered.lock().unwrap().extend(parcels);
    }
}

struct Node {
    cluster: Arc<Cluster>,
    told: Arc<Told>,
    running: JoinHandle<()>,
}

impl Node {
    fn start(bus: &Arc<MemoryBus>, queues: &[&str]) -> Node {
        let cluster = Cluster::new(bus.clone(), Duration::from_secs(1));
        let told = Arc::new(Told::default());
        *told.listened.lock().unwrap() = queues.iter().map(|&queue| queue.into()).collect();
        let running = tokio::spawn({
            let (cluster, told) = (cluster.clone(), told.clone());
            async move {
                let store = MemoryStore::new();
                cluster.run(&*told, &store, &Clock::manual(0)).await;
            }
        });
        Node {
            cluster,
            told,
            running,
        }
    }

    fn listen(&self, queue: &str) {
        self.told.listened.lock().unwrap().push(queue.into());
        self.cluster.announce(&[queue.into()]);
    }

    /// How many nodes it knows of, itself included.
    fn nodes(&self) -> usize {
        self.cluster.lock().peers.len() + 1
    }

    fn id(&self) -> NodeId {
        self.cluster.me
    }

    /// What it was told to look at since somebody last asked.
    fn woken(&self) -> Vec<Id> {
        std::mem::take(&mut self.told.woken.lock().unwrap())
    }

    fn delivered(&self) -> Vec<Parcel> {
        self.told.delivered.lock().unwrap().clone()
    }
}

/// Lets everybody do what there is to do, for so many milliseconds.
async fn pass(ms: u64) {
    for _ in 0..ms.div_ceil(10) {
        advance(Duration::from_millis(10)).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

fn execute(id: &str, address: &str) -> Parcel {
    Parcel::Execute {
        id: id.into(),
        version: 1,
        address: address.into(),
        retry_at: 7,
        trace: Some(crate::store::suite::trace()),
        cause: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_goes_to_the_node_that_listens_and_to_no_other() {
    let bus = MemoryBus::new();
    let [a, b, c] = [&[][..], &["any@g"], &["any@other"]].map(|q| Node::start(&bus, q));
    pass(200).await;
    assert_eq!(a.nodes(), 3);
    assert_eq!(a.cluster.listener("any@g"), Some(b.id()));
    assert_eq!(a.cluster.listener("any@nobody"), None);
    a.cluster.offer(b.id(), execute("t", "poll://any@g"));
    pass(10).await;
    assert_eq!(b.delivered(), [execute("t", "poll://any@g")]);
    assert_eq!((a.delivered(), c.delivered()), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_opens_is_known_at_once_and_one_that_closes_forgotten() {
    let bus = MemoryBus::new();
    let [a, b] = [(); 2].map(|()| Node::start(&bus, &[]));
    pass(200).await;
    b.listen("uni@g/1");
    pass(10).await;
    assert_eq!(a.cluster.listener("uni@g/1"), Some(b.id()));
    b.told.listened.lock().unwrap().clear();
    b.cluster.announce(&["uni@g/1".into()]);
    pass(200).await;
    assert_eq!(a.cluster.listener("uni@g/1"), None);
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_learns_what_was_announced_before() {
    let bus = MemoryBus::new();
    let a = Node::start(&bus, &["any@g"]);
    pass(10_000).await;
    let b = Node::start(&bus, &[]);
    pass(1500).await;
    assert_eq!(b.cluster.listener("any@g"), Some(a.id()));
}

/// What has been said of listening since the last look, in bytes of names.
fn announced(ear: &mut MemoryEar) -> usize {
    let texts = std::iter::from_fn(|| ear.0.try_recv().ok());
    let notes = texts.map(|text| {
        assert!(text.len() <= crate::store::bus::TEXT_BYTES_MAX);
        serde_json::from_str(&text).expect("a note")
    });
    notes
        .map(|note| match note {
            Note::Listening { queues, .. } => queues.iter().map(|queue| queue.len()).sum(),
            Note::Changed { opened, closed, .. } => {
                let changed = opened.iter().chain(&closed);
                changed.map(|queue| queue.len()).sum::<usize>()
            }
            _ => 0,
        })
        .sum()
}

#[tokio::test(start_paused = true)]
async fn each_of_many_streams_is_announced_once_however_they_come() {
    let bus = MemoryBus::new();
    let [a, b] = [(); 2].map(|()| Node::start(&bus, &[]));
    pass(200).await;
    let mut ear = MemoryEar(bus.texts.subscribe());
    let name = |n: usize| format!("uni@workers/{n:032}");
    let bytes: usize = (0..5000).map(|n| name(n).len()).sum();
    let mut said = 0;
    for n in 0..5000 {
        a.listen(&name(n));
        if n % 100 == 0 {
            pass(20).await;
            said += announced(&mut ear);
        }
    }
    pass(2000).await;
    said += announced(&mut ear);
    assert_eq!(said, bytes);
    assert_eq!(b.cluster.listener(&name(4711)), Some(a.id()));

    // One more, and one less.
    let gone = a.told.listened.lock().unwrap().remove(0);
    a.cluster.announce(std::slice::from_ref(&gone));
    a.listen("uni@g/new");
    pass(200).await;
    assert_eq!(announced(&mut ear), gone.len() + "uni@g/new".len());
    assert_eq!(b.cluster.listener(&gone), None);
    assert_eq!(b.cluster.listener("uni@g/new"), Some(a.id()));
    assert_eq!(b.cluster.listener(&name(4711)), Some(a.id()));
}

#[tokio::test(start_paused = true)]
async fn who_missed_an_announcement_asks_for_all() {
    let bus = MemoryBus::new();
    let [a, b] = [&["any@g"][..], &[]].map(|q| Node::start(&bus, q));
    pass(200).await;
    bus.is_out.store(true, Ordering::SeqCst);
    a.listen("any@missed");
    pass(150).await;
    bus.is_out.store(false, Ordering::SeqCst);
    a.listen("any@h");
    pass(2500).await;
    for queue in ["any@g", "any@missed", "any@h"] {
        assert_eq!(b.cluster.listener(queue), Some(a.id()), "{queue}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_listen_are_woken_where_nobody_is_known() {
    let bus = MemoryBus::new();
    let [a, b, c] = [&["any@g"][..], &["any@g", "any@h"], &["any@h"]].map(|q| Node::start(&bus, q));
    pass(200).await;
    for node in [&a, &b, &c] {
        node.woken();
    }
    a.cluster.wake(["any@g".into(), "any@i".into()]);
    pass(50).await;
    assert_eq!(a.woken(), []);
    assert_eq!(b.woken(), ["any@g".into()]);
    assert_eq!(c.woken(), []);
}

#[tokio::test(start_paused = true)]
async fn too_many_queues_to_name_wake_everybody() {
    let bus = MemoryBus::new();
    let [a, b] = [&[][..], &["any@g"]].map(|q| Node::start(&bus, q));
    pass(200).await;
    b.woken();
    a.cluster.wake((0..5000).map(|n| format!("any@{n}").into()));
    pass(50).await;
    assert_eq!(b.woken(), ["any@g".into()]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_vanishes_is_forgotten_and_what_it_was_told_looked_for() {
    let bus = MemoryBus::new();
    let [a, b] = [&["any@g"][..], &["any@h"]].map(|q| Node::start(&bus, q));
    pass(200).await;
    assert_eq!(a.nodes(), 2);
    b.running.abort();
    a.woken();
    pass(2000).await;
    assert_eq!((a.nodes(), a.woken()), (2, vec![]));
    pass(3000).await;
    assert_eq!((a.nodes(), a.woken()), (1, vec!["any@g".into()]));
    assert_eq!(a.cluster.listener("any@h"), None);
}

#[tokio::test(start_paused = true)]
async fn who_forgets_a_node_has_others_look_for_what_it_was_told() {
    let bus = MemoryBus::new();
    let [a, b, c] = [&[][..], &["any@g", "any@h"], &["any@g"]].map(|q| Node::start(&bus, q));
    pass(200).await;
    b.running.abort();
    // Never heard of it, or missed it before the last message for it had left.
    c.cluster.forget(b.id());
    pass(50).await;
    c.woken();
    pass(5000).await;
    assert_eq!((a.nodes(), c.woken()), (2, vec!["any@g".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_is_missed_at_once() {
    let bus = MemoryBus::new();
    let [a, b] = [&["any@g"][..], &[]].map(|q| Node::start(&bus, q));
    pass(200).await;
    a.woken();
    b.running.abort();
    b.cluster.leave().await;
    pass(10).await;
    assert_eq!((a.nodes(), a.woken()), (1, vec!["any@g".into()]));
}

#[tokio::test(start_paused = true)]
async fn who_loses_touch_looks_for_what_it_missed() {
    let bus = MemoryBus::new();
    let a = Node::start(&bus, &["any@g"]);
    pass(200).await;
    a.woken();
    bus.texts.send(CUT.to_owned()).unwrap();
    pass(10).await;
    assert_eq!(a.woken(), ["any@g".into()]);
}

#[tokio::test(start_paused = true)]
async fn who_hears_nothing_looks_every_interval_until_it_hears_again() {
    let bus = MemoryBus::new();
    let [a, b] = [&["any@g"][..], &[]].map(|q| Node::start(&bus, q));
    pass(200).await;
    bus.is_out.store(true, Ordering::SeqCst);
    bus.texts.send(CUT.to_owned()).unwrap();
    pass(10).await;
    a.woken();
    pass(3000).await;
    assert_eq!(a.woken().len(), 3);
    // What could not be said in the meantime is said afterwards.
    b.cluster.wake(["any@g".into()]);
    b.cluster.offer(a.id(), execute("t", "poll://any@g"));
    pass(100).await;
    bus.is_out.store(false, Ordering::SeqCst);
    pass(1500).await;
    assert!(a.woken().contains(&"any@g".into()));
    assert_eq!(b.cluster.listener("any@g"), Some(a.id()));
    pass(3000).await;
    assert_eq!(a.woken(), []);
}

#[tokio::test(start_paused = true)]
async fn every_deadline_is_one_nodes_and_passes_to_another_with_it() {
    let bus = MemoryBus::new();
    let [a, b, c] = [(); 3].map(|()| Node::start(&bus, &[]));
    pass(200).await;
    let keys: Vec<DeadlineKey> = (0..300)
        .map(|n: usize| DeadlineKey::Promise(n.to_string().into()))
        .collect();
    let owners = |nodes: &[&Node], key: &DeadlineKey| -> usize {
        nodes.iter().filter(|n| n.cluster.is_mine(key)).count()
    };
    assert!(keys.iter().all(|key| owners(&[&a, &b, &c], key) == 1));
    let share = keys.iter().filter(|key| a.cluster.is_mine(key)).count();
    assert!((50..150).contains(&share), "{share}");
    c.running.abort();
    c.cluster.leave().await;
    pass(10).await;
    assert!(keys.iter().all(|key| owners(&[&a, &b], key) == 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_ignored() {
    let bus = MemoryBus::new();
    let a = Node::start(&bus, &["any@g"]);
    let b = Node::start(&bus, &[]);
    pass(200).await;
    a.woken();
    for text in ["", "{", r#"{"kind":"news","node":1}"#, r#"{"kind":"wake"}"#] {
        bus.texts.send(text.to_owned()).unwrap();
    }
    b.cluster.wake(["any@g".into()]);
    pass(50).await;
    assert_eq!(a.woken(), ["any@g".into()]);
}

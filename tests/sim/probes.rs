//! What holds while nothing goes wrong: messages, deadlines and schedules are there at once. Nothing waits for a
//! sweep, or for a retry that only repairs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use resonate::protocol::operation::{
    Command, PromiseCreate, PromiseSettle, Query, ScheduleCreate, TaskAcquire, TaskCreate, TaskRef,
};
use resonate::protocol::record::{Id, Millis, PromiseState, Tags, Value, Verdict, tag};
use resonate::protocol::reply::Reply;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::database::Database;
use super::network::{Answer, Message, call, note_received, read};
use super::node::{Node, Request};
use super::sim::{Checked, Sim, broken};
use super::weather::Weather;
use super::worker::granted;
use crate::harness::server::lock;
use crate::model::action::EVERY_SECOND;

/// How long a message may take from the answer that it follows, over any node.
const AT_ONCE: Duration = Duration::from_millis(250);
/// How late a deadline may be stored.
const LATE: Duration = Duration::from_millis(60);
/// By then nodes know of each other, and of what has gone.
const ACQUAINTANCE: Duration = Duration::from_secs(5);
const LONG: Millis = 3_600_000;
const PROBES: usize = 4;
/// A deadline that a commit under way is likely to outlast.
const NEAR: Millis = 40;
const STALL_MAX: Duration = Duration::from_millis(100);
const READS: usize = 40;
/// Longer than internal steps are held.
const OUTAGE: Duration = Duration::from_secs(4);

/// Some of the probes, one after the other.
pub async fn run(database: &Arc<Database>) -> Checked {
    let sim = &database.sim;
    sleep(ACQUAINTANCE).await;
    for _ in 0..PROBES {
        let number = sim.below(13);
        sim.log.line("probe", || number.to_string());
        let name: Id = format!("probe{}", sim.event()).into();
        let probe = Probe {
            sim: sim.clone(),
            name,
        };
        match number {
            0 => probe.execute_reaches_a_stream().await?,
            1 => probe.unblock_reaches_a_stream().await?,
            2 => probe.deadline_is_stored().await?,
            3 => probe.lease_runs_out().await?,
            4 => probe.stream_that_opens_gets_what_waits().await?,
            5 => probe.stream_that_closes_leaves_all_to_others().await?,
            6 => probe.schedule_fires().await?,
            7 => probe.task_is_offered_again().await?,
            8 => probe.pushes_wait_for_room_only().await?,
            9 => probe.small_buffers_lose_nothing().await?,
            10 => probe.released_task_is_back_soon().await?,
            11 => probe.node_that_dies_is_missed(database).await?,
            _ => probe.failed_unblock_is_tried_again().await?,
        }
    }
    let another = || Probe {
        sim: sim.clone(),
        name: format!("probe{}", sim.event()).into(),
    };
    another().commit_that_outlasts_a_deadline().await;
    another().delivery_outlasts_an_outage().await
}

struct Probe {
    sim: Arc<Sim>,
    name: Id,
}

/// A stream that somebody reads.
struct Stream {
    reading: JoinHandle<()>,
    messages: mpsc::UnboundedReceiver<String>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Stream {
    /// The next message that tells of something.
    async fn next(&mut self, sim: &Sim, within: Duration) -> Option<Message> {
        let body = timeout(within, self.messages.recv()).await.ok()??;
        read(sim, &body)
    }
}

impl Probe {
    fn node(&self) -> Arc<Node> {
        self.sim.any_node().expect("all nodes are up")
    }

    /// Opens a stream of this probe's group.
    fn listen(&self, id: &str) -> Stream {
        let (sender, messages) = mpsc::unbounded_channel();
        let node = self.node();
        self.sim
            .log
            .line("probe", || format!("{id} listens at {}", node.name));
        let open = |node: &Node, group: &str, id: &str| {
            let connection = node.hub.register(group, id).expect("there is room");
            connection.into_body_stream()
        };
        let mut events = open(&node, &self.name, id);
        let (sim, group, id) = (self.sim.clone(), self.name.clone(), id.to_owned());
        let reading = tokio::spawn(async move {
            loop {
                loop {
                    let chunk = tokio::select! {
                        biased;
                        () = node.until_over() => return,
                        chunk = events.next() => chunk,
                    };
                    let Some(Ok(chunk)) = chunk else { break };
                    let text = String::from_utf8_lossy(&chunk).into_owned();
                    if let Some(body) = text.strip_prefix("data: ").map(str::trim_end) {
                        note_received(&sim, &group, &id, body);
                        sim.log.line("probe", || format!("{id} gets {body}"));
                        // Whoever has gone does not want it any more.
                        let _ = sender.send(body.to_owned());
                    }
                }
                // It has lived its life.
                events = open(&node, &group, &id);
            }
        });
        Stream { reading, messages }
    }

    async fn ask(&self, command: Command) -> Option<Reply> {
        match call(&self.sim, "probe", Request::Command(command)).await {
            Answer::Reply(reply) => Some(reply),
            Answer::Unavailable | Answer::Lost => None,
        }
    }

    /// By the clock of the node that is furthest.
    fn now(&self) -> Millis {
        let nodes = lock(&self.sim.nodes);
        let clocks = nodes.iter().flatten().map(|node| node.clock.now());
        clocks.max().unwrap_or_default()
    }

    fn any(&self) -> String {
        format!("poll://any@{}", self.name)
    }

    fn birth(&self, suffix: &str, timeout_at: Millis, tags: &[(&str, &str)]) -> PromiseCreate {
        let pairs = tags
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        PromiseCreate {
            id: format!("{}{suffix}", self.name).into(),
            timeout_at,
            param: Value::empty(),
            tags: Tags::new(pairs.collect()),
        }
    }

    async fn create(&self, suffix: &str, ahead: Millis, tags: &[(&str, &str)]) -> Id {
        let birth = self.birth(suffix, self.now().saturating_add(ahead), tags);
        let id = birth.id.clone();
        self.ask(Command::PromiseCreate(birth)).await;
        id
    }

    async fn settle(&self, id: &Id) {
        let settle = PromiseSettle {
            id: id.clone(),
            state: Verdict::Resolved,
            value: Value::empty(),
        };
        self.ask(Command::PromiseSettle(settle)).await;
    }

    async fn acquire(&self, id: &Id, version: i64, ttl: Millis) -> Option<TaskRef> {
        let acquire = TaskAcquire {
            id: id.clone(),
            version,
            pid: self.name.clone(),
            ttl,
        };
        granted(&self.ask(Command::TaskAcquire(acquire)).await?)
    }

    fn is_settled(&self, id: &str) -> bool {
        let history = self.sim.history();
        history
            .object(id)
            .is_some_and(|object| object.promise.state != PromiseState::Pending)
    }

    async fn expect_execute(
        &self,
        stream: &mut Stream,
        within: Duration,
        check: &str,
    ) -> Result<i64, super::Failure> {
        match stream.next(&self.sim, within).await {
            Some(Message::Execute { version, .. }) => Ok(version),
            _ => broken(check, format!("nothing after {within:?}")).map(|()| 0),
        }
    }

    async fn execute_reaches_a_stream(&self) -> Checked {
        let mut stream = self.listen("a");
        // Until the others have heard of it they ask who listens, which takes no longer.
        sleep(Duration::from_millis(self.sim.between(0..400))).await;
        self.create("", LONG, &[(tag::TARGET, &self.any())]).await;
        self.expect_execute(&mut stream, AT_ONCE, "an execute leaves at once")
            .await
            .map(drop)
    }

    async fn unblock_reaches_a_stream(&self) -> Checked {
        let mut stream = self.listen("a");
        let awaited = self.create("", LONG, &[]).await;
        let address = match self.sim.chance(0.5) {
            true => self.any().into(),
            false => format!("poll://uni@{}/a", self.name).into(),
        };
        let listen = Command::PromiseRegisterListener {
            awaited: awaited.clone(),
            address,
        };
        self.ask(listen).await;
        self.settle(&awaited).await;
        match stream.next(&self.sim, AT_ONCE).await {
            Some(Message::Unblock { id }) if id == awaited => Ok(()),
            _ => broken("an unblock leaves at once", awaited.to_string()),
        }
    }

    async fn deadline_is_stored(&self) -> Checked {
        let ahead = self.sim.rng().i64(20..900);
        let at = Instant::now() + Duration::from_millis(ahead.unsigned_abs());
        let id = self.create("", ahead, &[(tag::TIMER, "true")]).await;
        tokio::time::sleep_until(at + LATE).await;
        match self.is_settled(&id) {
            true => Ok(()),
            false => broken("a deadline is stored when it comes", id.to_string()),
        }
    }

    async fn lease_runs_out(&self) -> Checked {
        let mut stream = self.listen("a");
        let ttl = 400;
        let action = self.birth("", self.now() + LONG, &[(tag::TARGET, &self.any())]);
        let pid = self.name.clone();
        self.ask(Command::TaskCreate(TaskCreate { pid, ttl, action }))
            .await;
        let within = Duration::from_millis(ttl.unsigned_abs()) + AT_ONCE;
        self.expect_execute(&mut stream, within, "a lease runs out when it ends")
            .await
            .map(drop)
    }

    async fn stream_that_opens_gets_what_waits(&self) -> Checked {
        for n in 0..5 {
            self.create(&format!(".{n}"), LONG, &[(tag::TARGET, &self.any())])
                .await;
        }
        self.sim.pause(0..3000).await;
        let mut stream = self.listen("a");
        for _ in 0..5 {
            let check = "a stream that opens gets what waits";
            self.expect_execute(&mut stream, AT_ONCE, check).await?;
        }
        Ok(())
    }

    async fn stream_that_closes_leaves_all_to_others(&self) -> Checked {
        let node = self.node();
        // Nobody reads it.
        let stuck = node
            .hub
            .register(&self.name, "stuck")
            .expect("there is room");
        let mut stream = self.listen("a");
        let mut ids = std::collections::BTreeSet::new();
        for n in 0..6 {
            let id = self
                .create(&format!(".{n}"), LONG, &[(tag::TARGET, &self.any())])
                .await;
            ids.insert(id);
        }
        sleep(AT_ONCE).await;
        drop(stuck);
        let deadline = Instant::now() + AT_ONCE;
        while !ids.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match stream.next(&self.sim, left).await {
                Some(Message::Execute { id, .. }) => ids.remove(&id),
                _ => {
                    let check = "a stream that closes takes nothing with it";
                    return broken(check, format!("{ids:?}"));
                }
            };
        }
        Ok(())
    }

    async fn schedule_fires(&self) -> Checked {
        self.ask(Command::ScheduleCreate(ScheduleCreate {
            id: self.name.clone(),
            cron: EVERY_SECOND.into(),
            promise_id: "{{.id}}.{{.timestamp}}".into(),
            promise_timeout: 10_000,
            promise_param: Value::empty(),
            promise_tags: Tags::default(),
        }))
        .await;
        let mut outcome = Ok(());
        for _ in 0..3 {
            let now = self.now();
            let ms = 1000 - now.rem_euclid(1000) + 100;
            sleep(Duration::from_millis(ms.unsigned_abs())).await;
            let occurrence = format!("{}.{}", self.name, (now / 1000 + 1) * 1000);
            if self.sim.history().object(&occurrence).is_none() {
                outcome = broken("a schedule fires when it is time", occurrence);
            }
        }
        let id = self.name.clone();
        self.ask(Command::ScheduleDelete { id }).await;
        outcome
    }

    async fn task_is_offered_again(&self) -> Checked {
        let mut stream = self.listen("a");
        self.create("", LONG, &[(tag::TARGET, &self.any())]).await;
        let check = "a task that nobody acquires is offered again";
        self.expect_execute(&mut stream, AT_ONCE, check).await?;
        let plan = &self.sim.plan;
        let retry = Duration::from_millis(plan.retry_timeout_ms.unsigned_abs());
        // Where the stream is another node's, a sweep finds it, half a second after the node whose it is to fire.
        let late = match plan.is_shared {
            true => plan.sweep_interval + Duration::from_millis(600),
            false => Duration::ZERO,
        };
        self.expect_execute(&mut stream, retry + late + AT_ONCE, check)
            .await
            .map(drop)
    }

    async fn pushes_wait_for_room_only(&self) -> Checked {
        let count = self.sim.plan.push_concurrency.min(8) * 4 + 3;
        let mut asking = tokio::task::JoinSet::new();
        let now = self.now();
        let mut ids = Vec::new();
        for n in 0..count {
            let target = [(tag::TARGET, "http://push-0/")];
            let birth = self.birth(&format!(".{n}"), now + LONG, &target);
            ids.push(birth.id.clone());
            let sim = self.sim.clone();
            asking.spawn(async move {
                call(
                    &sim,
                    "probe",
                    Request::Command(Command::PromiseCreate(birth)),
                )
                .await
            });
        }
        while asking.join_next().await.is_some() {}
        sleep(Duration::from_millis(1500)).await;
        match ids.iter().find(|id| !self.is_settled(id)) {
            None => Ok(()),
            Some(id) => broken("pushes wait for nothing but room", id.to_string()),
        }
    }

    async fn small_buffers_lose_nothing(&self) -> Checked {
        let mut stream = self.listen("a");
        sleep(Duration::from_millis(300)).await;
        let mut asking = tokio::task::JoinSet::new();
        let now = self.now();
        for n in 0..30 {
            let birth = self.birth(&format!(".{n}"), now + LONG, &[(tag::TARGET, &self.any())]);
            let sim = self.sim.clone();
            asking.spawn(async move {
                call(
                    &sim,
                    "probe",
                    Request::Command(Command::PromiseCreate(birth)),
                )
                .await
            });
        }
        while asking.join_next().await.is_some() {}
        let deadline = Instant::now() + AT_ONCE * 2;
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 30 {
            let left = deadline.saturating_duration_since(Instant::now());
            match stream.next(&self.sim, left).await {
                Some(Message::Execute { id, .. }) => seen.insert(id),
                _ => {
                    let check = "what finds no room in a stream goes when there is some";
                    return broken(check, format!("{} of 30", seen.len()));
                }
            };
        }
        Ok(())
    }

    async fn released_task_is_back_soon(&self) -> Checked {
        let mut stream = self.listen("a");
        let id = self.create("", LONG, &[(tag::TARGET, &self.any())]).await;
        for _ in 0..3 {
            let check = "a released task is back soon";
            // Held back for 100 ms, then 200.
            let within = AT_ONCE + Duration::from_millis(200);
            let version = self.expect_execute(&mut stream, within, check).await?;
            let Some(task) = self.acquire(&id, version, LONG).await else {
                // Offered twice, on the way here.
                continue;
            };
            self.ask(Command::TaskRelease(task)).await;
        }
        Ok(())
    }

    async fn node_that_dies_is_missed(&self, database: &Arc<Database>) -> Checked {
        let victim = self.node();
        let lost = victim
            .hub
            .register(&self.name, "lost")
            .expect("there is room");
        let mut stream = self.listen("a");
        sleep(Duration::from_millis(500)).await;
        victim.crash();
        drop(lost);
        sleep(Duration::from_millis(100)).await;
        Node::start(database, victim.place);
        if stream.reading.is_finished() {
            stream = self.listen("a");
        }
        sleep(ACQUAINTANCE).await;
        for n in 0..6 {
            self.create(&format!(".{n}"), LONG, &[(tag::TARGET, &self.any())])
                .await;
            let check = "a node that died is not told of anything";
            self.expect_execute(&mut stream, AT_ONCE, check).await?;
        }
        Ok(())
    }

    /// A promise is settled just before its deadline, by a commit that takes beyond it, while everybody asks for it.
    /// The witness hears the answers.
    async fn commit_that_outlasts_a_deadline(&self) {
        let id = self.create("", NEAR, &[]).await;
        *self.sim.weather() = Weather {
            stalls: 1.0,
            stall_max: STALL_MAX,
            ..Weather::fine()
        };
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..READS {
            let (sim, id) = (self.sim.clone(), id.clone());
            asking.spawn(async move {
                sim.pause(0..300).await;
                let query = Query::PromiseGet { id };
                call(&sim, "probe", Request::Query(query)).await
            });
        }
        self.settle(&id).await;
        while asking.join_next().await.is_some() {}
        *self.sim.weather() = Weather::fine();
        let query = Query::PromiseGet { id };
        call(&self.sim, "probe", Request::Query(query)).await;
    }

    /// What was delivered is told to a storage that is out as soon as it is back.
    async fn delivery_outlasts_an_outage(&self) -> Checked {
        let mut stream = self.listen("a");
        let awaited = self.create("", LONG, &[]).await;
        let listen = Command::PromiseRegisterListener {
            awaited: awaited.clone(),
            address: format!("poll://uni@{}/a", self.name).into(),
        };
        self.ask(listen).await;
        self.settle(&awaited).await;
        if stream.next(&self.sim, AT_ONCE).await.is_none() {
            return broken("an unblock leaves at once", awaited.to_string());
        }
        self.sim.weather().out_until = Some(Instant::now() + OUTAGE);
        sleep(OUTAGE + Duration::from_secs(1) + AT_ONCE).await;
        let history = self.sim.history();
        match history.object(&awaited).map(|o| o.listeners.is_empty()) {
            Some(true) => Ok(()),
            _ => broken("what was delivered is booked", awaited.to_string()),
        }
    }

    async fn failed_unblock_is_tried_again(&self) -> Checked {
        let awaited = self.create("", LONG, &[]).await;
        let address: Id = "http://push-0/".into();
        self.ask(Command::PromiseRegisterListener {
            awaited: awaited.clone(),
            address: address.clone(),
        })
        .await;
        *self.sim.weather() = Weather {
            refuses: 1.0,
            ..Weather::fine()
        };
        self.settle(&awaited).await;
        sleep(Duration::from_millis(300)).await;
        *self.sim.weather() = Weather::fine();
        sleep(Duration::from_millis(1000) + AT_ONCE).await;
        let key = (awaited, address);
        match self.sim.history().received.contains(&key) {
            true => Ok(()),
            false => broken("a failed unblock is tried again", format!("{key:?}")),
        }
    }
}

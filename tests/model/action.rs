//! What a generated history is made of: symbolic actions, aimed at the interesting corners.
//!
//! An action names things by role ("some acquired task", "its version, off by one", "just before the
//! next deadline") and is resolved against the world when its turn comes (`resolve`), so that most of
//! a random history is meaningful and stays so while it is shrunk.

use proptest::prelude::*;
use proptest::sample::select;

use resonate::protocol::record::{Millis, PromiseState, TaskState, Verdict};

pub const EVERY_SECOND: &str = "* * * * * *";
pub const EVERY_FIVE: &str = "*/5 * * * * *";
/// Runs out a few seconds after a history starts.
pub const UNTIL_1971: &str = "* * * * * * 1970";
pub const IMPOSSIBLE: &str = "0 0 30 2 *";
/// 1971-01-01T00:00:00Z.
pub const NEW_YEAR_1971: Millis = 31_536_000_000;
/// When every history starts.
pub const START: Millis = NEW_YEAR_1971 - 6000;

/// Both kinds of lineage, dotted roots, several origins, and what the schedules' templates make.
pub const IDS: &[&str] = &["a", "a.0", "a:0", "a.1", "b", "b:0", "c.d", "s.fixed"];
pub const PIDS: &[&str] = &["p", "q"];
pub const TARGETS: &[&str] = &["poll://any@g", "http://worker/x", "bash:///"];
pub const LISTENERS: &[&str] = &["poll://uni@g/1", "http://listener/"];
pub const BRANCHES: &[&str] = &["", "a", "b"];
pub const SCHEDULES: &[&str] = &["s", "s.t"];
pub const CRONS: &[&str] = &[EVERY_SECOND, EVERY_FIVE, UNTIL_1971, IMPOSSIBLE];
pub const TEMPLATES: &[&str] = &[
    "{{.id}}.{{.timestamp}}",
    "{{.id}}.fixed",
    "a",
    "{{.timestamp}}",
];
pub const TTLS: &[Millis] = &[1, 5, 20, 100, 1000, 5000, 60_000, 60_000, Millis::MAX];
/// Deadlines, counted from now.
pub const DUES: &[Millis] = &[
    -2,
    0,
    1,
    5,
    20,
    100,
    500,
    1000,
    5000,
    10_000,
    60_000,
    60_000,
    60_000,
    60_000,
    Millis::MAX,
];
pub const OCCURRENCE_TIMEOUTS: &[Millis] = &[0, 1, 500, 1500, 60_000];

/// An id, by what it is hoped to be. Falls back to an id of the list.
#[derive(Clone, Copy, Debug)]
pub enum Pick {
    /// One of the list.
    Id(usize),
    /// One that nobody has used yet.
    Fresh,
    /// Any promise there is.
    Any(usize),
    /// Any promise stored pending.
    Open(usize),
    /// Any promise that somebody waits for.
    Awaited(usize),
    /// Any task stored in this state.
    In(TaskState, usize),
    /// Any acquired task that something was reported to since.
    Resumed(usize),
}

/// A task and the version claimed: the current one, plus an error.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub id: Pick,
    pub off: i64,
}

/// What a new promise looks like.
#[derive(Clone, Debug)]
pub struct Birth {
    pub id: Pick,
    pub due: usize,
    pub target: Option<usize>,
    pub is_timer: bool,
    pub is_external: bool,
    pub branch: Option<usize>,
    pub delay: Option<Delay>,
}

/// The instant of a delay tag; left out where the rules of §5.1 forbid it.
#[derive(Clone, Copy, Debug)]
pub enum Delay {
    FromNow(Millis),
    JustBeforeTimeout,
}

/// How the clock moves.
#[derive(Clone, Copy, Debug)]
pub enum Move {
    By(Millis),
    /// To one of the next deadlines, and a little off it.
    ToDeadline(usize, Millis),
}

/// In which order a tick takes what is due.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// The table of `semantics.md` §7.
    Table,
    /// By instant, as a timer heap would.
    Instant,
    /// Backwards.
    Reverse,
}

/// What happens to a message on its way out.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Delivered,
    Failed,
    Offered,
}

#[derive(Clone, Debug)]
pub enum Action {
    Create(Birth),
    Settle(Pick, Verdict, bool),
    RegisterCallback(Pick, Pick),
    RegisterListener(Pick, usize),
    TaskCreate(Birth, usize, usize),
    Acquire(Claim, usize, usize),
    FenceCreate(Claim, Birth),
    FenceSettle(Claim, Pick, Verdict, bool),
    Heartbeat(usize, Vec<Claim>),
    /// A heartbeat of the process that holds the task.
    HeartbeatOfHolder(Claim),
    /// A heartbeat without a list, of a process that may only name ids that begin like one of the list.
    HeartbeatWithin(usize, usize),
    Suspend(Claim, Vec<Pick>),
    Fulfill(Claim, Verdict, bool),
    Release(Claim),
    Halt(Pick),
    Continue(Pick),
    ScheduleCreate {
        id: usize,
        cron: usize,
        template: usize,
        timeout: usize,
        delay: Option<Millis>,
    },
    ScheduleDelete(usize),
    PromiseGet(Pick),
    TaskGet(Pick),
    ScheduleGet(usize),
    PromiseSearch {
        state: Option<PromiseState>,
        branch: Option<usize>,
        limit: usize,
        cursor: Option<Pick>,
    },
    TaskSearch {
        state: Option<TaskState>,
        limit: usize,
        cursor: Option<Pick>,
    },
    ScheduleSearch {
        target: Option<usize>,
        limit: usize,
        cursor: bool,
    },
    StepPromise(Pick),
    StepSchedule(usize),
    /// Some message of the outbox.
    Message(Fate, usize),
    /// A report for an `unblock` that may not be there.
    Stray(Fate, Pick, usize),
    Tick(Order),
    Clock(Move),
}

fn id() -> impl Strategy<Value = Pick> {
    prop_oneof![
        3 => (0..IDS.len()).prop_map(Pick::Id),
        2 => any::<usize>().prop_map(Pick::Any),
        7 => any::<usize>().prop_map(Pick::Open),
        2 => any::<usize>().prop_map(Pick::Awaited),
    ]
}

fn task_in(state: TaskState) -> impl Strategy<Value = Pick> {
    prop_oneof![
        30 => any::<usize>().prop_map(move |n| Pick::In(state, n)),
        1 => (0..IDS.len()).prop_map(Pick::Id),
        2 => any::<usize>().prop_map(Pick::Any),
    ]
}

fn new_id() -> impl Strategy<Value = Pick> {
    prop_oneof![3 => Just(Pick::Fresh), 2 => id()]
}

fn claim(state: TaskState) -> impl Strategy<Value = Claim> {
    let off = prop_oneof![12 => Just(0), 1 => Just(-1), 1 => Just(1)];
    (task_in(state), off).prop_map(|(id, off)| Claim { id, off })
}

fn held() -> impl Strategy<Value = Claim> {
    prop_oneof![
        4 => claim(TaskState::Acquired),
        1 => any::<usize>().prop_map(|n| Claim {
            id: Pick::Resumed(n),
            off: 0,
        }),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    select(vec![
        Verdict::Resolved,
        Verdict::Rejected,
        Verdict::RejectedCanceled,
    ])
}

fn sometimes<T: Clone + std::fmt::Debug>(
    some: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.3, some)
}

fn delay() -> impl Strategy<Value = Delay> {
    prop_oneof![
        select(vec![-1, 0, 1, 3, 30, 1000]).prop_map(Delay::FromNow),
        Just(Delay::JustBeforeTimeout),
    ]
}

fn birth() -> impl Strategy<Value = Birth> {
    let target = proptest::option::weighted(0.7, 0..TARGETS.len());
    let timer = proptest::bool::weighted(0.15);
    let external = proptest::bool::weighted(0.15);
    let branch = sometimes(0..BRANCHES.len());
    let tags = (target, timer, external, branch, sometimes(delay()));
    (new_id(), 0..DUES.len(), tags).prop_map(|(id, due, tags)| {
        let (target, is_timer, is_external, branch, delay) = tags;
        Birth {
            id,
            due,
            target,
            is_timer,
            is_external,
            branch,
            delay,
        }
    })
}

fn promise_action() -> impl Strategy<Value = Action> {
    let awaiter = prop_oneof![
        2 => id(),
        4 => task_in(TaskState::Acquired),
        1 => task_in(TaskState::Halted),
        1 => task_in(TaskState::Pending),
    ];
    prop_oneof![
        6 => birth().prop_map(Action::Create),
        4 => (id(), verdict(), any::<bool>()).prop_map(|(id, v, b)| Action::Settle(id, v, b)),
        3 => (id(), awaiter).prop_map(|(a, b)| Action::RegisterCallback(a, b)),
        2 => (id(), 0..LISTENERS.len()).prop_map(|(id, n)| Action::RegisterListener(id, n)),
    ]
}

fn task_action() -> impl Strategy<Value = Action> {
    use TaskState::{Halted, Pending};
    let holder = (0..PIDS.len(), 0..TTLS.len());
    let awaited = proptest::collection::vec(id(), 1..4);
    let beats = proptest::collection::vec(held(), 0..3);
    let fulfil = (held(), verdict(), any::<bool>());
    prop_oneof![
        3 => (birth(), holder.clone()).prop_map(|(b, (p, t))| Action::TaskCreate(b, p, t)),
        8 => (claim(Pending), holder).prop_map(|(c, (p, t))| Action::Acquire(c, p, t)),
        3 => (held(), birth()).prop_map(|(c, b)| Action::FenceCreate(c, b)),
        3 => (held(), id(), verdict(), any::<bool>())
            .prop_map(|(c, id, v, b)| Action::FenceSettle(c, id, v, b)),
        2 => (0..PIDS.len(), beats).prop_map(|(p, c)| Action::Heartbeat(p, c)),
        1 => held().prop_map(Action::HeartbeatOfHolder),
        1 => (0..PIDS.len(), 0..IDS.len()).prop_map(|(p, id)| Action::HeartbeatWithin(p, id)),
        8 => (held(), awaited).prop_map(|(c, a)| Action::Suspend(c, a)),
        2 => fulfil.prop_map(|(c, v, b)| Action::Fulfill(c, v, b)),
        2 => held().prop_map(Action::Release),
        2 => prop_oneof![
            task_in(TaskState::Suspended),
            task_in(TaskState::Acquired),
            task_in(Pending),
            id(),
        ].prop_map(Action::Halt),
        2 => task_in(Halted).prop_map(Action::Continue),
    ]
}

fn schedule_action() -> impl Strategy<Value = Action> {
    let id = 0..SCHEDULES.len();
    let timeout = 0..OCCURRENCE_TIMEOUTS.len();
    let delay = sometimes(select(vec![START + 100, NEW_YEAR_1971 + 2000]));
    prop_oneof![
        3 => (id.clone(), 0..CRONS.len(), 0..TEMPLATES.len(), timeout, delay).prop_map(
            |(id, cron, template, timeout, delay)| Action::ScheduleCreate {
                id,
                cron,
                template,
                timeout,
                delay,
            },
        ),
        1 => id.clone().prop_map(Action::ScheduleDelete),
        1 => id.prop_map(Action::StepSchedule),
    ]
}

fn query() -> impl Strategy<Value = Action> {
    use PromiseState::{Rejected, RejectedCanceled, RejectedTimedout, Resolved};
    let promise_states = vec![
        PromiseState::Pending,
        Resolved,
        Rejected,
        RejectedCanceled,
        RejectedTimedout,
    ];
    let task_states = vec![
        TaskState::Pending,
        TaskState::Acquired,
        TaskState::Suspended,
        TaskState::Halted,
        TaskState::Fulfilled,
    ];
    let limit = || select(vec![1usize, 2, 3, 100]);
    let branch = sometimes(0..BRANCHES.len());
    let promises = (
        sometimes(select(promise_states)),
        branch,
        limit(),
        sometimes(id()),
    );
    let tasks = (sometimes(select(task_states)), limit(), sometimes(id()));
    let schedules = (sometimes(0..TARGETS.len()), 1..3usize, any::<bool>());
    prop_oneof![
        id().prop_map(Action::PromiseGet),
        id().prop_map(Action::TaskGet),
        (0..SCHEDULES.len()).prop_map(Action::ScheduleGet),
        promises.prop_map(|(state, branch, limit, cursor)| Action::PromiseSearch {
            state,
            branch,
            limit,
            cursor,
        }),
        tasks.prop_map(|(state, limit, cursor)| Action::TaskSearch {
            state,
            limit,
            cursor,
        }),
        schedules.prop_map(|(target, limit, cursor)| Action::ScheduleSearch {
            target,
            limit,
            cursor,
        }),
    ]
}

fn internal() -> impl Strategy<Value = Action> {
    let fate = || select(vec![Fate::Delivered, Fate::Failed, Fate::Offered]);
    let order = select(vec![Order::Table, Order::Instant, Order::Reverse]);
    let due = prop_oneof![
        task_in(TaskState::Acquired),
        task_in(TaskState::Pending),
        task_in(TaskState::Suspended),
    ];
    prop_oneof![
        3 => prop_oneof![id().boxed(), due.boxed()].prop_map(Action::StepPromise),
        2 => (fate(), any::<usize>()).prop_map(|(fate, n)| Action::Message(fate, n)),
        1 => (fate(), id(), 0..LISTENERS.len()).prop_map(|(f, id, n)| Action::Stray(f, id, n)),
        3 => order.prop_map(Action::Tick),
    ]
}

fn clock() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => select(vec![1, 1, 2, 3, 5, 10]).prop_map(Move::By),
        1 => select(vec![50, 100, 500, 999, 1000, 3000]).prop_map(Move::By),
        4 => (0..3usize, -1..=1i64).prop_map(|(n, off)| Move::ToDeadline(n, off)),
    ]
}

/// Something long-lived to act on.
pub fn opening() -> impl Strategy<Value = Action> {
    let long = DUES.len() - 5..DUES.len();
    let lease = TTLS.len() - 4..TTLS.len();
    let promise = || (birth(), long.clone()).prop_map(|(birth, due)| Birth { due, ..birth });
    prop_oneof![
        promise().prop_map(Action::Create),
        (promise(), 0..PIDS.len(), lease).prop_map(|(b, p, t)| Action::TaskCreate(b, p, t)),
    ]
}

/// One action of a history.
pub fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        140 => promise_action().boxed(),
        200 => task_action().boxed(),
        20 => schedule_action().boxed(),
        50 => query().boxed(),
        80 => internal().boxed(),
        70 => clock().prop_map(Action::Clock).boxed(),
        1 => Just(Action::Clock(Move::By(150_000))).boxed(),
    ]
}

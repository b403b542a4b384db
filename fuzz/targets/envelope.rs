//! Request bodies (`protocol.md` §2): what is refused is answered, what is accepted keeps the rules.

use resonate::protocol::address::{Address, Rules};
use resonate::protocol::cron::Cron;
use resonate::protocol::envelope::{self, Rejection};
use resonate::protocol::operation::{
    Command, FenceAction, Operation, PromiseCreate, Query, ScheduleCreate,
};
use resonate::protocol::parse::{self, Context, Limits};
use resonate::protocol::record::{Millis, Tags, Value};
use resonate::protocol::reply::ErrorEnvelope;

const KEY_BYTES_MAX: usize = 40;
const REFUSALS: [u16; 2] = [400, 403];

pub fn run(data: &[u8]) {
    let relaxed = Context {
        is_debug: true,
        address_rules: Rules {
            default_project: Some("project".to_owned()),
        },
        limits: Limits::default(),
    };
    let strict = Context {
        limits: Limits {
            id_bytes_max: KEY_BYTES_MAX,
            address_bytes_max: KEY_BYTES_MAX,
            ..Limits::default()
        },
        ..Context::default()
    };
    let accepted = read(data, &relaxed);
    let accepted_strictly = read(data, &strict);
    if let Some(operation) = &accepted_strictly {
        assert_eq!(accepted.as_ref(), Some(operation));
        Bounds(&strict).check(operation);
    }
    if let Some(operation) = accepted {
        Bounds(&relaxed).check(&operation);
        reads_the_same_when_written_again(data, &relaxed, &operation);
    }
}

fn read(data: &[u8], context: &Context) -> Option<Operation> {
    let parsed = envelope::parse(data).and_then(|envelope| {
        let time = envelope.debug_time()?;
        assert!(time.is_none_or(|time| time >= 0));
        assert!(!envelope.kind.is_empty());
        assert!(envelope.auth.as_deref() != Some(""));
        parse::operation(&envelope, context)
    });
    match parsed {
        Ok(operation) => Some(operation),
        Err(rejection) => {
            is_answered(&rejection);
            None
        }
    }
}

/// A refusal is a complete envelope with a sentence in it.
fn is_answered(rejection: &Rejection) {
    let Rejection {
        kind,
        corr_id,
        status,
        message,
    } = rejection;
    assert!(REFUSALS.contains(status) && !message.is_empty());
    let answer = ErrorEnvelope::new(kind, corr_id, *status, message);
    let text = serde_json::to_string(&answer).expect("an answer is JSON");
    let answer: serde_json::Value = serde_json::from_str(&text).expect("an answer is JSON");
    assert_eq!(answer["kind"], **kind);
    assert_eq!(answer["head"]["corrId"], **corr_id);
    assert_eq!(answer["data"], **message);
}

/// Order, blanks and escapes make no difference.
fn reads_the_same_when_written_again(data: &[u8], context: &Context, operation: &Operation) {
    // What is skipped may be nested deeper, or have larger numbers, than what is kept.
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else {
        return;
    };
    let again = value.to_string();
    assert_eq!(read(again.as_bytes(), context).as_ref(), Some(operation));
}

/// What is accepted keeps the rules of `protocol.md` §2.1, §5.1 and §8 to §10.
struct Bounds<'c>(&'c Context);

impl Bounds<'_> {
    fn check(&self, operation: &Operation) {
        match operation {
            Operation::Command(command) => self.command(command),
            Operation::Query(query) => self.query(query),
            Operation::Debug(_) => assert!(self.0.is_debug),
        }
    }

    fn command(&self, command: &Command) {
        match command {
            Command::PromiseCreate(op) => self.create(op),
            Command::PromiseSettle(op) => {
                self.id(&op.id);
                self.value(&op.value);
            }
            Command::PromiseRegisterCallback { awaited, awaiter } => {
                self.id(awaited);
                self.id(awaiter);
                assert_ne!(awaited, awaiter);
            }
            Command::PromiseRegisterListener { awaited, address } => {
                self.id(awaited);
                self.id(address);
                assert!(self.address(address).can_listen());
            }
            Command::TaskCreate(op) => {
                self.id(&op.pid);
                assert!(op.ttl >= 1);
                self.create(&op.action);
                assert!(op.action.tags.is_targeted() && op.action.tags.delay().is_none());
            }
            Command::TaskAcquire(op) => {
                self.task(&op.id, op.version);
                self.id(&op.pid);
                assert!(op.ttl >= 1);
            }
            Command::TaskFence(op) => {
                self.task(&op.task.id, op.task.version);
                match &op.action {
                    FenceAction::Create(inner) => self.create(inner),
                    FenceAction::Settle(inner) => self.value(&inner.value),
                }
                let (FenceAction::Create(PromiseCreate { id: inner, .. })
                | FenceAction::Settle(resonate::protocol::operation::PromiseSettle {
                    id: inner,
                    ..
                })) = &op.action;
                self.id(inner);
                assert_ne!(inner, &op.task.id);
            }
            Command::TaskHeartbeat(op) => {
                self.id(&op.pid);
                op.tasks
                    .iter()
                    .for_each(|task| self.task(&task.id, task.version));
            }
            Command::TaskSuspend(op) => {
                self.task(&op.task.id, op.task.version);
                assert!(!op.awaited.is_empty());
                for awaited in &op.awaited {
                    self.id(awaited);
                    assert_ne!(awaited, &op.task.id);
                }
            }
            Command::TaskFulfill(op) => {
                self.task(&op.task.id, op.task.version);
                assert_eq!(op.task.id, op.action.id);
                self.value(&op.action.value);
            }
            Command::TaskRelease(op) => self.task(&op.id, op.version),
            Command::TaskHalt { id }
            | Command::TaskContinue { id }
            | Command::ScheduleDelete { id } => self.id(id),
            Command::ScheduleCreate(op) => self.schedule(op),
        }
    }

    fn query(&self, query: &Query) {
        let (limit, cursor) = match query {
            Query::PromiseGet { id } | Query::TaskGet { id } | Query::ScheduleGet { id } => {
                return self.id(id);
            }
            Query::PromiseSearch(op) => {
                has_no_nul(&op.tags);
                (op.limit, &op.cursor)
            }
            Query::TaskSearch(op) => (op.limit, &op.cursor),
            Query::ScheduleSearch(op) => {
                has_no_nul(&op.tags);
                (op.limit, &op.cursor)
            }
        };
        assert!((1..=1000).contains(&limit));
        assert!(cursor.as_ref().is_none_or(|cursor| !cursor.contains('\0')));
    }

    fn create(&self, op: &PromiseCreate) {
        self.id(&op.id);
        is_instant(op.timeout_at);
        self.value(&op.param);
        self.tags(&op.tags);
        if let Some(delay) = op.tags.get("resonate:delay") {
            let delay: Millis = delay.parse().expect("a delay is a number");
            assert!(delay >= 0 && delay < op.timeout_at && op.tags.target().is_some());
        }
    }

    fn schedule(&self, op: &ScheduleCreate) {
        self.id(&op.id);
        assert!(Cron::parse(&op.cron).is_some());
        assert!(!op.promise_id.is_empty() && !op.promise_id.contains('\0'));
        is_instant(op.promise_timeout);
        self.value(&op.promise_param);
        self.tags(&op.promise_tags);
        assert!(op.promise_tags.is_targeted());
    }

    fn task(&self, id: &str, version: i64) {
        self.id(id);
        assert!(version >= 0);
    }

    fn id(&self, id: &str) {
        assert!(!id.is_empty() && !id.contains('\0'));
        assert!(id.len() <= self.0.limits.id_bytes_max);
    }

    fn tags(&self, tags: &Tags) {
        has_no_nul(tags);
        if let Some(target) = tags.target() {
            self.id(target);
            self.address(target);
        }
        if let Some(branch) = tags.branch() {
            self.id(branch);
        }
    }

    fn address(&self, text: &str) -> Address {
        Address::parse(text, &self.0.address_rules).expect("an accepted address is one")
    }

    fn value(&self, value: &Value) {
        let parts = value.parts().expect("a value is an object of its parts");
        assert_eq!(&Value::new(&parts), value, "stored as it is answered");
        let headers = parts.headers.iter().flatten();
        let mut texts = headers
            .flat_map(|(name, value)| [name, value])
            .chain(&parts.data);
        assert!(texts.all(|text| !text.contains('\0')));
    }
}

fn has_no_nul(tags: &Tags) {
    let mut texts = tags.iter().flat_map(|(name, value)| [name, value]);
    assert!(texts.all(|text| !text.contains('\0')));
}

fn is_instant(millis: Millis) {
    assert!(millis >= 0);
}

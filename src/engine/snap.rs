//! `debug.snap`: the stored state, unprojected, in the shape of `protocol.md` §11.

use serde_json::json;

use crate::machine::object::Object;
use crate::machine::workspace::Message;
use crate::protocol::record::{PromiseState, TaskRecord, TaskState};
use crate::protocol::reply::{
    Callback, ListenerEntry, MessageEntry, PromiseTimeout, Snap, TaskTimeout,
};
use crate::store::Dump;

/// Makes the snapshot of everything stored, with the `execute` messages that are being held.
pub(super) fn snap(dump: &Dump, held: &[Message]) -> Snap {
    let mut snap = Snap::default();
    for object in &dump.objects {
        add(&mut snap, object);
    }
    for message in held {
        let Message::Execute {
            id,
            version,
            address,
            ..
        } = message
        else {
            continue;
        };
        // Acquiring a task withdraws the message that offered it.
        let is_current = dump.objects.iter().any(|object| {
            object.promise.id == *id
                && object
                    .task
                    .as_ref()
                    .is_some_and(|t| t.state == TaskState::Pending && t.version == *version)
        });
        if is_current {
            let task = json!({"id": id, "version": version});
            let message = json!({"kind": "execute", "head": {}, "data": {"task": task}});
            snap.messages.push(MessageEntry {
                address: address.clone(),
                message,
            });
        }
    }
    // By the id that each is about; the sort keeps the order of one promise's listeners.
    snap.messages
        .sort_by(|a, b| subject(&a.message).cmp(subject(&b.message)));
    snap
}

fn subject(message: &serde_json::Value) -> &str {
    let data = &message["data"];
    data["task"]["id"]
        .as_str()
        .or(data["promise"]["id"].as_str())
        .unwrap_or_default()
}

fn add(snap: &mut Snap, object: &Object) {
    let id = &object.promise.id;
    snap.promises.push(object.promise.clone());
    if object.armed && object.promise.state == PromiseState::Pending {
        snap.promise_timeouts.push(PromiseTimeout {
            id: id.clone(),
            timeout: object.promise.timeout_at,
        });
    }
    for awaiter in &object.callbacks {
        snap.callbacks.push(Callback {
            awaiter: awaiter.clone(),
            awaited: id.clone(),
        });
    }
    for (address, listener) in &object.listeners {
        if listener.enqueued_at.is_none() {
            snap.listeners.push(ListenerEntry {
                id: id.clone(),
                address: address.clone(),
            });
        } else {
            let data = json!({"promise": object.promise});
            let message = json!({"kind": "unblock", "head": {}, "data": data});
            snap.messages.push(MessageEntry {
                address: address.clone(),
                message,
            });
        }
    }
    let Some(task) = &object.task else { return };
    snap.tasks.push(TaskRecord {
        id: id.clone(),
        state: task.state,
        version: task.version,
        resumes: task.resumes.len(),
        ttl: task.ttl,
        pid: task.pid.clone(),
    });
    let timeout = match task.state {
        TaskState::Pending => task.retry_at.map(|at| (0, at)),
        TaskState::Acquired => task.expires_at.map(|at| (1, at)),
        TaskState::Suspended | TaskState::Halted | TaskState::Fulfilled => None,
    };
    if let Some((kind, timeout)) = timeout {
        snap.task_timeouts.push(TaskTimeout {
            id: id.clone(),
            kind,
            timeout,
        });
    }
}

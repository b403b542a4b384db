//! Reads of the model: the machine's queries over pages cut from the plain map.

use resonate::machine::query;
use resonate::protocol::operation::Query;
use resonate::protocol::record::{Id, Millis, Promise, PromiseState, Schedule};
use resonate::protocol::reply::Reply;
use resonate::store::{PromisePage, SchedulePage, TaskPage};

use super::world::World;

/// Answers a read.
pub fn answer(world: &World, asked: &Query) -> Reply {
    let now = world.now;
    match asked {
        Query::PromiseGet { id } => query::promise(world.objects.get(id).map(|o| &**o), now),
        Query::TaskGet { id } => query::task(world.objects.get(id).map(|o| &**o), now),
        Query::ScheduleGet { id } => query::schedule(world.schedules.get(id).cloned()),
        Query::PromiseSearch(op) => {
            let mut search = query::Promises::new(op, now);
            while let Some(page) = search.page() {
                search.take(promises(world, &page));
            }
            search.finish()
        }
        Query::TaskSearch(op) => {
            let mut search = query::Tasks::new(op, now);
            while let Some(page) = search.page() {
                search.take(tasks(world, &page));
            }
            search.finish()
        }
        Query::ScheduleSearch(op) => {
            let mut search = query::Schedules::new(op);
            while let Some(page) = search.page() {
                search.take(schedules(world, &page));
            }
            search.finish()
        }
    }
}

fn is_after(id: &Id, after: &Option<Id>) -> bool {
    after.as_ref().is_none_or(|after| id > after)
}

fn is_due(promise: &Promise, due: Option<Millis>) -> bool {
    promise.state == PromiseState::Pending && due.is_some_and(|due| promise.timeout_at <= due)
}

fn promises(world: &World, page: &PromisePage) -> Vec<Promise> {
    let all = world.objects.values().map(|object| &object.promise);
    all.filter(|p| page.state.is_none_or(|state| state == p.state) || is_due(p, page.or_due))
        .filter(|p| p.tags.contain(&page.tags) && is_after(&p.id, &page.after))
        .take(page.limit)
        .cloned()
        .collect()
}

fn tasks(world: &World, page: &TaskPage) -> Vec<resonate::machine::object::Object> {
    let all = world.objects.values();
    all.filter_map(|object| Some((object, object.task.as_ref()?)))
        .filter(|(object, task)| {
            page.state.is_none_or(|state| state == task.state)
                || is_due(&object.promise, page.or_due)
        })
        .filter(|(object, _)| is_after(&object.promise.id, &page.after))
        .take(page.limit)
        .map(|(object, _)| (**object).clone())
        .collect()
}

fn schedules(world: &World, page: &SchedulePage) -> Vec<Schedule> {
    let all = world.schedules.values();
    all.filter(|s| s.promise_tags.contain(&page.tags) && is_after(&s.id, &page.after))
        .take(page.limit)
        .cloned()
        .collect()
}

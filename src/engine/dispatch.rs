//! Puts jobs into batches, and runs as many batches at once as the store has lanes for.
//!
//! ```text
//!   queue ─> waiting ─> a batch, when none is under way,
//!                       or when the latest has kept others waiting for a while
//! ```
//!
//! An idle engine commits a lone job at once; batching comes from jobs piling up behind a commit in
//! flight. A second batch beside the first makes both smaller, and so each request dearer: it pays only
//! where a commit takes long. Two batches under way never share an origin (`protocol.md` §6): they would
//! overtake each other.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::machine::Input;
use crate::protocol::record::origin;

use super::lane::{Job, Lane};
use crate::telemetry::metrics::METRICS;

/// Jobs in one batch.
const BATCH_JOBS_MAX: usize = 512;
/// Payload bytes in one batch; a single larger job is a batch of its own.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a batch keeps the next one waiting, where they may overlap.
const OVERLAP_AFTER: Duration = Duration::from_millis(2);

/// An origin, as far as telling two apart goes: if two are taken for one, a job waits for no reason.
pub(super) type Origin = u64;

/// The origins that inputs are about; none where batches follow one another anyhow.
pub(super) fn origins(inputs: &[Input], lanes: usize) -> Vec<Origin> {
    if lanes <= 1 {
        return Vec::new();
    }
    let mut origins: Vec<Origin> = inputs.iter().map(origin_of).collect();
    origins.sort_unstable();
    origins.dedup();
    origins
}

fn origin_of(input: &Input) -> Origin {
    let mut hasher = DefaultHasher::new();
    origin(input.subject()).hash(&mut hasher);
    hasher.finish()
}

/// Serves the queue until all senders are gone, then returns with everything answered.
pub(super) async fn run(lane: Lane, lanes: usize, mut queue: mpsc::Receiver<Job>) {
    let mut waiting = Waiting::default();
    let mut under_way = FuturesUnordered::new();
    let mut busy = HashMap::new();
    let mut next_batch = 0_u64;
    let mut started_at = Instant::now();
    let mut is_open = true;
    // In the order of their commits, which is that of their hooks too.
    let mut committed = VecDeque::new();
    let mut answered = None;
    loop {
        // Whoever is ready to queue up does so first; and the answer of a request leaves before the messages that it
        // caused (clients.md).
        tokio::task::yield_now().await;
        if let Some(leaving) = answered.take() {
            lane.tell(leaving);
        }
        while under_way.len() < lanes && waiting.jobs.len() < BATCH_JOBS_MAX {
            let Ok(job) = queue.try_recv() else { break };
            waiting.jobs.push_back(job);
        }
        let may_start = under_way.is_empty()
            || (under_way.len() < lanes && started_at.elapsed() >= OVERLAP_AFTER);
        let mut has_started = false;
        if may_start {
            let mut batch = waiting.collect(&busy);
            if !batch.is_empty() {
                next_batch += 1;
                started_at = Instant::now();
                METRICS.batch(batch.iter_mut().filter_map(|job| job.queued.take()));
                let origins = batch.iter().flat_map(|job| job.origins.iter().copied());
                busy.insert(next_batch, origins.collect());
                under_way.push(numbered(next_batch, lane.serve(batch)));
                has_started = true;
            }
        }
        if let Some(done) = committed.pop_front() {
            // The storage has work while those who are answered ask again.
            if has_started && let Some(Some((batch, done))) = under_way.next().now_or_never() {
                busy.remove(&batch);
                committed.extend(done);
            }
            answered = Some(lane.answer(done));
            continue;
        }
        if has_started {
            continue;
        }
        let has_room = under_way.len() < lanes && waiting.jobs.len() < BATCH_JOBS_MAX;
        // Those that wait for a batch to end have nothing to gain from the time.
        let overlaps = !may_start && under_way.len() < lanes && !waiting.jobs.is_empty();
        if !is_open && under_way.is_empty() && waiting.jobs.is_empty() {
            return;
        }
        tokio::select! {
            biased;
            Some((batch, done)) = under_way.next(), if !under_way.is_empty() => {
                busy.remove(&batch);
                committed.extend(done);
            }
            job = queue.recv(), if is_open && has_room => match job {
                Some(job) => waiting.jobs.push_back(job),
                None => is_open = false,
            },
            () = sleep_until(started_at + OVERLAP_AFTER), if overlaps => {}
        }
    }
}

async fn numbered<T>(batch: u64, serving: impl Future<Output = T>) -> (u64, T) {
    (batch, serving.await)
}

/// Jobs in the order in which they came.
#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
}

impl Waiting {
    /// Takes what may be decided now, within the bounds, leaving what shares an origin with a batch
    /// under way, or with a job left before it. A job without inputs waits for all before it, and all
    /// after it for that job. A job that deletes is the last of its batch: a store is not asked to delete a row and to
    /// insert it again in one commit.
    fn collect(&mut self, busy: &HashMap<u64, HashSet<Origin>>) -> Vec<Job> {
        let mut batch = Vec::new();
        let mut bytes = 0_usize;
        let mut left = VecDeque::new();
        let mut left_origins: HashSet<Origin> = HashSet::new();
        while let Some(job) = self.jobs.pop_front() {
            let is_barrier = job.inputs.is_empty();
            if is_barrier && busy.is_empty() && left.is_empty() && batch.is_empty() {
                return vec![job];
            }
            let is_full = batch.len() >= BATCH_JOBS_MAX
                || (!batch.is_empty() && bytes.saturating_add(job.bytes) > BATCH_BYTES_MAX);
            if is_barrier || is_full {
                left.push_back(job);
                break;
            }
            let is_free = |origin: &Origin| {
                !left_origins.contains(origin) && !busy.values().any(|busy| busy.contains(origin))
            };
            if job.origins.iter().all(is_free) {
                bytes = bytes.saturating_add(job.bytes);
                let deletes = job.deletes();
                batch.push(job);
                if deletes {
                    break;
                }
            } else {
                left_origins.extend(&job.origins);
                left.push_back(job);
            }
        }
        left.append(&mut self.jobs);
        self.jobs = left;
        batch
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn job(name: u64, origins: &[Origin], bytes: usize) -> Job {
        // Nobody waits for the answer.
        let (reply, _) = oneshot::channel();
        let step = crate::machine::Step::Promise(name.to_string().into());
        Job {
            inputs: vec![Input::Step(step)],
            origins: origins.to_vec(),
            now: None,
            bytes,
            trace: None,
            queued_at: Instant::now(),
            queued: None,
            deadline: Instant::now(),
            reply,
        }
    }

    fn barrier() -> Job {
        Job {
            inputs: Vec::new(),
            ..job(0, &[], 0)
        }
    }

    fn names(jobs: &[Job]) -> Vec<String> {
        let name = |job: &Job| job.inputs.first().map(|input| input.subject().to_string());
        jobs.iter()
            .map(|job| name(job).unwrap_or_default())
            .collect()
    }

    fn busy(origins: &[Origin]) -> HashMap<u64, HashSet<Origin>> {
        let mut busy = HashMap::new();
        if !origins.is_empty() {
            busy.insert(1, origins.iter().copied().collect());
        }
        busy
    }

    #[test]
    fn no_origin_is_in_two_batches_and_none_changes_its_order() {
        let mut waiting = Waiting::default();
        waiting.jobs.extend([
            job(1, &[10], 0),
            job(2, &[20], 0),
            job(3, &[10, 30], 0),
            job(4, &[30], 0),
            job(5, &[20], 0),
        ]);
        assert_eq!(names(&waiting.collect(&busy(&[10]))), ["2", "5"]);
        // 4 came after 3, which is left.
        assert_eq!(names(&waiting.collect(&busy(&[10]))), [""; 0]);
        assert_eq!(names(&waiting.collect(&busy(&[]))), ["1", "3", "4"]);
        assert!(waiting.jobs.is_empty());
    }

    #[test]
    fn a_batch_is_bounded_by_count_and_bytes() {
        let mut waiting = Waiting::default();
        let many = 2 * BATCH_JOBS_MAX;
        let numbers = 0..u64::try_from(many).unwrap();
        waiting.jobs.extend(numbers.map(|n| job(n, &[n], 1)));
        assert_eq!(waiting.collect(&busy(&[])).len(), BATCH_JOBS_MAX);
        assert_eq!(waiting.collect(&busy(&[])).len(), BATCH_JOBS_MAX);
        let sizes = [BATCH_BYTES_MAX + 1, 1, BATCH_BYTES_MAX, 1];
        let numbered = (0..).zip(sizes);
        waiting
            .jobs
            .extend(numbered.map(|(n, bytes)| job(n, &[n], bytes)));
        for expected in [&["0"][..], &["1"], &["2"], &["3"]] {
            assert_eq!(names(&waiting.collect(&busy(&[]))), expected);
        }
    }

    #[test]
    fn a_job_without_inputs_is_alone() {
        let mut waiting = Waiting::default();
        waiting
            .jobs
            .extend([job(1, &[1], 0), barrier(), job(2, &[2], 0)]);
        assert_eq!(names(&waiting.collect(&busy(&[]))), ["1"]);
        assert_eq!(names(&waiting.collect(&busy(&[1]))), [""; 0]);
        assert_eq!(names(&waiting.collect(&busy(&[]))), [""]);
        assert_eq!(names(&waiting.collect(&busy(&[]))), ["2"]);
    }
}

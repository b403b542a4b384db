//! The objects that were used last, as they are committed.
//!
//! Only transactions put objects here, and there is one at a time. What a commit changes is taken out
//! before it begins, and put back, changed, when it has succeeded: whatever is found here is the last
//! committed state, and whatever is in doubt has to be looked for in the file.

use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::{DefaultHasher, LruCache};

use crate::machine::object::Object;
use crate::protocol::record::Id;

/// So that readers on all cores rarely wait for each other.
const SHARDS: usize = 32;
/// An object that takes more than this part of a shard would push too many others out.
const OBJECT_PART_MAX: usize = 16;
/// A shard for so many objects has room for all of them from the start: tables that had to grow would keep batches waiting,
/// and all shards grow at about the same time.
const ROOM_MAX: usize = 1 << 16;
/// What an object takes beside its texts; each of its collections that is not empty, whose first node is allocated whole;
/// and each entry of these.
const OBJECT_OVERHEAD: usize = 512;
const TREE_OVERHEAD: usize = 576;
const ENTRY_OVERHEAD: usize = 96;
/// What a trace takes beside its state.
const TRACE_OVERHEAD: usize = 96;

/// See the module documentation.
pub struct Cache {
    shard_bytes_max: usize,
    shards: Box<[Mutex<Shard>]>,
    hasher: DefaultHasher,
}

struct Shard {
    objects: LruCache<Id, Entry>,
    bytes: usize,
}

struct Entry {
    object: Arc<Object>,
    bytes: usize,
}

impl Cache {
    /// An empty one, for so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        let shard_bytes_max = bytes_max / SHARDS;
        // More than the bytes allow.
        let objects_max = NonZeroUsize::MIN.saturating_add(shard_bytes_max / OBJECT_OVERHEAD);
        let shard = |_| {
            let objects = match objects_max.get() {
                ..=ROOM_MAX => LruCache::new(objects_max),
                _ => LruCache::unbounded(),
            };
            Mutex::new(Shard { objects, bytes: 0 })
        };
        Cache {
            shard_bytes_max,
            shards: (0..SHARDS).map(shard).collect(),
            hasher: DefaultHasher::default(),
        }
    }

    /// The object, if it is here.
    pub fn get(&self, id: &str) -> Option<Arc<Object>> {
        let mut shard = self.shard(id);
        shard.objects.get(id).map(|entry| entry.object.clone())
    }

    /// Keeps an object, in place of what others used longest ago.
    pub fn put(&self, object: Arc<Object>) {
        let bytes = bytes_of(&object);
        if bytes > self.shard_bytes_max / OBJECT_PART_MAX {
            // Nor is what it was before it grew still true.
            return self.remove(&object.promise.id);
        }
        let mut shard = self.shard(&object.promise.id);
        shard.bytes += bytes;
        let id = object.promise.id.clone();
        if let Some(before) = shard.objects.put(id, Entry { object, bytes }) {
            shard.bytes -= before.bytes;
        }
        while shard.bytes > self.shard_bytes_max {
            let Some((_, oldest)) = shard.objects.pop_lru() else {
                break;
            };
            shard.bytes -= oldest.bytes;
        }
    }

    /// Forgets an object.
    pub fn remove(&self, id: &str) {
        let mut shard = self.shard(id);
        if let Some(entry) = shard.objects.pop(id) {
            shard.bytes -= entry.bytes;
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.objects.clear();
            shard.bytes = 0;
        }
    }

    fn shard(&self, id: &str) -> MutexGuard<'_, Shard> {
        // The high bits: the map inside uses the low ones of the same hash.
        let hash = usize::try_from(self.hasher.hash_one(id) >> 40).unwrap_or_default();
        lock(&self.shards[hash % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bytes_of(object: &Object) -> usize {
    let promise = &object.promise;
    let tags = promise.tags.iter().map(|(k, v)| k.len() + v.len());
    let callbacks = object.callbacks.iter().map(|id| id.len());
    let listeners = object.listeners.keys().map(|id| id.len());
    let resumes = object.task.iter().flat_map(|task| &task.resumes);
    let resumes = resumes.map(|id| id.len());
    let trace = object.trace.iter();
    let trace = trace.map(|trace| TRACE_OVERHEAD + trace.state().map_or(0, str::len));
    let trees = tree(tags) + tree(callbacks) + tree(listeners) + tree(resumes);
    let texts = promise.value.as_json().len() + promise.param.as_json().len() + promise.id.len();
    trees + texts + trace.sum::<usize>() + OBJECT_OVERHEAD
}

/// What a collection takes whose entries' texts have these lengths.
fn tree(texts: impl Iterator<Item = usize>) -> usize {
    let entries: Option<usize> = texts
        .map(|bytes| bytes + ENTRY_OVERHEAD)
        .reduce(|sum, bytes| sum + bytes);
    entries.map_or(0, |bytes| bytes + TREE_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::plain;

    const BYTES_MAX: usize = 4 << 20;

    fn object(id: &str) -> Arc<Object> {
        Arc::new(plain(id))
    }

    #[test]
    fn it_may_be_larger_than_any_memory() {
        let cache = Cache::new(usize::MAX);
        cache.put(object("p"));
        assert!(cache.get("p").is_some());
    }

    fn bytes(cache: &Cache) -> usize {
        cache.shards.iter().map(|shard| lock(shard).bytes).sum()
    }

    #[test]
    fn it_knows_what_was_put_last_until_it_is_removed() {
        let cache = Cache::new(BYTES_MAX);
        assert_eq!(cache.get("a"), None);
        cache.put(object("a"));
        let mut changed = plain("a");
        changed.armed = true;
        cache.put(Arc::new(changed.clone()));
        assert_eq!(cache.get("a").as_deref(), Some(&changed));
        cache.remove("a");
        assert_eq!((cache.get("a"), bytes(&cache)), (None, 0));
        cache.put(object("b"));
        cache.clear();
        assert_eq!((cache.get("b"), bytes(&cache)), (None, 0));
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = Cache::new(BYTES_MAX);
        let count = 2 * BYTES_MAX / OBJECT_OVERHEAD;
        cache.put(object("used"));
        for n in 0..count {
            cache.put(object(&n.to_string()));
            if n % 10 == 0 {
                assert!(cache.get("used").is_some());
            }
        }
        assert!(bytes(&cache) <= BYTES_MAX);
        assert_eq!(cache.get("0"), None);
        assert!(cache.get(&(count - 1).to_string()).is_some());
    }

    #[test]
    fn a_very_large_object_does_not_push_the_others_out() {
        let cache = Cache::new(BYTES_MAX);
        let mut large = plain("large");
        large.callbacks = (0..BYTES_MAX / SHARDS / OBJECT_PART_MAX / ENTRY_OVERHEAD)
            .map(|n| n.to_string().into())
            .collect();
        cache.put(object("large"));
        cache.put(Arc::new(large));
        assert_eq!(cache.get("large"), None);
        let none = Cache::new(0);
        none.put(object("a"));
        assert_eq!(none.get("a"), None);
    }
}

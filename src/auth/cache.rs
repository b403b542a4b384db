//! Tokens that were found genuine, so that a signature is checked once and not with every request.
//!
//! Kept by their digests, in two generations: when the younger is full the older is forgotten. What a
//! token claims is checked anew each time; when the keys change everything is forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest;

use super::principal::Principal;
use super::token::Claims;

/// Tokens in a generation.
const TOKENS_MAX: usize = 1024;

/// The digest of a token.
type Name = [u8; digest::SHA256_OUTPUT_LEN];

/// A token whose signature is genuine.
#[derive(Debug)]
pub struct Genuine {
    /// What it claims.
    pub claims: Claims,
    /// Who that makes it.
    pub principal: Arc<Principal>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Cache(Mutex<Tokens>);

#[derive(Debug, Default)]
struct Tokens {
    /// The keys that they were signed with.
    generation: u64,
    young: HashMap<Name, Arc<Genuine>>,
    old: HashMap<Name, Arc<Genuine>>,
}

impl Cache {
    /// The token, if it was found genuine by these keys.
    pub fn get(&self, token: &str, generation: u64) -> Option<Arc<Genuine>> {
        let name = name(token)?;
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.generation != generation {
            return None;
        }
        if let Some(found) = tokens.young.get(&name) {
            return Some(Arc::clone(found));
        }
        let found = tokens.old.remove(&name)?;
        tokens.put(name, Arc::clone(&found));
        Some(found)
    }

    /// Remembers a token that was found genuine by these keys.
    pub fn put(&self, token: &str, generation: u64, genuine: Arc<Genuine>) {
        let Some(name) = name(token) else { return };
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.generation < generation {
            *tokens = Tokens {
                generation,
                ..Tokens::default()
            };
        }
        if tokens.generation == generation {
            tokens.put(name, genuine);
        }
    }
}

impl Tokens {
    fn put(&mut self, name: Name, genuine: Arc<Genuine>) {
        if self.young.len() >= TOKENS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, genuine);
    }
}

fn name(token: &str) -> Option<Name> {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genuine() -> Arc<Genuine> {
        Arc::new(Genuine {
            claims: Claims::default(),
            principal: Arc::new(Principal::anybody()),
        })
    }

    #[test]
    fn other_keys_forget_everything() {
        let cache = Cache::default();
        cache.put("a", 1, genuine());
        assert!(cache.get("a", 1).is_some());
        assert!(cache.get("a", 2).is_none());
        assert!(cache.get("b", 1).is_none());
        cache.put("b", 2, genuine());
        assert!(cache.get("a", 2).is_none());
        assert!(cache.get("b", 2).is_some());
        // Checked by keys that are no longer in force.
        cache.put("c", 1, genuine());
        assert!(cache.get("c", 2).is_none());
    }

    #[test]
    fn what_is_not_used_is_forgotten_first() {
        let cache = Cache::default();
        cache.put("used", 1, genuine());
        cache.put("unused", 1, genuine());
        for n in 0..10 * TOKENS_MAX {
            cache.put(&n.to_string(), 1, genuine());
            assert!(cache.get("used", 1).is_some(), "{n}");
        }
        assert!(cache.get("unused", 1).is_none());
        let tokens = cache.0.lock().unwrap();
        assert!(tokens.young.len() + tokens.old.len() <= 2 * TOKENS_MAX);
    }
}

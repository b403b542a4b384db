//! Who asks, and what that allows (`protocol.md` §3).

use serde_json::Value;

use super::token::Claims;
use crate::protocol::scope::Scope;

/// Who sent a request, by what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    access: Access,
    /// The groups that it may listen to; any if not said.
    groups: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Access {
    /// Every id, searches, `debug.*`.
    Everything,
    /// Ids that begin with this, which is not empty.
    Prefix(String),
    /// No request. The token says who it is, but not what it is for.
    Nothing,
}

impl Principal {
    /// Whoever it is, where nobody is asked.
    pub fn anybody() -> Principal {
        Principal {
            access: Access::Everything,
            groups: None,
        }
    }

    /// Who makes these claims:
    ///
    /// - `role`: `admin`, in any case, may do everything.
    /// - `prefix`: a string; `""` may do everything, another whatever names nothing but ids that begin
    ///   with it.
    /// - `groups`: the groups whose streams it may open, a list of strings or one string. If it is
    ///   absent: any; if it is anything else: none. An admin may open all.
    pub(super) fn of(claims: &Claims) -> Principal {
        let role = claims.role.as_ref().and_then(Value::as_str);
        if role.is_some_and(|role| role.eq_ignore_ascii_case("admin")) {
            return Principal::anybody();
        }
        let access = match claims.prefix.as_ref().and_then(Value::as_str) {
            Some("") => Access::Everything,
            Some(prefix) => Access::Prefix(prefix.to_owned()),
            None => Access::Nothing,
        };
        let groups = claims.groups.as_ref().map(|groups| match groups {
            Value::String(one) => vec![one.clone()],
            Value::Array(all) => {
                let all = all.iter().map(Value::as_str);
                all.map(|one| one.map(str::to_owned))
                    .collect::<Option<_>>()
                    .unwrap_or_default()
            }
            _ => Vec::new(),
        });
        Principal { access, groups }
    }

    /// Whether it may do something that names this, which is asked only if it matters.
    pub fn may<'a>(&self, scope: impl FnOnce() -> Scope<'a>) -> bool {
        match &self.access {
            Access::Everything => true,
            Access::Nothing => false,
            Access::Prefix(prefix) => match scope() {
                Scope::Everything => false,
                Scope::Ids(ids) => ids.iter().all(|id| id.starts_with(prefix.as_str())),
            },
        }
    }

    /// What all must begin with that it is shown without having named it.
    pub fn prefix(&self) -> Option<&str> {
        match &self.access {
            Access::Prefix(prefix) => Some(prefix),
            Access::Everything | Access::Nothing => None,
        }
    }

    /// Whether it may listen to a group of workers.
    pub fn may_poll(&self, group: &str) -> bool {
        self.groups
            .as_ref()
            .is_none_or(|groups| groups.iter().any(|own| own == group))
    }
}

//! Whether the storage can be used, and how much is left of it.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::Check;
use super::clock::Stored;
use crate::client::clock::now_ms;
use crate::config::{Backend, Config, PostgresUrl};
use crate::store::{postgres, sqlite};

const NAME: &str = "storage";
const SCHEMA: &str = "schema";
const DISK: &str = "disk";

/// Below these, in bytes, a disk is soon full.
const FREE_MIN: u64 = 64 << 20;
const FREE_LOW: u64 = 1 << 30;

/// Looks at the storage, and at what it says of time.
pub(super) async fn checks(config: &Config) -> (Vec<Check>, Stored) {
    let storage = &config.storage;
    match storage.backend {
        Backend::Sqlite if storage.sqlite.is_memory() => {
            let found = "in memory: everything is lost when the server stops";
            let check = Check::warn(NAME, found, "storage.sqlite.path = the path of a file");
            (vec![check], Stored::Nothing)
        }
        Backend::Sqlite => file(Path::new(&storage.sqlite.path)).await,
        Backend::Postgres => {
            let url = storage.postgres.url.as_ref().map(PostgresUrl::as_str);
            database(url.unwrap_or_default(), storage.postgres.pool_size).await
        }
    }
}

async fn file(path: &Path) -> (Vec<Check>, Stored) {
    let mut checks = Vec::new();
    let found = match sqlite::inspect(path).await {
        Ok(found) => found,
        Err(error) => {
            let hint = "storage.sqlite.path = a database of resonate, or a new file";
            return (
                vec![Check::fail(NAME, error.to_string(), hint)],
                Stored::Nothing,
            );
        }
    };
    let shown = found.path.display();
    let folder = found.path.parent().unwrap_or(Path::new("/"));
    let mut refused = None;
    for needed in [folder, &found.path] {
        let is_asked = needed == folder || found.is_there;
        if is_asked && let Err(error) = access(needed, Access::WRITE_OK) {
            refused = Some(format!("{} is not writable: {error}", needed.display()));
        }
    }
    checks.push(match refused {
        Some(refused) => Check::fail(NAME, refused, "as the user that runs the server"),
        None if found.is_used => Check::ok(NAME, format!("{shown}, in use by a resonate server")),
        None if found.is_there => Check::ok(NAME, format!("{shown}, in use by no server")),
        None => Check::ok(NAME, format!("{shown} is made when a server starts")),
    });
    if found.is_there {
        checks.push(schema(found.schema, sqlite::newest_schema(), false));
    }
    checks.push(disk(folder));
    let now = now_ms();
    let stored = found
        .youngest_at
        .map_or(Stored::Nothing, |at| Stored::Ahead(at - now));
    (checks, stored)
}

/// `is_shared`: servers of a newer release may use it at the same time.
fn schema(found: Option<i64>, needed: i64, is_shared: bool) -> Check {
    match found {
        None => Check::ok(SCHEMA, format!("none yet; a server makes version {needed}")),
        Some(found) if found == needed => {
            Check::ok(SCHEMA, format!("version {found}, as this resonate needs"))
        }
        Some(found) if found < needed => Check::warn(
            SCHEMA,
            format!("version {found}; a server of this resonate brings it to {needed}"),
            "back it up first: an older release does not go back",
        ),
        Some(found) if is_shared => Check::warn(
            SCHEMA,
            format!("version {found}, of a newer resonate; this one knows {needed} and may use it"),
            "the newer release, once all servers have it",
        ),
        Some(found) => Check::fail(
            SCHEMA,
            format!("version {found}, of a newer resonate; this one knows {needed}"),
            "start the newer one, or give another path",
        ),
    }
}

fn disk(folder: &Path) -> Check {
    let free = match statvfs(folder) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => {
            let found = format!("{}: {error}", folder.display());
            return Check::warn(DISK, found, "nobody knows how much room there is");
        }
    };
    let found = format!("{} MiB free at {}", free >> 20, folder.display());
    let hint = "make room: a server without any answers 503";
    match free {
        0..FREE_MIN => Check::fail(DISK, found, hint),
        FREE_MIN..FREE_LOW => Check::warn(DISK, found, hint),
        _ => Check::ok(DISK, found),
    }
}

async fn database(url: &str, pool_size: u32) -> (Vec<Check>, Stored) {
    let mut found = match postgres::Inspection::open(url).await {
        Ok(found) => found,
        Err(error) => {
            let hint = "docs/deploy-postgres.md says what the database and the role need";
            return (
                vec![Check::fail(NAME, error.to_string(), hint)],
                Stored::Nothing,
            );
        }
    };
    let mut checks = vec![
        Check::ok(
            NAME,
            format!(
                "{}, PostgreSQL {}, {} connections of resonate servers",
                found.place, found.version, found.servers
            ),
        ),
        schema(found.schema, postgres::newest_schema(), true),
    ];
    // One more listens to other servers.
    let wanted = i64::from(pool_size) + 1;
    if wanted > found.connections_max {
        checks.push(Check::warn(
            NAME,
            format!(
                "a server takes up to {wanted} connections, the database {}",
                found.connections_max
            ),
            "a smaller storage.postgres.pool_size, or a larger max_connections",
        ));
    }
    if !found.is_synced {
        checks.push(Check::warn(
            "durability",
            "fsync or synchronous_commit is off: a crash of the database loses acknowledged writes",
            "both on, in postgresql.conf and for the role",
        ));
    }
    let asked = now_ms();
    let stored = match found.now().await {
        // The middle of asking and hearing.
        Ok(now) => Stored::Lead(now - i64::midpoint(asked, now_ms())),
        Err(_) => Stored::Nothing,
    };
    found.close().await;
    (checks, stored)
}

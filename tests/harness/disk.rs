//! A disk that fails on command and loses power, under a SQLite database: `disk.c`, loaded into the server.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What a disk reads and writes at once: a power cut leaves each of them old or new.
const SECTOR_BYTES: usize = 512;

/// What fails from now on.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Nothing,
    /// Every write: no space left on the device.
    Full,
    /// Every write: input/output error.
    Write,
    /// Every sync: input/output error. What was written since the last one never gets onto the disk.
    Sync,
    /// Everything that changes something: read-only file system, as after `remount-ro`.
    ReadOnly,
}

/// What becomes of writes that were not synced when the power goes.
#[derive(Clone, Copy, Debug)]
pub enum Unsynced {
    Kept,
    Lost,
    /// Every sector as it happens.
    Torn,
}

/// A folder with a database on such a disk.
pub struct Disk {
    folder: tempfile::TempDir,
    /// What has certainly been on the disk since the journal began.
    synced: BTreeMap<PathBuf, Vec<u8>>,
}

impl Disk {
    pub fn new() -> Disk {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir(folder.path().join("disk")).expect("the folder is writable");
        let disk = Disk {
            folder,
            synced: BTreeMap::new(),
        };
        disk.begin_journal();
        disk
    }

    /// The database, which need not be there.
    pub fn database(&self) -> PathBuf {
        self.folder.path().join("disk/resonate.db")
    }

    /// The environment of a server on this disk.
    pub fn env(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), text(shim())),
            ("DISK_PATH".to_owned(), text(&self.database())),
            ("DISK_FOLDER".to_owned(), text(self.folder.path())),
        ]
    }

    pub fn fails_with(&self, fault: Fault) {
        let word = match fault {
            Fault::Nothing => "",
            Fault::Full => "full",
            Fault::Write => "write",
            Fault::Sync => "sync",
            Fault::ReadOnly => "readonly",
        };
        let next = self.folder.path().join("fault.next");
        fs::write(&next, word).expect("the folder is writable");
        fs::rename(next, self.folder.path().join("fault")).expect("the folder is writable");
    }

    /// How many calls were made to fail.
    pub fn failures(&self) -> u64 {
        fs::metadata(self.folder.path().join("faults")).map_or(0, |file| file.len())
    }

    /// Leaves on the disk what is there after a power cut. The server must have been killed.
    pub fn loses_power(&mut self, unsynced: Unsynced) {
        let mut pending = self.replay();
        for (path, changes) in &mut pending {
            let bytes = self.synced.entry(path.clone()).or_default();
            for change in changes.drain(..) {
                match unsynced {
                    Unsynced::Lost => {}
                    Unsynced::Kept => change.apply(bytes),
                    Unsynced::Torn => {
                        let sectors = change.sectors().filter(|_| fastrand::bool());
                        sectors.for_each(|change| change.apply(bytes));
                    }
                }
            }
        }
        self.synced.retain(|path, _| {
            // What stands for shared memory is made anew.
            !path.to_string_lossy().ends_with("-shm")
        });
        let folder = self.folder.path().join("disk");
        fs::remove_dir_all(&folder).expect("the folder is writable");
        fs::create_dir(&folder).expect("the folder is writable");
        for (path, bytes) in &self.synced {
            fs::write(path, bytes).expect("the folder is writable");
        }
        self.begin_journal();
    }

    fn begin_journal(&self) {
        File::create(self.folder.path().join("journal")).expect("the folder is writable");
    }

    /// Does to what was on the disk what was synced since; answers what was not.
    fn replay(&mut self) -> BTreeMap<PathBuf, Vec<Change>> {
        let journal = fs::read(self.folder.path().join("journal")).expect("there is a journal");
        let mut pending: BTreeMap<PathBuf, Vec<Change>> = BTreeMap::new();
        let mut rest = &journal[..];
        while let Some((record, after)) = Record::read(rest) {
            rest = after;
            let changes = pending.entry(record.path.clone()).or_default();
            match record.what {
                b'W' => changes.push(Change::Write(record.at, record.data.to_vec())),
                b'T' => changes.push(Change::Truncate(record.at)),
                b'F' => changes.clear(),
                b'S' => {
                    let bytes = self.synced.entry(record.path).or_default();
                    changes.drain(..).for_each(|change| change.apply(bytes));
                }
                b'U' => {
                    changes.clear();
                    self.synced.remove(&record.path);
                }
                other => panic!("the journal has a record {other}"),
            }
        }
        pending.retain(|_, changes| !changes.is_empty());
        pending
    }
}

/// A record of the journal, as `disk.c` writes it.
struct Record<'a> {
    what: u8,
    path: PathBuf,
    at: usize,
    data: &'a [u8],
}

impl<'a> Record<'a> {
    /// The first of some; the last may have been cut off.
    fn read(bytes: &'a [u8]) -> Option<(Record<'a>, &'a [u8])> {
        let (what, rest) = bytes.split_first_chunk::<4>()?;
        let (name_bytes, rest) = rest.split_first_chunk::<4>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (data_bytes, rest) = rest.split_first_chunk::<8>()?;
        let size = |bytes: u64| usize::try_from(bytes).expect("it fits into memory");
        let name_bytes = size(u32::from_le_bytes(*name_bytes).into());
        let (name, rest) = rest.split_at_checked(name_bytes)?;
        let (data, rest) = rest.split_at_checked(size(u64::from_le_bytes(*data_bytes)))?;
        let record = Record {
            what: what[0],
            path: std::str::from_utf8(name)
                .expect("the name is the test's")
                .into(),
            at: size(u64::from_le_bytes(*at)),
            data,
        };
        Some((record, rest))
    }
}

/// Something done to a file.
enum Change {
    /// At this offset.
    Write(usize, Vec<u8>),
    /// To so many bytes.
    Truncate(usize),
}

impl Change {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Change::Truncate(length) => bytes.resize(length, 0),
            Change::Write(at, data) => {
                let end = at + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[at..end].copy_from_slice(&data);
            }
        }
    }

    /// The parts that happen by themselves.
    fn sectors(self) -> impl Iterator<Item = Change> {
        let parts: Vec<Change> = match self {
            Change::Truncate(_) => vec![self],
            Change::Write(at, data) => {
                let first = SECTOR_BYTES - at % SECTOR_BYTES;
                let (head, tail) = data.split_at(first.min(data.len()));
                let head = (at, head.to_vec());
                let tail = tail.chunks(SECTOR_BYTES).enumerate();
                let tail = tail.map(|(n, part)| (at + first + n * SECTOR_BYTES, part.to_vec()));
                let parts = std::iter::once(head).chain(tail);
                parts.map(|(at, part)| Change::Write(at, part)).collect()
            }
        };
        parts.into_iter()
    }
}

/// What is loaded into the server, compiled once.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let shim = folder.join(format!("disk-{}.so", std::process::id()));
        let status = Command::new("cc")
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(&shim)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/disk.c"))
            .status();
        assert!(status.expect("a C compiler runs").success());
        shim
    })
}

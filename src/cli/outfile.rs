//! A file that gets its name only when it is whole and on the disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::session::Failure;

/// Read and written by its owner only: it holds everything.
const MODE: u32 = 0o600;

/// Beside the name that it is to have, under another. Dropped before it is kept, it is gone.
pub(super) struct OutFile {
    partial: PathBuf,
    target: PathBuf,
    is_forced: bool,
    is_kept: bool,
}

impl OutFile {
    /// Makes it, empty.
    pub(super) fn begin(target: &Path, is_forced: bool) -> Result<OutFile, Failure> {
        refuse(target, is_forced)?;
        let mut partial = target.as_os_str().to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        let file = OutFile {
            partial: partial.into(),
            target: target.to_owned(),
            is_forced,
            is_kept: false,
        };
        let mut options = File::options();
        let made = options
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&file.partial);
        made.map_err(|error| failed(target, &error))?;
        Ok(file)
    }

    /// Where it is meanwhile.
    pub(super) fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives it its name. Answers how many bytes it has.
    pub(super) fn keep(mut self) -> Result<u64, Failure> {
        refuse(&self.target, self.is_forced)?;
        let kept = || {
            let file = File::open(&self.partial)?;
            file.sync_all()?;
            fs::rename(&self.partial, &self.target)?;
            let folder = match self.target.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            File::open(folder)?.sync_all()?;
            Ok(file.metadata()?.len())
        };
        let bytes = kept().map_err(|error| failed(&self.target, &error))?;
        self.is_kept = true;
        Ok(bytes)
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // It may never have been there.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

fn refuse(target: &Path, is_forced: bool) -> Result<(), Failure> {
    let shown = target.display();
    let reason = match target.symlink_metadata() {
        Ok(found) if found.is_dir() => format!("{shown} is a directory"),
        Ok(_) if !is_forced => format!("{shown} is there already; --force replaces it"),
        _ => return Ok(()),
    };
    Err(Failure::Input(reason))
}

fn failed(target: &Path, error: &io::Error) -> Failure {
    Failure::Input(format!("cannot write {}: {error}", target.display()))
}

/// For people.
pub(super) fn bytes_text(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

//! Scripts (`transports.md` §6): whatever an address and a param say, what is run lies below the root.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use resonate::protocol::address::{Address, Bash, Rules};
use resonate::transport::bash_exec::script::{Request, Script, Settings, WorkingDir};
use tempfile::TempDir;

/// Scripts, a folder, links that stay inside and links that leave.
struct Disk {
    _folder: TempDir,
    root: PathBuf,
}

static DISK: LazyLock<Disk> = LazyLock::new(|| Disk::make().expect("the disk is writable"));

impl Disk {
    fn make() -> std::io::Result<Disk> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("d"))?;
        fs::write(folder.path().join("outside"), "")?;
        for script in ["a", "d/b", "%41"] {
            fs::write(root.join(script), "")?;
        }
        for (link, to) in [("l", "a"), ("o", "../outside"), ("u", ".."), ("s", "d")] {
            symlink(to, root.join(link))?;
        }
        let root = root.canonicalize()?;
        Ok(Disk {
            _folder: folder,
            root,
        })
    }
}

/// What comes after the scheme of the address, and after a line end the data of the param.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (rest, data) = match text.split_once('\n') {
        Some((rest, data)) => (rest, Some(data)),
        None => (text, None),
    };
    let address = Address::parse(&format!("bash://{rest}"), &Rules::default());
    let Some(Address::Bash(bash)) = address else {
        return;
    };
    let settings = Settings {
        root: Some(DISK.root.clone()),
        working_dir: WorkingDir::Script,
        environment: vec![("PATH".into(), "/bin".into())],
    };
    let request = Request {
        bash: &bash,
        data,
        variables: &[("RESONATE_PROMISE_ID", "id".to_owned())],
    };
    match Script::prepare(&settings, &request) {
        Ok(script) => is_harmless(&script, &bash),
        Err(reason) => assert!(!reason.is_empty()),
    }
}

fn is_harmless(script: &Script, bash: &Bash) {
    let command = script.command();
    let command = command.as_std();
    let arguments: Vec<OsString> = command.get_args().map(Into::into).collect();
    match bash {
        Bash::Inline => {
            assert_eq!(command.get_program(), "bash");
            assert_eq!(arguments.len(), 2);
            assert_eq!(arguments[0], "-c");
        }
        Bash::Named { .. } => {
            assert_eq!(command.get_program(), "bash");
            // An option would be read by bash, and not the script.
            let path = Path::new(&arguments[0]);
            let file = path.canonicalize().expect("the script is there");
            assert!(path.is_absolute() && file.is_file());
            assert!(file.starts_with(&DISK.root), "{}", file.display());
            let directory = command.get_current_dir().expect("it runs somewhere");
            let directory = directory.canonicalize().expect("the directory is there");
            assert!(directory.starts_with(&DISK.root), "{}", directory.display());
        }
        Bash::Docker { image } => {
            assert_eq!(command.get_program(), "docker");
            assert_eq!(arguments[0], "run");
            assert!(!image.starts_with('-'), "taken for an option");
            // One with a NUL is shown otherwise, and starts nothing.
            let has_image = arguments.iter().any(|argument| *argument == **image);
            assert!(has_image || image.contains('\0'));
        }
    }
    let names = command.get_envs().map(|(name, _)| name);
    assert!(names.eq(["PATH", "RESONATE_PROMISE_ID"]));
}

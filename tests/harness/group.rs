//! A process that a test starts, and all that it starts itself: none of them outlives the test, however that ends.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Pid, Signal, kill_process_group};

use super::server::lock;

/// Told of groups that begin and end. Once this process is gone, killed or not, it kills those that are left.
const WATCH: &str = r#"
groups=" "
while read -r what group; do
    case $what in
    begun) groups="$groups$group " ;;
    ended) groups="${groups%% $group *} ${groups#* $group }" ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
"#;

/// A process group. Dropping it kills it.
pub struct Group {
    pub child: Child,
}

impl Group {
    #[track_caller]
    pub fn start(command: &mut Command) -> Group {
        let child = command.process_group(0).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        tell("begun", child.id());
        Group { child }
    }

    /// Of the process that was started.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait();
        ended.expect("the child can be waited for")
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the child can be waited for")
    }

    pub fn kill(&mut self) {
        if self.ended().is_some() {
            return;
        }
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        let killed = kill_process_group(pid.expect("a process has a number"), Signal::KILL);
        killed.expect("a child that was not waited for can be killed");
        self.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        tell("ended", self.id());
    }
}

/// In a group of its own too: what ends this process by a signal to its group is to leave it alone.
fn watcher() -> ChildStdin {
    let watcher = Command::new("sh")
        .args(["-c", WATCH])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let stdin = watcher.expect("a shell runs").stdin;
    stdin.expect("stdin is piped")
}

fn tell(what: &str, group: u32) {
    static WATCHER: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let watcher = WATCHER.get_or_init(|| Mutex::new(watcher()));
    let told = writeln!(lock(watcher), "{what} {group}");
    told.expect("the watcher listens for as long as this process is there");
}

/// A group whose child has a child, and what is read once both are gone.
fn family() -> (Group, ChildStdout) {
    let script = "(sleep 30; echo late) & echo begun; wait";
    let mut group = Group::start(
        Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped()),
    );
    let mut stdout = group.child.stdout.take().expect("stdout is piped");
    let mut begun = [0; "begun\n".len()];
    stdout.read_exact(&mut begun).expect("the child speaks");
    (group, stdout)
}

#[test]
fn a_group_ends_with_all_that_is_in_it() {
    let (group, mut rest) = family();
    drop(group);
    let read = rest.read_to_string(&mut String::new());
    assert_eq!(read.expect("all have closed it"), 0);
}

#[test]
fn a_group_ends_when_nobody_is_left_to_end_it() {
    let (mut left, mut rest) = family();
    let (mut ended, mut untouched) = family();
    let mut watcher = watcher();
    for told in [
        format!("begun {}", ended.id()),
        format!("begun {}", left.id()),
        format!("ended {}", ended.id()),
    ] {
        writeln!(watcher, "{told}").expect("the watcher listens");
    }
    // As the end of this process would.
    drop(watcher);
    let read = rest.read_to_string(&mut String::new());
    assert_eq!(read.expect("all have closed it"), 0);
    assert!(!left.wait().success());
    assert!(ended.ended().is_none());
    drop(ended);
    let read = untouched.read_to_string(&mut String::new());
    assert_eq!(read.expect("all have closed it"), 0);
}

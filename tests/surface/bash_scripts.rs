//! Bash exec (transports §6): what a script is, what it is told, and what becomes of what it says.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::Value;

use crate::harness::scripts::{
    ENABLED, SHORT_LEASE, base64, create, lines, outcome, rejected, resolved, run, run_inline,
    server, settled, until, with_root, write,
};
use crate::harness::server::{Server, unique, wall_clock_ms};
use crate::harness::sse::Stream;

#[test]
fn an_inline_script_resolves_its_promise_with_what_it_prints() {
    let server = server(&[]);
    for target in ["bash:///", "bash://", "bash://bash", "BASH:///"] {
        let script = base64("printf ' hello\\n\\nworld \\t\\n\\n'; echo noise >&2");
        let expected = resolved(" hello\n\nworld");
        assert_eq!(run(&server, target, Some(&script)), expected, "{target}");
    }
    assert_eq!(run_inline(&server, "true"), resolved(""));
    // Nothing is on stdin, and the working directory is the server's.
    assert_eq!(run_inline(&server, "cat; echo over"), resolved("over"));
    let (_, directory) = run_inline(&server, "pwd -P");
    assert_eq!(Path::new(&directory), server.home().canonicalize().unwrap());
    // As `base64` prints it.
    let long = format!("# {}\necho long", "x".repeat(200));
    let broken: Vec<String> = base64(long)
        .as_bytes()
        .chunks(76)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let broken = format!("{}\n", broken.join("\n"));
    assert_eq!(run(&server, "bash:///", Some(&broken)), resolved("long"));
}

#[test]
fn a_script_that_fails_rejects_its_promise_with_what_it_complains_of() {
    let server = server(&[]);
    assert_eq!(
        run_inline(&server, "echo out; echo 'no luck ' >&2; exit 3"),
        rejected("no luck")
    );
    assert_eq!(
        run_inline(&server, "echo out; exit 7"),
        rejected("exit code 7")
    );
    // Only its own end counts, not what ended its children.
    assert_eq!(
        run_inline(&server, "exec 2> /dev/null; sh -c 'kill -9 $$'; exit $?"),
        rejected("exit code 137")
    );
}

#[test]
fn a_param_that_is_no_script_is_refused() {
    let server = server(&[]);
    let reason = rejected("param.data is missing or not valid base64/utf-8");
    let not_utf8 = base64(b"echo \xff");
    for data in [
        None,
        Some(""),
        Some("echo hello"),
        Some("ZWNobw"),
        Some(&*not_utf8),
    ] {
        assert_eq!(run(&server, "bash:///", data), reason, "{data:?}");
        assert_eq!(run(&server, "bash://docker/img", data), reason, "{data:?}");
    }
}

#[test]
fn a_named_script_gets_the_elements_of_an_array_as_its_arguments() {
    let root = tempfile::tempdir().unwrap();
    write(
        &root.path().join("show.sh"),
        "printf '<%s>' \"$@\"; echo; echo $#",
    );
    let server = with_root(root.path(), &[]);
    let array = r#" ["v1.2.3","a b","$(id); *","",1.0,true,null,{"k" : [1]},"é\n"]"#;
    let shown = "<v1.2.3><a b><$(id); *><><1.0><true><null><{\"k\" : [1]}><é\n>\n9";
    let encoded = base64(array);
    for (data, expected) in [
        (None, "<>\n0"),
        (Some(""), "<>\n0"),
        (Some("[]"), "<>\n0"),
        (Some(array), shown),
        (Some(&encoded), shown),
    ] {
        let expected = resolved(expected);
        assert_eq!(run(&server, "bash:///show.sh", data), expected, "{data:?}");
    }
    let object = base64(r#"{"a":1}"#);
    let reason = rejected("param.data must be a JSON array for named scripts");
    for data in [
        "v1.2.3",
        "[1",
        "{}",
        "\"a\"",
        &object,
        &base64("[1"),
        &base64(b"[\"\xff\"]"),
    ] {
        assert_eq!(
            run(&server, "bash:///show.sh", Some(data)),
            reason,
            "{data}"
        );
    }
}

#[test]
fn a_named_script_is_looked_for_in_the_root_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let outside = folder.path().join("outside.sh");
    write(&outside, "echo escaped");
    write(&folder.path().join("root-too/x.sh"), "echo escaped");
    write(&root.join("a/my script.sh"), "echo inside");
    symlink(&outside, root.join("link.sh")).unwrap();
    symlink(folder.path(), root.join("up")).unwrap();
    symlink("a/my script.sh", root.join("inner.sh")).unwrap();
    symlink("nothing", root.join("dangling.sh")).unwrap();
    let server = with_root(&root, &[]);
    for path in [
        "a/my script.sh",
        "a/my%20script.sh",
        "%61/my script.sh",
        "inner.sh",
    ] {
        let expected = resolved("inside");
        assert_eq!(
            run(&server, &format!("bash:///{path}"), None),
            expected,
            "{path}"
        );
    }
    let absolute = outside.display().to_string();
    for path in [
        "../outside.sh",
        "a/../../outside.sh",
        "a/../inner.sh",
        "%2e%2e/outside.sh",
        "..%2foutside.sh",
        "%2E%2E%2Foutside.sh",
        "./inner.sh",
        "a//my script.sh",
        "a/",
        "inner.sh/",
        &absolute,
        "%2fetc/passwd",
        "..\\outside.sh",
        "a%5Cb.sh",
        "inner.sh%00",
        "../root-too/x.sh",
        "link.sh",
        "up/outside.sh",
        "up/root/inner.sh/..",
        "a",
    ] {
        let reason = rejected(&format!("script path escapes root_dir: {path}"));
        assert_eq!(
            run(&server, &format!("bash:///{path}"), None),
            reason,
            "{path}"
        );
    }
    for path in [
        "missing.sh",
        "a/missing.sh",
        "inner.sh/x",
        "dangling.sh",
        "%252e%252e",
    ] {
        let reason = rejected(&format!("script not found: {path}"));
        assert_eq!(
            run(&server, &format!("bash:///{path}"), None),
            reason,
            "{path}"
        );
    }
}

#[test]
fn named_scripts_need_a_root() {
    assert_eq!(
        run(&server(&[]), "bash:///a.sh", None),
        rejected("bash:///path address requires bash_exec.root_dir in config")
    );
}

#[test]
fn a_named_script_runs_in_the_root_where_it_is_or_where_the_operator_says() {
    let root = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    write(&root.path().join("a/b.sh"), "pwd -P");
    let here = |path: &Path| resolved(path.canonicalize().unwrap().to_str().unwrap());
    let flag = "--transports-bash-exec-working-dir";
    let literal = elsewhere.path().to_str().unwrap();
    for (setting, expected) in [
        (vec![], here(root.path())),
        (vec![flag, "<root>"], here(root.path())),
        (vec![flag, "<script>"], here(&root.path().join("a"))),
        (vec![flag, literal], here(elsewhere.path())),
        (
            vec![flag, "/nonexistent"],
            rejected("failed to spawn bash: no working directory /nonexistent"),
        ),
    ] {
        let server = with_root(root.path(), &setting);
        assert_eq!(
            run(&server, "bash:///a/b.sh", None),
            expected,
            "{setting:?}"
        );
    }
}

#[test]
fn scripts_are_told_of_their_promise_and_nothing_of_the_servers_own() {
    let secrets = [
        ("RESONATE_TASKS__RETRY_TIMEOUT", "30000"),
        ("RESONATE_TOKEN", "secret"),
        ("DATABASE_URL", "secret"),
        ("PGPASSWORD", "secret"),
        ("BACKUP", "postgres://me:secret@db/x"),
        ("TENSORLAKE_API_KEY", "secret"),
    ];
    let others = [("GREETING", "hello")];
    let server = Server::with_env(&ENABLED, &[&secrets[..], &others].concat());
    let id = unique("a b'\"$x é");
    let timeout_at = wall_clock_ms() + 1_000_000;
    let promise = create(
        &server,
        &id,
        "bash:///",
        Some(&base64("env -0 | sort -z | tr '\\0' '\\n'")),
        timeout_at,
    );
    let (state, text) = outcome(&settled_by_name(&server, &id));
    assert_eq!(state, "resolved");
    for line in [
        "GREETING=hello".to_owned(),
        format!("RESONATE_PROMISE_ID={id}"),
        format!("RESONATE_PROMISE_CREATED_AT={}", promise["createdAt"]),
        format!("RESONATE_PROMISE_TIMEOUT_AT={timeout_at}"),
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in {text}");
    }
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(text.matches("RESONATE_").count(), 3, "{text}");
}

/// The same for an id that cannot stand in a path.
#[track_caller]
fn settled_by_name(server: &Server, id: &str) -> Value {
    let stream = Stream::open(server, "tests", "by-name");
    let promise = server.client().listen(id, "poll://uni@tests/by-name");
    match promise["state"].as_str() {
        Some("pending") => stream.next_unblock(),
        _ => promise,
    }
}

#[test]
fn a_program_that_cannot_be_started_rejects_with_the_reason() {
    let nowhere = tempfile::tempdir().unwrap();
    let server = Server::with_env(&ENABLED, &[("PATH", nowhere.path().to_str().unwrap())]);
    let script = base64("echo hello");
    for (target, program) in [("bash:///", "bash"), ("bash://docker/img", "docker")] {
        let reason = format!("failed to spawn {program}: No such file or directory (os error 2)");
        assert_eq!(run(&server, target, Some(&script)), rejected(&reason));
    }
}

#[test]
fn what_a_script_prints_is_bounded() {
    let server = server(&[]);
    let script = "head -c 3000000 /dev/zero | tr '\\0' x";
    let (state, text) = run_inline(&server, script);
    assert_eq!((&*state, text.len()), ("resolved", 1024 * 1024));
    let script = format!("{script} >&2; exit 1");
    let (state, text) = run_inline(&server, &script);
    assert_eq!((&*state, text.len()), ("rejected", 1024 * 1024));
    until("it is logged", || server.log().contains("was cut"));
}

/// A `docker` that writes down its arguments and runs the script here.
const FAKE_DOCKER: &str = r#"#!/bin/bash
printf '%s\n' "$@" >> "$DOCKER_LOG"
if [ "$1" = run ]; then exec bash -c "${@: -1}"; fi
"#;

fn with_docker(bin: &Path, extra: &[&str]) -> Server {
    let docker = bin.join("docker");
    write(&docker, FAKE_DOCKER);
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).expect("it may be run");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", bin.display());
    let log = bin.join("log").display().to_string();
    Server::with_env(
        &[&ENABLED, extra].concat(),
        &[("PATH", &*path), ("DOCKER_LOG", &*log)],
    )
}

#[test]
fn a_script_may_run_in_a_container() {
    let bin = tempfile::tempdir().unwrap();
    let server = with_docker(bin.path(), &[]);
    let target = "bash://docker/registry.example:5000/team/image:1.2";
    let script = base64("echo hello");
    create(&server, "s", target, Some(&script), 9_000_000_000_000);
    let promise = settled(&server, "s");
    assert_eq!(outcome(&promise), resolved("hello"));
    let log = lines(&bin.path().join("log"), 15);
    assert!(log[3].starts_with("resonate-"), "{log:?}");
    let created_at = format!("RESONATE_PROMISE_CREATED_AT={}", promise["createdAt"]);
    let expected = [
        "run",
        "--rm",
        "--name",
        &log[3],
        "-e",
        "RESONATE_PROMISE_ID=s",
        "-e",
        &created_at,
        "-e",
        "RESONATE_PROMISE_TIMEOUT_AT=9000000000000",
        "--entrypoint",
        "bash",
        "registry.example:5000/team/image:1.2",
        "-c",
        "echo hello",
    ];
    assert_eq!(log, expected);
    let failing = base64("echo no >&2; exit 125");
    assert_eq!(run(&server, target, Some(&failing)), rejected("no"));
    // Nothing that docker would take for an option.
    assert_eq!(
        run(&server, "bash://docker/--privileged", Some(&script)),
        rejected("failed to spawn docker: not an image: --privileged")
    );
}

#[test]
fn a_container_that_is_killed_is_removed_and_runs_again() {
    for end in ["exit 137", "exit 143", "kill -9 $$"] {
        let bin = tempfile::tempdir().unwrap();
        let server = with_docker(bin.path(), &SHORT_LEASE);
        let script = format!("echo run >> runs; [ $(wc -l < runs) -gt 1 ] || {end}; echo second");
        create(
            &server,
            "s",
            "bash://docker/img",
            Some(&base64(script)),
            i64::MAX,
        );
        assert_eq!(outcome(&settled(&server, "s")), resolved("second"), "{end}");
        let log = fs::read_to_string(bin.path().join("log")).unwrap();
        let first = log.lines().nth(3).unwrap();
        assert!(log.contains(&format!("rm\n--force\n{first}\n")), "{log}");
    }
}

//! What people see who run commands on a terminal.

use serde_json::json;
use vt100::Color;

use super::tree::{node, order};
use super::worker::encoded;
use crate::harness::command::command;
use crate::harness::process::Signal;
use crate::harness::record::{self, NOBODY};
use crate::harness::server::{Server, serve_args};
use crate::harness::terminal::Terminal;

const YELLOW: Color = Color::Idx(3);
const GREEN: Color = Color::Idx(2);
const RED: Color = Color::Idx(1);
const CYAN: Color = Color::Idx(6);

/// Runs a command to its end on a terminal of so many columns.
#[track_caller]
fn shown(server: &Server, args: &[&str], columns: u16) -> Terminal {
    let mut terminal = Terminal::start(&mut server.command(args), columns);
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    terminal
}

/// The lines of a screen, with times that go on made equal.
fn lines(terminal: &Terminal) -> Vec<String> {
    let contents = terminal.contents();
    contents.lines().map(still).collect()
}

/// Replaces every length of time, such as `12ms` or `1h 02m`, by `#`, and the blanks that align it by one.
fn still(line: &str) -> String {
    let is_time = |word: &str| {
        let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        unit.len() < word.len() && matches!(unit, "ms" | "s" | "m" | "h" | "d")
    };
    let words = line.split_whitespace();
    let words = words.map(|word| if is_time(word) { "#" } else { word });
    let mut words: Vec<&str> = words.collect();
    words.dedup_by(|a, b| *a == "#" && *b == "#");
    words.join(" ")
}

#[test]
fn a_search_is_an_aligned_table_with_colours() {
    let server = Server::single();
    let client = server.client();
    client.create("a", i64::MAX, json!({}));
    client.create_targeted("longer-id", i64::MAX);
    client.create("b", i64::MAX, json!({}));
    client.settle("a", "resolved");
    client.settle("b", "rejected");
    let terminal = shown(&server, &["promises", "search"], 120);
    assert_eq!(
        lines(&terminal),
        [
            "ID STATE AGE TOOK TIMEOUT TARGET",
            "a resolved #",
            "b rejected #",
            "longer-id pending # never poll://any@nobody",
        ]
    );
    let contents = terminal.contents();
    let columns: Vec<Option<usize>> = ["STATE", "resolved", "rejected", "pending"]
        .iter()
        .map(|word| contents.lines().find_map(|line| line.find(word)))
        .collect();
    assert_eq!(columns, [Some("longer-id  ".len()); 4], "{contents}");
    assert_eq!(terminal.color_of("resolved"), GREEN);
    assert_eq!(terminal.color_of("rejected"), RED);
    assert_eq!(terminal.color_of("pending"), YELLOW);
    assert_eq!(terminal.color_of("longer-id"), Color::Default);
}

#[test]
fn no_color_is_respected() {
    let server = Server::single();
    order(&server, "order-1");
    for args in [
        &["promises", "search"][..],
        &["promises", "get", "order-1"],
        &["tree", "order-1"],
        &["promises", "get", "nobody"],
        &["promises", "--help"],
    ] {
        let mut terminal = Terminal::start(server.command(args).env("NO_COLOR", "1"), 120);
        terminal.end();
        let bytes = terminal.bytes();
        assert!(
            !bytes.contains('\x1b') && !bytes.is_empty(),
            "{args:?}: {bytes:?}"
        );
    }
}

#[test]
fn a_narrow_terminal_loses_nothing() {
    let server = Server::single();
    let id = "a-promise-with-an-id-that-is-wider-than-the-terminal";
    server.client().create_targeted(id, i64::MAX);
    let terminal = shown(&server, &["promises", "search"], 40);
    // Cells are broken into lines: read down the first column, the whole id is there.
    let contents = terminal.contents();
    let width = contents.lines().next().unwrap().find("STATE").unwrap();
    let column = contents.lines().skip(1);
    let column = column.map(|line| line.get(..width).unwrap_or(line).trim_end());
    let parts: Vec<&str> = column.filter(|part| !part.is_empty()).collect();
    assert_eq!(parts.concat(), id, "{contents}");
    assert!(parts.len() > 1, "{contents}");
    let terminal = shown(&server, &["promises", "get", id], 40);
    assert!(terminal.contents().replace('\n', "").contains(id));
}

#[test]
fn a_table_that_goes_on_says_how() {
    let server = Server::single();
    for id in ["a", "b c"] {
        server.client().create(id, i64::MAX, json!({}));
    }
    server.client().create("d", i64::MAX, json!({}));
    let terminal = shown(&server, &["promises", "search", "--limit", "2"], 80);
    assert_eq!(lines(&terminal).last().unwrap(), "More: --cursor='b c'");
    let terminal = shown(&server, &["tasks", "search"], 80);
    assert_eq!(terminal.contents(), "No tasks.");
}

#[test]
fn tasks_and_schedules_have_tables_too() {
    let server = Server::single();
    server.client().own("t", i64::MAX, 60_000);
    let terminal = shown(&server, &["tasks", "search"], 80);
    assert_eq!(
        lines(&terminal),
        ["ID STATE VERSION RESUMES PID TTL", "t acquired 1 0 p #"]
    );
    assert_eq!(terminal.color_of("acquired"), CYAN);
    let data = json!({
        "id": "s", "cron": "0 0 1 1 *", "promiseId": "{{.id}}.{{.timestamp}}",
        "promiseTimeout": 1, "promiseTags": record::target(),
    });
    server.ok("schedule.create", data);
    let terminal = shown(&server, &["schedules", "search"], 100);
    assert_eq!(
        lines(&terminal),
        [
            "ID CRON NEXT PROMISES TARGET",
            "s 0 0 1 1 * # {{.id}}.{{.timestamp}} poll://any@nobody",
        ]
    );
}

#[test]
fn a_record_is_readable_and_its_values_are_decoded() {
    let server = Server::single();
    let mut data = record::create(
        "a",
        i64::MAX,
        json!({"resonate:target": NOBODY, "team": "é"}),
    );
    data["param"] =
        json!({"headers": {"h": "1"}, "data": encoded(&json!({"func": "f", "args": [1]}))});
    server.ok("promise.create", data);
    let value = json!({"data": encoded(&json!("done"))});
    server.ok(
        "promise.settle",
        json!({"id": "a", "state": "resolved", "value": value}),
    );
    let terminal = shown(&server, &["promises", "get", "a"], 100);
    let shown_lines = lines(&terminal);
    assert!(shown_lines[1].starts_with("created 20") && shown_lines[1].ends_with(" UTC, # ago"));
    assert!(shown_lines[2].starts_with("settled 20") && shown_lines[2].ends_with(" UTC, # ago"));
    let rest: Vec<&str> = shown_lines[3..].iter().map(String::as_str).collect();
    assert_eq!(shown_lines[0], "a resolved");
    assert_eq!(
        rest,
        [
            "took #",
            "tags resonate:target poll://any@nobody",
            "team é",
            "param h: 1",
            "{\"args\":[1],\"func\":\"f\"}",
            "value \"done\"",
        ]
    );
    assert_eq!(terminal.color_of("resolved"), GREEN);
    // Asked for, it is the same without a terminal, but for colours.
    let piped = server.cli(&["promises", "get", "a", "--output", "text"]);
    let piped: Vec<String> = piped.stdout.lines().map(still).collect();
    assert_eq!(piped, shown_lines);
    // And the JSON is to be had on a terminal.
    let terminal = shown(&server, &["promises", "get", "a", "-o", "json"], 100);
    assert!(
        terminal
            .contents()
            .starts_with("{\n  \"promise\": {\n    \"id\": \"a\",")
    );
}

#[test]
fn a_claim_shows_the_task_and_its_promise() {
    let server = Server::single();
    server.client().create_targeted("t", i64::MAX);
    let claim = [
        "tasks",
        "claim",
        "t",
        "--pid",
        "p",
        "--ttl",
        "1m",
        "--version",
        "0",
    ];
    let terminal = shown(&server, &claim, 80);
    let shown_lines = lines(&terminal);
    assert_eq!(
        shown_lines[..7],
        [
            "t task acquired",
            "version 1",
            "resumes 0",
            "pid p",
            "ttl #",
            "",
            "t pending"
        ]
    );
    // What there is nothing to say of is JSON.
    let terminal = shown(&server, &["tasks", "halt", "t"], 80);
    assert_eq!(terminal.contents(), "{}");
}

#[test]
fn nothing_stored_can_steer_the_terminal() {
    let server = Server::single();
    let evil = "\x1b[2Jgone\r\u{9b}31m";
    let mut data = record::create(
        "evil\x1b[2J",
        i64::MAX,
        json!({"resonate:origin": "r", "k\x07": evil}),
    );
    data["param"] = json!({"data": evil});
    server.ok("promise.create", data);
    server.ok(
        "promise.settle",
        json!({"id": "evil\x1b[2J", "state": "resolved", "value": {"data": evil}}),
    );
    for args in [
        &["promises", "get", "evil\x1b[2J"][..],
        &["promises", "search"],
        &["promises", "await", "evil\x1b[2J"],
        &["tree", "r"],
    ] {
        let mut command = server.command(args);
        let terminal = {
            let mut terminal = Terminal::start(command.env("NO_COLOR", "1"), 200);
            terminal.end();
            terminal
        };
        let bytes = terminal.bytes();
        let steers = bytes
            .chars()
            .any(|c| c.is_control() && !matches!(c, '\r' | '\n'));
        assert!(
            !steers && !bytes.contains("gone\r\u{9b}"),
            "{args:?}: {bytes:?}"
        );
        assert!(bytes.contains("\\u{1b}[2J"), "{args:?}: {bytes:?}");
    }
}

#[test]
fn a_tree_has_states_and_times() {
    let server = Server::single();
    order(&server, "order-1");
    let terminal = shown(&server, &["tree", "order-1"], 100);
    assert_eq!(
        lines(&terminal),
        [
            "order-1 🟢 (rpc order) resolved #",
            "├── order-1:0 🟢 (run charge) resolved #",
            "├── order-1:1 🟢 (sleep) resolved #",
            "└── order-1:2 🟡 (rpc ship) pending #",
        ]
    );
    assert_eq!(terminal.color_of("pending"), YELLOW);
}

#[test]
fn a_watched_tree_is_redrawn_in_place_as_it_grows() {
    let server = Server::single();
    node(&server, "r", ("r", "r"), "global", "order");
    let mut terminal = Terminal::start(&mut server.command(&["tree", "r", "--watch"]), 80);
    terminal.shows("r 🟡 (rpc order)  pending");
    node(&server, "r", ("r:0", "r"), "local", "charge");
    terminal.shows("└── r:0 🟡 (run charge)  pending");
    node(&server, "r", ("r:1", "r"), "local", "ship");
    server.client().settle("r:0", "resolved");
    terminal.shows("├── r:0 🟢 (run charge)  resolved");
    terminal.shows("└── r:1 🟡 (run ship)  pending");
    server.client().settle("r:1", "resolved");
    server.client().settle("r", "resolved");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    // Nothing of what was shown before is left.
    assert_eq!(
        lines(&terminal),
        [
            "r 🟢 (rpc order) resolved #",
            "├── r:0 🟢 (run charge) resolved #",
            "└── r:1 🟢 (run ship) resolved #",
        ]
    );
}

#[test]
fn a_tree_higher_than_the_terminal_is_watched_at_its_end() {
    let server = Server::single();
    node(&server, "r", ("r", "r"), "global", "order");
    for n in 1..=60 {
        node(&server, "r", (&format!("r:{n}"), "r"), "local", "step");
    }
    let mut terminal = Terminal::start(&mut server.command(&["tree", "r", "--watch"]), 80);
    terminal.until("the root and the end", |screen| {
        let lines: Vec<String> = screen.rows(0, 80).collect();
        lines[0].starts_with("r 🟡 (rpc order)  pending")
            && lines[1].trim_end() == "… 23 more"
            && lines[38].starts_with("└── r:60 🟡 (run step)  pending")
    });
    node(&server, "r", ("r:61", "r"), "local", "last");
    terminal.shows("└── r:61 🟡 (run last)  pending");
    terminal.signal(Signal::Interrupt);
    assert_eq!(terminal.end().0, Some(130));
}

#[test]
fn tags_are_aligned_however_wide_their_letters_are() {
    let server = Server::single();
    let tags = json!({"team": "é", "日本": "x\ny", "a": "🚲"});
    server.client().create("a", i64::MAX, tags);
    let terminal = shown(&server, &["promises", "get", "a"], 80);
    let contents = terminal.contents();
    for line in ["  tags     a     🚲", "team  é", "日本  x\\ny"] {
        assert!(contents.contains(line), "{contents}");
    }
}

#[test]
fn ctrl_c_leaves_the_tree_that_was_watched() {
    let server = Server::single();
    node(&server, "r", ("r", "r"), "global", "order");
    let mut terminal = Terminal::start(&mut server.command(&["tree", "r", "--watch"]), 80);
    terminal.shows("r 🟡 (rpc order)  pending");
    terminal.signal(Signal::Interrupt);
    let (code, _) = terminal.end();
    assert_eq!(code, Some(130));
    assert_eq!(lines(&terminal), ["r 🟡 (rpc order) pending #"]);
}

#[test]
fn a_wait_has_a_spinner_with_time_and_children() {
    let server = Server::single();
    let invoke = ["invoke", "r", "-f", "order", "--target", NOBODY, "--wait"];
    for columns in [80, 24] {
        let id = format!("r{columns}");
        let invoke: Vec<&str> = invoke
            .iter()
            .map(|arg| if *arg == "r" { &id } else { *arg })
            .collect();
        let mut terminal = Terminal::start(&mut server.command(&invoke), columns);
        terminal.shows(&format!("s {id} (rpc order)"));
        node(&server, &id, (&format!("{id}:0"), &id), "local", "charge");
        node(&server, &id, (&format!("{id}:1"), &id), "local", "ship");
        server.client().settle(&format!("{id}:0"), "resolved");
        if columns == 80 {
            let progress = format!("{id} (rpc order): 1 of 2 done, {id}:1 (run ship)");
            terminal.shows(&progress);
        }
        // One line, however narrow.
        terminal.until("one line", |screen| screen.contents().lines().count() == 1);
        let frames = |screen: &vt100::Screen| screen.contents().chars().next();
        let first = terminal.contents().chars().next();
        terminal.until("it turns", |screen| frames(screen) != first);
        let value = json!({"data": encoded(&json!({"shipped": true}))});
        server.ok(
            "promise.settle",
            json!({"id": id, "state": "resolved", "value": value}),
        );
        let (code, screen) = terminal.end();
        assert_eq!(
            (code, screen.as_str()),
            (Some(0), "{\n  \"shipped\": true\n}")
        );
    }
}

#[test]
fn ctrl_c_takes_the_spinner_away() {
    let server = Server::single();
    let invoke = ["invoke", "r", "-f", "order", "--target", NOBODY, "--wait"];
    let mut terminal = Terminal::start(&mut server.command(&invoke), 80);
    terminal.shows("s r (rpc order)");
    terminal.signal(Signal::Interrupt);
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(130));
    assert_eq!(
        screen,
        "r goes on without this command. To wait for it again:\n\n  resonate promises await r"
    );
    assert_eq!(server.client().get("r")["state"], "pending");
}

#[test]
fn a_server_for_development_says_where_it_is_and_what_to_try() {
    let home = tempfile::tempdir().unwrap();
    let mut args = serve_args(":memory:");
    args[0] = "dev".to_owned();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut terminal = Terminal::start(command("", &args).current_dir(home.path()), 100);
    terminal.shows("invoke hello.1 --func hello --arg world --wait");
    let contents = terminal.contents();
    let url = contents
        .lines()
        .find_map(|line| line.trim().strip_prefix("Server "));
    let url = url.expect("the server has a URL").trim();
    // What is there to paste finds the server.
    let line = format!("resonate -S {url} invoke hello.1 --func hello --arg world --wait");
    assert!(contents.contains(&line), "{contents}");
    let done = crate::harness::command::run(&mut command(url, &["promises", "search"]));
    done.expect(0, "{\n  \"promises\": []\n}\n", "");
    terminal.signal(Signal::Term);
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn help_is_read_on_a_terminal_too() {
    let server = Server::single();
    let terminal = shown(&server, &["promises", "create", "--help"], 80);
    assert!(
        terminal
            .contents()
            .contains("$ resonate promises create approval-7 --timeout 7d")
    );
    let longest = terminal
        .contents()
        .lines()
        .map(|line| line.chars().count())
        .max();
    assert!(longest <= Some(80));
}

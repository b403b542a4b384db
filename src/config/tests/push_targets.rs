//! Where pushes may go: lists from every layer, and what is told about entries that are none.

use super::*;

const ALLOW: &str = "transports.http_push.allow";
const DENY: &str = "transports.http_push.deny";

fn texts(list: &[PushTarget]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn anywhere_is_the_default() {
    let push = given().config().transports.http_push;
    assert!(push.allow.is_empty() && push.deny.is_empty());
}

#[test]
fn lists_come_from_every_layer() {
    let list = ["<metadata>", "*.Example.com", "10.0.0.0/8", "::1", "*"];
    let toml = format!("{DENY} = {list:?}");
    let variable = keys::environment_variable(DENY);
    for given in [
        given().file(&toml),
        given().env(&variable, &format!("{list:?}")),
        given().env(&variable, &list.join(", ")),
        given().flag(DENY, list.to_vec()),
    ] {
        assert_eq!(texts(&given.config().transports.http_push.deny), list);
    }
}

#[test]
fn what_is_no_target_is_refused_by_name() {
    for entry in ["http://a", "a:80", "<local>", "10.0.0.0/33", "", "a.*"] {
        for key in [ALLOW, DENY] {
            assert_eq!(
                given().file(&format!("{key} = [\"a\", {entry:?}]")).error(),
                format!(
                    "{key} must be a list of hosts (\"a.example.com\", \"*.example.com\", \"*\"), \
                     addresses, networks (\"10.0.0.0/8\") or \"<loopback>\", \"<metadata>\", \
                     \"<private>\" (got {entry:?}) (from resonate.toml)"
                )
            );
        }
    }
    let error = given().file(&format!("{DENY} = 7")).error();
    assert_eq!(
        error,
        format!("{DENY} must be a list of strings (got 7) (from resonate.toml)")
    );
}

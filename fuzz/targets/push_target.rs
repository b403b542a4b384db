//! Where pushes may go (`transports.http_push.allow`, `.deny`): what is within the machine, the link or the
//! network is known as such however it is spelled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use resonate::config::PushTarget;
use resonate::protocol::address::{Address, Rules};
use resonate::transport::http_push::targets::{Refusal, Targets};
use url::{Host, Url};

/// The entries of the deny list in a line, blanks between; then an address.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (entries, address) = text.split_once('\n').unwrap_or((text, "http://a"));
    let entries: Vec<PushTarget> = entries
        .split(' ')
        .filter_map(|entry| entry.parse().ok())
        .collect();
    for entry in &entries {
        assert_eq!(entry.to_string().parse().as_ref(), Ok(entry));
    }
    let Some(Address::Http { url }) = Address::parse(address, &Rules::default()) else {
        return;
    };
    let url = Url::parse(&url).expect("what is pushed to is a URL");
    is_one_or_the_other(&entries, &url);
    match url.host() {
        Some(Host::Ipv4(address)) => is_known_by_its_kind(address, &url),
        Some(Host::Ipv6(address)) => {
            if let Some(narrow) = address.to_ipv4_mapped() {
                is_known_by_its_kind(narrow, &url);
            }
            let is_local = address.is_loopback()
                || address.is_unspecified()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || address.is_multicast();
            assert!(!is_local || is_inside(&url), "{url}");
        }
        _ => {}
    }
}

/// The same list allows exactly what it denies, but for what only reaches it in the end.
fn is_one_or_the_other(entries: &[PushTarget], url: &Url) {
    let deny = Targets {
        deny: entries.to_vec(),
        ..Targets::default()
    };
    let denied = deny.check_url(url);
    assert_ne!(denied, Err(Refusal::NotAllowed));
    if entries.is_empty() {
        assert_eq!(denied, Ok(()));
        return;
    }
    let allow = Targets {
        allow: entries.to_vec(),
        ..Targets::default()
    };
    let allowed = allow.check_url(url);
    assert_ne!(allowed, Err(Refusal::Denied));
    if !matches!(url.host(), Some(Host::Domain(_))) && allowed.is_ok() {
        assert_eq!(denied, Err(Refusal::Denied), "{url}");
    }
    let both = Targets {
        allow: entries.to_vec(),
        deny: entries.to_vec(),
    };
    assert!(denied.is_ok() || both.check_url(url) == Err(Refusal::Denied));
}

fn is_known_by_its_kind(address: Ipv4Addr, url: &Url) {
    let is_local = address.is_loopback()
        || address.is_unspecified()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast();
    assert!(!is_local || is_inside(url), "{url}");
    for other in [
        IpAddr::V4(address),
        address.to_ipv6_mapped().into(),
        Ipv6Addr::from((0x64_ff9b << 96) | u128::from(address.to_bits())).into(),
    ] {
        let mut spelled = url.clone();
        spelled.set_ip_host(other).expect("it has a host");
        assert_eq!(is_inside(&spelled), is_inside(url), "{spelled}");
    }
}

fn is_inside(url: &Url) -> bool {
    let names = ["<loopback>", "<metadata>", "<private>"];
    let deny = names.map(|name| name.parse().expect("it is documented"));
    let targets = Targets {
        deny: deny.to_vec(),
        ..Targets::default()
    };
    targets.check_url(url).is_err()
}

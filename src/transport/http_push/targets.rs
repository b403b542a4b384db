//! Where pushes may go: `transports.http_push.allow` and `.deny`.
//!
//! Clients choose the addresses that this server posts to, from inside the network that it is in. What is
//! checked is therefore what a connection is about to be made to: an address that stands in a URL before
//! the push, and every address that a name resolves to as it is resolved for that connection. A name that
//! resolves otherwise the next time is checked the next time.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// What reaches this machine itself.
const LOOPBACK: [&str; 4] = ["127.0.0.0/8", "0.0.0.0/8", "::1/128", "::/128"];
/// Where machines in a cloud are told their credentials, and all else that is only on the link.
const METADATA: [&str; 7] = [
    "169.254.0.0/16",
    "fe80::/10",
    "fd00:ec2::/32",
    "fd20:ce::254/128",
    "fd00:c1::a9fe:a9fe/128",
    "100.100.100.200/32",
    "168.63.129.16/32",
];
/// What the Internet has no routes to, but for the two above.
const PRIVATE: [&str; 11] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "192.0.0.0/24",
    "198.18.0.0/15",
    "224.0.0.0/3",
    "fc00::/7",
    "fec0::/10",
    "64:ff9b:1::/48",
    "ff00::/8",
];

/// An entry of one of the lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    text: String,
    matcher: Matcher,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Matcher {
    /// `*`
    Any,
    /// `workers.example.com`
    Host(String),
    /// `*.example.com`, without the asterisk: `.example.com`.
    Subdomains(String),
    /// `10.0.0.0/8`, `::1`, `<private>`
    Networks(Vec<IpNet>),
}

/// A text that is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "hosts (\"a.example.com\", \"*.example.com\", \"*\"), addresses, networks (\"10.0.0.0/8\") or \
     \"<loopback>\", \"<metadata>\", \"<private>\""
)]
pub struct BadEntry;

impl FromStr for Entry {
    type Err = BadEntry;

    fn from_str(text: &str) -> Result<Entry, BadEntry> {
        let matcher = match text {
            "*" => Matcher::Any,
            "<loopback>" => Matcher::Networks(networks(&LOOPBACK)),
            "<metadata>" => Matcher::Networks(networks(&METADATA)),
            "<private>" => Matcher::Networks(networks(&PRIVATE)),
            text => Matcher::of(text).ok_or(BadEntry)?,
        };
        Ok(Entry {
            text: text.to_owned(),
            matcher,
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Matcher {
    fn of(text: &str) -> Option<Matcher> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Some(Matcher::Networks(vec![canonical_network(network)]));
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Some(Matcher::address(address.into()));
        }
        if let Some(parent) = text.strip_prefix("*.") {
            return Some(Matcher::Subdomains(format!(".{}", domain(parent)?)));
        }
        // As the host of an address is read: in lower case, and numbers in any of their forms.
        match Host::parse(text).ok()? {
            Host::Ipv4(address) => Some(Matcher::address(address.into())),
            Host::Ipv6(address) => Some(Matcher::address(address.into())),
            Host::Domain(_) => domain(text).map(Matcher::Host),
        }
    }

    fn address(address: IpAddr) -> Matcher {
        Matcher::Networks(vec![address.to_canonical().into()])
    }

    fn has_name(&self, name: &str) -> bool {
        match self {
            Matcher::Any => true,
            Matcher::Host(host) => host == name,
            Matcher::Subdomains(parent) => name.ends_with(parent),
            Matcher::Networks(_) => false,
        }
    }

    fn has_address(&self, address: IpAddr) -> bool {
        match self {
            Matcher::Any => true,
            Matcher::Networks(networks) => networks.iter().any(|one| one.contains(&address)),
            Matcher::Host(_) | Matcher::Subdomains(_) => false,
        }
    }
}

fn networks(texts: &[&str]) -> Vec<IpNet> {
    let networks = texts.iter().map(|text| text.parse());
    networks
        .map(|network| network.expect("a constant"))
        .collect()
}

/// A network of IPv4 addresses in the form of IPv6 ones, as the former.
fn canonical_network(network: IpNet) -> IpNet {
    let IpNet::V6(wide) = network else {
        return network;
    };
    let narrow = wide
        .addr()
        .to_ipv4_mapped()
        .zip(wide.prefix_len().checked_sub(96));
    let narrow = narrow.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok());
    narrow.map_or(network, IpNet::V4)
}

/// A name as the host of a URL has it, without the dot at its end. None if it is none.
fn domain(text: &str) -> Option<String> {
    let Host::Domain(name) = Host::parse(text).ok()? else {
        return None;
    };
    // URLs have names that no resolver has.
    let is_label = |label: &str| {
        let mut bytes = label.bytes();
        !label.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let name = without_root(&name);
    name.split('.').all(is_label).then(|| name.to_owned())
}

fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Why a target is not pushed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is on the one list.
    #[error("refused by transports.http_push.deny")]
    Denied,
    /// It is not on the other.
    #[error("not in transports.http_push.allow")]
    NotAllowed,
}

/// Where pushes may go: wherever `allow` says, or anywhere if it says nothing, but for where `deny` says.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Names and addresses.
    pub allow: Vec<Entry>,
    /// Names and addresses.
    pub deny: Vec<Entry>,
}

impl Targets {
    /// What can be said of a URL before its host is resolved.
    ///
    /// # Errors
    /// When nothing may be pushed to it, whatever it resolves to.
    pub fn check_url(&self, url: &Url) -> Result<(), Refusal> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(None, address.into()),
            Some(Host::Ipv6(address)) => self.check_address(None, address.into()),
            Some(Host::Domain(name)) => self.check_name(without_root(name)),
            None => Err(Refusal::NotAllowed),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        if has_name(&self.deny, name) {
            return Err(Refusal::Denied);
        }
        let may_be_allowed = self.allow.is_empty()
            || has_name(&self.allow, name)
            || (self.allow.iter()).any(|entry| matches!(entry.matcher, Matcher::Networks(_)));
        may_be_allowed.then_some(()).ok_or(Refusal::NotAllowed)
    }

    /// Whether a connection may be made to an address, which is what `name` has been resolved to, if
    /// there is one.
    fn check_address(&self, name: Option<&str>, address: IpAddr) -> Result<(), Refusal> {
        let address = address.to_canonical();
        let mut faces = std::iter::once(address).chain(embedded(address));
        if faces.any(|face| has_address(&self.deny, face)) {
            return Err(Refusal::Denied);
        }
        let is_allowed = self.allow.is_empty()
            || name.is_some_and(|name| has_name(&self.allow, name))
            || has_address(&self.allow, address);
        is_allowed.then_some(()).ok_or(Refusal::NotAllowed)
    }

    /// Those of the addresses of a name that connections may be made to; one at least.
    fn permitted(
        &self,
        name: &str,
        found: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let mut refusal = None;
        let mut permitted = Vec::new();
        for address in found {
            match self.check_address(Some(name), address.ip()) {
                Ok(()) => permitted.push(address),
                Err(reason) => refusal = Some(reason),
            }
        }
        match refusal {
            Some(refusal) if permitted.is_empty() => Err(refusal),
            _ => Ok(permitted),
        }
    }
}

fn has_name(entries: &[Entry], name: &str) -> bool {
    entries.iter().any(|entry| entry.matcher.has_name(name))
}

fn has_address(entries: &[Entry], address: IpAddr) -> bool {
    let mut entries = entries.iter();
    entries.any(|entry| entry.matcher.has_address(address))
}

/// The IPv4 address that packets to an IPv6 one may be translated to, or tunnelled to, on the way:
/// NAT64, 6to4 and what was there before them.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let last = |high: u16, low: u16| {
        let bits = u32::from(high) << 16 | u32::from(low);
        Some(Ipv4Addr::from_bits(bits).into())
    };
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => last(high, low),
        [0x2002, high, low, ..] => last(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => last(high, low),
        _ => None,
    }
}

type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Resolves names to those addresses that may be connected to.
pub(super) struct Resolver<L> {
    pub targets: Arc<Targets>,
    pub lookup: L,
}

impl<L: Fn(String) -> Found + Send + Sync> Resolve for Resolver<L> {
    fn resolve(&self, name: Name) -> Resolving {
        let targets = Arc::clone(&self.targets);
        let name = without_root(name.as_str()).to_owned();
        let found = targets
            .check_name(&name)
            .map(|()| (self.lookup)(name.clone()));
        Box::pin(async move {
            let permitted = targets.permitted(&name, found?.await?)?;
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

/// Asks the system, as any program does.
pub(super) fn system(name: String) -> Found {
    Box::pin(async move {
        // The port is the URL's.
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(texts: &[&str]) -> Vec<Entry> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn check(allow: &[&str], deny: &[&str], url: &str) -> Result<(), Refusal> {
        let targets = Targets {
            allow: entries(allow),
            deny: entries(deny),
        };
        targets.check_url(&Url::parse(url).unwrap())
    }

    /// Every spelling of an address that URLs have.
    #[test]
    fn an_address_is_known_in_every_form() {
        for (entry, url) in [
            ("<loopback>", "http://127.0.0.1/"),
            ("<loopback>", "http://127.1/"),
            ("<loopback>", "http://2130706433/"),
            ("<loopback>", "http://0x7f000001/"),
            ("<loopback>", "http://0177.0.0.1/"),
            ("<loopback>", "http://127.0.0.1./"),
            ("<loopback>", "http://127。0。0。1/"),
            ("<loopback>", "http://%31%32%37.0.0.1/"),
            ("<loopback>", "http://0/"),
            ("<loopback>", "http://[::1]/"),
            ("<loopback>", "http://[::]/"),
            ("<loopback>", "http://[::ffff:127.0.0.1]/"),
            ("<loopback>", "http://[::ffff:7f00:1]/"),
            ("<loopback>", "http://[64:ff9b::7f00:1]/"),
            ("<loopback>", "http://[2002:7f00:1::]/"),
            ("<loopback>", "http://[::127.0.0.1]/"),
            ("<metadata>", "http://169.254.169.254/latest/meta-data"),
            ("<metadata>", "http://[::ffff:169.254.169.254]/"),
            ("<metadata>", "http://[fd00:ec2::254]/"),
            ("<metadata>", "http://[fe80::1]/"),
            ("<metadata>", "http://100.100.100.200/"),
            ("<private>", "http://10.1.2.3/"),
            ("<private>", "http://172.31.255.255/"),
            ("<private>", "http://192.168.0.1/"),
            ("<private>", "http://[fd12::1]/"),
            ("<private>", "http://255.255.255.255/"),
            ("10.0.0.0/8", "http://[::ffff:10.1.1.1]/"),
            ("::ffff:10.0.0.0/104", "http://10.1.1.1/"),
            ("::ffff:10.1.1.1", "http://10.1.1.1/"),
            ("[::1]", "http://[::1]/"),
            ("0x7f.1", "http://127.0.0.1/"),
            ("2001:db8::/32", "http://[2001:db8::1]/"),
        ] {
            assert_eq!(check(&[], &[entry], url), Err(Refusal::Denied), "{url}");
            assert_eq!(check(&[], &[], url), Ok(()), "{url}");
        }
        for url in ["http://172.32.0.1/", "http://8.8.8.8/", "http://[2600::1]/"] {
            let all = ["<loopback>", "<metadata>", "<private>"];
            assert_eq!(check(&[], &all, url), Ok(()), "{url}");
        }
    }

    #[test]
    fn names_match_whole_labels_in_any_case() {
        let denied = Err(Refusal::Denied);
        for (entry, url, verdict) in [
            ("a.example.com", "http://A.Example.COM./x", denied),
            ("A.EXAMPLE.com.", "http://a.example.com/x", denied),
            ("a.example.com", "http://b.a.example.com/", Ok(())),
            ("*.example.com", "http://b.a.example.com/", denied),
            ("*.example.com", "http://example.com/", Ok(())),
            ("*.example.com", "http://badexample.com/", Ok(())),
            ("bücher.example", "http://xn--bcher-kva.example/", denied),
            ("*", "http://anything/", denied),
            ("*", "http://1.2.3.4/", denied),
        ] {
            assert_eq!(check(&[], &[entry], url), verdict, "{entry} {url}");
        }
    }

    #[test]
    fn only_what_is_allowed_and_not_denied_is_pushed_to() {
        let refused = Err(Refusal::NotAllowed);
        for (allow, url, verdict) in [
            (&["*.run.app"][..], "https://a.run.app/", Ok(())),
            (&["*.run.app"], "https://run.app.evil.example/", refused),
            (&["*.run.app"], "http://10.0.0.1/", refused),
            (&["10.0.0.0/8"], "http://10.0.0.1/", Ok(())),
            (&["10.0.0.0/8"], "http://11.0.0.1/", refused),
            // Not by what it may be translated to.
            (&["10.0.0.0/8"], "http://[64:ff9b::a00:1]/", refused),
            // It depends on what it resolves to.
            (&["10.0.0.0/8"], "http://somewhere/", Ok(())),
        ] {
            assert_eq!(check(allow, &[], url), verdict, "{allow:?} {url}");
        }
        let denied = check(&["*"], &["<metadata>"], "http://169.254.169.254/");
        assert_eq!(denied, Err(Refusal::Denied));
    }

    #[test]
    fn of_the_addresses_of_a_name_only_the_permitted_ones_remain() {
        let addresses = ["10.0.0.1:0", "1.2.3.4:0", "[::ffff:10.0.0.2]:0"];
        let addresses = addresses.map(|address| address.parse::<SocketAddr>().unwrap());
        let deny = Targets {
            deny: entries(&["<private>"]),
            ..Targets::default()
        };
        assert_eq!(deny.permitted("n", addresses), Ok(vec![addresses[1]]));
        let refused = deny.permitted("n", [addresses[0], addresses[2]]);
        assert_eq!(refused, Err(Refusal::Denied));
        let allow = Targets {
            allow: entries(&["10.0.0.0/8", "n"]),
            ..Targets::default()
        };
        assert_eq!(allow.permitted("n", addresses), Ok(addresses.to_vec()));
        let of_another = allow.permitted("m", addresses);
        assert_eq!(of_another, Ok(vec![addresses[0], addresses[2]]));
    }

    #[test]
    fn nonsense_is_no_entry() {
        for text in [
            "",
            " ",
            "a b",
            "http://a",
            "a/b",
            "a:80",
            "*.",
            "*.*",
            "a.*",
            "<x>",
            "10.0.0.0/33",
            "1.2.3.4/",
            "*.1.2.3.4",
            "[::1",
            "a,b",
            "user@a",
            "<loopback",
        ] {
            assert_eq!(text.parse::<Entry>(), Err(BadEntry), "{text:?}");
        }
    }
}

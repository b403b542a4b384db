//! What `resonate dev` says when it is ready.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;

use console::style;

use super::output;
use super::session::DEFAULT_SERVER;
use crate::config::{Backend, Config};

const NAME: &str = concat!("resonate ", env!("CARGO_PKG_VERSION"));

/// Prints where the server is and what to try, if somebody is there to read it.
pub fn show(config: &Config, address: SocketAddr) {
    if io::stdout().is_terminal() {
        // A terminal that is gone takes no greeting.
        let _ = output::print(&text(config, address));
    }
}

fn text(config: &Config, address: SocketAddr) -> String {
    let url = config.server.public_url(address.port());
    let mut text = format!("\n{} for development", style(NAME).bold());
    if config.storage.backend == Backend::Sqlite && config.storage.sqlite.is_memory() {
        text += ": all is in memory, and gone when it stops";
    }
    text += &format!("\n\n  Server   {}\n", style(&url).cyan());
    let metrics_port = config.observability.metrics_port;
    if metrics_port != 0 {
        let metrics = format!("http://{}:{metrics_port}/metrics", config.server.host);
        text += &format!("  Metrics  {}\n", style(metrics).cyan());
    }
    let server = match url.as_str() {
        DEFAULT_SERVER => String::new(),
        _ => format!(" -S {url}"),
    };
    text += "\nWith a worker that has a function `hello`:\n\n";
    let line = format!("resonate{server} invoke hello.1 --func hello --arg world --wait");
    text + &format!("  {}\n\n", style(line).green())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_paste_names_the_server_unless_it_is_the_default() {
        let mut config = Config::default();
        config.storage.sqlite.path = ":memory:".to_owned();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            text(&config, SocketAddr::from(([0, 0, 0, 0], 8001))),
            format!(
                "\nresonate {version} for development: all is in memory, and gone when it stops\n\n  \
                 Server   http://localhost:8001\n  \
                 Metrics  http://localhost:9090/metrics\n\n\
                 With a worker that has a function `hello`:\n\n  \
                 resonate invoke hello.1 --func hello --arg world --wait\n\n"
            )
        );
        config.observability.metrics_port = 0;
        config.storage.sqlite.path = "kept.db".to_owned();
        assert_eq!(
            text(&config, SocketAddr::from(([127, 0, 0, 1], 4711))),
            format!(
                "\nresonate {version} for development\n\n  \
                 Server   http://localhost:4711\n\n\
                 With a worker that has a function `hello`:\n\n  \
                 resonate -S http://localhost:4711 invoke hello.1 --func hello --arg world --wait\n\n"
            )
        );
    }
}

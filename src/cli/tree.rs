//! `resonate tree` (`cli.md` §6).

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use console::{Term, measure_text_width, style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::graph::{Graph, Line};
use super::interrupt::Interrupt;
use super::output::{self, dim, time};
use super::progress::pause;
use super::session::{Failure, Flags, Format, Session};
use crate::client::{self, Error, clock};
use crate::protocol::record::{Millis, Promise};

/// A graph grows without a message: it has to be looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(super) struct Command {
    /// Id of the promise at the root
    id: String,
    /// Show it again whenever it changes, until the root is settled
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    pub flags: Flags,
}

/// What is answered to `promise.search`, in the order of the tree.
#[derive(Serialize)]
struct Answer<'a> {
    promises: Vec<&'a Promise>,
}

impl Command {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        let graph = Graph::fetch(&session.client, &self.id).await?;
        if self.watch && !graph.is_settled() {
            return watch(session, &graph, &self.id).await;
        }
        print(session, &graph)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn print(session: &Session, graph: &Graph) -> Result<(), Failure> {
    if session.format == Some(Format::Json) {
        let lines = graph.lines().into_iter();
        let promises = lines.filter_map(|line| line.promise).collect();
        return output::print(&output::json(&Answer { promises })?);
    }
    output::print(&drawing(session, graph))
}

/// Lines as scripts know them, or with states and times for people.
fn drawing(session: &Session, graph: &Graph) -> String {
    if !session.is_text() {
        return shape(graph);
    }
    let now = clock::now_ms();
    let lines = graph.lines();
    let lines: Vec<String> = lines.iter().map(|line| readable(line, now)).collect();
    lines.join("\n")
}

fn shape(graph: &Graph) -> String {
    let lines = graph.lines();
    let lines = lines
        .iter()
        .map(|line| format!("{}{}{}", line.prefix, line.id, line.description()));
    lines.collect::<Vec<String>>().join("\n")
}

fn readable(line: &Line, now: Millis) -> String {
    let id = style(output::clean_line(line.id)).bold();
    let description = output::clean_line(&line.description());
    let prefix = dim(&line.prefix);
    let Some(promise) = line.promise else {
        return format!("{prefix}{id}");
    };
    let state = output::promise_state(promise.state).apply_to(promise.state.as_str());
    let until = promise.settled_at.unwrap_or(now);
    let took = time::span(until.saturating_sub(promise.created_at));
    format!("{prefix}{id}{description}  {state} {}", dim(took))
}

/// Shows the graph until its root is settled, or, without one, all that is below. Ctrl-C leaves what
/// was shown last.
async fn watch(session: &Session, graph: &Graph, root: &str) -> Result<ExitCode, Failure> {
    let mut interrupt = Interrupt::listen()?;
    let mut screen = Screen::new(session);
    screen.show(session, graph)?;
    let settled = async {
        match client::settled(&session.client, root, |_| {}).await {
            Ok(_) => Ok(()),
            Err(Error::Refused { status: 404, .. }) => std::future::pending().await,
            Err(error) => Err(Failure::from(error)),
        }
    };
    let over = async {
        tokio::select! {
            settled = settled => settled?,
            looked = look(session, root, &mut screen) => looked?,
        }
        Graph::fetch(&session.client, root)
            .await
            .map_err(Failure::from)
    };
    let last = tokio::select! {
        last = over => last?,
        () = interrupt.comes() => {
            screen.leave();
            return Ok(Interrupt::exit_code());
        }
    };
    screen.end(session, &last)?;
    Ok(ExitCode::SUCCESS)
}

async fn look(session: &Session, root: &str, screen: &mut Screen) -> Result<(), Failure> {
    let mut asked = Instant::now();
    loop {
        sleep(pause(LOOK_INTERVAL, asked)).await;
        asked = Instant::now();
        match Graph::fetch(&session.client, root).await {
            Ok(graph) if graph.is_settled() => return Ok(()),
            Ok(graph) => screen.show(session, &graph)?,
            // A server that went away comes back.
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// As much as a terminal shows: the root, and the end, where a graph grows.
fn fit(drawing: &str, rows: usize, columns: usize) -> String {
    let height = |line: &&str| measure_text_width(line).div_ceil(columns.max(1)).max(1);
    let lines: Vec<&str> = drawing.lines().collect();
    let fits = |lines: &[&str]| lines.iter().map(height).sum::<usize>() < rows;
    let Some((root, below)) = lines.split_first().filter(|_| !fits(&lines)) else {
        return drawing.to_owned();
    };
    // A row is for what is left out, and the cursor has one too.
    let mut left = rows.saturating_sub(height(root) + 2);
    let ends = below.iter().rev().take_while(|line| {
        let height = height(line);
        let fits = height <= left;
        left = left.saturating_sub(height);
        fits
    });
    let (hidden, shown) = below.split_at(below.len() - ends.count());
    let hidden = dim(format!("… {} more", hidden.len())).to_string();
    [&[*root, &hidden][..], shown].concat().join("\n")
}

/// Where a graph that grows is shown.
enum Screen {
    /// In place.
    Terminal(ProgressBar),
    /// One below the other, an empty line between.
    Log { last: Option<String> },
    /// As JSON, once, at the end.
    Json,
}

impl Screen {
    fn new(session: &Session) -> Screen {
        let stdout = Term::stdout();
        if session.format == Some(Format::Json) {
            return Screen::Json;
        }
        if !stdout.is_term() || console::is_dumb() {
            return Screen::Log { last: None };
        }
        let style = ProgressStyle::with_template("{msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        Screen::Terminal(bar.with_style(style))
    }

    fn show(&mut self, session: &Session, graph: &Graph) -> Result<(), Failure> {
        match self {
            Screen::Json => Ok(()),
            Screen::Terminal(bar) => {
                let (rows, columns) = Term::stdout().size();
                let drawing = drawing(session, graph);
                bar.set_message(fit(&drawing, rows.into(), columns.into()));
                Ok(())
            }
            Screen::Log { last } => {
                // Times go on, but are no news.
                let shape = shape(graph);
                if last.as_ref() == Some(&shape) {
                    return Ok(());
                }
                let gap = if last.is_some() { "\n" } else { "" };
                *last = Some(shape);
                output::print(&format!("{gap}{}", drawing(session, graph)))
            }
        }
    }

    /// Keeps what was shown last.
    fn leave(self) {
        if let Screen::Terminal(bar) = self {
            bar.abandon();
        }
    }

    fn end(mut self, session: &Session, graph: &Graph) -> Result<(), Failure> {
        match &self {
            Screen::Json => print(session, graph),
            Screen::Terminal(bar) => {
                bar.finish_and_clear();
                print(session, graph)
            }
            Screen::Log { .. } => self.show(session, graph),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_higher_than_the_terminal_shows_its_root_and_its_end() {
        let graph = "root\na\nb\nc\nd";
        assert_eq!(fit(graph, 6, 80), graph);
        assert_eq!(fit(graph, 5, 80), "root\n… 2 more\nc\nd");
        assert_eq!(fit(graph, 4, 80), "root\n… 3 more\nd");
        assert_eq!(fit(graph, 1, 80), "root\n… 4 more");
        assert_eq!(fit(graph, 0, 0), "root\n… 4 more");
        // Each of these takes two rows.
        assert_eq!(fit("root\nabc\nabc", 5, 2), "root\n… 2 more");
        assert_eq!(fit("root\nabc\nabc", 6, 2), "root\n… 1 more\nabc");
    }
}

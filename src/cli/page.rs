//! Which part of a list a command asks for.

use clap::Args;

/// A page.
#[derive(Args)]
pub(super) struct Page {
    /// How many, 1 to 1000
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        allow_negative_numbers = true
    )]
    pub limit: i64,
    /// Where the page before this one ended: its `cursor`
    #[arg(long)]
    pub cursor: Option<String>,
}

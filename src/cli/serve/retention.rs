//! The flags of `[retention]`.

use clap::Args;

use super::Given;

#[derive(Args, Default)]
#[command(next_help_heading = "Retention")]
pub(super) struct RetentionFlags {
    /// For how long a tree of promises is kept after the last of them has settled, in milliseconds; 0: for
    /// ever
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    retention_after: Option<i64>,
    /// For how long trees are kept whose root has a tag, instead of --retention-after: milliseconds, a
    /// space, tag=value; repeatable
    #[arg(long, value_name = "RULE")]
    retention_rule: Option<Vec<String>>,
    /// Promises deleted in one transaction, at most 1000
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    retention_batch_size: Option<i64>,
    /// Promises deleted in a second, at most
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    retention_rate: Option<i64>,
    /// Pause between two walks over all promises, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    retention_interval: Option<i64>,
}

impl RetentionFlags {
    pub(super) fn given(self, given: &mut Given) {
        given.add("retention.after", self.retention_after);
        given.add("retention.rules", self.retention_rule);
        given.add("retention.batch_size", self.retention_batch_size);
        given.add("retention.rate", self.retention_rate);
        given.add("retention.interval", self.retention_interval);
    }
}

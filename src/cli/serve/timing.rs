//! The flags of `[tasks]`, `[timeouts]` and `[messages]`.

use clap::Args;

use super::Given;

#[derive(Args, Default)]
#[command(next_help_heading = "Tasks, timeouts and messages")]
pub(super) struct TimingFlags {
    /// Lease of tasks that the server itself runs, in milliseconds; workers bring their own
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    tasks_lease_timeout: Option<i64>,
    /// After how long a pending task is offered again, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    tasks_retry_timeout: Option<i64>,
    /// Interval of the repair sweep for timeouts, leases, retries and schedules, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    timeouts_poll_interval: Option<i64>,
    /// Interval of the repair sweep for undelivered messages, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    messages_poll_interval: Option<i64>,
    /// How many entries of a kind one repair sweep takes
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    messages_batch_size: Option<i64>,
    /// Age at which an undelivered unblock message is given up, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    messages_unblock_ttl: Option<i64>,
}

impl TimingFlags {
    pub(super) fn given(self, given: &mut Given) {
        given.add("tasks.lease_timeout", self.tasks_lease_timeout);
        given.add("tasks.retry_timeout", self.tasks_retry_timeout);
        given.add("timeouts.poll_interval", self.timeouts_poll_interval);
        given.add("messages.poll_interval", self.messages_poll_interval);
        given.add("messages.batch_size", self.messages_batch_size);
        given.add("messages.unblock_ttl", self.messages_unblock_ttl);
    }
}

//! What the transports that use Google's clients share.

use std::error::Error;

/// What is wrong with credentials, in the words that quote no answer: an answer may hold anything.
pub(super) fn reason(error: &(dyn Error + 'static)) -> String {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<google_cloud_gax::error::Error>()
            && let Some(status) = error.http_status_code()
        {
            return format!("{reason} (status {status})");
        }
        if let Some(error) = inner.downcast_ref::<std::io::Error>() {
            reason = format!("{reason} ({})", error.kind());
        }
        cause = inner.source();
    }
    reason
}

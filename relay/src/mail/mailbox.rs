//! Mail into a directory, for development: a file a mail, named by its Message-ID, complete as soon as it is there.

use std::path::Path;

use super::message::Mail;
use crate::deliver::{Lease, Outcome};

/// Writes a mail. The same mail again replaces its file.
pub async fn deliver(directory: &Path, mail: &Mail, lease: &Lease) -> Outcome {
    let target = directory.join(format!("{}.eml", mail.id));
    let partial = directory.join(format!(".{}.{}", mail.id, std::process::id()));
    if let Err(error) = tokio::fs::write(&partial, &mail.bytes).await {
        return Outcome::Away(format!("the mailbox directory can't be written to ({})", error.kind()));
    }
    if let Err(lost) = lease.begin() {
        let _ = tokio::fs::remove_file(&partial).await;
        return lost.into();
    }
    match tokio::fs::rename(&partial, &target).await {
        Ok(()) => Outcome::Succeeded,
        Err(error) => Outcome::Away(format!("the mailbox directory can't be written to ({})", error.kind())),
    }
}

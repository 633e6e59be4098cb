//! Mail into a directory, for development: a file a mail, named by its Message-ID, complete as soon as it is there.

use std::io;
use std::path::Path;

use super::message::Mail;
use crate::deliver::{Lease, Outcome};

/// Writes a mail. The same mail again replaces its file.
pub async fn deliver(directory: &Path, mail: &Mail, lease: &Lease) -> Outcome {
    let target = directory.join(format!("{}.eml", mail.id));
    let partial = directory.join(format!(".{}.{}", mail.id, std::process::id()));
    if let Err(error) = write(directory, &partial, &mail.bytes).await {
        return away(&error);
    }
    if let Err(lost) = lease.begin() {
        let _ = tokio::fs::remove_file(&partial).await;
        return lost.into();
    }
    match tokio::fs::rename(&partial, &target).await {
        Ok(()) => Outcome::Succeeded,
        Err(error) => away(&error),
    }
}

/// Writes a file, in a directory that may have been removed meanwhile.
async fn write(directory: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    match tokio::fs::write(file, bytes).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tokio::fs::create_dir_all(directory).await?;
            tokio::fs::write(file, bytes).await
        }
        result => result,
    }
}

fn away(error: &io::Error) -> Outcome {
    Outcome::Away(format!("the mailbox directory can't be written to ({})", error.kind()))
}

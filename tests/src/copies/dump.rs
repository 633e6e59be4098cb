//! Dumps: made with `pg_dump`, loaded with `psql`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use crate::databases::{Database, DatabaseServer, Role};

/// A dump of one database, with its name, owner and rights. Its file goes with the server that it was made of.
#[derive(Debug)]
pub struct Dump {
    name: String,
    file: PathBuf,
    // The file is in its directory.
    _source: Arc<DatabaseServer>,
}

impl Dump {
    /// Dumps a database.
    pub async fn of(database: &Database) -> Result<Self> {
        let source = database.server().clone();
        let site = source.cluster().site();
        let file = site.base().join(format!("{}.sql", uuid::Uuid::new_v4()));
        let url = database.url(Role::Superuser);
        site.run("pg_dump", ["--create".as_ref(), "--file".as_ref(), file.as_os_str(), url.as_ref()]).await?;
        Ok(Self { name: database.name().to_owned(), file, _source: source })
    }

    /// Loads it into a cluster that has the roles, in place of a database of that name if there is one.
    pub async fn load(&self, target: &Arc<DatabaseServer>) -> Result<Database> {
        let client = target.cluster().connect("postgres").await?;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)).await?;
        let url = target.url("postgres", Role::Superuser);
        let quiet = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file"];
        let arguments = quiet.iter().map(AsRef::as_ref).chain([self.file.as_os_str(), url.as_ref()]);
        target.cluster().site().run("psql", arguments).await?;
        Ok(target.existing(&self.name))
    }
}

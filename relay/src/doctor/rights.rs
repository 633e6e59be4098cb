//! What a role may do: what it needs, and no more.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::Notes;
use crate::databases::PATIENCE;
use crate::postgres::{Error, within};

/// `role`: what the role is, whatever it is granted.
const ROLE: &str = "
    SELECT rolname, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls,
           current_setting('default_transaction_read_only') = 'on',
           has_database_privilege(current_database(), 'TEMPORARY'),
           has_database_privilege(current_database(), 'CREATE'),
           ARRAY(SELECT granted.rolname::text
                   FROM pg_auth_members AS membership
                   JOIN pg_roles        AS granted ON granted.oid = membership.roleid
                  WHERE membership.member = pg_roles.oid)
      FROM pg_roles
     WHERE rolname = current_user";

/// `privileges`: what the role may do to which table, as a whole or to some of its columns, and whose it is.
const PRIVILEGES: &str = "
    SELECT namespace.nspname || '.' || class.relname,
           pg_get_userbyid(class.relowner) = current_user,
           array_agg(privilege ORDER BY privilege)
      FROM pg_class     AS class
      JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
     CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,TRIGGER}'::text[]) AS privilege
     WHERE class.relkind IN ('r', 'p', 'v', 'm', 'f')
       AND namespace.nspname NOT IN ('pg_catalog', 'information_schema')
       AND namespace.nspname NOT LIKE 'pg\\_%'
       AND CASE WHEN privilege IN ('SELECT', 'INSERT', 'UPDATE') THEN has_any_column_privilege(class.oid, privilege)
                ELSE has_table_privilege(class.oid, privilege) END
       AND has_schema_privilege(namespace.oid, 'USAGE')
     GROUP BY 1, 2
     ORDER BY 1";

/// What a role has.
pub(super) struct Rights {
    pub(super) name: String,
    pub(super) superuser: bool,
    /// Attributes and memberships beyond a plain login.
    pub(super) extras: Vec<String>,
    pub(super) read_only: bool,
    pub(super) tables: BTreeMap<String, Table>,
}

/// What a role may do to a table.
pub(super) struct Table {
    pub(super) owned: bool,
    pub(super) privileges: Vec<String>,
}

impl Rights {
    pub(super) async fn ask(client: &Client) -> Result<Self, Error> {
        let row = within(PATIENCE, client.query_one(ROLE, &[])).await?;
        let names = ["SUPERUSER", "CREATEDB", "CREATEROLE", "REPLICATION", "BYPASSRLS"];
        let mut extras = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            if row.try_get::<_, bool>(index + 1)? {
                extras.push(name.to_owned());
            }
        }
        let superuser: bool = row.try_get(1)?;
        if !superuser {
            for (index, name) in [(7, "TEMPORARY on the database"), (8, "CREATE on the database")] {
                if row.try_get::<_, bool>(index)? {
                    extras.push(name.to_owned());
                }
            }
        }
        extras.extend(row.try_get::<_, Vec<String>>(9)?.into_iter().map(|role| format!("membership in {role}")));
        let mut tables = BTreeMap::new();
        for row in within(PATIENCE, client.query(PRIVILEGES, &[])).await? {
            tables.insert(row.try_get(0)?, Table { owned: row.try_get(1)?, privileges: row.try_get(2)? });
        }
        Ok(Self { name: row.try_get(0)?, superuser, extras, read_only: row.try_get(6)?, tables })
    }

    /// Which of some privileges on a table are missing.
    pub(super) fn missing<'a>(&self, table: &str, needed: &[&'a str]) -> Vec<&'a str> {
        let has =
            |privilege: &str| self.tables.get(table).is_some_and(|of| of.privileges.iter().any(|has| has == privilege));
        needed.iter().copied().filter(|privilege| !has(privilege)).collect()
    }

    /// Says what the role has beyond what it needs; `expected` says what it needs on a table.
    pub(super) fn judge_excess(&self, expected: impl Fn(&str, &str) -> bool, remedy: &str, notes: &mut Notes) {
        let mut excess = self.extras.clone();
        // A superuser may do everything anyway: that says it all.
        for (table, of) in self.tables.iter().filter(|(_, of)| !self.superuser && !of.owned) {
            let more: Vec<&str> =
                of.privileges.iter().map(String::as_str).filter(|privilege| !expected(table, privilege)).collect();
            if !more.is_empty() {
                excess.push(format!("{} on {table}", more.join(", ")));
            }
        }
        let owned: Vec<&str> =
            self.tables.iter().filter(|(_, of)| of.owned && !self.superuser).map(|(table, _)| table.as_str()).collect();
        if let Some(first) = owned.first() {
            excess.push(format!("it owns {} tables, {first} for one", owned.len()));
        }
        let name = &self.name;
        if excess.is_empty() {
            notes.ok("rights", format!("{name} may do what it needs, and no more"));
            return;
        }
        const SHOWN: usize = 6;
        let rest = excess.len().saturating_sub(SHOWN);
        excess.truncate(SHOWN);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        notes.warning("rights", format!("{name} has more than it needs: {}{more}", excess.join("; ")), remedy);
    }
}

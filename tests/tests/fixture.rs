//! What the database fixture promises: a pair per test, the real roles, and the rights of a migrated database.

use anyhow::Result;
use tests::databases::{Databases, Role};

#[tokio::test]
async fn each_test_has_a_pair_of_its_own() -> Result<()> {
    let (one, other) = (Databases::new().await?, Databases::new().await?);
    let cursors = "UPDATE lane_cursors SET version = version + 1";
    assert_eq!(one.jobs.connect(Role::Jobs).await?.execute(cursors, &[]).await?, 16);
    let moved = "SELECT count(*) FROM lane_cursors WHERE version > 0";
    assert_eq!(one.jobs.connect(Role::Jobs).await?.query_one(moved, &[]).await?.get::<_, i64>(0), 16);
    assert_eq!(other.jobs.connect(Role::Jobs).await?.query_one(moved, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test]
async fn a_clone_lets_in_whom_the_migrations_let_in() -> Result<()> {
    let databases = Databases::new().await?;
    for (database, role, let_in) in [
        (&databases.app, Role::Owner, true),
        (&databases.app, Role::Api, true),
        (&databases.app, Role::Relay, true),
        (&databases.app, Role::Jobs, false),
        (&databases.jobs, Role::Owner, true),
        (&databases.jobs, Role::Jobs, true),
        (&databases.jobs, Role::Api, false),
        (&databases.jobs, Role::Relay, false),
    ] {
        let session = database.connect(role).await;
        assert_eq!(session.is_ok(), let_in, "{role:?} in {}", database.name());
        if let Ok(session) = session {
            let made = session.batch_execute("SET default_transaction_read_only = off; CREATE TEMP TABLE t ()").await;
            assert_eq!(made.is_ok(), role == Role::Owner, "temporary table of {role:?} in {}", database.name());
        }
    }
    Ok(())
}

//! Which jobs, which failures: filters that hold for listing, counting and changing alike.

use serde_json::{Map, Value, json};
use shared::redact::redact;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::Parameters;
use crate::jobs::JobState;

/// A page of a listing: what comes after the last row of the page before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice<K> {
    /// The key of the last row of the page before; none for the first page.
    pub after: Option<K>,
    /// Rows to a page.
    pub limit: i64,
}

impl<K> Slice<K> {
    /// The first page.
    pub fn first(limit: i64) -> Self {
        Self { after: None, limit }
    }
}

/// Which jobs; what is none wants all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobFilter {
    /// These.
    pub job_ids: Option<Vec<Uuid>>,
    /// In one of these states.
    pub states: Option<Vec<JobState>>,
    /// Of one of these kinds.
    pub kinds: Option<Vec<String>>,
    /// Asked for by one of these handlers.
    pub handlers: Option<Vec<String>>,
    /// Made of one of these events.
    pub event_ids: Option<Vec<Uuid>>,
    /// Whose arguments contain this, such as `{"template": "welcome"}`.
    pub args: Option<Value>,
    /// Whose last error holds this text, in capitals or not.
    pub error: Option<String>,
    /// That ended, or have not and were stored, from this time on.
    pub from: Option<OffsetDateTime>,
    /// The same, before this time.
    pub to: Option<OffsetDateTime>,
}

/// The condition of [`JobFilter`], over its eleven parameters. An event's jobs are a range of the primary key, which
/// begins with the event's 48 bits of time: $6 and $7 bound it.
macro_rules! matches_job_filter {
    () => {
        "
           ($1::uuid[] IS NULL OR job_id   = ANY ($1))
       AND ($2::text[] IS NULL OR state    = ANY ($2))
       AND ($3::text[] IS NULL OR kind     = ANY ($3))
       AND ($4::text[] IS NULL OR handler  = ANY ($4))
       AND ($5::uuid[] IS NULL OR event_id = ANY ($5))
       AND ($6::uuid   IS NULL OR job_id  >= $6)
       AND ($7::uuid   IS NULL OR job_id  <= $7)
       AND ($8::jsonb  IS NULL OR args    @> $8)
       AND ($9::text   IS NULL OR position(lower($9) IN lower(last_error)) > 0)
       AND ($10::timestamptz IS NULL OR coalesce(finished_at, created_at) >= $10)
       AND ($11::timestamptz IS NULL OR coalesce(finished_at, created_at) <  $11)"
    };
}
pub(super) use matches_job_filter;

/// A [`JobFilter`] as its statement wants it.
pub(super) struct JobParameters<'a> {
    filter: &'a JobFilter,
    states: Option<Vec<&'static str>>,
    low: Option<Uuid>,
    high: Option<Uuid>,
    args: Option<Json<&'a Value>>,
}

impl JobFilter {
    /// Jobs by their ids.
    pub fn of_jobs(job_ids: impl IntoIterator<Item = Uuid>) -> Self {
        Self { job_ids: Some(job_ids.into_iter().collect()), ..Self::default() }
    }

    /// The jobs of one event.
    pub fn of_event(event_id: Uuid) -> Self {
        Self { event_ids: Some(vec![event_id]), ..Self::default() }
    }

    /// Whether it wants every job.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// For the audit trail and for answers.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        put(&mut fields, "job_ids", self.job_ids.as_ref().map(|ids| json!(ids)));
        put(&mut fields, "states", self.states.as_ref().map(|states| states.iter().map(|s| s.as_str()).collect()));
        put(&mut fields, "kinds", self.kinds.as_ref().map(|kinds| json!(kinds)));
        put(&mut fields, "handlers", self.handlers.as_ref().map(|handlers| json!(handlers)));
        put(&mut fields, "event_ids", self.event_ids.as_ref().map(|ids| json!(ids)));
        put(&mut fields, "args", self.args.clone());
        put(&mut fields, "error", self.error.as_deref().map(|text| redact(text).into()));
        put(&mut fields, "from", self.from.and_then(written));
        put(&mut fields, "to", self.to.and_then(written));
        fields.into()
    }

    pub(super) fn parameters(&self) -> JobParameters<'_> {
        // The prefix is of the event's id, whichever way it was made: so it holds for ids of any version.
        let time = |id: &Uuid| id.as_u128() & !((1 << 80) - 1);
        let times = || self.event_ids.iter().flatten().map(time);
        JobParameters {
            filter: self,
            states: self.states.as_ref().map(|states| states.iter().map(|state| state.as_str()).collect()),
            low: times().min().map(Uuid::from_u128),
            high: times().max().map(|time| Uuid::from_u128(time | ((1 << 80) - 1))),
            args: self.args.as_ref().map(Json),
        }
    }
}

impl JobParameters<'_> {
    pub(super) fn list(&self) -> Parameters<'_> {
        let filter = self.filter;
        vec![
            (&filter.job_ids, Type::UUID_ARRAY),
            (&self.states, Type::TEXT_ARRAY),
            (&filter.kinds, Type::TEXT_ARRAY),
            (&filter.handlers, Type::TEXT_ARRAY),
            (&filter.event_ids, Type::UUID_ARRAY),
            (&self.low, Type::UUID),
            (&self.high, Type::UUID),
            (&self.args, Type::JSONB),
            (&filter.error, Type::TEXT),
            (&filter.from, Type::TIMESTAMPTZ),
            (&filter.to, Type::TIMESTAMPTZ),
        ]
    }
}

/// Which dispatch failures; what is none wants all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FailureFilter {
    /// Of these events.
    pub event_ids: Option<Vec<Uuid>>,
    /// Of one of these handlers.
    pub handlers: Option<Vec<String>>,
    /// Of one aggregate: its type and id.
    pub aggregate: Option<(String, String)>,
    /// Of events of one of these types.
    pub types: Option<Vec<String>>,
    /// Whose error holds this text, in capitals or not.
    pub error: Option<String>,
    /// That failed last from this time on.
    pub from: Option<OffsetDateTime>,
    /// That failed last before this time.
    pub to: Option<OffsetDateTime>,
    /// Whether those that were resolved are wanted too.
    pub resolved_too: bool,
}

/// The condition of [`FailureFilter`], over its nine parameters.
macro_rules! matches_failure_filter {
    () => {
        "
           ($1::uuid[] IS NULL OR event_id       = ANY ($1))
       AND ($2::text[] IS NULL OR handler        = ANY ($2))
       AND ($3::text   IS NULL OR aggregate_type = $3 AND aggregate_id = $4)
       AND ($5::text[] IS NULL OR event_type     = ANY ($5))
       AND ($6::text   IS NULL OR position(lower($6) IN lower(error)) > 0)
       AND ($7::timestamptz IS NULL OR last_failed_at >= $7)
       AND ($8::timestamptz IS NULL OR last_failed_at <  $8)
       AND ($9 OR resolved_at IS NULL)"
    };
}
pub(super) use matches_failure_filter;

impl FailureFilter {
    /// For the audit trail and for answers.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        put(&mut fields, "event_ids", self.event_ids.as_ref().map(|ids| json!(ids)));
        put(&mut fields, "handlers", self.handlers.as_ref().map(|handlers| json!(handlers)));
        put(&mut fields, "aggregate", self.aggregate.as_ref().map(|(of, id)| format!("{of}/{id}").into()));
        put(&mut fields, "types", self.types.as_ref().map(|types| json!(types)));
        put(&mut fields, "error", self.error.as_deref().map(|text| redact(text).into()));
        put(&mut fields, "from", self.from.and_then(written));
        put(&mut fields, "to", self.to.and_then(written));
        put(&mut fields, "resolved_too", self.resolved_too.then_some(true.into()));
        fields.into()
    }

    pub(super) fn parameters(&self) -> Parameters<'_> {
        const NO_TEXT: &Option<String> = &None;
        let (of, id): (&(dyn tokio_postgres::types::ToSql + Sync), &(dyn tokio_postgres::types::ToSql + Sync)) =
            match &self.aggregate {
                Some((of, id)) => (of, id),
                None => (NO_TEXT, NO_TEXT),
            };
        vec![
            (&self.event_ids, Type::UUID_ARRAY),
            (&self.handlers, Type::TEXT_ARRAY),
            (of, Type::TEXT),
            (id, Type::TEXT),
            (&self.types, Type::TEXT_ARRAY),
            (&self.error, Type::TEXT),
            (&self.from, Type::TIMESTAMPTZ),
            (&self.to, Type::TIMESTAMPTZ),
            (&self.resolved_too, Type::BOOL),
        ]
    }
}

fn put(fields: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        fields.insert(name.to_owned(), value);
    }
}

fn written(time: OffsetDateTime) -> Option<Value> {
    time.format(&Rfc3339).ok().map(Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_jobs_are_a_range_of_the_primary_key() {
        let event = Uuid::now_v7();
        let job = crate::jobs::id::job_id(event, "handler", "name", 3);
        let other = crate::jobs::id::job_id(Uuid::from_u128(event.as_u128() + (1 << 80)), "handler", "name", 3);
        let filter = JobFilter::of_event(event);
        let of = filter.parameters();
        assert!(of.low.unwrap() <= job && job <= of.high.unwrap() && other > of.high.unwrap());
        assert!(JobFilter::default().parameters().low.is_none());
    }

    #[test]
    fn the_trail_says_what_was_asked_for_and_keeps_no_address() {
        let filter = JobFilter {
            states: Some(vec![JobState::Dead]),
            error: Some("<ada@example.org> unknown".to_owned()),
            from: OffsetDateTime::from_unix_timestamp(1_800_000_000).ok(),
            ..JobFilter::default()
        };
        let expected = json!({"states": ["dead"], "error": "…@… unknown", "from": "2027-01-15T08:00:00Z"});
        assert_eq!(filter.to_json(), expected);
        assert_eq!(JobFilter::default().to_json(), json!({}));
    }
}

//! What operating shows, for programs. Times are RFC 3339; what is unknown is null.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::audit::ActionRow;
use super::failures::FailureRow;
use super::job::{AttemptRow, JobDetail};
use super::jobs::JobRow;
use super::pauses::{Part, Pause};
use crate::text;

fn at(time: Option<OffsetDateTime>) -> Option<String> {
    time?.format(&Rfc3339).ok()
}

impl JobRow {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "job_id": self.job_id,
            "event_id": self.event_id,
            "handler": self.handler,
            "name": self.name,
            "generation": self.generation,
            "kind": self.kind,
            "state": self.state_name(),
            "attempt": self.attempt,
            "max_attempts": self.max_attempts,
            "crash_count": self.crash_count,
            "run_at": at(self.run_at),
            "expires_at": at(self.expires_at),
            "created_at": at(self.created_at),
            "finished_at": at(self.finished_at),
            "in_doubt": self.in_doubt,
            "last_error": self.last_error,
        })
    }
}

impl JobDetail {
    /// As JSON; the arguments only when they are asked for, for they hold addresses.
    pub fn to_json(&self, with_args: bool) -> Value {
        let mut job = self.row.to_json();
        job["metadata"] = text::json(&self.metadata);
        job["occurred_at"] = json!(at(self.occurred_at));
        job["claim"] = self.claim.into();
        job["held_by"] = json!(self.held_by);
        job["retry"] = json!({
            "initial_seconds": self.retry.initial,
            "multiplier": self.retry.multiplier,
            "max_interval_seconds": self.retry.max_interval,
            "jitter": self.retry.jitter,
            "interval_seconds": self.retry_interval,
        });
        job["attempts"] = self.attempts.iter().map(AttemptRow::to_json).collect();
        if with_args {
            job["args"] = text::json(&self.args);
        }
        job
    }
}

impl AttemptRow {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "claim": self.claim,
            "attempt": self.attempt,
            "started_at": at(self.started_at),
            "duration_seconds": self.duration,
            "outcome": self.outcome,
            "phase": self.phase,
            "code": self.code,
            "error": self.error,
        })
    }
}

impl FailureRow {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "event_id": self.event_id,
            "handler": self.handler,
            "lane": self.lane,
            "aggregate_type": self.aggregate_type,
            "aggregate_id": self.aggregate_id,
            "event_type": self.event_type,
            "attempts": self.attempts,
            "error": self.error,
            "first_failed_at": at(self.first_failed_at),
            "last_failed_at": at(self.last_failed_at),
            "resolved_at": at(self.resolved_at),
        })
    }
}

impl ActionRow {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "action_id": self.action_id,
            "started_at": at(self.started_at),
            "finished_at": at(self.finished_at),
            "operator": self.operator,
            "via": self.via,
            "action": self.action,
            "filter": self.filter,
            "affected": self.affected,
            "reason": self.reason,
        })
    }
}

impl Pause {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        let (part, kind) = match &self.part {
            Part::Dispatch => ("dispatch", None),
            Part::Delivery(kind) => ("delivery", kind.as_ref()),
        };
        json!({
            "part": part, "kind": kind, "paused_at": at(self.paused_at), "paused_by": self.paused_by,
            "reason": self.reason,
        })
    }
}

//! The recipe in the README, compiled and run; the text there must be this very text.

use anyhow::{Context, Result};
use relay::handlers::{HandlerError, Registry};
use relay::jobs::Job;
use serde::{Deserialize, Serialize};
use shared::envelope::Envelope;
use shared::event::Event;

#[derive(Serialize, Deserialize)]
struct InvoicePaid {
    invoice_id: uuid::Uuid,
    cents: i64,
}

impl Event for InvoicePaid {
    const AGGREGATE_TYPE: &'static str = "invoice";
    const TYPE: &'static str = "invoice.paid";
    const VERSION: i32 = 1;
}

fn thank_for_payment(event: &Envelope<InvoicePaid>) -> Result<Vec<Job>, HandlerError> {
    let InvoicePaid { invoice_id, cents } = &event.payload;
    // No clock and no I/O here: whatever takes time is the job's.
    Ok(vec![Job::new("thanks", "thanks", &serde_json::json!({ "invoice_id": invoice_id, "cents": cents }))?])
}

fn register(registry: &mut Registry) -> Result<(), relay::handlers::RegistryError> {
    registry.on("thank_for_payment", thank_for_payment)
}

#[test]
fn the_recipe_compiles_and_registers() -> Result<()> {
    let mut registry = Registry::default();
    register(&mut registry)?;
    assert!(registry.knows("invoice.paid"));

    let readme = std::fs::read_to_string(tests::databases::project_folder().join("README.md"))?;
    let recipe = readme.split("<!-- recipe -->").nth(1).and_then(|rest| rest.split("```").nth(1));
    let recipe = recipe.context("a recipe in the README")?.trim_start_matches("rust");
    let here = include_str!("readme.rs");
    for line in recipe.lines().filter(|line| !line.trim().is_empty()) {
        assert!(here.contains(line), "the README has a line that is not compiled: {line}");
    }
    Ok(())
}

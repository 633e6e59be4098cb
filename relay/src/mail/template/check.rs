//! What is checked at start: that each mail is whole in each of its locales, renders, escapes, and uses what there is.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Serde, Value};
use shared::public_url::PublicUrl;
use shared::settings::Faults;

use super::error::TemplateError;
use super::files::{Files, is_part};
use super::{FALLBACK, PARTS, Templates, VARIABLES, Values};

/// What shows whether it is escaped.
const PROBE: &str = "<i>&\"'{{ 1 }}";

/// Names that the engine gives a meaning to.
const BY_THE_ENGINE: [&str; 4] = ["self", "super", "loop", "caller"];

/// Renders everything; of `own` files, each must have been of use. Returns all that is wrong.
pub(super) fn check(templates: &mut Templates, own: &[String]) -> Vec<TemplateError> {
    let used = load_from(templates);
    // Only with it do errors know their column. It keeps values for whoever prints an error whole: nobody here does.
    templates.environment.set_debug(true);
    let files = templates.files.clone();
    let mut errors = vec![];
    for mail in files.mails() {
        let mut locales: BTreeSet<&str> = files.locales(mail).collect();
        // In another locale any mail may be missing, but none in part.
        locales.insert(FALLBACK);
        errors.extend(locales.iter().filter_map(|locale| whole(templates, mail, locale).err()));
    }
    let used = used.lock().unwrap_or_else(PoisonError::into_inner).clone();
    errors.extend(used.iter().filter_map(|file| unknown_variable(templates, file)));
    errors.extend(
        own.iter()
            .filter(|file| !is_of_use(&files, &used, file))
            .map(|file| TemplateError::of(file, "is used by no mail: is its name misspelt?")),
    );
    templates.environment.set_debug(false);
    let mut told = BTreeSet::new();
    errors.retain(|error| told.insert(error.place()));
    errors
}

/// Whether a file is part of a mail, says something of one, or was loaded by one.
fn is_of_use(files: &Files, used: &BTreeSet<String>, file: &str) -> bool {
    let is_of = |mail: &str| match file.split_once('/') {
        Some((_, file)) => is_part(file, mail),
        None => file.strip_suffix(".json") == Some(mail),
    };
    used.contains(file) || files.mails().any(is_of)
}

/// Lets the engine load from the files, and notes which it does.
fn load_from(templates: &mut Templates) -> Arc<Mutex<BTreeSet<String>>> {
    let used = Arc::new(Mutex::new(BTreeSet::new()));
    let (files, noted): (Arc<Files>, _) = (templates.files.clone(), used.clone());
    templates.environment.set_loader(move |name| {
        Ok(files.load(name).map(|(file, text)| {
            noted.lock().unwrap_or_else(PoisonError::into_inner).insert(file);
            text.to_owned()
        }))
    });
    used
}

/// Renders a mail with values that show whether they are escaped, without a name, and as a sample.
fn whole(templates: &Templates, mail: &str, locale: &str) -> Result<(), TemplateError> {
    let missing = |part: &&&str| templates.files.text(&format!("{locale}/{mail}.{part}")).is_none();
    if let Some(part) = PARTS.iter().find(missing) {
        return Err(TemplateError::of(format!("{locale}/{mail}.{part}"), "is missing"));
    }
    let data = probe(&serde_json::Value::Object(templates.about(mail).sample));
    let data = Value::from(Serde(data));
    let values = Values {
        name: Some(PROBE),
        site: PROBE,
        home: PROBE,
        link: PROBE,
        valid_for: PROBE,
        user_id: PROBE,
        data: &data,
    };
    let (_, text, html) = templates.texts(mail, locale, &values)?;
    let not_as_should_be = |part: &str| {
        Err(TemplateError::of(format!("{locale}/{mail}.{part}"), "values are not escaped as they should be"))
    };
    let shown = html.contains("{{ 1 }}");
    if html.contains("<i>") || (shown && !html.contains("&lt;i&gt;&amp;&quot;")) {
        return not_as_should_be("html");
    }
    if text.contains("&lt;i&gt;") {
        return not_as_should_be("txt");
    }
    templates.texts(mail, locale, &Values { name: None, ..values })?;
    templates.sample(mail, locale, &sample_url()).map(drop)
}

/// The same data with the probe in place of every text.
fn probe(data: &serde_json::Value) -> serde_json::Value {
    match data {
        serde_json::Value::String(_) => PROBE.into(),
        serde_json::Value::Array(list) => list.iter().map(probe).collect(),
        serde_json::Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), probe(value))).collect(),
        other => other.clone(),
    }
}

/// A variable that is not there, also in a branch that no check takes.
fn unknown_variable(templates: &Templates, file: &str) -> Option<TemplateError> {
    let text = templates.files.text(file)?;
    let template = templates.environment.get_template(file).ok()?;
    let by_the_engine: BTreeSet<&str> = templates.environment.globals().map(|(name, _)| name).collect();
    let is_known = |name: &String| {
        let name = name.as_str();
        VARIABLES.contains(&name) || BY_THE_ENGINE.contains(&name) || by_the_engine.contains(name)
    };
    let unknown = template.undeclared_variables(false).into_iter().filter(|name| !is_known(name)).min()?;
    let problem = format!("there is no variable `{unknown}`; there are {}", VARIABLES.join(", "));
    Some(TemplateError::word(file, text, &unknown, problem))
}

/// Where links of samples lead.
fn sample_url() -> PublicUrl {
    let url = PublicUrl::parse(Some("https://example.com".to_owned()), &mut Faults::new());
    url.expect("a good address")
}

//! Filters in the URL: a view can be shared, and gone back to.

use shared::settings::parse_duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// The query of a URL, or the fields of a form: names with values that are not empty.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of a URL after its `?`.
    pub fn parse(query: &str) -> Self {
        Self::of(url::form_urlencoded::parse(query.as_bytes()))
    }

    /// Takes names and values; white space around values goes, and so do empty ones.
    pub fn of(pairs: impl IntoIterator<Item = (impl Into<String>, impl AsRef<str>)>) -> Self {
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.as_ref().trim().to_owned()));
        Self(pairs.filter(|(_, value)| !value.is_empty()).collect())
    }

    /// A value; empty when it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// A value, if it is there.
    pub fn text(&self, name: &str) -> Option<String> {
        Some(self.get(name).to_owned()).filter(|value| !value.is_empty())
    }

    /// All values of a name.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    /// The same, without some names.
    #[must_use]
    pub fn without(&self, names: &[&str]) -> Self {
        Self(self.0.iter().filter(|(name, _)| !names.contains(&name.as_str())).cloned().collect())
    }

    /// The same, with a value in place of those of its name.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut query = self.without(&[name]);
        query.0.push((name.to_owned(), value.to_owned()));
        query
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// A value that something can be made of; the fault when it can't.
    ///
    /// # Errors
    /// What is wrong with it, and what is wanted.
    pub fn parsed<T: std::str::FromStr>(&self, name: &str, wanted: &str) -> Result<Option<T>, String> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| format!("{name}: {text:?} is no {wanted}")),
        }
    }

    /// A time: RFC 3339, what a browser's field for times gives (taken as UTC), or a span before now.
    ///
    /// # Errors
    /// What is wrong with it, and what is wanted.
    pub fn time(&self, name: &str, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, String> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        let minutes = format_description!("[year]-[month]-[day]T[hour]:[minute]");
        let local =
            || time::PrimitiveDateTime::parse(text.get(..16)?, minutes).ok().map(time::PrimitiveDateTime::assume_utc);
        let ago = || now.checked_sub(parse_duration(text)?.try_into().ok()?);
        let time =
            OffsetDateTime::parse(text, &Rfc3339).ok().or_else(ago).or_else(|| local().filter(|_| text.len() <= 19));
        time.map(Some).ok_or_else(|| {
            format!("{name}: {text:?} is neither a time such as 2026-01-31T09:00:00Z nor a span before now such as 90m")
        })
    }
}

/// As it stands in a URL, with its `?` unless it is empty.
impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish();
        if text.is_empty() { Ok(()) } else { write!(f, "?{text}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_survives_its_url() {
        let query = Query::parse("state=dead&error=%3Cb%3E+%26&empty=&kind=email");
        assert_eq!((query.get("state"), query.get("error"), query.text("empty")), ("dead", "<b> &", None));
        assert_eq!(query.without(&["kind"]).to_string(), "?state=dead&error=%3Cb%3E+%26");
        assert_eq!(query.with("state", "a b").to_string(), "?error=%3Cb%3E+%26&kind=email&state=a+b");
        assert_eq!(Query::parse("").to_string(), "");
    }

    #[test]
    fn times_are_exact_or_ago_or_as_a_browser_gives_them() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let time = |text: &str| {
            Query::of([("from", text)]).time("from", now).map(|time| time.map(OffsetDateTime::unix_timestamp))
        };
        assert_eq!(time("2027-01-15T09:00:00+01:00"), Ok(Some(1_800_000_000)));
        assert_eq!(time("2027-01-15T08:00"), Ok(Some(1_800_000_000)));
        assert_eq!(time("90m"), Ok(Some(1_800_000_000 - 5_400)));
        assert_eq!(time(""), Ok(None));
        for odd in ["soon", "2027-01-15", "2027-13-15T08:00", "é"] {
            assert!(time(odd).is_err(), "{odd}");
        }
        assert!(Query::of([("id", "7")]).parsed::<uuid::Uuid>("id", "UUID").unwrap_err().contains("no UUID"));
    }
}

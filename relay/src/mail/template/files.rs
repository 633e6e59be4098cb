//! The files that mails are made of: those in the binary, and those in a directory of the operator's in their place.
//!
//! ```text
//! en/welcome.subject.txt   a mail is three parts in a locale's folder,
//! en/welcome.txt
//! en/welcome.html
//! en/layout.html           other files there are for extending and including,
//! welcome.json             and what is not text stands beside the folders (see `about`)
//! ```
//!
//! The directory is read once, at start. Nothing is read through a link that leads out of it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::error::TemplateError;
use super::{FALLBACK, MAILS, PARTS};

macro_rules! built_in {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../templates/", $name)))),*] };
}

/// Every file in the binary.
pub(super) const BUILT_IN: &[(&str, &str)] = built_in![
    "en/layout.html",
    "en/verify_email.subject.txt",
    "en/verify_email.txt",
    "en/verify_email.html",
    "en/welcome.subject.txt",
    "en/welcome.txt",
    "en/welcome.html",
    "en/already_registered.subject.txt",
    "en/already_registered.txt",
    "en/already_registered.html",
];

/// The largest file that is read, in bytes. Mail programs cut off what is longer than a tenth of it.
const LARGEST: u64 = 1 << 20;

/// The files by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Files(BTreeMap<String, String>);

impl Files {
    pub(super) fn of(files: impl IntoIterator<Item = (&'static str, &'static str)>) -> Self {
        Self(files.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A file's text. What locales share, such as a layout, is taken from the fallback where a locale has none of its own.
    pub(super) fn load(&self, name: &str) -> Option<(String, &str)> {
        let own = self.0.get_key_value(name);
        let found = own.or_else(|| {
            let (_, file) = name.split_once('/')?;
            let part_of_a_mail = self.mails().any(|mail| is_part(file, mail));
            self.0.get_key_value(&format!("{FALLBACK}/{file}")).filter(|_| !part_of_a_mail)
        });
        found.map(|(name, text)| (name.clone(), text.as_str()))
    }

    /// Every mail: those that handlers ask for, and whatever else has a subject.
    pub(super) fn mails(&self) -> impl Iterator<Item = &str> {
        let more = self.names().filter_map(|name| name.split_once('/')?.1.strip_suffix(".subject.txt"));
        let mut mails: Vec<&str> = MAILS.iter().copied().chain(more).collect();
        mails.sort_unstable();
        mails.dedup();
        mails.into_iter()
    }

    /// The locales in which any part of a mail is there.
    pub(super) fn locales<'a>(&'a self, mail: &'a str) -> impl Iterator<Item = &'a str> {
        let mut locales: Vec<_> = self
            .names()
            .filter_map(|name| name.split_once('/'))
            .filter(|(_, file)| is_part(file, mail))
            .map(|(locale, _)| locale)
            .collect();
        locales.dedup();
        locales.into_iter()
    }

    /// Puts the files of a directory in the place of those of the same name, or beside them. Returns their names.
    pub(super) fn overlay(&mut self, directory: &Path) -> Result<Vec<String>, TemplateError> {
        let root = directory.canonicalize().map_err(|error| unreadable(&directory.display().to_string(), &error))?;
        let mut read = vec![];
        for (name, path) in entries(&root, "")? {
            let is_directory = inside(&root, &path, &name)?.is_dir();
            if is_directory {
                if !is_locale(&name) {
                    return Err(TemplateError::of(name, "the directory's name is no locale such as de or de-AT"));
                }
                for (name, path) in entries(&path, &name)? {
                    read.push((inside(&root, &path, &name)?, name));
                }
            } else if name.ends_with(".json") {
                read.push((inside(&root, &path, &name)?, name));
            }
        }
        for (path, name) in &read {
            self.0.insert(name.clone(), text_of(path, name)?);
        }
        Ok(read.into_iter().map(|(_, name)| name).collect())
    }
}

/// What a directory holds, but for hidden files: editors and volume mounts have such.
fn entries(directory: &Path, prefix: &str) -> Result<Vec<(String, std::path::PathBuf)>, TemplateError> {
    let failed = |error: std::io::Error| unreadable(if prefix.is_empty() { "directory" } else { prefix }, &error);
    let mut found = vec![];
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.push((if prefix.is_empty() { name } else { format!("{prefix}/{name}") }, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Where a path really leads; refused outside of the root.
fn inside(root: &Path, path: &Path, name: &str) -> Result<std::path::PathBuf, TemplateError> {
    let real = path.canonicalize().map_err(|error| unreadable(name, &error))?;
    if real.starts_with(root) { Ok(real) } else { Err(TemplateError::of(name, "is a link out of the directory")) }
}

fn text_of(path: &Path, name: &str) -> Result<String, TemplateError> {
    let failed = |error: std::io::Error| unreadable(name, &error);
    let file = std::fs::File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(TemplateError::of(name, "is no file"));
    }
    let mut text = String::new();
    match file.take(LARGEST + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > LARGEST => Err(TemplateError::of(name, "is larger than 1 MiB")),
        Ok(_) => Ok(text),
        Err(error) => Err(failed(error)),
    }
}

fn unreadable(name: &str, error: &std::io::Error) -> TemplateError {
    TemplateError::of(name, format!("can't be read ({error})"))
}

/// Whether a file is one of a mail's three parts.
pub(super) fn is_part(file: &str, mail: &str) -> bool {
    file.strip_prefix(mail).and_then(|rest| rest.strip_prefix('.')).is_some_and(|part| PARTS.contains(&part))
}

/// Letters, and perhaps more words behind hyphens: `de`, `de-AT`, `zh_Hant_TW`.
fn is_locale(name: &str) -> bool {
    let mut words = name.split(['-', '_']);
    let language = words.next().unwrap_or_default();
    matches!(language.len(), 2 | 3)
        && language.chars().all(|c| c.is_ascii_alphabetic())
        && words.all(|word| matches!(word.len(), 1..=8) && word.chars().all(|c| c.is_ascii_alphanumeric()))
}

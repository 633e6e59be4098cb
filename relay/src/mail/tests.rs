use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;
use shared::settings::{Faults, Secret};
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::deliver::Meaning;
use crate::jobs::lease::{Boot, ProcessLease};

const TO: &str = "Ada.Lovelace@example.org";

fn email(directory: &std::path::Path) -> Arc<Email> {
    email_with(directory, Templates::load(None).unwrap())
}

fn email_with(directory: &std::path::Path, templates: Templates) -> Arc<Email> {
    let mut faults = Faults::new();
    let keys = Secret::new("k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
    let settings = Settings {
        from: Sender::parse(Some("Example <no-reply@example.com>".to_owned()), &mut faults).unwrap(),
        target: Target::Mailbox(directory.join("mail")),
        public_url: PublicUrl::parse(Some("https://accounts.example.com".to_owned()), &mut faults).unwrap(),
        keys: KeyRing::parse(&keys, "VERIFICATION_KEYS", &mut faults).unwrap(),
        link_ttl: Duration::from_secs(24 * 3600),
        connections: 3,
        smtp: Options::default(),
        suppress_bounces: false,
        sandbox: None,
    };
    Email::new(settings, templates).unwrap()
}

fn compose(email: &Email, job: &ClaimedJob) -> Result<message::Mail, Failure> {
    email.render(job, &read(job)?)
}

fn args(template: &str, name: &str) -> String {
    json!({ "template": template, "locale": "en", "to": TO, "name": name, "user_id": Uuid::nil() }).to_string()
}

fn held() -> Lease {
    let process = ProcessLease::new(Duration::from_secs(60));
    process.extend(Boot::now());
    Lease::new(process)
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("relay-mail-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join("mail")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_attempt_at_a_job_makes_the_same_bytes() {
    let folder = Folder::new("bytes");
    for template in template::MAILS {
        let first = ClaimedJob::for_tests(&args(template, "Ada"));
        let later = ClaimedJob { attempt: 4, claim: 9, claimed_by: Uuid::from_u128(77), ..first.clone() };
        let other = ClaimedJob { job_id: Uuid::from_u128(5), ..first.clone() };
        // Each from a process of its own.
        let bytes = |job| compose(&email(&folder.0), job).unwrap().bytes;
        assert_eq!(bytes(&first), bytes(&later), "{template}");
        assert_ne!(bytes(&first), bytes(&other), "{template}");
    }
}

#[test]
fn the_link_holds_a_token_for_the_address_in_the_row_that_expires_with_the_event() {
    let folder = Folder::new("link");
    let email = email(&folder.0);
    let job = ClaimedJob::for_tests(&args("verify_email", "Ada"));
    let args = CheckedArgs::read(&job.args).unwrap();
    let occurred_at = job.occurred_at.unwrap();
    let content = email.templates.render(&args, &email.settings, occurred_at).unwrap();
    let (_, rest) = content.text.split_once("https://accounts.example.com/verify-email?token=").unwrap();
    let token = rest.split_whitespace().next().unwrap();
    let checked = email.settings.keys.check(token, occurred_at).unwrap();
    assert_eq!((checked.user_id, checked.expires_at), (Uuid::nil(), occurred_at + time::Duration::DAY));
    assert!(email.settings.keys.is_for(&checked, TO) && !email.settings.keys.is_for(&checked, "x@example.org"));
    assert!(content.html.contains(token));
}

#[test]
fn a_name_is_only_ever_text() {
    let folder = Folder::new("name");
    let email = email(&folder.0);
    for (name, shown) in [
        ("<a href=//evil.example>x</a>", None),
        ("<b>Ada</b>", Some("&lt;b&gt;Ada&lt;&#x2f;b&gt;")),
        ("{{ link }}{% raw %}", Some("{{ link }}{% raw %}")),
        ("see evil.example", Some("see evil. example")),
    ] {
        let args = CheckedArgs::read(&args("verify_email", name)).unwrap();
        let content = email.templates.render(&args, &email.settings, OffsetDateTime::UNIX_EPOCH).unwrap();
        assert!(!content.html.contains("evil.example") && !content.text.contains("evil.example"), "{name}");
        assert!(!content.html.contains("<b>"), "{name}");
        let expected = shown.map_or("Hello,".to_owned(), |shown| format!("Hello {shown},"));
        assert!(content.html.contains(&expected), "{name}: {}", content.html);
    }
}

/// Text of the first pattern, and now and then of the second.
fn mostly(usual: &'static str, odd: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![9 => usual, 1 => odd]
}

proptest! {
    /// Whatever stands in a row: there is no mail, or one with the headers and the two parts of every mail.
    #[test]
    fn no_name_and_no_address_gets_out_of_its_place(
        name in mostly(r"\PC{0,30}", "(\\PC|[\r\n\t\0\u{85}\u{2028}]|\r\n\r\n|\r\n\\.\r\n|\r\nBcc: |<|\"){0,30}"),
        local in mostly(r"[a-zé!#$%&'*+/=?^_`{|}~-]{1,12}", "(\\PC|\r\nBcc: x|[.<>\"\\r\\n]){1,12}"),
        domain in mostly(r"([a-z]{1,8}\.|bü\.){1,3}(com|例え)", r"(\PC|\.){1,9}"),
        template in prop::sample::select(template::MAILS),
    ) {
        let folder = Folder::new("any");
        let args = json!({ "template": template, "to": format!("{local}@{domain}"), "name": name, "user_id": Uuid::nil() });
        let job = ClaimedJob::for_tests(&args.to_string());
        let Ok(mail) = compose(&email(&folder.0), &job) else { return Ok(()) };
        let text = String::from_utf8(mail.bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let names: Vec<_> = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']))
            .map(|line| line.split(':').next().unwrap_or_default()).collect();
        prop_assert_eq!(
            names,
            ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]
        );
        let line_breaks = ['\r', '\n', '\0', '\u{85}', '\u{2028}'];
        prop_assert!(body.is_ascii() && !text.replace("\r\n", "").contains(line_breaks));
        let boundary = format!("--=_{}", job.job_id.simple());
        prop_assert_eq!(body.split("\r\n").filter(|line| line.starts_with(&boundary)).count(), 3);
        prop_assert_eq!(mail.to.matches('@').count(), 1);
    }
}

/// A mail of an operator's own, in which `data` stand everywhere.
static NOTE: LazyLock<Arc<Email>> = LazyLock::new(|| {
    let folder = Folder::new("note");
    let own = folder.0.join("own");
    std::fs::create_dir_all(own.join("en")).unwrap();
    for (file, text) in [
        ("en/note.subject.txt", "Note: {{ data.text }}"),
        ("en/note.txt", "{{ data.text }}\n{{ data.list[0] }}"),
        ("en/note.html", "<p title=\"{{ data.text }}\">{{ data.list[0] }}</p>"),
        ("note.json", r#"{"sample": {"text": "x", "list": ["y"]}}"#),
    ] {
        std::fs::write(own.join(file), text).unwrap();
    }
    // Read now, the files are not needed any more.
    email_with(&folder.0, Templates::load(Some(&own)).unwrap())
});

proptest! {
    #[test]
    fn whatever_data_hold_is_text(
        text in "(\\PC|[\r\n\t\0\u{85}\u{2028}]|\r\n\r\n|\r\n\\.\r\n|\n\\.\n|<b>|\"|\\{\\{ link \\}\\}){0,40}",
        more in "(\\PC|[\r\n]|\n\\.\n|<b>|--=_|\r\nBcc: x@y.zz){0,40}",
    ) {
        let data = json!({ "text": text, "list": [more] });
        let args = json!({ "template": "note", "to": TO, "name": "Ada", "user_id": Uuid::nil(), "data": data });
        let job = ClaimedJob::for_tests(&args.to_string());
        let Ok(mail) = compose(&NOTE, &job) else { return Ok(()) };
        let args = read(&job).unwrap();
        let content = NOTE.templates.render(&args, &NOTE.settings, job.occurred_at.unwrap()).unwrap();
        prop_assert!(!content.html.contains("<b>") && content.html.matches('"').count() == 2, "{}", content.html);
        let text = String::from_utf8(mail.bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        prop_assert_eq!(head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])).count(), 8, "{}", head);
        prop_assert!(body.is_ascii() && !text.replace("\r\n", "").contains(['\r', '\n']));
        let boundary = format!("--=_{}", job.job_id.simple());
        prop_assert_eq!(body.split("\r\n").filter(|line| line.starts_with(&boundary)).count(), 3);
        prop_assert!(text.split("\r\n").all(|line| line.len() <= 998));
    }
}

#[tokio::test]
async fn a_mail_is_complete_in_the_mailbox_under_its_message_id() {
    let folder = Folder::new("mailbox");
    let email = email(&folder.0);
    let job = ClaimedJob::for_tests(&args("welcome", "Ada"));
    // Whoever empties the mailbox may remove it as well.
    std::fs::remove_dir(folder.0.join("mail")).unwrap();
    for _ in 0..2 {
        assert_eq!(email.perform(&job, &held()).await, Outcome::Succeeded);
        assert_eq!(folder.files(), [format!("{}.eml", job.job_id)]);
    }
    let written = std::fs::read(folder.0.join("mail").join(format!("{}.eml", job.job_id))).unwrap();
    assert_eq!(written, compose(&email, &job).unwrap().bytes);
}

#[tokio::test]
async fn without_its_lease_nothing_comes_into_the_mailbox() {
    let folder = Folder::new("lease");
    let lost = Lease::new(ProcessLease::new(Duration::from_secs(60)));
    let job = ClaimedJob::for_tests(&args("welcome", "Ada"));
    assert_eq!(email(&folder.0).perform(&job, &lost).await, Outcome::LeaseLost);
    assert_eq!(folder.files(), [""; 0]);
}

#[tokio::test]
async fn what_can_never_be_a_mail_is_dead_at_once_with_a_reason_that_quotes_nothing() {
    let folder = Folder::new("dead");
    let email = email(&folder.0);
    let timeless = ClaimedJob { occurred_at: None, ..ClaimedJob::for_tests(&args("welcome", "Ada")) };
    let of = ClaimedJob::for_tests;
    for (job, meaning, reason) in [
        (of("{}"), Meaning::Permanent, "args can't be read: missing field `template`"),
        (of("null"), Meaning::Permanent, "args can't be read"),
        (of(&args("welcome", "Ada\r\nBcc: canary@x.yz")), Meaning::Permanent, "args.name must not hold control"),
        (of(&args("welcome", "canary\u{2028}x")), Meaning::Permanent, "args.name must not hold control"),
        (of(&args("welcome", "Ada").replace("@", "\\r\\n@")), Meaning::Permanent, "args.to must be one address"),
        (timeless, Meaning::Permanent, "occurred_at is outside"),
        (of(&args("canary", "Ada")), Meaning::Transient { after: None }, "no template of that name"),
    ] {
        let Outcome::Failed(failure) = email.perform(&job, &held()).await else { panic!("{}", job.args) };
        assert_eq!((failure.meaning, failure.phase), (meaning, Some("render")), "{}", job.args);
        assert!(failure.error.contains(reason) && !failure.error.contains("canary"), "{}", failure.error);
    }
    assert_eq!(folder.files(), [""; 0]);
}

#[test]
fn what_a_server_says_of_the_recipient_is_not_kept() {
    for (said, address, kept) in [
        ("550 5.1.1 <Ada@Example.org>: no user ada here", "ada@example.org", "550 5.1.1 …@… no user … here"),
        ("550 unknown at EXAMPLE.org, see x://y?to=ADA%40example.org", "ada@example.org", "550 unknown at … see …"),
        ("550 no mailbox for zoë", "ZOË@example.org", "550 no mailbox for …"),
        ("450 a mailbox is busy", "a@example.org", "450 a mailbox is busy"),
    ] {
        assert_eq!(without(said, address), kept);
    }
}

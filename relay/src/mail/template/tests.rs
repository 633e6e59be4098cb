use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

const GERMAN: [(&str, &str); 3] = [
    ("de/welcome.subject.txt", "Willkommen"),
    ("de/welcome.txt", "Hallo {{ name }}, {{ site }}"),
    ("de/welcome.html", "<p>Hallo {{ name }}, {{ site }}</p>"),
];

/// The templates in the binary with these in their place or beside them.
fn with(files: &[(&'static str, &'static str)]) -> Result<Templates, String> {
    let own: Vec<String> = files.iter().map(|(name, _)| (*name).to_owned()).collect();
    let all = Files::of(BUILT_IN.iter().copied().chain(files.iter().copied()));
    Templates::of(all, &own).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn url() -> PublicUrl {
    PublicUrl::parse(Some("https://accounts.example.com".to_owned()), &mut shared::settings::Faults::new()).unwrap()
}

#[test]
fn all_templates_load_and_every_mail_has_its_three_parts() {
    Templates::load(None).unwrap();
    for (missing, _) in BUILT_IN {
        let files = Files::of(BUILT_IN.iter().copied().filter(|(name, _)| name != missing));
        let errors = Templates::of(files, &[]).unwrap_err();
        assert!(errors.iter().any(|error| error.to_string().contains(missing)), "{missing}: {errors:?}");
    }
}

#[test]
fn another_locale_holds_whole_mails_and_the_rest_falls_back() {
    let templates = with(
        &[
            &GERMAN[..],
            &[
                ("zh-Hant/welcome.subject.txt", "歡迎"),
                ("zh-Hant/welcome.txt", "."),
                (
                    "zh-Hant/welcome.html",
                    "{% extends locale ~ '/layout.html' %}{% block content %}{{ name }}{% endblock %}",
                ),
            ],
        ]
        .concat(),
    )
    .unwrap();
    for (mail, wanted, locale) in [
        (WELCOME, "de", "de"),
        (WELCOME, "de-AT", "de"),
        (WELCOME, "DE_ch", "de"),
        (WELCOME, "zh_hant_TW", "zh-Hant"),
        (WELCOME, "zh", "en"),
        (WELCOME, "fr", "en"),
        (WELCOME, "", "en"),
        (WELCOME, "../en", "en"),
        (VERIFY_EMAIL, "de", "en"),
    ] {
        assert_eq!(templates.locale(mail, wanted), locale, "{mail} {wanted}");
    }
    // A layout of its own is not needed.
    let (content, _) = templates.sample(WELCOME, "zh-Hant", &url()).unwrap();
    assert!(content.html.contains("lang=\"zh-Hant\"") && content.html.contains("Ada Lovelace"), "{}", content.html);
    assert_eq!(with(&GERMAN[..2]).unwrap_err(), "template de/welcome.html: is missing");
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_column() {
    for (text, told) in [
        ("\nHello {{ nmae }}", "en/welcome.txt:2:10: undefined value in `nmae`"),
        ("Hello {% if name %}", "en/welcome.txt:1:"),
        ("Hello\n  {{ name | shout }}", "en/welcome.txt:2:"),
        (
            "a\n{% if false %}{{ nmae }}{% endif %}",
            "en/welcome.txt:2:18: there is no variable `nmae`; there are locale,",
        ),
        ("{% include 'en/footer.txt' %}", "en/footer.txt"),
        ("{% include 'en/welcome.txt' %}", "en/welcome.txt:1:"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}", "en/welcome.txt"),
        ("{% for a in range(90000) %}twenty bytes of text{% endfor %}", "en/welcome.txt: renders to more than 1 MiB"),
        ("{{ name.first }}", "en/welcome.txt:1:4: undefined value in `name.first`"),
        ("{{ data.cents }}", "en/welcome.txt:1:4: undefined value in `data.cents`"),
        ("{{ name | escape }}", "en/welcome.txt: values are not escaped as they should be"),
    ] {
        let errors = with(&[("en/welcome.txt", text)]).unwrap_err();
        let count = errors.lines().count();
        assert!(errors.contains(told) && count == 1, "{text}: {errors}");
        assert!(!errors.contains("<i>"), "a value is told: {errors}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let errors = with(&[
        ("en/welcome.txt", "{{ nmae }}"),
        ("en/welcome.html", "{{ name|safe }} &lt;i&gt;&amp;&quot;"),
        ("en/verify_email.subject.txt", "a\nb"),
        ("en/already_registerd.txt", "x"),
        ("welcome.json", "{\"in_dout\": \"hold\"}"),
    ])
    .unwrap_err();
    for told in [
        "en/welcome.txt:1:4",
        "en/verify_email.subject.txt: the subject is not one line",
        "en/already_registerd.txt: is used by no mail",
        "welcome.json:1:10: unknown field `in_dout`",
    ] {
        assert!(errors.contains(told), "{told} in {errors}");
    }
    let unescaped = with(&[("en/welcome.html", "{{ name|safe }} &lt;i&gt;&amp;&quot;")]).unwrap_err();
    assert_eq!(unescaped, "template en/welcome.html: values are not escaped as they should be");
}

#[test]
fn a_mail_of_ones_own_is_files_alone() {
    let templates = with(&[
        ("en/invoice.subject.txt", "Invoice {{ data.number }}"),
        ("en/invoice.txt", "{% for line in data.lines %}{{ line.text }}: {{ line.cents }}\n{% endfor %}"),
        ("en/invoice.html", "{% for line in data.lines %}<p>{{ line.text }}</p>{% endfor %}"),
        (
            "invoice.json",
            r#"{"in_doubt": "hold", "list_unsubscribe": "https://example.com/u/{{ user_id }}",
                "sample": {"number": "7", "lines": [{"text": "<Tea>", "cents": 450}]}}"#,
        ),
    ])
    .unwrap();
    let (content, locale) = templates.sample("invoice", "de", &url()).unwrap();
    assert_eq!((content.subject.as_str(), locale), ("Invoice 7", "en"));
    assert_eq!((content.text.as_str(), content.html.as_str()), ("<Tea>: 450\n", "<p>&lt;Tea&gt;</p>"));
    assert_eq!(content.unsubscribe.as_deref(), Some("https://example.com/u/00000000-0000-0000-0000-000000000000"));
    assert_eq!(templates.about("invoice").in_doubt, about::InDoubt::Hold);
    assert_eq!(templates.about(WELCOME).in_doubt, about::InDoubt::Resend);
    for address in ["http://example.com", "https://", "mailto:x@example.com", "https://a b", "https://a.b/{{ name }}"] {
        let about = format!("{{\"list_unsubscribe\": \"{address}\"}}").leak();
        let told = with(&[("welcome.json", about)]).unwrap_err();
        assert!(told.contains("welcome.json: list_unsubscribe"), "{address}: {told}");
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("relay-templates-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        for (file, text) in files {
            let file = path.join("mail").join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        Self(path)
    }

    fn mail(&self) -> PathBuf {
        self.0.join("mail")
    }

    fn load(&self) -> Result<Templates, String> {
        Templates::load(Some(&self.mail())).map_err(|errors| format!("{errors:?}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_directory_stands_in_for_what_is_in_the_binary() {
    let own = [("en/welcome.subject.txt", "Ahoy at {{ site }}"), ("README.md", "x"), ("en/.welcome.txt.swp", "{{")];
    let folder = Folder::new("own", &[&GERMAN[..], &own[..]].concat());
    let templates = folder.load().unwrap();
    let subject = |locale: &str| templates.sample(WELCOME, locale, &url()).unwrap().0.subject;
    assert_eq!((subject("en").as_str(), subject("de-DE").as_str()), ("Ahoy at accounts.example.com", "Willkommen"));
}

#[test]
fn a_directory_is_not_left_by_links_and_must_be_readable() {
    let folder = Folder::new("links", &[("en/welcome.subject.txt", "Ahoy"), ("..data/welcome.txt", "Ahoy")]);
    // As volumes of configuration are mounted: within the directory.
    symlink(folder.mail().join("..data/welcome.txt"), folder.mail().join("en/welcome.txt")).unwrap();
    folder.load().unwrap();
    std::fs::write(folder.0.join("secret"), "secret").unwrap();
    for (link, target) in [("en/welcome.html", "secret"), ("de", ".")] {
        symlink(folder.0.join(target), folder.mail().join(link)).unwrap();
        assert!(folder.load().unwrap_err().contains("is a link out of the directory"), "{link}");
        std::fs::remove_file(folder.mail().join(link)).unwrap();
    }
    symlink("/nowhere/at/all", folder.mail().join("en/welcome.html")).unwrap();
    assert!(folder.load().unwrap_err().contains("can't be read"));
    std::fs::remove_file(folder.mail().join("en/welcome.html")).unwrap();

    for (name, told) in [
        ("en/x.txt", "is no file"),
        ("mails", "is no locale"),
        ("en/large.txt", "larger than 1 MiB"),
        ("en/binary.txt", "can't be read"),
    ] {
        let path = folder.mail().join(name);
        match name {
            "en/large.txt" => std::fs::write(&path, "x".repeat((1 << 20) + 1)).unwrap(),
            "en/binary.txt" => std::fs::write(&path, [0xff, 0xfe]).unwrap(),
            _ => std::fs::create_dir(&path).unwrap(),
        }
        assert!(folder.load().unwrap_err().contains(told), "{name}");
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path));
    }
    let nowhere = Templates::load(Some(Path::new("/nowhere/at/all"))).unwrap_err();
    assert!(nowhere[0].to_string().contains("/nowhere/at/all: can't be read"), "{nowhere:?}");
}

#[test]
fn times_are_said_in_words() {
    let words = [86_400, 3_600, 7_200, 172_800, 90, 5].map(in_words);
    assert_eq!(words, ["24 hours", "1 hour", "2 hours", "2 days", "1 minute", "5 seconds"]);
}

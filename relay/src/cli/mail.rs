//! `relay mail`: what mail looks like, and who gets none.

mod suppression;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;
use shared::public_url::PublicUrl;
use shared::settings::{self, Faults};

use super::answer::{Form, print, print_json};
use crate::config::delivery::templates;
use crate::mail::message::Sender;
use crate::mail::sample::{Format, Sample};

/// `relay mail …`
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// List the mails, their locales and what holds for them
    List(ListArgs),
    /// Render a mail with sample data
    #[command(
        after_help = "Examples:\n  relay mail preview welcome\n  relay mail preview welcome --locale de --format html \
        --out welcome.html\n\nExit codes: 0 done, 1 the file can't be written, 2 wrong usage, settings or templates."
    )]
    Preview(PreviewArgs),
    /// Send no more mail to an address
    #[command(
        after_help = "Its mail ends as cancelled, with this reason. `relay jobs retry` sends what was cancelled once the \
        address is off the list."
    )]
    Suppress(suppression::SuppressArgs),
    /// Send mail to an address again
    Unsuppress(suppression::UnsuppressArgs),
    /// List the addresses that get no mail
    Suppressed(suppression::SuppressedArgs),
}

#[derive(ClapArgs, Clone, Debug)]
struct TemplateArgs {
    /// The directory of templates that stand in for those in the binary
    #[arg(long, env = "MAIL_TEMPLATES", value_name = "DIRECTORY")]
    mail_templates: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(ClapArgs, Clone, Debug)]
struct ListArgs {
    #[command(flatten)]
    templates: TemplateArgs,
}

#[derive(ClapArgs, Clone, Debug)]
struct PreviewArgs {
    /// Which mail: see `relay mail list`
    template: String,
    /// The language, such as de-AT; where there is none, de, else en
    #[arg(long, default_value = "en", value_name = "LOCALE")]
    locale: String,
    /// text, html, or source: the bytes that would be sent
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    format: Format,
    /// Write it to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where links lead.
    #[arg(help = "Where links lead [default: https://example.com]", long, env = "PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// The sender.
    #[arg(help = "The sender [default: no-reply@example.com]", long, env = "MAIL_FROM", value_name = "ADDRESS")]
    mail_from: Option<String>,
    #[command(flatten)]
    templates: TemplateArgs,
}

pub(super) async fn run(args: Args, faults: Faults) -> u8 {
    match args.command {
        Command::List(args) => list(args, faults),
        Command::Preview(args) => preview(args, faults),
        Command::Suppress(args) => suppression::suppress(args, faults).await,
        Command::Unsuppress(args) => suppression::unsuppress(args, faults).await,
        Command::Suppressed(args) => suppression::suppressed(args, faults).await,
    }
}

fn list(args: ListArgs, mut faults: Faults) -> u8 {
    let form = Form::of(args.templates.json);
    let templates = templates(args.templates.mail_templates.as_deref(), &mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let Some(templates) = templates else { return super::EXIT_SETTINGS };
    let mails: Vec<_> = templates.mails().map(|(mail, locales)| (mail, locales, templates.about(mail))).collect();
    match form {
        Form::Json => {
            let mails = mails.iter().map(|(mail, locales, about)| {
                json!({ "template": mail, "locales": locales, "in_doubt": about.in_doubt,
                        "list_unsubscribe": about.list_unsubscribe })
            });
            print_json(&mails.collect());
        }
        Form::Text => {
            for (mail, locales, about) in mails {
                let unsubscribe = if about.list_unsubscribe.is_some() { ", can be unsubscribed from" } else { "" };
                let in_doubt = about.in_doubt.as_str();
                print(&format!("{mail:<24} {}  in doubt: {in_doubt}{unsubscribe}\n", locales.join(" ")));
            }
        }
    }
    0
}

fn preview(args: PreviewArgs, mut faults: Faults) -> u8 {
    let form = Form::of(args.templates.json);
    let or = |value: Option<String>, default: &str| settings::text(value).or_else(|| Some(default.to_owned()));
    let public_url = PublicUrl::parse(or(args.public_url, "https://example.com"), &mut faults);
    let from = Sender::parse(or(args.mail_from, "no-reply@example.com"), &mut faults);
    let templates = templates(args.templates.mail_templates.as_deref(), &mut faults);
    if let Err(code) = form.check(faults) {
        return code;
    }
    let (Some(url), Some(from), Some(templates)) = (public_url, from, templates) else { return super::EXIT_SETTINGS };
    let sample = match Sample::of(&templates, &args.template, &args.locale, &url, &from) {
        Ok(sample) => sample,
        Err(error) => return form.refuse(&error, super::EXIT_SETTINGS),
    };
    let text = match form {
        Form::Json => format!("{:#}\n", sample.to_json()),
        Form::Text => sample.format(args.format),
    };
    match args.out {
        None => print(&text),
        Some(file) => {
            if let Err(error) = std::fs::write(&file, text) {
                return form.refuse(&format!("{}: can't be written ({error})", file.display()), 1);
            }
        }
    }
    0
}

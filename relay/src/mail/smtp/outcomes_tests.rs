use proptest::prelude::*;

use super::*;

fn phase() -> impl Strategy<Value = Phase> {
    prop::sample::select(Phase::ALL.to_vec())
}

fn enhanced_code(code: u16) -> impl Strategy<Value = Option<Enhanced>> {
    prop::option::of((Just(code / 100), 0..20u16, 0..100u16))
}

fn reply() -> impl Strategy<Value = (u16, Option<Enhanced>)> {
    (400..600u16).prop_flat_map(|code| (Just(code), enhanced_code(code)))
}

/// A rule in words, for a phase from MAIL on, and what it is about.
fn own_rule() -> impl Strategy<Value = (Phase, u16, Option<Enhanced>, Ruling)> {
    let phase = prop::sample::select(vec![Phase::Mail, Phase::Rcpt, Phase::Data, Phase::Body, Phase::Dot]);
    let ruling = prop::sample::select(vec![Ruling::Pause, Ruling::Retry, Ruling::Dead]);
    (phase, reply(), ruling).prop_map(|(phase, (code, enhanced), ruling)| (phase, code, enhanced, ruling))
}

fn in_words((phase, code, enhanced, ruling): (Phase, u16, Option<Enhanced>, Ruling)) -> String {
    let enhanced = enhanced.map_or(String::new(), |(a, b, c)| format!(" {a}.{b}.{c}"));
    format!("{} {code}{enhanced} = {ruling}", phase.as_str())
}

proptest! {
    /// Every reply in every phase has its line; nothing passing is for good, nothing final is tried again from RCPT on.
    #[test]
    fn the_usual_table_is_total_and_takes_the_class_at_its_word(phase in phase(), (code, enhanced) in reply()) {
        let usual = Outcomes::default();
        let ruling = usual.of(phase, code, enhanced);
        prop_assert!(usual.0.iter().any(|rule| rule.fits(phase, code, enhanced)));
        if code < 500 {
            prop_assert_ne!(ruling, Ruling::Dead);
        }
        if phase.is_before_mail() {
            prop_assert_eq!(ruling, Ruling::Pause);
        }
        if phase > Phase::Mail {
            prop_assert_eq!(ruling, if code < 500 { Ruling::Retry } else { Ruling::Dead });
        }
        prop_assert_ne!(ruling, Ruling::InDoubt, "a reply is no doubt");
    }

    /// An operator's rule decides what it names, and nothing else.
    #[test]
    fn a_rule_decides_what_it_names_and_nothing_else(
        rule in own_rule(), phase in phase(), (code, enhanced) in reply(),
    ) {
        let own = Outcomes::with(&in_words(rule)).unwrap();
        let (named, named_code, named_enhanced, ruling) = rule;
        prop_assert_eq!(own.of(named, named_code, named_enhanced), ruling);
        let same_phase = phase.as_str() == named.as_str();
        let named_too = same_phase && code == named_code && (named_enhanced.is_none() || enhanced == named_enhanced);
        if !named_too {
            prop_assert_eq!(own.of(phase, code, enhanced), Outcomes::default().of(phase, code, enhanced));
        }
        // However it is ruled, one mail's own parameter never stops all others.
        prop_assert_ne!(own.of(Phase::OwnMail, named_code, named_enhanced), Ruling::Pause);
    }

    #[test]
    fn whatever_is_given_is_rules_or_told(text in "[a-z0-9x.*=,# \n]{0,60}") {
        let _ = Outcomes::with(&text);
    }
}

#[test]
fn the_page_shows_the_rules_that_hold() {
    assert!(include_str!("../MAIL.md").contains(USUAL.trim()), "MAIL.md and the usual rules differ");
}

#[test]
fn the_first_rule_that_fits_decides() {
    let own =
        Outcomes::with("rcpt 550 5.1.1=dead, rcpt 550=retry\n# a comment, with = in it\nrcpt 4xx x.2.x=dead").unwrap();
    let of = |code, enhanced| own.of(Phase::Rcpt, code, enhanced);
    assert_eq!(of(550, Some((5, 1, 1))), Ruling::Dead);
    assert_eq!(of(550, Some((5, 7, 1))), Ruling::Retry);
    assert_eq!(of(550, None), Ruling::Retry);
    assert_eq!(of(452, Some((4, 2, 2))), Ruling::Dead);
    assert_eq!(of(452, None), Ruling::Retry, "without an enhanced code a rule that wants one does not fit");
    assert_eq!(own.of(Phase::Data, 550, None), Ruling::Dead);
    assert_eq!(Outcomes::with("").unwrap(), Outcomes::default());
}

#[test]
fn what_is_no_rule_is_told_with_itself() {
    for (text, problem) in [
        ("rcpt 452", "has no ="),
        ("rcpt 452=later", "does not end in"),
        ("=dead", "names no phase"),
        ("rpct 452=dead", "begins with no phase"),
        ("rcpt 250=dead", "a reply code"),
        ("rcpt 4522=dead", "a reply code"),
        ("rcpt 452 4.2=dead", "an enhanced code"),
        ("rcpt 452 5.2.2=dead", "of another class"),
        ("rcpt 452 4.2.2 full=dead", "has more than"),
        ("connect 554=dead", "before the server has heard of it"),
        ("* 421=pause", "name a phase"),
        ("rcpt 450=retry, rcpt 4y0=dead", "\"rcpt 4y0=dead\""),
    ] {
        let told = Outcomes::with(text).unwrap_err().to_string();
        assert!(told.contains(problem), "{text}: {told}");
    }
}

#[test]
fn a_doubt_is_left_only_after_the_dot() {
    let rulings = Phase::ALL.map(unanswered);
    use Ruling::{InDoubt, Pause, Retry};
    assert_eq!(rulings, [Pause, Pause, Pause, Pause, Pause, Retry, Retry, Retry, Retry, InDoubt]);
}

//! Charts as SVG, drawn on the server: they need no script. Labels stand beside the drawing, as text.
//!
//! A chart is 720 units wide, one for each five seconds of an hour, whatever is known of it; what is unknown is a gap.

use std::fmt::Write as _;

use minijinja::Value;
use minijinja::context;
use time::OffsetDateTime;
use time::macros::format_description;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 96.0;
/// What the width stands for.
const HOUR: f64 = 3_600.0;

/// What a series of numbers is called, and how its numbers are said.
pub struct Series<'a> {
    /// What it shows.
    pub title: &'a str,
    /// Times with what was known then.
    pub points: &'a [(OffsetDateTime, Option<f64>)],
    /// A number with its unit.
    pub say: fn(f64) -> String,
}

impl Series<'_> {
    /// The chart for the template: the drawing, and what is said of it.
    pub fn draw(&self, now: OffsetDateTime) -> Value {
        let known: Vec<(f64, OffsetDateTime, f64)> = self
            .points
            .iter()
            .filter_map(|(at, value)| Some((x(*at, now), *at, value.filter(|value| value.is_finite())?)))
            .filter(|(x, ..)| *x >= 0.0)
            .collect();
        let highest = known.iter().max_by(|a, b| a.2.total_cmp(&b.2));
        let top = nice(highest.map_or(0.0, |highest| highest.2));
        let latest = known.last().map(|(.., value)| (self.say)(*value));
        let peak = highest
            .filter(|highest| highest.2 > 0.0)
            .map(|(_, at, value)| format!("{} at {}", (self.say)(*value), clock(*at)));
        let summary = match (&latest, &peak) {
            (None, _) => "Nothing is known yet.".to_owned(),
            (Some(latest), None) => format!("Now {latest}; no more than that in the last hour."),
            (Some(latest), Some(peak)) => format!("Now {latest}; at most {peak} in the last hour."),
        };
        context! {
            title => self.title,
            latest => latest.unwrap_or_else(|| "–".to_owned()),
            peak,
            summary,
            top => (self.say)(top),
            line => self.line(now, top, false),
            area => self.line(now, top, true),
            data => self.data(&known),
        }
    }

    /// The path of the line, in as many pieces as there are gaps; closed down to the ground for the area.
    fn line(&self, now: OffsetDateTime, top: f64, closed: bool) -> String {
        let mut path = String::new();
        for piece in self.points.split(|(_, value)| value.is_none_or(|value| !value.is_finite())) {
            let mut ends = None;
            for (at, value) in piece {
                let (x, y) = (x(*at, now), y(value.unwrap_or_default(), top));
                if x < 0.0 {
                    continue;
                }
                let (first, _) = *ends.get_or_insert((x, x));
                let _ = write!(path, "{}{x:.1} {y:.1}", if first == x { "M" } else { "L" });
                ends = Some((first, x));
            }
            if let (true, Some((first, last))) = (closed, ends) {
                let _ = write!(path, "L{last:.1} {HEIGHT}L{first:.1} {HEIGHT}Z");
            }
        }
        path
    }

    /// What is said when somebody points at the chart: `x|time|value`, one for each point.
    fn data(&self, known: &[(f64, OffsetDateTime, f64)]) -> String {
        let points = known.iter().map(|(x, at, value)| format!("{x:.0}|{}|{}", clock(*at), (self.say)(*value)));
        points.collect::<Vec<_>>().join(";")
    }
}

fn x(at: OffsetDateTime, now: OffsetDateTime) -> f64 {
    WIDTH * (1.0 - (now - at).as_seconds_f64() / HOUR)
}

fn y(value: f64, top: f64) -> f64 {
    // Room for the line's own width at the top and at the bottom.
    HEIGHT - 1.5 - (HEIGHT - 4.0) * (value / top).clamp(0.0, 1.0)
}

/// The next of 1, 2, 5, 10, 20, 50 … so that the scale does not change with every point.
fn nice(highest: f64) -> f64 {
    if highest <= 1.0 {
        return 1.0;
    }
    let magnitude = 10_f64.powf(highest.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * magnitude).find(|top| *top >= highest).unwrap_or(highest)
}

fn clock(at: OffsetDateTime) -> String {
    at.format(format_description!("[hour]:[minute]:[second] UTC")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds_ago: i64) -> OffsetDateTime {
        now() - time::Duration::seconds(seconds_ago)
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    #[test]
    fn gaps_are_gaps_and_what_is_older_is_not_drawn() {
        let points = [
            (at(4_000), Some(9.0)),
            (at(1_800), Some(10.0)),
            (at(1_795), Some(0.0)),
            (at(20), None),
            (at(10), Some(5.0)),
            (at(0), Some(5.0)),
        ];
        let series = Series { title: "x", points: &points, say: |value| format!("{value}/s") };
        let chart = series.draw(now());
        let attribute = |name: &str| chart.get_attr(name).unwrap().to_string();
        assert_eq!(attribute("line"), "M360.0 2.5L361.0 94.5M718.0 48.5L720.0 48.5");
        assert_eq!(attribute("area").matches('Z').count(), 2);
        assert_eq!(attribute("summary"), "Now 5/s; at most 10/s at 07:30:00 UTC in the last hour.");
        assert_eq!(attribute("data").split(';').count(), 4);
        assert_eq!(attribute("top"), "10/s");
    }

    #[test]
    fn nothing_is_no_fault() {
        let series = Series { title: "x", points: &[], say: |value| value.to_string() };
        assert_eq!(series.draw(now()).get_attr("summary").unwrap().to_string(), "Nothing is known yet.");
        let points = [(at(5), Some(0.0)), (at(0), Some(f64::NAN))];
        let chart = Series { points: &points, ..series }.draw(now());
        assert!(!chart.get_attr("line").unwrap().to_string().contains("NaN"));
    }

    #[test]
    fn scales_are_round() {
        assert_eq!(
            [0.0, 0.3, 1.0, 1.1, 4.0, 11.0, 99.0, 5_001.0].map(nice),
            [1.0, 1.0, 1.0, 2.0, 5.0, 20.0, 100.0, 10_000.0]
        );
    }
}

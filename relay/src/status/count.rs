//! A number that says how it was come by.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use serde_json::{Value, json};

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The number.
    pub number: u64,
    /// What it is worth.
    pub worth: Worth,
}

/// What a number is worth; the least of two is what their sum is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Counted.
    Exact,
    /// Counting was stopped here.
    AtLeast,
    /// PostgreSQL's own estimate of the table's size was used.
    About,
}

impl Count {
    /// None.
    pub const ZERO: Self = Self { number: 0, worth: Worth::Exact };

    /// What was counted by a statement that stops above a bound.
    pub fn bounded(counted: i64, bound: i64) -> Self {
        let worth = if counted > bound { Worth::AtLeast } else { Worth::Exact };
        Self { number: counted.clamp(0, bound).unsigned_abs(), worth }
    }

    /// A part of what was counted by a statement that stops above a bound: when it stopped, any part may be larger.
    pub fn part_of(counted: i64, total: i64, bound: i64) -> Self {
        let worth = if total > bound { Worth::AtLeast } else { Worth::Exact };
        Self { number: counted.min(bound).max(0).unsigned_abs(), worth }
    }

    /// For programs.
    pub fn to_json(self) -> Value {
        let worth = match self.worth {
            Worth::Exact => "exact",
            Worth::AtLeast => "at_least",
            Worth::About => "about",
        };
        json!({"number": self.number, "is": worth})
    }
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { number: self.number.saturating_add(other.number), worth: self.worth.max(other.worth) }
    }
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::ZERO, Self::add)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.number.to_string();
        let mut grouped = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        let text = match self.worth {
            Worth::Exact => grouped,
            Worth::AtLeast => grouped + "+",
            Worth::About => "about ".to_owned() + &grouped,
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_says_where_it_stopped() {
        assert_eq!(Count::bounded(999, 10_000).to_string(), "999");
        assert_eq!(Count::bounded(10_000, 10_000).to_string(), "10,000");
        assert_eq!(Count::bounded(10_001, 10_000).to_string(), "10,000+");
        assert_eq!(Count { number: 1_234_567, worth: Worth::About }.to_string(), "about 1,234,567");
    }

    #[test]
    fn a_sum_is_worth_no_more_than_its_parts() {
        let sum: Count = [Count::bounded(3, 10), Count::bounded(11, 10), Count::bounded(4, 10)].into_iter().sum();
        assert_eq!(sum, Count { number: 17, worth: Worth::AtLeast });
        assert_eq!(sum.to_json(), json!({"number": 17, "is": "at_least"}));
    }
}

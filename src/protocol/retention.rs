//! For how long trees that are over are kept: a time for all, and times for those with a tag.

use std::fmt;
use std::str::FromStr;

use super::record::{Millis, Tags};

/// `"<ms> <tag>=<value>"`: for how long trees are kept whose root has the tag; 0 is for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    after_ms: Millis,
    tag: String,
    value: String,
}

impl FromStr for Rule {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str =
            "rules such as \"86400000 stage=test\": milliseconds, a space, tag=value";
        let (after, pair) = text.trim().split_once(' ').ok_or(FORM)?;
        let (tag, value) = pair.trim_start().split_once('=').ok_or(FORM)?;
        let after_ms: Millis = after.parse().map_err(|_| FORM)?;
        if after_ms < 0 || tag.is_empty() {
            return Err(FORM);
        }
        Ok(Rule {
            after_ms,
            tag: tag.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}={}", self.after_ms, self.tag, self.value)
    }
}

/// Which trees are kept for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// For how long what no rule names is kept, in milliseconds; 0 is for ever.
    pub after_ms: Millis,
    /// For how long what they name is kept.
    pub rules: Vec<Rule>,
}

impl Rules {
    /// Whether there is anything that is not kept for ever.
    pub fn is_on(&self) -> bool {
        self.after_ms > 0 || self.rules.iter().any(|rule| rule.after_ms > 0)
    }

    /// For how long a tree is kept whose root has these tags, none being for ever, and by which rule. Of several the
    /// one counts that keeps it longest.
    pub fn of(&self, tags: &Tags) -> (Option<Millis>, Option<&Rule>) {
        let matching = self
            .rules
            .iter()
            .filter(|rule| tags.get(&rule.tag) == Some(&*rule.value));
        let rule = matching.max_by_key(|rule| (rule.after_ms == 0, rule.after_ms));
        let after_ms = rule.map_or(self.after_ms, |rule| rule.after_ms);
        (Some(after_ms).filter(|after| *after > 0), rule)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Tags::new(BTreeMap::from_iter(pairs.iter().map(owned)))
    }

    #[test]
    fn of_several_rules_the_one_counts_that_keeps_longest() {
        let rule = |text: &str| text.parse::<Rule>().unwrap();
        let rules = Rules {
            after_ms: 1000,
            rules: vec![
                rule("10 stage=test"),
                rule("2000 a:b=c=d"),
                rule("0 keep=true"),
            ],
        };
        assert_eq!(rules.of(&tags(&[])).0, Some(1000));
        assert_eq!(rules.of(&tags(&[("stage", "test")])).0, Some(10));
        assert_eq!(rules.of(&tags(&[("stage", "prod")])).0, Some(1000));
        assert_eq!(
            rules.of(&tags(&[("stage", "test"), ("a:b", "c=d")])).0,
            Some(2000)
        );
        assert_eq!(
            rules.of(&tags(&[("stage", "test"), ("keep", "true")])).0,
            None
        );
        assert!(rules.is_on() && !Rules::default().is_on());
        assert_eq!(Rules::default().of(&tags(&[])).0, None);
        assert_eq!(rules.rules[1].to_string(), "2000 a:b=c=d");
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "stage=test",
            "1d stage=test",
            "-1 stage=test",
            "10 stage",
            "10 =x",
            "10",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text:?}");
        }
    }
}

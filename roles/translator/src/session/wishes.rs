//! What a miner asks about its difficulty, in all the ways there are: `mining.suggest_difficulty`, `mining.suggest_target`,
//! `minimum-difficulty` of `mining.configure`, options in its password, and what miners of its kind are known to need. What
//! is done about it is the session's.

use work::{Difficulty, Hashrate, difficulty::HASHES_PER_DIFFICULTY};

/// A miner that names a difficulty is taken to mean a share every ten seconds, as pools commonly aim at.
const SECONDS_PER_SHARE: f64 = 10.0;

/// More than Bitcoin's network asks of a block, so that no miner can mean it.
const MOST_DIFFICULTY: f64 = (1_u64 << 48) as f64;

/// As much as all of Bitcoin's miners together, and then some.
const MOST_TERAHASHES: f64 = 1e10;

const HASHES_PER_TERAHASH: f64 = 1e12;

/// All that a miner has asked for. Most ask for nothing, and then nothing is kept.
#[derive(Debug, Default)]
pub(super) struct Wishes(Option<Box<Asked>>);

/// What is asked again replaces what was asked before in the same way.
#[derive(Debug, Default)]
struct Asked {
    /// `minimum-difficulty` (BIP 310).
    minimum: Option<Difficulty>,
    /// What miners of its kind need.
    kind_minimum: Option<Difficulty>,
    /// Suggested by the firmware.
    suggested: Option<Difficulty>,
    /// Set by a person, in the password.
    password: Password,
    news: News,
}

/// What the pool was not told yet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    /// The miner's hashrate.
    pub(super) hashrate: bool,
    /// How easy its difficulty may become.
    pub(super) floor: bool,
}

impl Wishes {
    /// What the miner says, or lets be understood, about its hashrate. What a person wrote counts more than what the
    /// firmware suggests by itself.
    pub(super) fn hashrate(&self) -> Option<Hashrate> {
        let asked = self.0.as_ref()?;
        let Password {
            start,
            fixed,
            hashrate,
        } = asked.password;
        let difficulty = fixed.or(start).or(asked.suggested);
        hashrate.or_else(|| {
            let hashes = difficulty?.value() * HASHES_PER_DIFFICULTY / SECONDS_PER_SHARE;
            Hashrate::new(hashes).ok()
        })
    }

    /// The difficulty that is never to change, if the miner asks for one; not below [`Wishes::floor`].
    pub(super) fn fixed(&self) -> Option<Difficulty> {
        let fixed = self.0.as_ref()?.password.fixed?;
        Some(self.floor().map_or(fixed, |floor| harder(fixed, floor)))
    }

    /// The difficulty below which the miner does not want to work.
    pub(super) fn floor(&self) -> Option<Difficulty> {
        let asked = self.0.as_ref()?;
        match (asked.minimum, asked.kind_minimum) {
            (Some(one), Some(other)) => Some(harder(one, other)),
            (one, other) => one.or(other),
        }
    }

    /// `mining.suggest_difficulty` or `mining.suggest_target`; says whether it can be meant.
    pub(super) fn suggest(&mut self, difficulty: Difficulty) -> bool {
        let possible = difficulty.value() <= MOST_DIFFICULTY;
        if possible {
            self.change(|asked| asked.suggested = Some(difficulty));
        }
        possible
    }

    /// `minimum-difficulty` of `mining.configure`; says whether it can be meant.
    pub(super) fn limit(&mut self, minimum: f64) -> bool {
        let minimum = possible_difficulty(minimum);
        if minimum.is_some() {
            self.change(|asked| asked.minimum = minimum);
        }
        minimum.is_some()
    }

    /// The password of `mining.authorize`.
    pub(super) fn read_password(&mut self, password: &str) {
        let before = self
            .0
            .as_ref()
            .map_or(Password::default(), |asked| asked.password);
        let after = before.and(password);
        if after != before {
            self.change(|asked| asked.password = after);
        }
    }

    /// What miners of its kind need, if the user agent tells.
    pub(super) fn need(&mut self, minimum: Option<Difficulty>) {
        if minimum.is_some() || self.0.is_some() {
            self.change(|asked| asked.kind_minimum = minimum);
        }
    }

    /// What has changed since the pool was told.
    pub(super) fn news(&self) -> Option<News> {
        let news = self.0.as_ref()?.news;
        (news != News::default()).then_some(news)
    }

    /// The pool is being told all of it.
    pub(super) fn told(&mut self) {
        if let Some(asked) = &mut self.0 {
            asked.news = News::default();
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Asked)) {
        let before = (self.hashrate(), self.fixed(), self.floor());
        change(self.0.get_or_insert_default());
        let (hashrate, fixed, floor) = (self.hashrate(), self.fixed(), self.floor());
        if let Some(asked) = &mut self.0 {
            asked.news.hashrate |= hashrate != before.0;
            asked.news.floor |= (fixed, floor) != (before.1, before.2);
        }
    }
}

/// Options of a password: `d=` (difficulty to start with), `fd=` (fixed difficulty) and `th=` (hashrate in TH/s), separated
/// by commas or semicolons. Anything else means nothing, and neither does a number that cannot be.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Password {
    start: Option<Difficulty>,
    fixed: Option<Difficulty>,
    hashrate: Option<Hashrate>,
}

impl Password {
    /// With what another password says.
    fn and(mut self, password: &str) -> Self {
        for option in password.split([',', ';']) {
            let Some((name, value)) = option.split_once('=') else {
                continue;
            };
            let Ok(value) = value.trim().parse::<f64>() else {
                continue;
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "d" => self.start = possible_difficulty(value).or(self.start),
                "fd" => self.fixed = possible_difficulty(value).or(self.fixed),
                "th" => self.hashrate = possible_terahashes(value).or(self.hashrate),
                _ => {}
            }
        }
        self
    }
}

fn possible_difficulty(value: f64) -> Option<Difficulty> {
    Difficulty::new(value)
        .ok()
        .filter(|_| value <= MOST_DIFFICULTY)
}

fn possible_terahashes(value: f64) -> Option<Hashrate> {
    let possible = value > 0.0 && value <= MOST_TERAHASHES;
    Hashrate::new(value * HASHES_PER_TERAHASH)
        .ok()
        .filter(|_| possible)
}

fn harder(one: Difficulty, other: Difficulty) -> Difficulty {
    if one.value() > other.value() {
        one
    } else {
        other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn password(text: &str) -> [Option<f64>; 3] {
        let password = Password::default().and(text);
        [
            password.start.map(Difficulty::value),
            password.fixed.map(Difficulty::value),
            password.hashrate.map(Hashrate::value),
        ]
    }

    #[test]
    fn password_options_are_read_however_they_are_separated() {
        for text in [
            "d=1000,fd=2048,th=1.5",
            "d=1000;fd=2048;th=1.5",
            " x ; D = 1000 ,,; fd=2048,TH= 1.5 ;",
            "th=1.5e0,secret,d=1000,stop=7,fd=2048",
            "d=5,d=1000,fd=2048,th=1.5",
        ] {
            assert_eq!(
                password(text),
                [Some(1000.0), Some(2048.0), Some(1.5e12)],
                "{text}"
            );
        }
        assert_eq!(password("fd=0.0001"), [None, Some(0.0001), None]);
    }

    #[test]
    fn passwords_without_options_mean_nothing() {
        for text in [
            "", "x", "X", "123", "d", "d=", "=5", "d 5", "pd=5", "d=5 fd=6", "d==5",
        ] {
            assert_eq!(password(text), [None; 3], "{text}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_ignored_and_leave_what_was_said_before() {
        for bad in [
            "0", "-0", "-1", "nan", "NaN", "inf", "-inf", "infinity", "1e999", "1e300", "0x10",
            "1_000", "1k", "9e18",
        ] {
            for option in ["d", "fd", "th"] {
                let text = format!("d=1,fd=2,th=3,{option}={bad}");
                assert_eq!(
                    password(&text),
                    [Some(1.0), Some(2.0), Some(3e12)],
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn what_a_person_wrote_counts_more_than_what_firmware_suggests() {
        let mut wishes = Wishes::default();
        assert_eq!(wishes.hashrate(), None);
        let of = |difficulty: f64| Hashrate::new(difficulty * HASHES_PER_DIFFICULTY / 10.0).ok();
        assert!(wishes.suggest(Difficulty::new(512.0).unwrap()));
        assert_eq!(wishes.hashrate(), of(512.0));
        wishes.read_password("d=64");
        assert_eq!(wishes.hashrate(), of(64.0));
        wishes.read_password("fd=128");
        assert_eq!(wishes.hashrate(), of(128.0));
        wishes.read_password("th=2");
        assert_eq!(wishes.hashrate(), Hashrate::new(2e12).ok());
    }

    #[test]
    fn of_two_minimums_the_harder_counts() {
        let mut wishes = Wishes::default();
        wishes.need(None);
        assert!(wishes.0.is_none(), "nothing is kept for nothing");
        wishes.need(Difficulty::new(500.0).ok());
        for (minimum, floor) in [(100.0, 500.0), (1000.0, 1000.0)] {
            assert!(wishes.limit(minimum));
            assert_eq!(wishes.floor(), Difficulty::new(floor).ok());
        }
        wishes.need(None);
        assert_eq!(wishes.floor(), Difficulty::new(1000.0).ok());
    }

    #[test]
    fn only_what_has_changed_is_news() {
        let mut wishes = Wishes::default();
        assert_eq!(wishes.news(), None);
        wishes.suggest(Difficulty::ONE);
        wishes.read_password("x");
        let [hashrate, floor] =
            [(true, false), (false, true)].map(|(hashrate, floor)| Some(News { hashrate, floor }));
        assert_eq!(wishes.news(), hashrate);
        wishes.told();
        wishes.suggest(Difficulty::ONE);
        assert_eq!(wishes.news(), None);
        wishes.limit(2.0);
        assert_eq!(wishes.news(), floor);
        wishes.told();
        wishes.read_password("th=1");
        assert_eq!(wishes.news(), hashrate);
        wishes.told();
        // What a person wrote stands, so that this is no news.
        wishes.suggest(Difficulty::new(3.0).unwrap());
        assert_eq!(wishes.news(), None);
    }

    #[test]
    fn a_fixed_difficulty_is_not_below_the_floor() {
        let mut wishes = Wishes::default();
        wishes.read_password("fd=100");
        assert_eq!(wishes.fixed(), Difficulty::new(100.0).ok());
        assert!(wishes.limit(500.0));
        assert_eq!(wishes.fixed(), Difficulty::new(500.0).ok());
        assert!(!wishes.limit(f64::NAN) && !wishes.limit(1e300));
        assert_eq!(wishes.floor(), Difficulty::new(500.0).ok());
    }

    proptest! {
        #[test]
        fn whatever_a_password_holds_the_numbers_are_possible(
            text in r"(( ?(d|fd|th|D|x) ?= ?(-?[0-9]{0,20}(\.[0-9]{0,5})?(e-?[0-9]{1,4})?|nan|inf))|[,;]|.){0,12}"
        ) {
            let mut wishes = Wishes::default();
            wishes.read_password(&text);
            if let Some(hashrate) = wishes.hashrate() {
                // SV2 carries it as a 32-bit float.
                #[allow(clippy::cast_possible_truncation)]
                let on_the_wire = hashrate.value() as f32;
                prop_assert!(on_the_wire.is_finite() && on_the_wire >= 0.0);
            }
            if let Some(fixed) = wishes.fixed() {
                prop_assert!(fixed.value() > 0.0 && fixed.value() <= MOST_DIFFICULTY);
            }
        }
    }
}

//! What a new password must be: long enough and hard to guess (OWASP ASVS 5, 6.2; NIST SP 800-63B, 3.1.1.2). Never which
//! characters it has to be made of.

use crate::config::PasswordProfile;
use crate::types::InvalidValue;
use secrecy::{ExposeSecret, SecretString};
use zxcvbn::Score;

/// What a new password must be.
#[derive(Debug, Clone, Copy)]
pub struct PasswordRules {
    min_chars: usize,
    min_score: Score,
}

impl PasswordRules {
    /// How many characters it has at least, by the laxest rules.
    pub const MIN: usize = 8;
    /// How many characters it may have.
    pub const MAX: usize = 200;
    /// How many characters are looked at to find out how hard it is to guess: what the time that this takes grows with.
    const MAX_SCORED_CHARS: usize = 72;

    /// The rules of a profile.
    pub const fn new(profile: PasswordProfile) -> Self {
        match profile {
            PasswordProfile::Standard => Self { min_chars: Self::MIN, min_score: Score::Three },
            PasswordProfile::Strict => Self { min_chars: 15, min_score: Score::Four },
        }
    }

    /// Checks a new password of somebody of whom these words are known: names, the address. It is never repeated in the
    /// message. Takes milliseconds, of an artful one tenths of a second.
    pub fn check(&self, password: &SecretString, user_inputs: &[String]) -> Result<(), InvalidValue> {
        let password = password.expose_secret();
        let length = password.chars().count();
        let (min_chars, max_chars) = (self.min_chars, Self::MAX);
        if !(min_chars..=max_chars).contains(&length) {
            return Err(InvalidValue(format!(
                "the password has {length} characters; it needs {min_chars} to {max_chars}"
            )));
        }
        let scored: String = password.chars().take(Self::MAX_SCORED_CHARS).collect();
        let words: Vec<&str> =
            user_inputs.iter().flat_map(|text| split_words(text)).chain(["cedargate"]).collect();
        let guess = zxcvbn::zxcvbn(&scored, &words);
        if guess.score() >= self.min_score {
            return Ok(());
        }
        let mut message = "the password can be guessed".to_owned();
        if let Some(warning) = guess.feedback().and_then(|feedback| feedback.warning()) {
            message += &format!(" ({})", warning.to_string().trim_end_matches('.'));
        }
        message += "; several words that have nothing to do with one another, or with you, make a better one";
        Err(InvalidValue(message))
    }
}

/// A text, and the words that it is made of.
fn split_words(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(|letter: char| !letter.is_alphanumeric()).filter(|part| part.chars().count() > 2);
    std::iter::once(text).chain(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(profile: PasswordProfile, password: &str) -> Result<(), String> {
        let user_inputs =
            ["ada.lovelace@analytical.example".to_owned(), "Ada".to_owned(), "Lovelace".to_owned()];
        let checked = PasswordRules::new(profile).check(&password.into(), &user_inputs);
        checked.map_err(|error| error.to_string())
    }

    #[test]
    fn a_password_is_long_enough_and_hard_to_guess() {
        use PasswordProfile::{Standard, Strict};
        let long = |length| "correct horse battery staple ".chars().cycle().take(length).collect::<String>();
        for (password, standard, strict) in [
            ("", "0 characters", "0 characters"),
            ("x7#kQ9z", "7 characters", "7 characters"),
            // Eight that could be anything are 10^8 guesses to zxcvbn, and it asks for more than that.
            ("x7#kQ9z!", "can be guessed", "8 characters"),
            ("x7#kQ9z!m", "", "9 characters"),
            ("t0pZ3kR3t", "", "9 characters"),
            ("password", "can be guessed", "8 characters"),
            ("Password123!", "can be guessed", "12 characters"),
            ("aaaaaaaaaaaaaaaaaaaaaaaa", "can be guessed", "can be guessed"),
            ("qwertyuiopasdfghjkl", "can be guessed", "can be guessed"),
            ("lovelace", "can be guessed", "8 characters"),
            ("ada.lovelace@analytical.example", "can be guessed", "can be guessed"),
            ("analytical1843", "can be guessed", "14 characters"),
            ("cedargatecedargate", "can be guessed", "can be guessed"),
            // No composition rules: letters alone do, and blanks, and any script.
            ("correct horse battery staple", "", ""),
            ("мосты туман шестерёнка", "", ""),
            (&long(200), "", ""),
            (&long(201), "201 characters", "201 characters"),
        ] {
            for (profile, expected) in [(Standard, standard), (Strict, strict)] {
                match check(profile, password) {
                    Ok(()) => assert_eq!(expected, "", "{profile:?} {password:?}"),
                    Err(message) => {
                        assert!(
                            !expected.is_empty() && message.contains(expected),
                            "{password:?}: {message}"
                        );
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_message_never_contains_the_password(password in "\\PC{1,40}") {
            if let Err(message) = check(PasswordProfile::Strict, &password) {
                prop_assert!(password.chars().count() < 8 || !message.contains(&password), "{message}");
            }
        }
    }
}

//! Rules for new passwords: long enough and hard to guess (OWASP ASVS 5, section 6.2; NIST SP 800-63B, section 3.1.1.2).
//! There are no composition rules.

use crate::config::PasswordProfile;
use crate::types::{FieldErrorCode, InvalidValue};
use secrecy::{ExposeSecret, SecretString};
use zxcvbn::Score;

/// The requirements on a new password: a length and a strength.
#[derive(Debug, Clone, Copy)]
pub struct PasswordRules {
    min_chars: usize,
    min_score: Score,
}

impl PasswordRules {
    /// The minimum length under the weakest profile, in characters.
    pub const MIN: usize = 8;
    /// The maximum length, in characters.
    pub const MAX: usize = 200;
    /// How many characters are scored for strength; the running time of the scoring grows with it.
    const MAX_SCORED_CHARS: usize = 72;

    /// Returns the rules of a profile.
    pub const fn new(profile: PasswordProfile) -> Self {
        match profile {
            PasswordProfile::Standard => Self { min_chars: Self::MIN, min_score: Score::Three },
            PasswordProfile::Strict => Self { min_chars: 15, min_score: Score::Four },
        }
    }

    /// Checks a new password. `user_inputs` are texts about its user that make it easier to guess: names, the email address.
    ///
    /// Takes milliseconds; for a password constructed to be slow, tenths of a second.
    ///
    /// # Errors
    ///
    /// If the password is too short, too long or too easy to guess. The message never contains it.
    pub fn check(&self, password: &SecretString, user_inputs: &[String]) -> Result<(), InvalidValue> {
        let password = password.expose_secret();
        let length = password.chars().count();
        let (min_chars, max_chars) = (self.min_chars, Self::MAX);
        if !(min_chars..=max_chars).contains(&length) {
            let code = if length < min_chars { FieldErrorCode::TooShort } else { FieldErrorCode::TooLong };
            let message =
                format!("the password has {length} characters; expected {min_chars} to {max_chars}");
            return Err(InvalidValue::new(code, message));
        }
        let scored: String = password.chars().take(Self::MAX_SCORED_CHARS).collect();
        let words: Vec<&str> =
            user_inputs.iter().flat_map(|text| split_words(text)).chain(["cedargate"]).collect();
        let guess = zxcvbn::zxcvbn(&scored, &words);
        if guess.score() >= self.min_score {
            return Ok(());
        }
        let mut message = "the password is too easy to guess".to_owned();
        if let Some(warning) = guess.feedback().and_then(|feedback| feedback.warning()) {
            message += &format!(" ({})", warning.to_string().trim_end_matches('.'));
        }
        message += "; use several unrelated words";
        Err(InvalidValue::new(FieldErrorCode::TooWeak, message))
    }
}

/// Returns a text and the words in it that have more than two characters.
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
            // zxcvbn assumes 10^8 guesses for eight random characters; the standard profile requires more.
            ("x7#kQ9z!", "too easy to guess", "8 characters"),
            ("x7#kQ9z!m", "", "9 characters"),
            ("t0pZ3kR3t", "", "9 characters"),
            ("password", "too easy to guess", "8 characters"),
            ("Password123!", "too easy to guess", "12 characters"),
            ("aaaaaaaaaaaaaaaaaaaaaaaa", "too easy to guess", "too easy to guess"),
            ("qwertyuiopasdfghjkl", "too easy to guess", "too easy to guess"),
            ("lovelace", "too easy to guess", "8 characters"),
            ("ada.lovelace@analytical.example", "too easy to guess", "too easy to guess"),
            ("analytical1843", "too easy to guess", "14 characters"),
            ("cedargatecedargate", "too easy to guess", "too easy to guess"),
            // No composition rules: only letters, spaces, and any script are accepted.
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

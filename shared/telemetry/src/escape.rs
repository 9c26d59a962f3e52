//! Escapes control characters in text from outside, so that it is safe to print.
//!
//! Used by the log formatter here and by the tables and error lines of `console`.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Whether a character could move a cursor, start an escape sequence, break a line or reorder the text around it.
pub(crate) fn is_unsafe(c: char) -> bool {
    // Category Cc, then line and paragraph separators, then the bidirectional overrides and isolates ("trojan source"):
    // the latter are not in category Cc, but change how a line is read.
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces control characters, line separators and text-direction overrides by `\n`, `\u{1b}` and the like.
///
/// Borrows the text if there is nothing to replace.
#[must_use]
pub fn escape_control(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Writes text to a formatter, escaped as by [`escape_control`].
pub(crate) struct Escaping<'a, W: Write>(pub(crate) &'a mut W);

impl<W: Write> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&escape_control(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_visible_and_the_rest_stays() {
        assert_eq!(escape_control("device-7 · größe"), "device-7 · größe");
        assert!(matches!(escape_control("plain"), Cow::Borrowed(_)));
        assert_eq!(escape_control("a\nb\u{1b}[31m\r\u{9b}\u{202e}\0"), "a\\nb\\u{1b}[31m\\r\\u{9b}\\u{202e}\\u{0}");
    }
}

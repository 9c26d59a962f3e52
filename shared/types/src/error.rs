//! Text of an error with its causes.

use std::error::Error;

/// Formats an error and its causes on one line: `fetch digits/2: read chunk 3: connection reset`.
///
/// Each error of this project prints only its own layer, so nothing is repeated; a cause that a foreign library repeats
/// in its own text is skipped.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut cause = error.source();
    while let Some(error) = cause {
        let layer = error.to_string();
        if !last.ends_with(&layer) {
            text.push_str(": ");
            text.push_str(&layer);
        }
        last = layer;
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        cause: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let (text, rest) = texts.split_first().unwrap();
        let cause = (!rest.is_empty()).then(|| Box::new(layers(rest)));
        Layer { text, cause }
    }

    #[test]
    fn a_chain_names_every_layer_once() {
        assert_eq!(chain(&layers(&["open store", "read db", "disk failed"])), "open store: read db: disk failed");
        assert_eq!(chain(&layers(&["open store", "io: disk failed", "disk failed"])), "open store: io: disk failed");
        assert_eq!(chain(&layers(&["alone"])), "alone");
    }
}

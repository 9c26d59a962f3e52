//! Reader of `config.pbtxt`, the text form of Triton's model configuration.
//!
//! Fed by [`super::import`]. Reads what a model folder needs: fields, messages, lists, texts and numbers of the protocol buffer text format.

/// Maximum depth of messages; Triton's configuration has five.
const DEPTH_MAX: usize = 32;

/// Value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Text between quotation marks.
    Text(String),
    /// Number, or name of a constant.
    Word(String),
    /// Fields of a message, in their order.
    Message(Vec<(String, Value)>),
}

impl Value {
    /// Returns the values of a field of a message, lists included.
    pub(super) fn all<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a Self> {
        let fields = if let Self::Message(fields) = self { fields.as_slice() } else { &[] };
        fields.iter().filter(move |(name, _)| name == field).map(|(_, value)| value)
    }

    /// Returns the text or word of a field.
    pub(super) fn text<'a>(&'a self, field: &'a str) -> Option<&'a str> {
        self.all(field).find_map(|value| match value {
            Self::Text(text) | Self::Word(text) => Some(text.as_str()),
            Self::Message(_) => None,
        })
    }
}

/// Reads a configuration.
///
/// # Errors
/// A clause with the line of the first mistake.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { rest: text, line: 1 };
    let fields = reader.fields(0)?;
    match reader.next()? {
        None => Ok(Value::Message(fields)),
        Some(token) => Err(reader.wrong(&token)),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    /// Reads fields up to a closing brace or the end.
    fn fields(&mut self, depth: usize) -> Result<Vec<(String, Value)>, String> {
        if depth > DEPTH_MAX {
            return Err(format!("line {}: messages are nested more than {DEPTH_MAX} deep", self.line));
        }
        let mut fields = Vec::new();
        loop {
            let name = match self.peek()? {
                None | Some(Token::Sign('}')) => return Ok(fields),
                Some(Token::Sign(',' | ';')) => {
                    self.next()?;
                    continue;
                }
                Some(Token::Word(name)) => name,
                Some(token) => return Err(self.wrong(&token)),
            };
            self.next()?;
            if self.peek()? == Some(Token::Sign(':')) {
                self.next()?;
            }
            self.values(&name, depth, &mut fields)?;
        }
    }

    /// Reads the value of a field, or a list of values.
    fn values(&mut self, name: &str, depth: usize, fields: &mut Vec<(String, Value)>) -> Result<(), String> {
        if self.peek()? != Some(Token::Sign('[')) {
            fields.push((name.to_owned(), self.value(depth)?));
            return Ok(());
        }
        self.next()?;
        loop {
            match self.peek()? {
                Some(Token::Sign(']')) => {
                    self.next()?;
                    return Ok(());
                }
                Some(Token::Sign(',')) => {
                    self.next()?;
                }
                Some(_) | None => fields.push((name.to_owned(), self.value(depth)?)),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        match self.next()? {
            Some(Token::Word(word)) => Ok(Value::Word(word)),
            Some(Token::Text(text)) => Ok(Value::Text(text)),
            Some(Token::Sign('{')) => {
                let fields = self.fields(depth + 1)?;
                match self.next()? {
                    Some(Token::Sign('}')) => Ok(Value::Message(fields)),
                    Some(token) => Err(self.wrong(&token)),
                    None => Err(format!("line {}: a brace is not closed", self.line)),
                }
            }
            Some(token) => Err(self.wrong(&token)),
            None => Err(format!("line {}: a value is missing", self.line)),
        }
    }

    fn wrong(&self, token: &Token) -> String {
        let found = match token {
            Token::Word(text) | Token::Text(text) => text.chars().take(40).collect(),
            Token::Sign(sign) => sign.to_string(),
        };
        format!("line {}: {found:?} does not belong here", self.line)
    }

    fn peek(&mut self) -> Result<Option<Token>, String> {
        let (rest, line) = (self.rest, self.line);
        let token = self.next()?;
        (self.rest, self.line) = (rest, line);
        Ok(token)
    }

    fn next(&mut self) -> Result<Option<Token>, String> {
        self.skip();
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        if matches!(first, '"' | '\'') {
            return self.quoted(first).map(Some);
        }
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || "_-+./".contains(letter);
        let end = self.rest.find(|letter| !is_word(letter)).unwrap_or(self.rest.len());
        let (token, length) = match self.rest.get(..end) {
            Some(word) if end > 0 => (Token::Word(word.to_owned()), end),
            Some(_) | None => (Token::Sign(first), first.len_utf8()),
        };
        self.rest = self.rest.get(length..).unwrap_or_default();
        Ok(Some(token))
    }

    /// Skips spaces, line ends and comments.
    fn skip(&mut self) {
        while let Some(first) = self.rest.chars().next() {
            let length = match first {
                '#' => self.rest.find('\n').unwrap_or(self.rest.len()),
                space if space.is_whitespace() => space.len_utf8(),
                _ => return,
            };
            self.line += usize::from(first == '\n');
            self.rest = self.rest.get(length..).unwrap_or_default();
        }
    }

    fn quoted(&mut self, mark: char) -> Result<Token, String> {
        let mut text = String::new();
        let mut letters = self.rest.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            match letter {
                letter if letter == mark => {
                    self.rest = self.rest.get(at + letter.len_utf8()..).unwrap_or_default();
                    return Ok(Token::Text(text));
                }
                '\\' => match letters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, letter @ ('\\' | '"' | '\''))) => text.push(letter),
                    Some(_) | None => return Err(format!("line {}: a text has an unknown escape", self.line)),
                },
                '\n' => break,
                letter => text.push(letter),
            }
        }
        Err(format!("line {}: a text is not closed", self.line))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DENSENET: &str = r#"
name: "densenet_onnx"  # from Triton's own examples
platform: "onnxruntime_onnx"
max_batch_size : 0
input [
  { name: "data_0" data_type: TYPE_FP32, format: FORMAT_NCHW, dims: [ 3, 224, 224 ]
    reshape { shape: [ 1, 3, 224, 224 ] } }
]
output [
  {
    name: "fc6_1"
    data_type: TYPE_FP32
    dims: [ 1000 ]
    label_filename: "densenet_labels.txt"
  }
]
instance_group { kind: KIND_CPU; count: -1 }
"#;

    #[test]
    fn a_configuration_of_triton_is_read() {
        let config = parse(DENSENET).unwrap();
        assert_eq!((config.text("name"), config.text("max_batch_size")), (Some("densenet_onnx"), Some("0")));
        let output = config.all("output").next().unwrap();
        assert_eq!((output.text("name"), output.text("label_filename")), (Some("fc6_1"), Some("densenet_labels.txt")));
        assert_eq!(config.all("input").next().unwrap().all("dims").count(), 3);
        let spread = parse("output { name: 'a' }\noutput { name: \"b\\\"\" }").unwrap();
        assert_eq!(spread.all("output").filter_map(|output| output.text("name")).collect::<Vec<_>>(), ["a", "b\""]);
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        assert_eq!(parse("name: \"a\"\n}").unwrap_err(), "line 2: \"}\" does not belong here");
        assert_eq!(parse("\n\noutput [ { name: \"a\"").unwrap_err(), "line 3: a brace is not closed");
        assert_eq!(parse("name: \"a\nb\"").unwrap_err(), "line 1: a text is not closed");
        assert!(parse(&"a {".repeat(10_000)).unwrap_err().contains("nested"));
        assert!(parse("a: [").unwrap_err().contains("missing"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z{}\\[\\]:,;\"'#\\\\ \n0-9]{0,200}") {
            drop(parse(&text));
        }

        #[test]
        fn any_characters_are_read_or_refused(text in any::<String>()) {
            drop(parse(&text));
        }
    }
}

//! The parser of filters: bounded in length and depth, with errors that name the column.

use super::{FILTER_BYTES_MAX, Field, Filter, Operator, State, dotted};

/// Maximum depth of parentheses and `not`; the parser and the evaluation are recursive.
const DEPTH_MAX: usize = 32;

/// Error for a text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter, column {column}: {problem}")]
pub struct FilterError {
    /// Column of the problem, from 1, in characters.
    pub column: usize,
    /// Problem with what was expected and found.
    pub problem: String,
}

/// Parses a filter.
///
/// # Errors
/// [`FilterError`] with the column and what was expected there.
pub fn parse(text: &str) -> Result<Filter, FilterError> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    if text.len() > FILTER_BYTES_MAX {
        return Err(parser.error(format!("a filter has at most {FILTER_BYTES_MAX} bytes, and this one {}", text.len())));
    }
    let filter = parser.either()?;
    parser.skip_space();
    match parser.rest() {
        "" => Ok(filter),
        _ => Err(parser.expected("`and`, `or` or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn error(&self, problem: String) -> FilterError {
        let before = self.text.get(..self.at).unwrap_or_default();
        FilterError { column: before.chars().count() + 1, problem }
    }

    fn expected(&self, what: &str) -> FilterError {
        let found: String = self.rest().chars().take(20).collect();
        let found = if found.is_empty() { "the end of the filter".to_owned() } else { format!("{found:?}") };
        self.error(format!("expected {what}, found {found}"))
    }

    /// Takes a symbol if it comes next.
    fn take(&mut self, symbol: &str) -> bool {
        self.skip_space();
        let is_next = self.rest().starts_with(symbol);
        if is_next {
            self.at += symbol.len();
        }
        is_next
    }

    /// Returns the word that comes next without taking it; empty when there is none.
    fn peek_word(&mut self) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default()
    }

    /// Takes a keyword if it comes next.
    fn keyword(&mut self, keyword: &str) -> bool {
        let is_next = self.peek_word() == keyword;
        if is_next {
            self.at += keyword.len();
        }
        is_next
    }

    fn either(&mut self) -> Result<Filter, FilterError> {
        let mut filter = self.both()?;
        while self.keyword("or") {
            filter = Filter::Or(Box::new(filter), Box::new(self.both()?));
        }
        Ok(filter)
    }

    fn both(&mut self) -> Result<Filter, FilterError> {
        let mut filter = self.unary()?;
        while self.keyword("and") {
            filter = Filter::And(Box::new(filter), Box::new(self.unary()?));
        }
        Ok(filter)
    }

    fn unary(&mut self) -> Result<Filter, FilterError> {
        self.skip_space();
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error(format!("parentheses and `not` are nested more than {DEPTH_MAX} deep")));
        }
        let filter = if self.keyword("not") {
            Filter::Not(Box::new(self.unary()?))
        } else if self.take("(") {
            let inner = self.either()?;
            if !self.take(")") {
                return Err(self.expected("`and`, `or` or `)`"));
            }
            inner
        } else {
            self.term()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn term(&mut self) -> Result<Filter, FilterError> {
        let word = self.peek_word();
        if word.is_empty() || ["and", "or", "in"].contains(&word) {
            return Err(self.expected("a field, like site, name or version"));
        }
        let field_at = self.at;
        self.at += word.len();
        let is_negated_list = {
            let before = self.at;
            let is_list = self.keyword("not") && self.peek_word() == "in";
            if !is_list {
                self.at = before;
            }
            is_list
        };
        if self.keyword("in") {
            let filter = self.list(word, field_at)?;
            return Ok(if is_negated_list { Filter::Not(Box::new(filter)) } else { filter });
        }
        let operator = Operator::ALL.into_iter().find(|operator| self.take(operator.as_str()));
        match (operator, word) {
            (None, "online") => Ok(Filter::Is(State::Online)),
            (None, "revoked") => Ok(Filter::Is(State::Revoked)),
            (None, word) => match self.field(word, field_at)? {
                Field::Label(key) => Ok(Filter::Has(key)),
                _ => Err(self.expected(&format!("a comparison after {word}: =, !=, <, <=, >, >= or in (…)"))),
            },
            (Some(operator), "online" | "revoked") => self.switch(word, operator),
            (Some(operator), word) => {
                let field = self.field(word, field_at)?;
                let value_at = self.at;
                let value = self.value()?;
                self.check(&field, operator, &value, value_at)?;
                Ok(Filter::Compare(field, operator, value))
            }
        }
    }

    /// Parses the rest of `online=true`.
    fn switch(&mut self, word: &str, operator: Operator) -> Result<Filter, FilterError> {
        let state = if word == "online" { State::Online } else { State::Revoked };
        let at = self.at;
        let wanted = match self.value()?.as_str() {
            "true" => true,
            "false" => false,
            _ => {
                self.at = at;
                return Err(self.expected(&format!("true or false after {word}")));
            }
        };
        let is_equal = match operator {
            Operator::Is => true,
            Operator::IsNot => false,
            Operator::Below | Operator::AtMost | Operator::Above | Operator::AtLeast => {
                return Err(self.error(format!("{word} has no order: write {word} or not {word}")));
            }
        };
        let filter = Filter::Is(state);
        Ok(if wanted == is_equal { filter } else { Filter::Not(Box::new(filter)) })
    }

    fn list(&mut self, word: &str, field_at: usize) -> Result<Filter, FilterError> {
        let field = self.field(word, field_at)?;
        if !self.take("(") {
            return Err(self.expected("`(` after in"));
        }
        let mut values = Vec::new();
        loop {
            let at = self.at;
            let value = self.value()?;
            self.check(&field, Operator::Is, &value, at)?;
            values.push(value);
            if self.take(")") {
                return Ok(Filter::In(field, values));
            }
            if !self.take(",") {
                return Err(self.expected("`,` or `)`"));
            }
        }
    }

    fn field(&mut self, word: &str, at: usize) -> Result<Field, FilterError> {
        let field = match word {
            "name" => Field::Name,
            "agent" => Field::Agent,
            "engine" => Field::Engine,
            "os" => Field::Os,
            "arch" => Field::Arch,
            "model" => Field::Model,
            "variant" => Field::Variant,
            "version" => Field::Version(None),
            _ => match (word.strip_prefix("version."), word.strip_prefix("label.")) {
                (Some(model), _) if !model.is_empty() => Field::Version(Some(model.to_owned())),
                (_, Some(key)) if !key.is_empty() => Field::Label(key.to_owned()),
                _ => Field::Label(word.to_owned()),
            },
        };
        match &field {
            Field::Label(key) if key.chars().any(|c| c.is_ascii_uppercase()) || key.contains([':', '/', '*', '+']) => {
                self.at = at;
                Err(self.error(format!("{key:?} is neither a field nor a valid label key (a-z, 0-9, '-', '_', '.')")))
            }
            _ => Ok(field),
        }
    }

    fn value(&mut self) -> Result<String, FilterError> {
        self.skip_space();
        for quote in ['"', '\''] {
            if let Some(quoted) = self.rest().strip_prefix(quote) {
                let Some((value, _rest)) = quoted.split_once(quote) else {
                    return Err(self.error(format!("the text has no closing {quote}")));
                };
                self.at += value.len() + 2;
                return Ok(value.to_owned());
            }
        }
        let word = self.peek_word();
        if word.is_empty() || ["and", "or", "not", "in"].contains(&word) {
            return Err(self.expected("a value; quote one that has spaces: site=\"new york\""));
        }
        self.at += word.len();
        Ok(word.to_owned())
    }

    /// Refuses a value that the field cannot have.
    fn check(&mut self, field: &Field, operator: Operator, value: &str, at: usize) -> Result<(), FilterError> {
        let problem = match field {
            Field::Version(_) if value.parse::<u64>().is_err() => "a version is a whole number",
            Field::Name | Field::Engine | Field::Os | Field::Arch | Field::Model | Field::Variant
                if operator.is_ordered() =>
            {
                "this field has no order: use =, != or in (…)"
            }
            Field::Agent | Field::Label(_) if operator.is_ordered() && dotted(value).is_none() => {
                "order needs a number, like 3 or 0.2.0"
            }
            Field::Name
            | Field::Engine
            | Field::Os
            | Field::Arch
            | Field::Model
            | Field::Variant
            | Field::Version(_)
            | Field::Agent
            | Field::Label(_) => return Ok(()),
        };
        self.at = at;
        self.skip_space();
        Err(self.error(format!("{field}{}{value:?}: {problem}", operator.as_str())))
    }
}

/// Returns whether a character belongs to an unquoted word.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "-_.:/*+".contains(c)
}

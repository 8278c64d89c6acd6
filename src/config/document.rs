//! Reading the TOML tree with the place of every value. Each fault is noted and reading goes on, so that one run finds
//! all of them.

use std::cell::RefCell;
use std::fmt;

use hashbrown::HashSet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Code, Conflict, Error, Errors};
use super::reference::Section;

/// One step of a key path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    name: &'static str,
    index: Option<u32>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.index.map_or(Ok(()), |index| write!(f, "[{index}]"))
    }
}

/// A place in the file: a table, or a value in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    path: [Option<Step>; 3],
    start: u32,
    end: u32,
    /// Whether the place is a value that an error shows, and not a table.
    is_value: bool,
}

impl Spot {
    const ROOT: Self = Self { path: [None; 3], start: 0, end: 0, is_value: false };

    fn down(self, name: &'static str, index: Option<usize>, span: std::ops::Range<usize>) -> Self {
        let mut path = self.path;
        if let Some(free) = path.iter_mut().find(|step| step.is_none()) {
            *free = Some(Step { name, index: index.map(|i| i as u32) });
        }
        Self { path, start: span.start as u32, end: span.end as u32, is_value: true }
    }

    /// A key of this table that is not there.
    pub(super) fn missing(self, name: &'static str) -> Self {
        let spot = Self { is_value: false, ..self.down(name, None, self.start as usize..self.end as usize) };
        // A table that the file lacks has no line at all.
        if self.path[0].is_none() { Self { start: u32::MAX, ..spot } } else { spot }
    }

    /// The table itself, without showing a value.
    fn table(self) -> Self {
        Self { is_value: false, ..self }
    }

    /// The place of a value of this table.
    pub(super) fn of<T>(self, field: &Field<T>) -> Self {
        let index = field.key.index.map(|i| i as usize);
        self.down(field.key.name, index, field.start as usize..field.end as usize)
    }

    /// The key path.
    pub(super) fn key(self) -> String {
        let steps: Vec<String> = self.path.iter().flatten().map(Step::to_string).collect();
        steps.join(".")
    }
}

/// A value of a table that remembers where it stands.
#[derive(Clone, Debug)]
pub(super) struct Field<T> {
    pub(super) value: T,
    key: Step,
    start: u32,
    end: u32,
}

/// Why a value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The rule's stable name.
    pub code: Code,
    /// The rule where it is more than the code's own.
    pub rule: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    pub(super) fn new(code: Code) -> Self {
        Self { code, rule: None, hint: None }
    }

    pub(super) fn rule(self, rule: impl Into<String>) -> Self {
        Self { rule: Some(rule.into()), ..self }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// The text and what was found wrong with it so far.
pub(super) struct Document<'t> {
    file: &'t str,
    text: &'t str,
    line_starts: Vec<u32>,
    errors: RefCell<Vec<Error>>,
    /// Keys that are there but could not be read: nothing more is said of them.
    unread: RefCell<HashSet<String>>,
    /// Which keys were asked for, so that a test can hold them against the reference.
    #[cfg(test)]
    pub(super) asked: RefCell<std::collections::BTreeSet<(&'static str, &'static str)>>,
}

impl<'t> Document<'t> {
    pub(super) fn new(text: &'t str, file: &'t str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i as u32 + 1);
        Self {
            file,
            text,
            line_starts: std::iter::once(0).chain(newlines).collect(),
            errors: RefCell::default(),
            unread: RefCell::default(),
            #[cfg(test)]
            asked: RefCell::default(),
        }
    }

    pub(super) fn file(&self) -> &str {
        self.file
    }

    fn line_at(&self, offset: usize) -> u32 {
        self.line_starts.partition_point(|start| *start as usize <= offset) as u32
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, spot: Spot) -> Option<u32> {
        (spot.path[0].is_some() && spot.start != u32::MAX).then(|| self.line_at(spot.start as usize))
    }

    /// Starts an error; [`Draft::emit`] notes it.
    pub(super) fn error(&self, spot: Spot, code: Code) -> Draft<'_, 't> {
        let value = spot.is_value.then(|| self.excerpt(spot.start as usize, spot.end as usize));
        Draft {
            document: self,
            error: Error {
                code,
                file: self.file.to_owned(),
                line: self.line(spot),
                key: spot.key(),
                value,
                rule: code.rule().to_owned(),
                conflict: None,
                hint: None,
            },
        }
    }

    /// The text of a value, on one line and not too long.
    fn excerpt(&self, start: usize, end: usize) -> String {
        const LONGEST: usize = 80;
        let text = self.text.get(start..end).unwrap_or_default();
        let mut short: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((cut, _)) = short.char_indices().nth(LONGEST) {
            short.truncate(cut);
            short.push('…');
        }
        short
    }

    fn syntax(&self, error: &toml::de::Error) {
        let rule = format!("{}: {}", Code::Syntax.rule(), error.message());
        let mut draft = self.error(Spot::ROOT, Code::Syntax).rule(rule);
        draft.error.line = error.span().map(|span| self.line_at(span.start));
        draft.emit();
    }

    /// The tree of the text. Faults of syntax end the reading, for what follows them is guesswork.
    pub(super) fn tree(&self) -> Option<Spanned<DeTable<'t>>> {
        if u32::try_from(self.text.len()).is_err() {
            self.error(Spot::ROOT, Code::Unreadable).hint("the file is larger than 4 GiB").emit();
            return None;
        }
        let (tree, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.syntax(error);
        }
        errors.is_empty().then_some(tree)
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    pub(super) fn finish(self) -> Result<(), Errors> {
        Errors::of(self.errors.into_inner())
    }
}

/// An error that is being written.
#[must_use]
pub(super) struct Draft<'d, 't> {
    document: &'d Document<'t>,
    error: Error,
}

impl Draft<'_, '_> {
    pub(super) fn rule(mut self, rule: impl Into<String>) -> Self {
        self.error.rule = rule.into();
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error.hint = Some(hint.into());
        self
    }

    /// Names the other side of a conflict.
    pub(super) fn conflicts(mut self, spot: Spot, name: Option<&str>) -> Self {
        self.error.conflict =
            Some(Conflict { key: spot.key(), line: self.document.line(spot), name: name.map(str::to_owned) });
        self
    }

    pub(super) fn emit(self) {
        let follows = self.error.value.is_none() && self.document.unread.borrow().contains(&self.error.key);
        if !follows {
            self.document.errors.borrow_mut().push(self.error);
        }
    }
}

/// A table that is being read.
#[derive(Clone, Copy)]
pub(super) struct Table<'d, 't> {
    document: &'d Document<'t>,
    section: &'static Section,
    values: &'d DeTable<'t>,
    pub(super) here: Spot,
}

impl<'d, 't> Table<'d, 't> {
    pub(super) fn root(document: &'d Document<'t>, tree: &'d DeTable<'t>, section: &'static Section) -> Self {
        Self::open(document, tree, section, Spot::ROOT)
    }

    /// Opens a table and refuses keys that its section does not know.
    fn open(
        document: &'d Document<'t>,
        table: &'d DeTable<'t>,
        section: &'static Section,
        here: Spot,
    ) -> Self {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if section.has(name) {
                continue;
            }
            let path = here.key();
            let mut draft = document.error(here.table(), Code::UnknownKey);
            draft.error.line = Some(document.line_at(key.span().start));
            draft.error.key = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            if !matches!(value.get_ref(), DeValue::Table(_)) && !is_tables(value.get_ref()) {
                let span = value.span();
                draft.error.value = Some(document.excerpt(span.start, span.end));
            }
            draft.hint(suggestion(section, name)).emit();
        }
        Self { document, section, values: table, here }
    }

    fn get(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'t>>> {
        debug_assert!(self.section.has(key), "{key} is not in the reference of {}", self.section.path);
        #[cfg(test)]
        self.document.asked.borrow_mut().insert((self.section.path, key));
        self.values.get(key)
    }

    /// A value, if it is there. What cannot be read is noted and taken as not there.
    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        read: impl Fn(&DeValue<'t>) -> Result<T, Problem>,
    ) -> Option<Field<T>> {
        let value = self.get(key)?;
        self.read(Step { name: key, index: None }, value, read)
    }

    /// A value that must be there.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        read: impl Fn(&DeValue<'t>) -> Result<T, Problem>,
    ) -> Option<Field<T>> {
        self.require(key);
        self.optional(key, read)
    }

    /// A list that must be there.
    pub(super) fn required_list<T>(
        &self,
        key: &'static str,
        read: impl Fn(&DeValue<'t>) -> Result<T, Problem>,
    ) -> Option<Vec<Field<T>>> {
        self.require(key);
        self.list(key, read)
    }

    fn require(&self, key: &'static str) {
        if self.get(key).is_none() {
            self.document
                .error(self.here.missing(key), Code::MissingKey)
                .rule(format!("{} in {}", Code::MissingKey.rule(), self.section.header))
                .emit();
        }
    }

    /// A list of values; none if the key is not there.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        read: impl Fn(&DeValue<'t>) -> Result<T, Problem>,
    ) -> Option<Vec<Field<T>>> {
        let value = self.get(key)?;
        let DeValue::Array(values) = value.get_ref() else {
            self.wrong_type(key, value, "a list");
            return None;
        };
        let step = |index: usize| Step { name: key, index: Some(index as u32) };
        Some(values.iter().enumerate().filter_map(|(i, value)| self.read(step(i), value, &read)).collect())
    }

    fn read<T>(
        &self,
        step: Step,
        value: &Spanned<DeValue<'t>>,
        read: impl Fn(&DeValue<'t>) -> Result<T, Problem>,
    ) -> Option<Field<T>> {
        let span = value.span();
        let place = Field { value: (), key: step, start: span.start as u32, end: span.end as u32 };
        match read(value.get_ref()) {
            Ok(value) => Some(Field { value, key: step, start: place.start, end: place.end }),
            Err(problem) => {
                let whole = Field { key: Step { index: None, ..step }, ..place.clone() };
                self.document.unread.borrow_mut().insert(self.here.of(&whole).key());
                let mut draft = self.document.error(self.here.of(&place), problem.code);
                draft.error.hint = problem.hint;
                match problem.rule {
                    Some(rule) => draft.rule(rule).emit(),
                    None => draft.emit(),
                }
                None
            }
        }
    }

    fn wrong_type(&self, key: &'static str, value: &Spanned<DeValue<'t>>, expected: &str) {
        let spot = self.here.down(key, None, value.span());
        let spot = if value.get_ref().is_table() || is_tables(value.get_ref()) { spot.table() } else { spot };
        self.document
            .error(spot, Code::WrongType)
            .rule(format!("expected {expected}, found {}", kind_of(value.get_ref())))
            .emit();
        self.document.unread.borrow_mut().insert(spot.key());
    }

    /// A table inside this one.
    pub(super) fn table(&self, key: &'static str, section: &'static Section) -> Option<Table<'d, 't>> {
        let value = self.get(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(key, value, "a table");
            return None;
        };
        Some(Self::open(self.document, table, section, self.here.down(key, None, value.span()).table()))
    }

    /// The tables of an array.
    pub(super) fn tables(&self, key: &'static str, section: &'static Section) -> Vec<Table<'d, 't>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(values) = value.get_ref() else {
            self.wrong_type(key, value, &format!("tables, written {}", section.header));
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(values.len());
        for (i, value) in values.iter().enumerate() {
            let spot = self.here.down(key, Some(i), value.span());
            if let DeValue::Table(table) = value.get_ref() {
                tables.push(Self::open(self.document, table, section, spot.table()));
            } else {
                let rule = format!("expected a table, found {}", kind_of(value.get_ref()));
                self.document.error(spot, Code::WrongType).rule(rule).emit();
            }
        }
        tables
    }
}

fn is_tables(value: &DeValue<'_>) -> bool {
    value.as_array().is_some_and(|values| values.iter().any(|v| v.get_ref().is_table()))
}

/// The kind of a value, with its article.
pub(super) fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The known key that is most like an unknown one, or all of them.
fn suggestion(section: &Section, name: &str) -> String {
    let names = section.keys.iter().map(|key| key.name);
    let nearest = names
        .clone()
        .map(|known| (strsim::damerau_levenshtein(known, &name.to_lowercase()), known))
        .min()
        .filter(|(distance, known)| *distance <= 2 && *distance < known.len());
    match nearest {
        Some((_, known)) => format!("did you mean `{known}`?"),
        None => format!("{} knows {}", section.header, names.collect::<Vec<_>>().join(", ")),
    }
}

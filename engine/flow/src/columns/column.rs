//! A column: values of one type, and which of them are null.

use thalweg_kernel::Str;

/// The type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// Whole numbers of 64 bits.
    Int,
    /// Numbers of 64 bits with a binary point.
    Float,
    /// UTF-8 text.
    Text,
}

/// Values of one type, one for each row. Where a row has none, a value stands that means nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Whole numbers.
    Int(Vec<i64>, Nulls),
    /// Numbers with a binary point.
    Float(Vec<f64>, Nulls),
    /// Text.
    Text(TextColumn, Nulls),
}

/// Which rows of a column are null: empty where none is, which costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nulls(Vec<bool>);

impl Nulls {
    /// Whether row `row` is null.
    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.0.get(row).copied().unwrap_or(false)
    }

    /// Whether no row is.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a row behind `rows` others.
    #[inline]
    fn push(&mut self, null: bool, rows: usize) {
        if null || !self.0.is_empty() {
            self.0.resize(rows, false);
            self.0.push(null);
        }
    }

    fn keep(&mut self, rows: &[u32]) {
        if !self.0.is_empty() {
            compact(&mut self.0, rows);
        }
    }

    /// Adds `rows` of `from`, behind `before` others.
    fn gather(&mut self, from: &Self, rows: &[u32], before: usize) {
        if from.0.is_empty() && self.0.is_empty() {
            return;
        }
        self.0.resize(before, false);
        self.0.extend(rows.iter().map(|&row| from.is_null(row as usize)));
    }
}

/// Texts, one behind the other in one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextColumn {
    /// Where each text ends.
    ends: Vec<u32>,
    bytes: String,
}

impl TextColumn {
    /// The text of row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    pub fn get(&self, row: usize) -> &str {
        let from = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[from as usize..self.ends[row] as usize]
    }

    /// The number of rows.
    #[inline]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds a row.
    #[inline]
    pub fn push(&mut self, text: &str) {
        self.bytes.push_str(text);
        self.ends.push(self.bytes.len() as u32);
    }

    fn clear(&mut self) {
        self.ends.clear();
        self.bytes.clear();
    }

    fn keep(&mut self, rows: &[u32]) {
        let all = std::mem::take(self);
        rows.iter().for_each(|&row| self.push(all.get(row as usize)));
    }
}

/// Moves the rows that are kept to the front: rows in ascending order.
fn compact<T: Copy>(values: &mut Vec<T>, rows: &[u32]) {
    for (to, &from) in rows.iter().enumerate() {
        values[to] = values[from as usize];
    }
    values.truncate(rows.len());
}

/// Makes columns of these types. Those that fit stay as they are, with their buffers.
pub(super) fn retype(columns: &mut Vec<Column>, types: &[DataType]) {
    columns.truncate(types.len());
    for (at, &data_type) in types.iter().enumerate() {
        match columns.get_mut(at) {
            Some(column) if column.data_type() == data_type => {}
            Some(column) => *column = Column::new(data_type),
            None => columns.push(Column::new(data_type)),
        }
    }
}

impl Column {
    /// An empty column.
    pub fn new(data_type: DataType) -> Self {
        match data_type {
            DataType::Int => Self::Int(Vec::new(), Nulls::default()),
            DataType::Float => Self::Float(Vec::new(), Nulls::default()),
            DataType::Text => Self::Text(TextColumn::default(), Nulls::default()),
        }
    }

    /// The type of its values.
    pub const fn data_type(&self) -> DataType {
        match self {
            Self::Int(..) => DataType::Int,
            Self::Float(..) => DataType::Float,
            Self::Text(..) => DataType::Text,
        }
    }

    /// The number of rows.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::Int(values, _) => values.len(),
            Self::Float(values, _) => values.len(),
            Self::Text(texts, _) => texts.len(),
        }
    }

    /// Whether there is no row.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether row `row` is null.
    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Int(_, nulls) | Self::Float(_, nulls) | Self::Text(_, nulls) => {
                nulls.is_null(row)
            }
        }
    }

    /// Whether any row is null.
    #[inline]
    pub fn has_nulls(&self) -> bool {
        match self {
            Self::Int(_, nulls) | Self::Float(_, nulls) | Self::Text(_, nulls) => !nulls.is_empty(),
        }
    }

    /// Its whole numbers, null or not; empty if its values are others.
    #[inline]
    pub fn ints(&self) -> &[i64] {
        match self {
            Self::Int(values, _) => values,
            _ => &[],
        }
    }

    /// Its numbers with a binary point, null or not; empty if its values are others.
    #[inline]
    pub fn floats(&self) -> &[f64] {
        match self {
            Self::Float(values, _) => values,
            _ => &[],
        }
    }

    /// Its texts, null or not, if its values are texts.
    #[inline]
    pub fn texts(&self) -> Option<&TextColumn> {
        match self {
            Self::Text(texts, _) => Some(texts),
            _ => None,
        }
    }

    /// Adds whole numbers that are not null. Nothing is added to a column of another type.
    #[inline]
    pub fn extend_ints(&mut self, more: impl Iterator<Item = i64>) {
        if let Self::Int(values, nulls) = self {
            values.extend(more);
            if !nulls.0.is_empty() {
                nulls.0.resize(values.len(), false);
            }
        }
    }

    /// Adds numbers with a binary point that are not null. Nothing is added to a column of another type.
    #[inline]
    pub fn extend_floats(&mut self, more: impl Iterator<Item = f64>) {
        if let Self::Float(values, nulls) = self {
            values.extend(more);
            if !nulls.0.is_empty() {
                nulls.0.resize(values.len(), false);
            }
        }
    }

    /// Adds a whole number, or a null. Nothing is added to a column of another type.
    #[inline]
    pub fn push_int(&mut self, value: Option<i64>) {
        if let Self::Int(values, nulls) = self {
            nulls.push(value.is_none(), values.len());
            values.push(value.unwrap_or_default());
        }
    }

    /// Adds a number with a binary point, or a null. Nothing is added to a column of another type.
    #[inline]
    pub fn push_float(&mut self, value: Option<f64>) {
        if let Self::Float(values, nulls) = self {
            nulls.push(value.is_none(), values.len());
            values.push(value.unwrap_or_default());
        }
    }

    /// Adds a text, or a null. Nothing is added to a column of another type.
    #[inline]
    pub fn push_text(&mut self, value: Option<&str>) {
        if let Self::Text(texts, nulls) = self {
            nulls.push(value.is_none(), texts.len());
            texts.push(value.unwrap_or_default());
        }
    }

    /// The text of row `row`, if its values are texts and it is not null.
    pub fn text_at(&self, row: usize) -> Option<Str> {
        let texts = self.texts().filter(|_| !self.is_null(row))?;
        Some(texts.get(row).into())
    }

    /// Forgets all rows and keeps the buffers.
    pub(super) fn clear(&mut self) {
        match self {
            Self::Int(values, nulls) => (values.clear(), nulls.0.clear()).0,
            Self::Float(values, nulls) => (values.clear(), nulls.0.clear()).0,
            Self::Text(texts, nulls) => (texts.clear(), nulls.0.clear()).0,
        }
    }

    /// Leaves out all rows but these, in ascending order.
    pub(super) fn keep(&mut self, rows: &[u32]) {
        match self {
            Self::Int(values, nulls) => (compact(values, rows), nulls.keep(rows)).0,
            Self::Float(values, nulls) => (compact(values, rows), nulls.keep(rows)).0,
            Self::Text(texts, nulls) => (texts.keep(rows), nulls.keep(rows)).0,
        }
    }

    /// Adds these rows of another column of one type with it.
    pub(super) fn gather(&mut self, from: &Self, rows: &[u32]) {
        let before = self.len();
        match (self, from) {
            (Self::Int(values, nulls), Self::Int(others, other_nulls)) => {
                values.extend(rows.iter().map(|&row| others[row as usize]));
                nulls.gather(other_nulls, rows, before);
            }
            (Self::Float(values, nulls), Self::Float(others, other_nulls)) => {
                values.extend(rows.iter().map(|&row| others[row as usize]));
                nulls.gather(other_nulls, rows, before);
            }
            (Self::Text(texts, nulls), Self::Text(others, other_nulls)) => {
                rows.iter().for_each(|&row| texts.push(others.get(row as usize)));
                nulls.gather(other_nulls, rows, before);
            }
            _ => debug_assert!(false, "columns of two types"),
        }
    }
}

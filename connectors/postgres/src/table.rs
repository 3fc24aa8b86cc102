//! [`Shape`]: which columns a table has, and how values come into them. Pure.
//!
//! A value travels as `bigint`, `double precision`, `text` or `bytea`. What PostgreSQL converts by itself when a
//! row is inserted, and without losing anything unnoticed, is left to it; the rest is written out.

use thalweg_commits::{Column, Kind};

/// A column as the catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// As it is written in SQL: `character varying(20)`.
    pub(crate) written: String,
    /// The type's own name, of a domain that of its base: `varchar`.
    pub(crate) base: String,
    /// `E` for enums, `S` for text, ...
    pub(crate) category: String,
    /// It takes no NULL and has no default.
    pub(crate) needed: bool,
    /// Its collation takes different texts for equal.
    pub(crate) loose: bool,
}

/// The columns of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape(pub(crate) Vec<Found>);

impl Shape {
    /// The expression that brings `value`, of kind `kind`, into a column.
    pub(crate) fn expression(&self, column: &Column, value: &str) -> Result<String, String> {
        let Some(found) = self.found(column) else {
            let names: Vec<_> = self.0.iter().map(|found| found.name.as_str()).collect();
            return Err(format!(
                "has no column {}; it has: {}. Add it, or write to another table",
                column.name,
                names.join(", ")
            ));
        };
        let instant = || format!("'epoch'::timestamptz + {value} * '1 ms'::interval");
        let good = match (column.kind, &*found.base) {
            (Kind::Integer, "numeric") => format!("{value}::numeric"),
            (Kind::Integer, "int8" | "int4" | "int2" | "float8" | "float4" | "oid")
            | (Kind::Real, "float8" | "float4" | "numeric")
            | (Kind::Blob, "bytea") => value.to_owned(),
            (Kind::Integer, "bool") => format!("{value} <> 0"),
            (Kind::Integer, "timestamptz") => instant(),
            (Kind::Integer, "timestamp") => format!("({}) AT TIME ZONE 'UTC'", instant()),
            (Kind::Text, "json" | "jsonb" | "uuid" | "timestamptz" | "inet" | "citext") => {
                format!("{value}::{}", found.written)
            }
            (Kind::Text, _) if found.category == "S" => value.to_owned(),
            (Kind::Text, _) if found.category == "E" => format!("{value}::{}", found.written),
            (kind, _) => {
                let (ours, theirs) = match kind {
                    Kind::Integer => (
                        "integers (also flags and times)",
                        "bigint, another number, boolean or timestamptz",
                    ),
                    Kind::Real => ("floating-point numbers", "double precision, real or numeric"),
                    Kind::Text => ("text", "text, varchar, json, jsonb, uuid or an enum"),
                    Kind::Blob => ("bytes", "bytea"),
                };
                return Err(format!(
                    "has a column {} of type {}, and the job writes {ours} to it: make it {theirs}, \
                     or write to another table",
                    column.name, found.written
                ));
            }
        };
        Ok(good)
    }

    /// Whether a column holds integers beyond 64 bits. Its integers travel as text.
    pub(crate) fn holds_wide(&self, column: &Column) -> bool {
        column.kind == Kind::Integer
            && self.found(column).is_some_and(|found| found.base == "numeric")
    }

    /// The type as which a column's values travel.
    pub(crate) fn travels_as(&self, column: &Column) -> &'static str {
        match column.kind {
            Kind::Integer if self.holds_wide(column) => "text",
            Kind::Integer => "bigint",
            Kind::Real => "double precision",
            Kind::Text => "text",
            Kind::Blob => "bytea",
        }
    }

    /// The expression for `value` as the column has it once it was inserted, to compare them.
    pub(crate) fn comparand(&self, column: &Column, value: &str) -> Result<String, String> {
        let expression = self.expression(column, value)?;
        let Some(found) = self.found(column) else { return Ok(expression) };
        Ok(match &*found.base {
            // A cast to a length would cut what is longer, and make it another key.
            "text" | "varchar" | "name" => format!("({expression})::text"),
            "bpchar" => format!("({expression})::bpchar"),
            // Compared as they are, which is exact.
            "int8" | "int4" | "int2" => expression,
            _ => format!("({expression})::{}", found.written),
        })
    }

    /// Whether keys that differ for us differ in the table: no rounding, no collation, no other spelling.
    pub(crate) fn tells_keys_apart(&self, columns: &[Column]) -> bool {
        columns.iter().filter(|column| column.key).all(|column| {
            let found = self.found(column);
            found.is_some_and(|found| match (column.kind, &*found.base) {
                (Kind::Integer, "int8" | "int4" | "int2" | "oid") | (Kind::Blob, "bytea") => true,
                (Kind::Integer, "numeric" | "timestamptz" | "timestamp") => {
                    !found.written.contains('(')
                }
                (Kind::Text, "text" | "varchar") => !found.loose,
                (Kind::Text, _) => found.category == "E",
                _ => false,
            })
        })
    }

    fn found(&self, column: &Column) -> Option<&Found> {
        self.0.iter().find(|found| found.name == column.name)
    }

    /// Checks that the table takes rows of these columns.
    pub(crate) fn check(&self, columns: &[Column]) -> Result<(), String> {
        columns.iter().try_for_each(|column| self.expression(column, "").map(drop))?;
        let bound = |name: &str| columns.iter().any(|column| column.name == name);
        match self.0.iter().find(|found| found.needed && !bound(&found.name)) {
            Some(found) => Err(format!(
                "has a column {} that must not be NULL and has no default: bind it too",
                found.name
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        let column = |name: &str, written: &str, base: &str, category: &str| Found {
            name: name.into(),
            written: written.into(),
            base: base.into(),
            category: category.into(),
            needed: name == "n",
            loose: false,
        };
        Shape(vec![
            column("n", "integer", "int4", "N"),
            column("at", "timestamp with time zone", "timestamptz", "D"),
            column("on", "boolean", "bool", "B"),
            column("who", "character varying(9)", "varchar", "S"),
            column("mood", "mood", "mood", "E"),
        ])
    }

    fn column(name: &str, kind: Kind) -> Column {
        Column { name: name.into(), kind, key: false }
    }

    #[test]
    fn values_are_converted_where_postgres_does_not() {
        let written = |name, kind| shape().expression(&column(name, kind), "x").unwrap();
        assert_eq!(written("n", Kind::Integer), "x");
        assert_eq!(written("on", Kind::Integer), "x <> 0");
        assert_eq!(written("at", Kind::Integer), "'epoch'::timestamptz + x * '1 ms'::interval");
        assert_eq!(written("who", Kind::Text), "x");
        assert_eq!(written("mood", Kind::Text), "x::mood");
    }

    #[test]
    fn a_key_is_compared_as_it_was_inserted() {
        let of = |written: &str, base: &str, category: &str| Found {
            name: "k".into(),
            written: written.into(),
            base: base.into(),
            category: category.into(),
            needed: true,
            loose: written == "loose",
        };
        let check = |written: &str, base: &str, category: &str, kind, expected: &str, exact| {
            let shape = Shape(vec![of(written, base, category)]);
            let column = Column { key: true, ..column("k", kind) };
            assert_eq!(shape.comparand(&column, "x").unwrap(), expected, "{written}");
            assert_eq!(shape.tells_keys_apart(&[column]), exact, "{written}");
        };
        let cut = "character varying(3)";
        check("integer", "int4", "N", Kind::Integer, "x", true);
        check("numeric", "numeric", "N", Kind::Integer, "(x::numeric)::numeric", true);
        check("numeric(6,2)", "numeric", "N", Kind::Real, "(x)::numeric(6,2)", false);
        check("real", "float4", "N", Kind::Real, "(x)::real", false);
        check("boolean", "bool", "B", Kind::Integer, "(x <> 0)::boolean", false);
        check(cut, "varchar", "S", Kind::Text, "(x)::text", true);
        check("loose", "text", "S", Kind::Text, "(x)::text", false);
        check("character(3)", "bpchar", "S", Kind::Text, "(x)::bpchar", false);
        check("mood", "mood", "E", Kind::Text, "(x::mood)::mood", true);
        check("citext", "citext", "S", Kind::Text, "(x::citext)::citext", false);
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let why = shape().check(&[column("n", Kind::Real)]).unwrap_err();
        assert!(
            why.starts_with("has a column n of type integer, and the job writes float"),
            "{why}"
        );
        let why = shape().check(&[column("m", Kind::Real)]).unwrap_err();
        assert!(why.starts_with("has no column m; it has: n, at, on, who, mood."), "{why}");
        let why = shape().check(&[column("who", Kind::Text)]).unwrap_err();
        assert!(why.starts_with("has a column n that must not be NULL"), "{why}");
        shape().check(&[column("n", Kind::Integer)]).unwrap();
    }
}

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
}

/// The columns of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape(pub(crate) Vec<Found>);

impl Shape {
    /// The expression that brings `value`, of kind `kind`, into a column.
    pub(crate) fn expression(&self, column: &Column, value: &str) -> Result<String, String> {
        let Some(found) = self.0.iter().find(|found| found.name == column.name) else {
            let names: Vec<_> = self.0.iter().map(|found| found.name.as_str()).collect();
            return Err(format!(
                "has no column {}; it has: {}. Add it, or write to another table",
                column.name,
                names.join(", ")
            ));
        };
        let instant = || format!("'epoch'::timestamptz + {value} * '1 ms'::interval");
        let good = match (column.kind, &*found.base) {
            (Kind::Integer, "int8" | "int4" | "int2" | "numeric" | "float8" | "float4" | "oid")
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

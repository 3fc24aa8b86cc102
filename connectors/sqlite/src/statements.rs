//! The SQL text. Every name is quoted, so any name will do.

use std::fmt::Write;

use thalweg_commits::{Column, Kind};

pub(crate) const CREATE_COMMITS: &str = "CREATE TABLE IF NOT EXISTS thalweg_commits (\
    job TEXT NOT NULL, sink TEXT NOT NULL, instance INTEGER NOT NULL, epoch INTEGER NOT NULL, \
    directory TEXT NOT NULL DEFAULT '', PRIMARY KEY (job, sink, instance)) WITHOUT ROWID";

/// Whether the table has the column.
pub(crate) const COMMITS_NAME_DIRECTORIES: &str =
    "SELECT count(*) > 0 FROM pragma_table_info('thalweg_commits') WHERE name = 'directory'";

/// Adds it. An empty one is nobody's, so that whoever comes next goes on with it.
pub(crate) const NAME_DIRECTORIES: &str =
    "ALTER TABLE thalweg_commits ADD COLUMN directory TEXT NOT NULL DEFAULT ''";

pub(crate) const READ_COMMITS: &str =
    "SELECT instance, epoch, directory FROM thalweg_commits WHERE job = ?1 AND sink = ?2";

pub(crate) const SET_COMMIT: &str = "INSERT OR REPLACE INTO thalweg_commits \
    (job, sink, instance, epoch, directory) VALUES (?1, ?2, ?3, ?4, ?5)";

pub(crate) const FORGET_COMMIT: &str =
    "DELETE FROM thalweg_commits WHERE job = ?1 AND sink = ?2 AND instance = ?3";

/// A name in quotes.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn list<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    columns.map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ")
}

pub(crate) fn create(table: &str, columns: &[Column]) -> String {
    let mut sql = format!("CREATE TABLE IF NOT EXISTS {} (", quoted(table));
    for (place, column) in columns.iter().enumerate() {
        let kind = match column.kind {
            Kind::Integer => "INTEGER",
            Kind::Real => "REAL",
            Kind::Text => "TEXT",
            Kind::Blob => "BLOB",
        };
        let comma = if place > 0 { ", " } else { "" };
        let null = if column.key { " NOT NULL" } else { "" };
        let _ = write!(sql, "{comma}{} {kind}{null}", quoted(&column.name));
    }
    if columns.iter().any(|column| column.key) {
        let _ = write!(sql, ", PRIMARY KEY ({})", list(columns.iter().filter(|c| c.key)));
    }
    sql.push(')');
    sql
}

/// Inserts a row; where there are keys, it replaces the row with equal keys.
pub(crate) fn insert(table: &str, columns: &[Column]) -> String {
    let holes = (1..=columns.len()).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ");
    let names = list(columns.iter());
    let mut sql = format!("INSERT INTO {} ({names}) VALUES ({holes})", quoted(table));
    if !columns.iter().any(|column| column.key) {
        return sql;
    }
    let _ = write!(sql, " ON CONFLICT ({}) DO ", list(columns.iter().filter(|c| c.key)));
    let news: Vec<_> = columns.iter().filter(|column| !column.key).collect();
    if news.is_empty() {
        sql.push_str("NOTHING");
        return sql;
    }
    sql.push_str("UPDATE SET ");
    for (place, column) in news.iter().enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        let name = quoted(&column.name);
        let _ = write!(sql, "{comma}{name} = excluded.{name}");
    }
    sql
}

/// Deletes the row with a key; none where no column is of the key.
pub(crate) fn delete(table: &str, columns: &[Column]) -> Option<String> {
    let key = columns.iter().filter(|column| column.key).zip(1..);
    let key: Vec<_> = key.map(|(c, n)| format!("{} = ?{n}", quoted(&c.name))).collect();
    let whole = !key.is_empty();
    whole.then(|| format!("DELETE FROM {} WHERE {}", quoted(table), key.join(" AND ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, kind: Kind, key: bool) -> Column {
        Column { name: name.into(), kind, key }
    }

    #[test]
    fn keys_make_upserts() {
        let columns = [column("a\"b", Kind::Text, true), column("n", Kind::Integer, false)];
        assert_eq!(
            create("t", &columns),
            "CREATE TABLE IF NOT EXISTS \"t\" (\"a\"\"b\" TEXT NOT NULL, \"n\" INTEGER, \
             PRIMARY KEY (\"a\"\"b\"))"
        );
        assert_eq!(
            insert("t", &columns),
            "INSERT INTO \"t\" (\"a\"\"b\", \"n\") VALUES (?1, ?2) \
             ON CONFLICT (\"a\"\"b\") DO UPDATE SET \"n\" = excluded.\"n\""
        );
        assert!(insert("t", &columns[..1]).ends_with("DO NOTHING"));
        assert_eq!(insert("t", &columns[1..]), "INSERT INTO \"t\" (\"n\") VALUES (?1)");
    }

    #[test]
    fn a_row_is_deleted_by_its_key() {
        let columns = ["a", "n", "b\""].map(|name| column(name, Kind::Text, name != "n"));
        let sql = "DELETE FROM \"t\" WHERE \"a\" = ?1 AND \"b\"\"\" = ?2";
        assert_eq!(delete("t", &columns).unwrap(), sql);
        assert_eq!(delete("t", &columns[1..2]), None);
    }
}

//! The SQL text. Every name is quoted, so any name will do.

use std::fmt::Write;

use thalweg_commits::{Column, Kind};

use crate::table::Shape;

/// What a session sets, as far as the server knows it, and the value.
const SETTINGS: &[(&str, &str)] = &[
    // A backend whose client has vanished would keep the sink's lock for hours.
    ("idle_in_transaction_session_timeout", "60s"),
    ("tcp_keepalives_idle", "15s"),
    ("tcp_keepalives_interval", "5s"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30s"),
];

/// Sets them; and turns on waiting for the disk where that is off: notes are deleted once they are committed.
pub(crate) fn settings() -> String {
    let mut sql = String::from("SELECT set_config(name, value, false) FROM (VALUES ");
    for (place, (name, value)) in SETTINGS.iter().enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        let _ = write!(sql, "{comma}('{name}', '{value}')");
    }
    sql.push_str(
        ") AS wanted(name, value) JOIN pg_settings USING (name); \
         SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') = 'off'",
    );
    sql
}

/// Whether it is a standby, and whether it writes to its disk before it answers.
pub(crate) const LOOK: &str = "SELECT pg_is_in_recovery(), current_setting('fsync') = 'on', to_regclass($1) IS NOT NULL, \
     to_regclass($2) IS NOT NULL";

pub(crate) const CREATE_COMMITS: &str = "CREATE TABLE IF NOT EXISTS thalweg_commits (\
    job text NOT NULL, sink text NOT NULL, instance integer NOT NULL, epoch bigint NOT NULL, \
    directory text NOT NULL DEFAULT '', PRIMARY KEY (job, sink, instance))";

pub(crate) const READ_COMMITS: &str =
    "SELECT instance, epoch, directory FROM thalweg_commits WHERE job = $1 AND sink = $2";

/// Notes several, of one directory.
pub(crate) const SET_COMMITS: &str = "INSERT INTO thalweg_commits \
    (job, sink, instance, epoch, directory) \
    SELECT $1, $2, i, e, $5 FROM unnest($3::int4[], $4::int8[]) AS r(i, e) \
    ON CONFLICT (job, sink, instance) DO UPDATE \
    SET epoch = EXCLUDED.epoch, directory = EXCLUDED.directory";

pub(crate) const FORGET_COMMITS: &str =
    "DELETE FROM thalweg_commits WHERE job = $1 AND sink = $2 AND instance = ANY($3)";

/// The columns of a table. (Servers before version 12 know deterministic collations alone, and no such column.)
pub(crate) const COLUMNS: &str = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), \
    COALESCE(b.typname, t.typname)::text, t.typcategory::text, \
    a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', \
    COALESCE(to_jsonb(c) ->> 'collisdeterministic', 'true') = 'false' \
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
    LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype \
    LEFT JOIN pg_collation c ON c.oid = a.attcollation \
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// Begins a transaction that waits at most so long for a lock, and then for that of `number`. Read committed,
/// so that what is read behind the lock is what the lock's last owner has left.
pub(crate) fn begin(number: i64, lock_ms_max: u64, row_lock_ms_max: u64) -> String {
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET CONSTRAINTS ALL IMMEDIATE; \
         SET LOCAL lock_timeout = {lock_ms_max}; SELECT pg_advisory_xact_lock({number}); \
         SET LOCAL lock_timeout = {row_lock_ms_max}"
    )
}

/// The number of a lock, for what it is about (FNV-1a).
pub(crate) fn lock(about: &[&str]) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in about {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash.cast_signed()
}

/// A name in quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn list<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    columns.map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ")
}

const fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer => "bigint",
        Kind::Real => "double precision",
        Kind::Text => "text",
        Kind::Blob => "bytea",
    }
}

pub(crate) fn create(table: &str, columns: &[Column]) -> String {
    let mut sql = format!("CREATE TABLE IF NOT EXISTS {} (", quoted(table));
    for (place, column) in columns.iter().enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        let null = if column.key { " NOT NULL" } else { "" };
        let _ = write!(sql, "{comma}{} {}{null}", quoted(&column.name), type_of(column.kind));
    }
    if columns.iter().any(|column| column.key) {
        let _ = write!(sql, ", PRIMARY KEY ({})", list(columns.iter().filter(|c| c.key)));
    }
    sql.push(')');
    sql
}

/// Inserts rows that come as one array a column; where there are keys, each replaces the row with its key.
/// `empty`: of no rows, for a look at whether it could be done.
pub(crate) fn insert(
    table: &str,
    columns: &[Column],
    shape: &Shape,
    empty: bool,
) -> Result<String, String> {
    let (rows, names) = rows_of(columns.iter(), shape, empty);
    let values = columns.iter().zip(&names).map(|(column, name)| shape.expression(column, name));
    let values = values.collect::<Result<Vec<_>, _>>()?.join(", ");
    let into = list(columns.iter());
    let mut sql = format!("INSERT INTO {} ({into}) SELECT {values} FROM {rows}", quoted(table));
    if !columns.iter().any(|column| column.key) {
        return Ok(sql);
    }
    let _ = write!(sql, " ON CONFLICT ({}) DO ", list(columns.iter().filter(|c| c.key)));
    let news: Vec<_> = columns.iter().filter(|column| !column.key).collect();
    if news.is_empty() {
        sql.push_str("NOTHING");
        return Ok(sql);
    }
    sql.push_str("UPDATE SET ");
    for (place, column) in news.iter().enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        let name = quoted(&column.name);
        let _ = write!(sql, "{comma}{name} = EXCLUDED.{name}");
    }
    Ok(sql)
}

/// Deletes the rows with keys that come as one array a column; none where no column is of the key. `empty`: as
/// for [`insert`].
pub(crate) fn delete(
    table: &str,
    columns: &[Column],
    shape: &Shape,
    empty: bool,
) -> Result<Option<String>, String> {
    let key: Vec<_> = columns.iter().filter(|column| column.key).collect();
    if key.is_empty() {
        return Ok(None);
    }
    let (rows, names) = rows_of(key.iter().copied(), shape, empty);
    let equal = |(column, name): (&&Column, &String)| {
        let value = shape.comparand(column, name)?;
        Ok(format!("t.{} = {value}", quoted(&column.name)))
    };
    let equal = key.iter().zip(&names).map(equal).collect::<Result<Vec<_>, String>>()?;
    let equal = equal.join(" AND ");
    Ok(Some(format!("DELETE FROM {} AS t USING {rows} WHERE {equal}", quoted(table))))
}

/// Rows that come as one array a column, to select from, and the names of their columns.
fn rows_of<'a>(
    columns: impl Iterator<Item = &'a Column>,
    shape: &Shape,
    empty: bool,
) -> (String, Vec<String>) {
    let (mut arrays, mut names) = (Vec::new(), Vec::new());
    for (place, column) in (1..).zip(columns) {
        let array = if empty { "'{}'".to_owned() } else { format!("${place}") };
        arrays.push(format!("{array}::{}[]", shape.travels_as(column)));
        names.push(format!("c{place}"));
    }
    let rows = format!("unnest({}) AS r({})", arrays.join(", "), names.join(", "));
    (rows, names.iter().map(|name| format!("r.{name}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Found;

    #[test]
    fn keys_make_upserts() {
        let column = |name: &str, kind, key| Column { name: name.into(), kind, key };
        let columns = [column("a\"b", Kind::Text, true), column("n", Kind::Integer, false)];
        assert_eq!(
            create("t", &columns),
            "CREATE TABLE IF NOT EXISTS \"t\" (\"a\"\"b\" text NOT NULL, \"n\" bigint, \
             PRIMARY KEY (\"a\"\"b\"))"
        );
        let found = |name: &str, base: &str, category: &str| Found {
            name: name.into(),
            written: base.into(),
            base: base.into(),
            category: category.into(),
            needed: false,
            loose: false,
        };
        let shape = Shape(vec![found("a\"b", "text", "S"), found("n", "bool", "B")]);
        assert_eq!(
            insert("t", &columns, &shape, false).unwrap(),
            "INSERT INTO \"t\" (\"a\"\"b\", \"n\") SELECT r.c1, r.c2 <> 0 \
             FROM unnest($1::text[], $2::bigint[]) AS r(c1, c2) \
             ON CONFLICT (\"a\"\"b\") DO UPDATE SET \"n\" = EXCLUDED.\"n\""
        );
        let keys = insert("t", &columns[..1], &shape, true).unwrap();
        assert!(keys.contains("unnest('{}'::text[])") && keys.ends_with("DO NOTHING"), "{keys}");
        assert!(insert("t", &columns[1..], &shape, false).unwrap().ends_with("r(c1)"));
        assert_eq!(
            delete("t", &columns, &shape, false).unwrap().unwrap(),
            "DELETE FROM \"t\" AS t USING unnest($1::text[]) AS r(c1) \
             WHERE t.\"a\"\"b\" = (r.c1)::text"
        );
        assert_eq!(delete("t", &columns[1..], &shape, false), Ok(None));
    }

    #[test]
    fn locks_are_told_apart() {
        assert_ne!(lock(&["a", "bc"]), lock(&["ab", "c"]));
        // Two versions that run at once must agree.
        assert_eq!(lock(&["thalweg"]), -6_444_988_874_872_600_725);
    }
}

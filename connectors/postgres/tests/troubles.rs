//! Tables that do not fit, rows that do not fit, servers that do not let us in.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::thread;

use common::{Database, config, sink};
use thalweg_commits::model::table::{self, Table, close, contexts, direct, epoch, until, write};
use thalweg_commits::model::{Engine, KEYS};
use thalweg_kernel::{Changed, RowKind, Sink, SinkSpec, Timestamp};
use thalweg_postgres::testing::{Client, Server};
use thalweg_postgres::{PostgresConfig, PostgresSink};

/// Writes numbers without checkpoints, to the end.
fn put(sink: PostgresSink<u64>, numbers: std::ops::Range<u64>) {
    let mut sink = sink.open(&direct()).unwrap();
    write(&mut sink, numbers).unwrap();
    close(&mut sink).unwrap();
}

#[test]
fn every_kind_of_value_arrives() {
    let Some(database) = Database::new("values") else { return };
    let sink = PostgresSink::new(config(&database.url), "odd \" name")
        .key_text("text", |_: &u64| "ø'\\")
        .key("flag", |&n| n == 1)
        .column("time", |_| Timestamp::from_millis(-5))
        .column("real", |&n| if n == 0 { f64::NAN } else { 0.5 })
        .column("some", |&n| (n > 0).then_some(n))
        .column("blob", |_| vec![0_u8, 255])
        .column("many", |_| i64::MAX as u64)
        .text("Note", |_| "");
    sink.check().unwrap();
    put(sink, 0..2);
    let found = database.lines("SELECT * FROM \"odd \"\" name\" ORDER BY flag");
    let expected = [
        "ø'\\|0|-5|NaN|NULL|\\x00ff|9223372036854775807|",
        "ø'\\|1|-5|0.5|1|\\x00ff|9223372036854775807|",
    ];
    assert_eq!(found, expected);
}

/// Goal: a table that somebody made, with the types that they like, is written to.
#[test]
fn a_table_with_types_of_its_own() {
    let Some(database) = Database::new("types") else { return };
    database.client.query(
        "CREATE TYPE mood AS ENUM ('fine', 'bad'); CREATE DOMAIN small AS int2 CHECK (VALUE < 100); \
         CREATE TABLE mine (id serial, \"at\" timestamptz PRIMARY KEY, local timestamp, flag boolean, \
         few small, dec numeric(6,2), short varchar(3), doc jsonb, id2 uuid, how mood, \
         made timestamptz DEFAULT now() NOT NULL)",
    );
    let sink = PostgresSink::new(config(&database.url), "mine")
        .key("at", |&n: &u64| Timestamp::from_millis(1_700_000_000_123 + n as i64))
        .column("local", |_| Timestamp::from_millis(-1))
        .column("flag", |&n| n == 1)
        .column("few", |&n| n)
        .column("dec", |&n| n as f64 / 3.0)
        .text("short", |_| "abc")
        .text("doc", |_| "{\"a\":  1}")
        .text("id2", |_| "00000000-0000-0000-0000-000000000001")
        .text("how", |&n| if n == 1 { "bad" } else { "fine" });
    put(sink, 0..2);
    let sql = "SELECT to_char(\"at\" AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS'), local, flag, few, dec, \
               short, doc, id2, how FROM mine ORDER BY 1";
    let id = "00000000-0000-0000-0000-000000000001";
    let row = |ms, flag, few, dec, how| {
        format!(
            "2023-11-14 22:13:20.{ms}|1969-12-31 23:59:59.999|{flag}|{few}|{dec}|abc|{{\"a\": 1}}|{id}|{how}"
        )
    };
    let expected = [row(123, 'f', 0, "0.00", "fine"), row(124, 't', 1, "0.33", "bad")];
    assert_eq!(database.lines(sql), expected);
}

/// Goal: as many columns as may be bound are written, all of them.
#[test]
fn a_table_with_a_thousand_columns() {
    let Some(database) = Database::new("wide") else { return };
    let mut sink = PostgresSink::new(config(&database.url), "wide").key("n", |&n: &u64| n);
    for place in 1..thalweg_commits::column::COLUMNS_MAX as u64 {
        sink = sink.column(format!("c{place}"), move |&n| n + place);
    }
    sink.check().unwrap();
    put(sink, 0..20);
    let sums = database.lines("SELECT count(*), sum(c1), sum(c999) FROM wide");
    assert_eq!(sums, ["20|210|20170"]);
}

/// Goal: rows that the table refuses, for whatever they hold, are left out, alone, and all others are there.
#[test]
fn rows_that_the_table_refuses_stop_nothing() {
    let Some(database) = Database::new("refused") else { return };
    // A check, a range, a form, a unique index that is not the key, a trigger.
    database.client.query(
        "CREATE TABLE results (n int2 CHECK (n % 100 <> 3), t text, d json, u bigint UNIQUE); \
         CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN IF NEW.n = 444 THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER no BEFORE INSERT ON results FOR EACH ROW EXECUTE FUNCTION no()",
    );
    let sink = PostgresSink::new(config(&database.url), "results")
        .column("n", |&n: &u64| if n == 7 { 40_000 } else { n })
        .column("t", |&n| if n == 11 { "a\0b".to_owned() } else { "x".to_owned() })
        .column("d", |&n| if n == 13 { "{".to_owned() } else { "{}".to_owned() })
        .column("u", |&n| if n == 500 { 499 } else { n });
    put(sink, 0..1_000);
    let refused = |n: &i64| n % 100 == 3 || [7, 11, 13, 444, 500].contains(n);
    let expected: Vec<_> = (0..1_000).filter(|n| !refused(n)).collect();
    assert_eq!(database.rows(), expected);
    let Some(database) = Database::new("all refused") else { return };
    database.client.query("CREATE TABLE results (n int8 CHECK (n < 0))");
    put(sink_of(&database), 0..50);
    assert!(database.rows().is_empty());
}

fn sink_of(database: &Database) -> PostgresSink<u64> {
    sink(&database.url, false)
}

/// Goal: a number that a column has no place for is not another number, and `numeric` has place for all.
#[test]
fn integers_beyond_64_bits() {
    let Some(database) = Database::new("beyond 64 bits") else { return };
    let hashes = |n: u64| (i64::MAX as u64 - 2) + n;
    put(PostgresSink::new(config(&database.url), "results").key("n", move |&n| hashes(n)), 0..6);
    assert_eq!(database.rows(), [i64::MAX - 2, i64::MAX - 1, i64::MAX]);
    database
        .client
        .query("CREATE TABLE wide (h numeric(20) PRIMARY KEY, i numeric, few numeric(3))");
    let sink = PostgresSink::new(config(&database.url), "wide")
        .key("h", move |&n: &u64| hashes(n))
        .column("i", |&n| i128::MIN + i128::from(n))
        .column("few", |&n| n * 500);
    let mut sink = sink.changelog().open(&direct()).unwrap();
    for n in [0, 1, 5, 2, 3] {
        sink.write(Timestamp::default(), Changed::insert(n)).unwrap();
    }
    sink.write(Timestamp::default(), Changed::delete(0)).unwrap();
    sink.write(Timestamp::default(), Changed::delete(5)).unwrap();
    close(&mut sink).unwrap();
    let row = format!("{}|{}|500", hashes(1), i128::MIN + 1);
    assert_eq!(database.lines("SELECT h, i, few FROM wide ORDER BY h"), [row]);
}

/// Goal: times beyond PostgreSQL's are refused alone, as are all values out of range.
#[test]
fn times_out_of_range() {
    let Some(database) = Database::new("times") else { return };
    database.client.query("CREATE TABLE results (n bigint, at timestamptz, local timestamp)");
    let time = |n: u64| Timestamp::from_millis([0, i64::MIN, i64::MAX, 1 << 52, 5][n as usize]);
    let sink = PostgresSink::new(config(&database.url), "results")
        .column("n", |&n: &u64| n)
        .column("at", move |&n| time(n))
        .column("local", move |&n| time(n));
    put(sink, 0..5);
    assert_eq!(database.rows(), [0, 3, 4]);
}

/// Goal: an update is one update, also for what hangs on the row; a row leaves with its old key.
#[test]
fn an_update_is_no_deletion() {
    let Some(database) = Database::new("update") else { return };
    database.client.query(
        "CREATE TABLE results (key bigint, grade int2, n bigint, PRIMARY KEY (key, grade)); \
         CREATE TABLE log (n bigint); CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO log VALUES (OLD.n); RETURN OLD; END $$; \
         CREATE TRIGGER gone AFTER DELETE ON results FOR EACH ROW EXECUTE FUNCTION gone()",
    );
    let mut sink = table::Changes(table::changelog(database.unbound()).open(&direct()).unwrap());
    for version in 0..4 {
        sink.write(Timestamp::default(), version * KEYS).unwrap();
        // Else there would be nothing to delete: the rows of one note are sent as what they come to.
        sink.flush().unwrap();
        until(|| Ok(version == 3 || !database.rows().is_empty())).unwrap();
        until(|| Ok(version == 3 || database.rows() == [(version * KEYS) as i64])).unwrap();
    }
    close(&mut sink).unwrap();
    let gone = database.client.integers("SELECT n FROM log ORDER BY n");
    assert_eq!(gone, [KEYS as i64, 2 * KEYS as i64]);
    assert!(database.rows().is_empty());
}

/// Goal: where the server takes keys for equal that differ for us, changes of one row keep their order.
#[test]
fn changes_of_keys_that_only_the_server_takes_for_equal() {
    let Some(database) = Database::new("loose") else { return };
    let lines = |types: &str, of: &dyn Fn(u64) -> f64| {
        database.client.query(&format!(
            "DROP TABLE IF EXISTS loose; CREATE TABLE loose (k {types} PRIMARY KEY, n bigint)"
        ));
        let key: Vec<_> = (0..400).map(of).collect();
        let sink = PostgresSink::new(config(&database.url), "loose")
            .key("k", move |&n: &u64| key[n as usize])
            .column("n", |&n| n);
        let mut sink = sink.changelog().open(&direct()).unwrap();
        // Inserts and deletes take turns.
        for n in 0..400 {
            let kind = if n % 3 == 2 { RowKind::Delete } else { RowKind::Insert };
            sink.write(Timestamp::default(), Changed::new(kind, n)).unwrap();
        }
        close(&mut sink).unwrap();
        database.lines("SELECT n FROM loose ORDER BY n")
    };
    // The newest change of each of ten keys, if that was an insert.
    let newest = |key: &dyn Fn(u64) -> u64| -> Vec<String> {
        let newest = (0..400).filter(|&n| (n + 1..400).all(|later| key(later) != key(n)));
        newest.filter(|n| n % 3 != 2).map(|n| n.to_string()).collect()
    };
    let tenth = |n: u64| n * 7 % 10;
    // Equal once they are rounded, and as negative zeros.
    let rounded = lines("numeric(6,2)", &|n| tenth(n) as f64 + n as f64 / 1e6);
    assert_eq!(rounded, newest(&tenth));
    let signed = lines("real", &|n| if tenth(n) > 4 { 0.0 } else { -0.0 } + (n % 2) as f64);
    assert_eq!(signed, newest(&|n| n % 2));
    assert!(!rounded.is_empty() && !signed.is_empty());
}

/// Goal: a row is taken away by its key, whatever the types of the table's columns.
#[test]
fn rows_leave_by_keys_of_any_type() {
    let Some(database) = Database::new("leave") else { return };
    database.client.query(
        "CREATE TYPE mood AS ENUM ('fine', 'bad'); CREATE DOMAIN short AS varchar(3); \
         CREATE TABLE results (n int4, at timestamptz, flag boolean, d numeric(6,2), s short, c char(5), \
         r real, b bytea, u uuid, m mood, PRIMARY KEY (n, at, flag, d, s, c, r, b, u, m))",
    );
    let sink = PostgresSink::new(config(&database.url), "results")
        .key("n", |&n: &u64| n)
        .key("at", |&n| Timestamp::from_millis(1_700_000_000_123 + n as i64))
        .key("flag", |&n| n % 2 == 1)
        .key("d", |&n| n as f64 / 3.0)
        .key("s", |_| if true { "abc" } else { "" })
        .key("c", |_| "ab")
        .key("r", |_| 0.1)
        .key("b", |&n| vec![n as u8])
        .key("u", |_| "00000000-0000-0000-0000-00000000000A")
        .key("m", |_| "bad");
    let mut sink = sink.changelog().open(&direct()).unwrap();
    for n in 0..6 {
        sink.write(Timestamp::default(), Changed::insert(n)).unwrap();
    }
    sink.flush().unwrap();
    until(|| Ok(database.rows().len() == 6)).unwrap();
    for n in [1, 3, 4] {
        sink.write(Timestamp::default(), Changed::delete(n)).unwrap();
    }
    close(&mut sink).unwrap();
    assert_eq!(database.rows(), [0, 2, 5]);
    // A key that is too long for its column is no other key.
    database.client.query("CREATE TABLE cut (s varchar(3) PRIMARY KEY, n bigint)");
    database.client.query("INSERT INTO cut VALUES ('abc', 1)");
    let sink = PostgresSink::new(config(&database.url), "cut").key("s", |_: &u64| "abcd");
    let mut sink = sink.changelog().open(&direct()).unwrap();
    sink.write(Timestamp::default(), Changed::delete(0)).unwrap();
    close(&mut sink).unwrap();
    assert_eq!(database.lines("SELECT n FROM cut"), ["1"]);
}

/// Goal: keys that are equal to PostgreSQL and not to us are no error, and the later row wins.
#[test]
fn keys_that_only_the_server_takes_for_equal() {
    let Some(database) = Database::new("equal") else { return };
    database.client.query("CREATE TABLE keyed (k float4 PRIMARY KEY, n bigint)");
    let sink = PostgresSink::new(config(&database.url), "keyed")
        .key("k", |&n: &u64| if n % 2 == 0 { 0.0 } else { -0.0 } + (n / 10) as f64)
        .column("n", |&n| n);
    put(sink, 0..40);
    assert_eq!(
        database.lines("SELECT k, n FROM keyed ORDER BY 1"),
        ["0|9", "1|19", "2|29", "3|39"]
    );
}

#[test]
fn what_cannot_be_used_says_why() {
    let Some(database) = Database::new("wrong") else { return };
    let refused = |url: &str, table: &str, keyed: bool| {
        let sink = PostgresSink::new(config(url), table);
        let sink = thalweg_commits::model::table::bound(sink, keyed);
        let cx = contexts(&mut Engine::default(), 1).remove(0);
        sink.open(&cx).err().unwrap().to_string()
    };
    let cases = [
        (
            "CREATE TABLE a (key int8, other text)",
            true,
            "table a has no column n; it has: key, other.",
        ),
        (
            "CREATE TABLE b (key int8, n int8)",
            true,
            "no primary key or unique index on exactly (key)",
        ),
        ("CREATE TABLE c (n int8, who text NOT NULL)", false, "a column who that must not be NULL"),
        ("CREATE TABLE d (n text)", false, "a column n of type text, and the job writes integers"),
        ("CREATE VIEW e AS SELECT 1::int8 AS n", false, "cannot insert into view"),
        ("CREATE TABLE f (n int8 GENERATED ALWAYS AS (1) STORED)", false, "generated column"),
        (
            "CREATE TABLE g (key int8, n int8); CREATE UNIQUE INDEX ON g (key) WHERE n > 0",
            true,
            "no primary key or unique index on exactly (key)",
        ),
    ];
    for (sql, keyed, expected) in cases {
        database.client.query(sql);
        let table = sql.split_whitespace().nth(2).unwrap();
        let why = refused(&database.url, table, keyed);
        assert!(why.contains(expected), "{sql}: {why}");
    }
    let why = refused(&database.server.url("nowhere"), "t", false);
    assert!(why.contains("create the database, or name another"), "{why}");
    let why = refused(&format!("{}?sslmode=require", database.url), "t", false);
    assert!(why.contains("sslmode=disable"), "{why}");
    database.client.query("CREATE ROLE weak LOGIN");
    let weak = database.url.replace("postgres@", "weak@");
    let why = refused(&weak, "t", false);
    assert!(why.contains("permission denied") && why.contains("GRANT"), "{why}");
    let name = "x".repeat(64);
    let why = PostgresSink::<u64>::new(config(&weak), &name).check().unwrap_err().to_string();
    assert!(why.contains("at most 63 bytes"), "{why}");
    let why = PostgresSink::new(config(&weak), "t").column(name, |&n: &u64| n).check().unwrap_err();
    assert!(why.to_string().contains("a column's name, of at most 63 bytes"), "{why}");
    database
        .client
        .query("GRANT SELECT, INSERT, UPDATE ON g TO weak; CREATE UNIQUE INDEX ON g (key)");
    let changelog = table::bound(PostgresSink::new(config(&weak), "g"), true).changelog();
    let why = changelog.open(&direct()).err().unwrap().to_string();
    assert!(why.contains("GRANT"), "{why}");
    let why = PostgresSink::<u64>::new(config(&weak), "thalweg_commits").check().unwrap_err();
    assert!(why.to_string().starts_with("table = \"thalweg_commits\" is not allowed"), "{why}");
}

/// Goal: a table that changes while the job runs ends it with a reason, and not quietly.
#[test]
fn a_table_that_goes_away() {
    let Some(database) = Database::new("gone") else { return };
    let mut sink = sink_of(&database).open(&direct()).unwrap();
    write(&mut sink, 0..1).unwrap();
    until(|| Ok(database.rows().len() == 1)).unwrap();
    database.client.query("DROP TABLE results");
    write(&mut sink, 1..2).unwrap();
    let why = close(&mut sink).unwrap_err().to_string();
    assert!(why.contains("does not exist"), "{why}");

    // A column that no row of ours has: left to itself, the table would refuse them all.
    let mut sink = sink_of(&database).open(&direct()).unwrap();
    write(&mut sink, 0..1).unwrap();
    until(|| Ok(database.rows().len() == 1)).unwrap();
    database.client.query("TRUNCATE results; ALTER TABLE results ADD COLUMN must int NOT NULL");
    write(&mut sink, 1..2).unwrap();
    let why = close(&mut sink).unwrap_err().to_string();
    assert!(why.contains("\"must\"") && why.contains("give it a default"), "{why}");
}

/// Goal: rights that suffice for the rows are enough; sinks that all find no table make it once.
#[test]
fn tables_are_made_by_whoever_comes_first() {
    let Some(database) = Database::new("first") else { return };
    let opened: Vec<_> = (0..8)
        .map(|n| {
            let url = database.url.clone();
            thread::spawn(move || {
                let mut cx = direct();
                cx.job = format!("job {n}").into();
                let mut sink = sink(&url, true).open(&cx).unwrap();
                sink.write(Timestamp::default(), n).unwrap();
                close(&mut sink).unwrap();
            })
        })
        .collect();
    opened.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(database.client.integers("SELECT count(*) FROM results"), [7]);
    // Whoever may not create tables may write to those that are there.
    database.client.query(
        "CREATE ROLE writer LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON results, thalweg_commits TO writer",
    );
    let mut engine = Engine::default();
    let url = database.url.replace("postgres@", "writer@");
    let mut sink = sink(&url, true).open(&contexts(&mut engine, 1)[0]).unwrap();
    write(&mut sink, 8..9).unwrap();
    epoch(&mut engine, &mut sink).unwrap();
    close(&mut sink).unwrap();
    assert_eq!(database.client.integers("SELECT n FROM results WHERE key = 1"), [8]);
}

/// Goal: the connection is encrypted, and only with the server that the certificate names.
#[test]
fn tls_is_verified_and_passwords_are_asked_for() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let Some(server) =
        Server::start_with(&["fsync = off", "password_encryption = 'scram-sha-256'"])
    else {
        return;
    };
    server.put("server.crt", &issued.cert.pem());
    server.put("server.key", &issued.signing_key.serialize_pem());
    let admin = Client::connect(&server.url("postgres"));
    let path = |name: &str| server.dir().join(name).display().to_string();
    admin.query(&format!("ALTER SYSTEM SET ssl_cert_file = '{}'", path("server.crt")));
    admin.query(&format!("ALTER SYSTEM SET ssl_key_file = '{}'", path("server.key")));
    admin.query("ALTER SYSTEM SET ssl = on");
    admin.query("CREATE ROLE careful LOGIN SUPERUSER PASSWORD 'hunter2'");
    server.put(
        "data/pg_hba.conf",
        "hostssl all careful all scram-sha-256\nhostnossl all postgres all trust\n",
    );
    server.restart();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), issued.cert.pem()).unwrap();
    let url = |user: &str, rest: &str| {
        let port = server.port();
        let url = format!("postgres://{user}@localhost:{port}/postgres?hostaddr=127.0.0.1{rest}");
        url.parse::<PostgresConfig>().unwrap()
    };
    let ours = format!("&sslmode=require&sslrootcert={}", ca.path().display());
    let open = |config: PostgresConfig| {
        let sink = PostgresSink::new(config, "results").column("n", |&n: &u64| n);
        sink.open(&direct()).map_err(|error| error.to_string())
    };
    let mut sink = open(url("careful:hunter2", &ours)).unwrap();
    write(&mut sink, 0..3).unwrap();
    close(&mut sink).unwrap();
    let sql = "SELECT count(*) FROM results";
    assert_eq!(Client::connect(&server.url("postgres")).integers(sql), [3]);
    let why = open(url("careful:wrong", &ours)).err().unwrap();
    assert!(why.contains("THALWEG_POSTGRES_PASSWORD") && !why.contains("wrong@"), "{why}");
    let why = open(url("careful:hunter2", "&sslmode=require")).err().unwrap();
    assert!(why.contains("sslrootcert"), "{why}");
    let other = url("careful:hunter2", &ours.replace("require", "verify-full"));
    let named = format!("{other:?}");
    assert!(!named.contains("hunter2"), "{named}");
}

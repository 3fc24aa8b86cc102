//! Columns bound by a description instead of functions: for records that can be asked for their fields.

use thalweg_kernel::{Column, Field, FieldKind, Record};

use crate::cell::{Kind, Value};
use crate::columns::Columns;

/// Adds these columns: the record's fields at their places.
pub(crate) fn bind<T: Record>(columns: &mut Columns<T>, described: &[Column]) {
    for (place, column) in described.iter().enumerate() {
        columns.bind_value(&*column.column, kind(column.kind), column.key, move |record| {
            value(record.field(place))
        });
    }
}

const fn kind(kind: FieldKind) -> Kind {
    match kind {
        FieldKind::Bool | FieldKind::Integer | FieldKind::Unsigned | FieldKind::Time => {
            Kind::Integer
        }
        FieldKind::Float => Kind::Real,
        FieldKind::Text => Kind::Text,
    }
}

fn value(field: Field<'_>) -> Value<'_> {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Integer(value.into()),
        Field::Integer(value) => Value::Integer(value),
        Field::Float(value) => Value::Real(value),
        Field::Text(value) => Value::Text(value),
        Field::Time(value) => Value::Integer(value.as_millis()),
        // As a bound column of this type.
        Field::Unsigned(value) => {
            i64::try_from(value).map_or_else(|_| Value::Wide(value.into()), Value::Integer)
        }
    }
}

#[cfg(test)]
mod tests {
    use thalweg_kernel::Timestamp;

    use super::*;
    use crate::note::{self, Note};

    #[derive(serde::Serialize)]
    struct Row;

    const FIELDS: [(FieldKind, Kind, Field<'static>, Value<'static>); 8] = [
        (FieldKind::Bool, Kind::Integer, Field::Bool(true), Value::Integer(1)),
        (FieldKind::Integer, Kind::Integer, Field::Integer(-7), Value::Integer(-7)),
        (FieldKind::Unsigned, Kind::Integer, Field::Unsigned(7), Value::Integer(7)),
        (FieldKind::Unsigned, Kind::Integer, Field::Unsigned(1 << 63), Value::Wide(1 << 63)),
        (FieldKind::Float, Kind::Real, Field::Float(0.5), Value::Real(0.5)),
        (FieldKind::Text, Kind::Text, Field::Text("x"), Value::Text("x")),
        (FieldKind::Time, Kind::Integer, Field::Time(Timestamp::from_millis(9)), Value::Integer(9)),
        (FieldKind::Text, Kind::Text, Field::Null, Value::Null),
    ];

    impl Record for Row {
        fn field(&self, place: usize) -> Field<'_> {
            FIELDS[place].2
        }
    }

    #[test]
    fn a_described_record_is_written_field_by_field() {
        let describe =
            |(place, (kind, ..)): (usize, &(FieldKind, Kind, Field<'_>, Value<'_>))| Column {
                name: format!("f{place}").into(),
                column: format!("c{place}").into(),
                kind: *kind,
                key: place == 1,
            };
        let described: Vec<_> = FIELDS.iter().enumerate().map(describe).collect();
        let mut columns = Columns::new();
        bind(&mut columns, &described);
        let names = columns.names();
        assert!(
            names.iter().map(|column| column.kind).eq(FIELDS.iter().map(|(_, kind, ..)| *kind))
        );
        assert_eq!((names[3].name.as_str(), names[1].key, names[2].key), ("c3", true, false));
        let mut bytes = note::begin(&names, false);
        columns.write(&Row, &mut bytes);
        let mut row = Vec::new();
        Note::read(&bytes).unwrap().next_row(&mut row).unwrap();
        assert!(row.iter().eq(FIELDS.iter().map(|(.., value)| value)), "{row:?}");
    }
}

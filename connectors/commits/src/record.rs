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

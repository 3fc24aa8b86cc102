//! JSON lines: one JSON text per record.

use serde::Serialize;
use thalweg_kernel::Encode;
use thalweg_kernel::format::EncodeError;

/// Encodes each record as one line of JSON.
///
/// Numbers are written with the fewest digits that read back equal. JSON has no word for NaN and
/// infinity: they become `null`, as in JavaScript. The sink adds the line feed; the text
/// contains none. A row of a changelog ([`Changed`](thalweg_kernel::Changed)) has its kind in the field `op`.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonLines;

impl JsonLines {
    /// The encoder.
    pub const fn new() -> Self {
        Self
    }
}

impl<T: Serialize> Encode<T> for JsonLines {
    #[inline]
    fn encode(&mut self, value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        serde_json::to_writer(&mut *out, value).map_err(|error| {
            out.truncate(before);
            EncodeError { format: "JSON", reason: error.to_string() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use thalweg_kernel::Changed;

    fn line(value: &impl Serialize) -> String {
        let mut out = b"before ".to_vec();
        JsonLines::new().encode(value, &mut out).unwrap();
        String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
    }

    #[test]
    fn one_line_per_record() {
        assert_eq!(line(&("a\nb", 0.1f32, 1e300)), r#"["a\nb",0.1,1e+300]"#);
        assert_eq!(line(&[f64::NAN, f64::NEG_INFINITY]), "[null,null]");
        assert_eq!(line(&(u64::MAX, i128::MIN)), format!("[{},{}]", u64::MAX, i128::MIN));
        let change = Changed::delete(BTreeMap::from([("n", 1)]));
        assert_eq!(line(&change), r#"{"op":"-D","n":1}"#);
    }

    #[test]
    fn a_value_that_json_cannot_express_leaves_no_trace() {
        let mut out = b"before".to_vec();
        let odd = BTreeMap::from([(vec![1u8], 2)]);
        let refused = JsonLines::new().encode(&odd, &mut out).unwrap_err();
        assert_eq!(refused.reason, "key must be a string");
        assert_eq!(out, b"before");
    }
}

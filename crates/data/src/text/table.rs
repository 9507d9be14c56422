//! Files as tables: rows with named fields.

use std::{fs::File, path::Path};

use parquet::{
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row},
};
use serde_json::{Map, Number, Value};

use super::{
    column::broken,
    form_feeds::FormFeeds,
    format::Format,
    json_lines::reason,
    lines::{Lines, without_break},
};
use crate::{DataError, watch::Watch};

/// A row of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRow {
    /// Its line in a file of lines, else its place among the rows; from 1.
    pub number: u64,
    /// Its fields by name.
    pub fields: Map<String, Value>,
}

/// The first rows of a file, all of them without a limit: JSON objects of a `.jsonl` file, rows of
/// a `.parquet` file, or the documents of a `.txt` file in the field `text`. The first two kinds of
/// lines may be compressed. All rows are in memory at once.
///
/// # Errors
///
/// If the file cannot be read, is of another kind, or a line is no JSON object.
pub fn read_table(path: &Path, limit: Option<usize>) -> Result<Vec<TableRow>, DataError> {
    if !path.exists() {
        return Err(DataError::NoTable { path: path.into() });
    }
    let limit = limit.unwrap_or(usize::MAX);
    let watch = Watch::silent();
    match Format::of(path) {
        Some(Format::JsonLines(compression)) => {
            json_rows(Lines::open(path, compression, &watch)?, limit)
        }
        Some(Format::Text(compression)) => {
            let documents = FormFeeds::new(Lines::open(path, compression, &watch)?);
            let documents =
                documents.filter(|text| !matches!(text, Ok(Some(text)) if text.trim().is_empty()));
            numbered(documents.take(limit).map(|text| {
                let text = Value::String(text?.unwrap_or_default());
                Ok(Map::from_iter([("text".to_owned(), text)]))
            }))
        }
        Some(Format::Parquet) => parquet_rows(path, limit),
        None => Err(DataError::Extension { path: path.into() }),
    }
}

fn numbered(
    rows: impl Iterator<Item = Result<Map<String, Value>, DataError>>,
) -> Result<Vec<TableRow>, DataError> {
    let rows = (1..).zip(rows).map(|(number, fields)| {
        let fields = fields?;
        Ok::<_, DataError>(TableRow { number, fields })
    });
    rows.collect()
}

fn json_rows(mut lines: Lines<'_>, limit: usize) -> Result<Vec<TableRow>, DataError> {
    let mut rows = Vec::new();
    while rows.len() < limit {
        let parsed = match lines.read()? {
            Some(line) if line.trim().is_empty() => continue,
            Some(line) => serde_json::from_str(without_break(line)),
            None => break,
        };
        let fields = parsed.map_err(|error| DataError::TableLine {
            path: lines.path().into(),
            line: lines.number(),
            reason: reason(&error),
        })?;
        rows.push(TableRow {
            number: lines.number() as u64,
            fields,
        });
    }
    Ok(rows)
}

fn parquet_rows(path: &Path, limit: usize) -> Result<Vec<TableRow>, DataError> {
    let file = File::open(path).map_err(|reason| DataError::unreadable(path, reason))?;
    let damaged = |error: ParquetError| broken(path, &error);
    let file = SerializedFileReader::new(file).map_err(damaged)?;
    let rows = file.get_row_iter(None).map_err(damaged)?;
    numbered(
        rows.take(limit)
            .map(|row| Ok(object(&row.map_err(damaged)?))),
    )
}

fn object(row: &Row) -> Map<String, Value> {
    let fields = row.get_column_iter();
    fields
        .map(|(name, field)| (name.clone(), value(field)))
        .collect()
}

/// A field as JSON; dates and the like in words.
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float(value) => real(f64::from(*value)),
        Field::Double(value) => real(*value),
        Field::Str(text) => Value::String(text.clone()),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        other => Value::String(other.to_string()),
    }
}

fn real(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{fs, sync::Arc};

    use parquet::{
        data_type::{ByteArray, ByteArrayType},
        file::writer::SerializedFileWriter,
        schema::parser::parse_message_type,
    };
    use serde_json::json;

    use super::*;

    fn fields(path: &Path, limit: Option<usize>) -> Vec<Value> {
        let rows = read_table(path, limit).unwrap();
        rows.into_iter()
            .map(|row| Value::Object(row.fields))
            .collect()
    }

    #[test]
    fn lines_and_documents_are_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, "{\"a\": 1}\n\n{\"a\": [true, null]}\n").unwrap();
        assert_eq!(
            fields(&path, None),
            [json!({"a": 1}), json!({"a": [true, null]})]
        );
        assert_eq!(fields(&path, Some(1)), [json!({"a": 1})]);
        let numbers: Vec<u64> = read_table(&path, None)
            .unwrap()
            .iter()
            .map(|row| row.number)
            .collect();
        assert_eq!(numbers, [1, 3]);

        let path = folder.path().join("a.txt");
        fs::write(&path, "one\n\u{c}\n \n\u{c}\ntwo\n").unwrap();
        assert_eq!(
            fields(&path, None),
            [json!({"text": "one"}), json!({"text": "two\n"})]
        );
    }

    #[test]
    fn lists_of_parquet_files_are_lists() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let schema = "message rows {
            REQUIRED BYTE_ARRAY question (UTF8);
            REQUIRED group choices (LIST) {
                REPEATED group list { REQUIRED BYTE_ARRAY element (UTF8); }
            }
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = File::create(&path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let texts = |texts: &[&str]| -> Vec<ByteArray> {
            texts
                .iter()
                .map(|text| ByteArray::from(text.as_bytes().to_vec()))
                .collect()
        };
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&texts(&["q", "r"]), None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<ByteArrayType>();
        let values = texts(&["a", "b", "c"]);
        typed
            .write_batch(&values, Some(&[1, 1, 1]), Some(&[0, 1, 0]))
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        assert_eq!(
            fields(&path, None),
            [
                json!({"question": "q", "choices": ["a", "b"]}),
                json!({"question": "r", "choices": ["c"]})
            ]
        );
    }

    #[test]
    fn what_is_no_table_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let error = |name: &str| read_table(&path(name), None).unwrap_err().to_string();
        assert!(error("none.jsonl").contains("none.jsonl does not exist"));
        fs::write(path("a.jsonl"), "{\"a\": 1}\n[2]\n").unwrap();
        assert!(
            error("a.jsonl").contains("a.jsonl, line 2"),
            "{}",
            error("a.jsonl")
        );
        fs::write(path("a.csv"), "a,b").unwrap();
        assert!(error("a.csv").contains("a.csv is neither"));
        fs::write(path("a.parquet"), "a,b").unwrap();
        assert!(error("a.parquet").contains("not a whole Parquet file"));
    }
}

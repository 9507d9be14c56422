//! One column of a Parquet file.

use std::{
    fs::File,
    path::{Path, PathBuf},
    vec,
};

use parquet::{
    basic::{Compression, ConvertedType, LogicalType, Type},
    column::reader::{ColumnReaderImpl, get_typed_column_reader},
    data_type::{ByteArray, ByteArrayType},
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    schema::types::{ColumnDescriptor, SchemaDescriptor},
};

use crate::{DataError, watch::Watch};

/// Rows that are decoded at once: enough to be fast, few enough for long documents.
const ROWS: usize = 256;

/// The rows of a column of text, of which some are in memory; none where a row is null.
pub(super) struct Column<'a> {
    path: PathBuf,
    name: String,
    file: SerializedFileReader<File>,
    index: usize,
    /// The definition level of rows that are not null.
    defined: i16,
    /// The row group to be read next.
    group: usize,
    reader: Option<ColumnReaderImpl<ByteArrayType>>,
    decoded: vec::IntoIter<Option<ByteArray>>,
    /// Rows given out.
    row: u64,
    /// Rows decoded, and those that there are.
    rows: [u64; 2],
    /// Bytes of the file.
    bytes: u64,
    watch: &'a Watch<'a>,
}

impl<'a> Column<'a> {
    pub(super) fn open(
        path: &Path,
        name: &str,
        watch: &'a Watch<'a>,
    ) -> Result<Column<'a>, DataError> {
        let unreadable = |reason| DataError::unreadable(path, reason);
        let file = File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        let file = SerializedFileReader::new(file).map_err(|error| broken(path, &error))?;
        let schema = file.metadata().file_metadata().schema_descr();
        let index = find(schema, path, name)?;
        let defined = schema.column(index).max_def_level();
        let chunks = file.metadata().row_groups().iter();
        let mut codecs = chunks.filter_map(|group| Some(group.columns().get(index)?.compression()));
        if let Some(codec) = codecs.find_map(unsupported) {
            return Err(DataError::ParquetCompression {
                path: path.into(),
                codec,
            });
        }
        let rows = file.metadata().file_metadata().num_rows();
        Ok(Column {
            path: path.into(),
            name: name.to_owned(),
            rows: [0, rows.try_into().unwrap_or(0)],
            bytes,
            watch,
            file,
            index,
            defined,
            group: 0,
            reader: None,
            decoded: Vec::new().into_iter(),
            row: 0,
        })
    }

    /// Decodes some rows; false if there are no more. A row group may turn out to be empty.
    fn decode(&mut self) -> Result<bool, ParquetError> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None if self.group == self.file.num_row_groups() => return Ok(false),
            None => {
                let group = self.file.get_row_group(self.group)?;
                self.group += 1;
                let column = group.get_column_reader(self.index)?;
                get_typed_column_reader::<ByteArrayType>(column)
            }
        };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (rows, _, _) = reader.read_records(ROWS, Some(&mut levels), None, &mut values)?;
        if rows > 0 {
            self.reader = Some(reader);
        }
        self.tell(rows as u64);
        let mut values = values.into_iter();
        let decoded: Vec<Option<ByteArray>> = match self.defined {
            0 => values.map(Some).collect(),
            defined => {
                let value = |level: i16| (level == defined).then(|| values.next()).flatten();
                levels.into_iter().map(value).collect()
            }
        };
        self.decoded = decoded.into_iter();
        Ok(true)
    }

    /// So many more rows were decoded: their share of the file counts as read.
    fn tell(&mut self, rows: u64) {
        let [before, all] = self.rows;
        let place = |rows: u64| {
            let bytes = u128::from(self.bytes) * u128::from(rows) / u128::from(all.max(1));
            bytes.min(self.bytes.into()) as u64
        };
        let after = before + rows;
        self.watch.read(place(after).saturating_sub(place(before)));
        self.rows = [after, all];
    }

    fn text(&self, value: &ByteArray) -> Result<String, DataError> {
        match str::from_utf8(value.data()) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(DataError::RowNotUtf8 {
                path: self.path.clone(),
                column: self.name.clone(),
                row: self.row,
            }),
        }
    }
}

impl Iterator for Column<'_> {
    type Item = Result<Option<String>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(value) = self.decoded.next() {
                self.row += 1;
                return Some(value.map(|value| self.text(&value)).transpose());
            }
            if let Err(stopped) = self.watch.check() {
                return Some(Err(stopped));
            }
            match self.decode() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(broken(&self.path, &error))),
            }
        }
    }
}

/// The place of a column of text among the leaves of a schema.
fn find(schema: &SchemaDescriptor, path: &Path, name: &str) -> Result<usize, DataError> {
    let columns = schema.columns();
    let index = columns
        .iter()
        .position(|column| column.path().string() == name);
    let of_other_type = |kind| DataError::ColumnType {
        path: path.into(),
        column: name.to_owned(),
        kind,
    };
    if let Some(index) = index {
        return match other_type(&columns[index]) {
            Some(kind) => Err(of_other_type(kind)),
            None => Ok(index),
        };
    }
    let first = |column: &ColumnDescriptor| column.path().parts().first().cloned();
    if columns
        .iter()
        .any(|column| first(column).as_deref() == Some(name))
    {
        return Err(of_other_type("a list or a structure".to_owned()));
    }
    let names: Vec<String> = columns
        .iter()
        .map(|column| column.path().string())
        .collect();
    Err(DataError::NoColumn {
        path: path.into(),
        column: name.to_owned(),
        columns: names.join(", "),
    })
}

/// What a column holds if it is not text. Bytes that are said to be nothing else may be text.
fn other_type(column: &ColumnDescriptor) -> Option<String> {
    if column.max_rep_level() > 0 {
        return Some("a list".to_owned());
    }
    let physical = column.physical_type();
    if physical != Type::BYTE_ARRAY {
        return Some(format!("{physical:?}"));
    }
    match column.logical_type_ref() {
        Some(LogicalType::String | LogicalType::Json | LogicalType::Enum) => return None,
        Some(logical) => return Some(format!("{logical:?}")),
        None => {}
    }
    match column.converted_type() {
        ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM => {
            None
        }
        converted => Some(format!("{converted:?}")),
    }
}

/// The name of a compression that is not compiled in.
fn unsupported(codec: Compression) -> Option<&'static str> {
    match codec {
        Compression::BROTLI(_) => Some("Brotli"),
        Compression::LZO => Some("LZO"),
        _ => None,
    }
}

pub(super) fn broken(path: &Path, error: &ParquetError) -> DataError {
    let message = error.to_string();
    let reason = message.strip_prefix("Parquet error: ").unwrap_or(&message);
    DataError::Parquet {
        path: path.into(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{fs, sync::Arc};

    use parquet::{
        basic::ZstdLevel,
        data_type::Int64Type,
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::*;

    const SCHEMA: &str = "message rows { REQUIRED INT64 id; OPTIONAL BYTE_ARRAY text (UTF8); }";

    /// Writes a file of two row groups, each with these texts.
    pub(in crate::text) fn write(path: &Path, texts: &[Option<&str>], compression: Compression) {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .build();
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
        let ids: Vec<i64> = (0..texts.len() as i64).collect();
        let levels: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
        let values: Vec<ByteArray> = texts
            .iter()
            .flatten()
            .map(|text| ByteArray::from(text.as_bytes().to_vec()))
            .collect();
        for _ in 0..2 {
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let typed = column.typed::<Int64Type>();
            typed.write_batch(&ids, None, None).unwrap();
            column.close().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let typed = column.typed::<ByteArrayType>();
            typed.write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
    }

    fn all(path: &Path, name: &str) -> Result<Vec<Option<String>>, DataError> {
        Column::open(path, name, &Watch::silent())?.collect()
    }

    #[track_caller]
    fn fails(result: Result<Vec<Option<String>>, DataError>, expected: &[&str]) {
        let message = result.unwrap_err().to_string();
        for part in expected {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
    }

    #[test]
    fn columns_are_read_whole_whatever_their_compression() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        // More rows than are decoded at once, and nulls among them.
        let texts: Vec<String> = (0..700).map(|i| format!("numéro {i}")).collect();
        let texts: Vec<Option<&str>> = texts
            .iter()
            .enumerate()
            .map(|(i, text)| (i % 10 != 3).then_some(text.as_str()))
            .collect();
        let expected: Vec<Option<String>> = [texts.as_slice(), texts.as_slice()]
            .concat()
            .into_iter()
            .map(|text| text.map(str::to_owned))
            .collect();
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(Default::default()),
            Compression::LZ4_RAW,
            Compression::ZSTD(ZstdLevel::default()),
        ] {
            write(&path, &texts, compression);
            assert_eq!(all(&path, "text").unwrap(), expected, "{compression:?}");
        }
    }

    #[test]
    fn required_columns_have_no_nulls() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let schema = "message rows { REQUIRED BYTE_ARRAY body (UTF8); }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = File::create(&path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values = [b"a".to_vec(), b"caf\xe9".to_vec()].map(ByteArray::from);
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let watch = Watch::silent();
        let mut rows = Column::open(&path, "body", &watch).unwrap();
        assert_eq!(rows.next().unwrap().unwrap().as_deref(), Some("a"));
        fails(
            rows.collect(),
            &["row 2", "\"body\"", "a.parquet", "is not UTF-8"],
        );
    }

    #[test]
    fn errors_name_the_column_and_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write(&path, &[Some("one"), None], Compression::SNAPPY);
        fails(
            all(&path, "content"),
            &[
                "a.parquet has no column \"content\"",
                "id, text",
                "`text_column`",
            ],
        );
        fails(all(&path, "id"), &["\"id\" of", "INT64", "`text_column`"]);
        assert_eq!(unsupported(Compression::LZO), Some("LZO"));
        assert_eq!(unsupported(Compression::SNAPPY), None);

        let whole = fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() - 20], b"no table", b""] {
            fs::write(&path, bytes).unwrap();
            fails(
                all(&path, "text"),
                &["a.parquet is not a whole Parquet file", "get it again"],
            );
        }
    }

    #[test]
    fn lists_are_not_text() {
        let schema = "message rows {
            OPTIONAL group turns (LIST) {
                REPEATED group list { OPTIONAL BYTE_ARRAY element (UTF8); }
            }
        }";
        let schema = SchemaDescriptor::new(Arc::new(parse_message_type(schema).unwrap()));
        for name in ["turns", "turns.list.element"] {
            let error = find(&schema, Path::new("a.parquet"), name).unwrap_err();
            assert!(error.to_string().contains("a list"), "{error}");
        }
    }
}

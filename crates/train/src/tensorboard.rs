//! TensorBoard's event files: the scalars of a metrics file, for its plots.
//!
//! A file is a row of records, each with its length and the checksums of both
//! ([TFRecord](https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details)); a record is a message
//! `Event` of [event.proto](https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto).
//! These messages are few and small, so that they are written here.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use crc::{CRC_32_ISCSI, Crc};
use upcycle_files::FileError;

use crate::{
    error::TrainError,
    metrics::{MetricsLine, now},
    scalars::scalars,
};

/// How names begin by which TensorBoard knows its files, and how ours end.
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".burn-upcycle";
/// The status of a session that starts.
const SESSION_START: u64 = 1;

/// Writes the event file of a metrics file into the folder `dir`, in place of one that is there.
///
/// # Errors
/// If it cannot be written.
pub fn write_events(dir: &Path, lines: &[MetricsLine]) -> Result<(), TrainError> {
    EventFile::begin(dir, lines).map(|_| ())
}

/// Appends to an event file.
pub(crate) struct EventFile {
    path: PathBuf,
    pending: Vec<u8>,
}

impl EventFile {
    /// Begins a file in the folder `dir` with the events of `lines`, in place of the one that an earlier process left there.
    ///
    /// It gets a later name, so that a TensorBoard that runs meanwhile takes it for the next one of its series; with the start
    /// of a session at step 0, which makes it forget what it has read. So no point is there twice, for readers that know of
    /// sessions and for those that do not.
    pub fn begin(dir: &Path, lines: &[MetricsLine]) -> Result<Self, TrainError> {
        let earlier = event_files(dir)?;
        let later = earlier.iter().map(|(second, _)| second + 1).max();
        let second = later.unwrap_or(0).max(now() as u64);
        let path = dir.join(format!("{PREFIX}{second:010}{SUFFIX}"));
        let began = lines.first().and_then(MetricsLine::time);
        let began = began.unwrap_or_else(now);
        let mut bytes = Vec::new();
        // The version from which on starts of sessions count.
        let version = bytes_field(3, b"brain.Event:2");
        record(&mut bytes, &event(began, 0, &version));
        let session = bytes_field(7, &varint_field(1, SESSION_START));
        record(&mut bytes, &event(began, 0, &session));
        for line in lines {
            record(&mut bytes, &summary(line));
        }
        upcycle_files::write(&path, &bytes)?;
        for (_, old) in earlier {
            retire(&old)?;
        }
        Ok(Self {
            path,
            pending: Vec::new(),
        })
    }

    /// Adds the scalars of a line, kept in memory until the next [`flush`](Self::flush).
    pub fn push(&mut self, line: &MetricsLine) {
        record(&mut self.pending, &summary(line));
    }

    /// Writes what is pending.
    pub fn flush(&mut self) -> Result<(), TrainError> {
        // One who removes it while it is written loses points, not the run.
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.path)
            .and_then(|mut file| file.write_all(&self.pending))
            .map_err(FileError::of("write", &self.path))?;
        self.pending.clear();
        Ok(())
    }
}

/// Empties a file that is not to be read any more. A TensorBoard that is at it then goes on to the next one, which it does not
/// if a file is gone; one that was emptied before is removed.
fn retire(path: &Path) -> Result<(), TrainError> {
    let is_empty = fs::metadata(path).is_ok_and(|file| file.len() == 0);
    let retired = match is_empty {
        true => fs::remove_file(path),
        false => fs::write(path, b""),
    };
    Ok(retired.map_err(FileError::of("empty", path))?)
}

/// Our event files in a folder, with the second in their name; none if there is no such folder.
fn event_files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(FileError::of("read", dir))? {
        let path = entry.map_err(FileError::of("read", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let second = name
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX))
            .and_then(|second| second.parse::<u64>().ok());
        files.extend(second.map(|second| (second, path.clone())));
    }
    Ok(files)
}

/// The event of a metrics line.
fn summary(line: &MetricsLine) -> Vec<u8> {
    let mut values: Vec<u8> = Vec::new();
    for (name, value) in scalars(line) {
        let mut scalar = bytes_field(1, name.as_bytes());
        scalar.push(key(2, FIXED_32));
        scalar.extend((value as f32).to_le_bytes());
        values.extend(bytes_field(1, &scalar));
    }
    let time = line.time().unwrap_or_else(now);
    event(time, line.step(), &bytes_field(5, &values))
}

/// A message `Event`: seconds since 1970, steps done, and a field with what happened.
fn event(time: f64, step: u64, what: &[u8]) -> Vec<u8> {
    let mut event = vec![key(1, FIXED_64)];
    event.extend(time.to_le_bytes());
    event.extend(varint_field(2, step));
    event.extend(what);
    event
}

/// Appends a record.
fn record(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked_checksum(&length).to_le_bytes());
    file.extend(data);
    file.extend(masked_checksum(data).to_le_bytes());
}

static CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The CRC-32C of some bytes, changed so that a checksum of bytes with their checksum is none of zeros.
fn masked_checksum(bytes: &[u8]) -> u32 {
    let checksum = CASTAGNOLI.checksum(bytes);
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// How fields of messages are encoded.
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

/// What stands before a field; numbers below 16 fit into a byte.
fn key(number: u8, encoding: u8) -> u8 {
    (number << 3) | encoding
}

/// Seven bits a byte, lowest first; all bytes but the last have the eighth.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value as u8) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field with a whole number; none for 0, which is what a field that is not there means.
fn varint_field(number: u8, value: u64) -> Vec<u8> {
    if value == 0 {
        return Vec::new();
    }
    let mut field = vec![key(number, VARINT)];
    field.extend(varint(value));
    field
}

/// A field with text or a message.
fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![key(number, BYTES)];
    field.extend(varint(bytes.len() as u64));
    field.extend(bytes);
    field
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{evaluate::Twins, metrics::LayerRouting};

    fn lines() -> [MetricsLine; 2] {
        let step = MetricsLine::Step {
            step: 300,
            tokens: 153_600,
            loss: 2.5,
            gradient_norm: 0.1,
            lr: 1e-3,
            seconds: 0.25,
            tokens_per_second: Some(2048.0),
            time: Some(1.5),
        };
        let evaluation = MetricsLine::Evaluation {
            step: 300,
            tokens: 153_600,
            loss: 2.25,
            twins: Some(Twins {
                cosine: 0.9,
                coselection: 0.25,
            }),
            lr: Some(1e-3),
            gradient_norm: Some(0.1),
            tokens_per_second: Some(2048.0),
            routing: vec![LayerRouting {
                max_violation: 0.5,
                dead_experts: 1,
                entropy: 0.75,
                twin_coselection: 0.25,
            }],
            time: Some(1.75),
        };
        [step, evaluation]
    }

    /// The record of the step, written by TensorBoard 2.21.
    const STEP_EVENT: &str = concat!(
        "6700000000000000baadcdd409000000000000f83f10ac022a590a110a0a6c6f73732f747261696e15000020400a140a0d67",
        "72616469656e745f6e6f726d15cdcccc3d0a140a0d6c6561726e696e675f72617465156f12833a0a180a11746f6b656e735f",
        "7065725f7365636f6e641500000045cc706648",
    );

    /// Fields of a message: number and value, of which those of fixed size are their bits.
    #[derive(Debug, PartialEq)]
    enum Field<'a> {
        Number(u8, u64),
        Bytes(u8, &'a [u8]),
    }

    fn read_varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0_u64, 0_u32);
        loop {
            let (&byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }

    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(count);
        *bytes = rest;
        taken
    }

    fn fields(mut message: &[u8]) -> Vec<Field<'_>> {
        let mut fields = Vec::new();
        while !message.is_empty() {
            let key = take(&mut message, 1)[0];
            let number = key >> 3;
            fields.push(match key & 7 {
                VARINT => Field::Number(number, read_varint(&mut message)),
                FIXED_64 => {
                    let bits: [u8; 8] = take(&mut message, 8).try_into().unwrap();
                    Field::Number(number, u64::from_le_bytes(bits))
                }
                FIXED_32 => {
                    let bits: [u8; 4] = take(&mut message, 4).try_into().unwrap();
                    Field::Number(number, u32::from_le_bytes(bits).into())
                }
                _ => {
                    let length = read_varint(&mut message) as usize;
                    Field::Bytes(number, take(&mut message, length))
                }
            });
        }
        fields
    }

    fn records(mut file: &[u8]) -> Vec<&[u8]> {
        let mut records = Vec::new();
        while !file.is_empty() {
            let length = take(&mut file, 8);
            assert_eq!(take(&mut file, 4), masked_checksum(length).to_le_bytes());
            let length = u64::from_le_bytes(length.try_into().unwrap());
            let data = take(&mut file, length as usize);
            assert_eq!(take(&mut file, 4), masked_checksum(data).to_le_bytes());
            records.push(data);
        }
        records
    }

    /// Name and value of each scalar of an event, after its time and step.
    fn read_scalars(event: &[u8]) -> (f64, u64, Vec<(String, f32)>) {
        let fields_of_event = fields(event);
        let [
            Field::Number(1, time),
            Field::Number(2, step),
            Field::Bytes(5, values),
        ] = fields_of_event[..]
        else {
            unreachable!("no event with scalars: {fields_of_event:?}");
        };
        let scalars = fields(values).into_iter().map(|value| {
            let Field::Bytes(1, value) = value else {
                unreachable!("no value: {value:?}");
            };
            let value = fields(value);
            let [Field::Bytes(1, name), Field::Number(2, bits)] = value[..] else {
                unreachable!("no scalar: {value:?}");
            };
            let name = String::from_utf8(name.to_vec()).unwrap();
            (name, f32::from_bits(bits as u32))
        });
        (f64::from_bits(time), step, scalars.collect())
    }

    #[test]
    fn records_are_those_of_tensorboards_own_writer() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let of = |event: &[u8]| {
            let mut file = Vec::new();
            record(&mut file, event);
            hex(&file)
        };
        let version = bytes_field(3, b"brain.Event:2");
        assert_eq!(
            of(&event(1.5, 0, &version)),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
        );
        let session = bytes_field(7, &varint_field(1, SESSION_START));
        assert_eq!(
            of(&event(1.5, 0, &session)),
            "0d000000000000003c37b83409000000000000f83f3a020801b718825c"
        );
        assert_eq!(of(&summary(&lines()[0])), STEP_EVENT);
    }

    #[test]
    fn a_file_begins_a_session_and_holds_every_scalar() {
        let dir = tempfile::tempdir().unwrap();
        let [step, evaluation] = lines();
        let mut file = EventFile::begin(dir.path(), std::slice::from_ref(&step)).unwrap();
        file.push(&evaluation);
        file.flush().unwrap();
        let bytes = fs::read(&file.path).unwrap();
        let events = records(&bytes);
        assert_eq!(events.len(), 4);
        assert!(fields(events[0]).contains(&Field::Bytes(3, b"brain.Event:2")));
        assert!(fields(events[1]).contains(&Field::Bytes(7, &[8, 1])));
        for (event, line) in events[2..].iter().zip(lines()) {
            let (time, at, read) = read_scalars(event);
            let expected: Vec<_> = scalars(&line)
                .into_iter()
                .map(|(name, value)| (name, value as f32))
                .collect();
            assert_eq!((Some(time), at), (line.time(), 300));
            assert_eq!(read, expected);
        }
        let (_, _, read) = read_scalars(events[3]);
        let names: Vec<_> = read.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "loss/validation",
                "routing/layer_0/max_violation",
                "routing/layer_0/dead_experts",
                "routing/layer_0/entropy",
                "routing/layer_0/twin_coselection",
                "twins/cosine",
                "twins/coselection",
            ]
        );
    }

    #[test]
    fn a_later_file_takes_the_place_of_ours_and_of_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("events.out.tfevents.1700000000.host.1.0");
        fs::write(&other, "theirs").unwrap();
        let begin = || EventFile::begin(dir.path(), &lines()).unwrap().path;
        let size = |path: &Path| fs::metadata(path).map(|file| file.len()).ok();
        let (first, second) = (begin(), begin());
        assert!(first < second);
        assert_eq!(size(&first), Some(0));
        assert!(size(&second).is_some_and(|size| size > 0));
        begin();
        assert_eq!((size(&first), size(&second)), (None, Some(0)));
        assert_eq!(size(&other), Some(6));
    }
}

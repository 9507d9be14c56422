//! Writing a grown checkpoint, shard by shard, in memory that does not grow with it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;
use upcycle_files::{FileError, available_space, write_with};
use upcycle_operator::Deviation;

use crate::{
    checkpoint::INDEX,
    config::ConfigFile,
    error::HfError,
    floats,
    folder::{NewFolder, check_free, existing_above, partial},
    grow::{Growth, RECORD},
    ranges::name_of,
    replica::Replica,
    shards::{ShardFile, ShardPlan, TensorMeta},
    tensors::{OutTensor, Part},
};

/// How a checkpoint is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOptions {
    /// Largest size of a shard's data, in bytes.
    pub shard_bytes: u64,
    /// Go on with a copy that was begun.
    pub resume: bool,
    /// Start even if the disk seems too small.
    pub force: bool,
}

/// How far writing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are written, by this and by an earlier run.
    pub bytes: u64,
    /// Bytes of all shards.
    pub total: u64,
}

/// What was, or would be, written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Shards.
    pub shards: usize,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Parameters of all tensors.
    pub parameters: u64,
    /// Shards that an earlier run had written.
    pub resumed: usize,
    /// Files of the source in other weight formats, which were left out.
    pub left_out: Vec<String>,
    /// What did not go as the recipe says; known of experts once they are written.
    pub deviations: Vec<Deviation>,
}

/// Bytes that are copied between two reports of progress.
const PIECE: u64 = 64 << 20;

/// Tensors and files of a grown checkpoint.
struct Output {
    tensors: Vec<OutTensor>,
    metas: Vec<TensorMeta>,
    plan: ShardPlan,
}

impl Output {
    fn written(&self, resumed: usize, left_out: &[PathBuf]) -> Written {
        Written {
            shards: self.plan.files.len(),
            bytes: self.plan.bytes(),
            parameters: self.metas.iter().map(|meta| meta.parameters).sum(),
            resumed,
            left_out: left_out
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            deviations: Vec::new(),
        }
    }
}

impl Growth<'_> {
    /// What [`write`](Self::write) would write.
    ///
    /// # Errors
    /// As that of `write`, as far as it can be said before.
    pub fn preview(&self, shard_bytes: u64) -> Result<Written, HfError> {
        let (_, left_out) = self.checkpoint.other_files()?;
        Ok(Written {
            deviations: self.deviations()?,
            ..self.output(shard_bytes)?.written(0, &left_out)
        })
    }

    /// Writes the grown checkpoint as the folder `to`, which must not exist.
    ///
    /// Shards are written to `to.partial` one after the other; the folder gets its name in the end. Copied bytes stay in
    /// the operating system, so that memory does not grow with the checkpoint.
    ///
    /// # Errors
    /// If a file cannot be read or written, or the disk is too small. What is there of `to.partial` can be resumed.
    pub fn write(
        &self,
        to: &Path,
        options: WriteOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Written, HfError> {
        self.write_until(to, options, &AtomicBool::new(false), progress)
    }

    /// [`write`](Self::write), which ends early when `stop` becomes true.
    ///
    /// # Errors
    /// As that of `write`; or [`HfError::Interrupted`].
    pub fn write_until(
        &self,
        to: &Path,
        options: WriteOptions,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Written, HfError> {
        check_free(to)?;
        let output = self.output(options.shard_bytes)?;
        let (files, left_out) = self.checkpoint.other_files()?;
        check_outside(to, &self.checkpoint.dir)?;
        if !options.force {
            check_space(to, missing_bytes(to, &output.plan))?;
        }
        let fingerprint = self.fingerprint(&output)?;
        let mut folder = NewFolder::begin_resumable(to, fingerprint, options.resume)?;
        let total = output.plan.bytes();
        let mut writer = Writer {
            growth: self,
            sources: HashMap::new(),
            replica: None,
            deviations: Vec::new(),
            done: 0,
            stop,
            report: &mut |bytes| progress(Progress { bytes, total }),
        };
        let mut resumed = 0;
        for shard in &output.plan.files {
            let path = folder.path.join(&shard.name);
            if shard.is_in(&folder.path) {
                resumed += 1;
                writer.advance(shard.bytes);
                continue;
            }
            write_with(&path, |file| {
                writer.shard(file, &path, shard, &output.tensors)?;
                // Noted before the shard has its name: one that is there is not written again.
                match std::mem::take(&mut writer.deviations) {
                    none if none.is_empty() => Ok(()),
                    deviations => folder.note(deviations),
                }
            })?;
        }
        if let Some(index) = output.plan.index(&output.metas) {
            write_text(&folder.path.join(INDEX), &index)?;
        }
        for name in &files {
            let (from, to) = (self.checkpoint.dir.join(name), folder.path.join(name));
            if name == Path::new(ConfigFile::QUANTISATION) {
                let mut lists = ConfigFile::read_from(&from)?;
                self.extend_lists(&mut lists, "")?;
                write_text(&to, lists.text())?;
            } else {
                copy_file(&from, &to)?;
            }
        }
        let mut deviations = self.deviations()?;
        deviations.extend(folder.noted());
        let record = format!("{:#}\n", self.record(&deviations));
        write_text(&folder.path.join(RECORD), &record)?;
        write_text(&folder.path.join(ConfigFile::NAME), self.config.text())?;
        folder.finish()?;
        Ok(Written {
            deviations,
            ..output.written(resumed, &left_out)
        })
    }

    fn output(&self, shard_bytes: u64) -> Result<Output, HfError> {
        let tensors = self.tensors()?;
        let metas: Vec<TensorMeta> = tensors.iter().map(|tensor| tensor.meta.clone()).collect();
        let shards = &self.checkpoint.shards;
        let metadata = shards.first().and_then(|shard| shard.metadata.as_ref());
        let plan = ShardPlan::new(&metas, shard_bytes, metadata)?;
        Ok(Output {
            tensors,
            metas,
            plan,
        })
    }

    /// What all bytes of the output depend on.
    fn fingerprint(&self, output: &Output) -> Result<String, HfError> {
        let mut hash = blake3::Hasher::new();
        let mut add = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        for shard in &self.checkpoint.shards {
            let path = &shard.path;
            if self.checkpoint.ranges.is_some() {
                // Its folder is named by the commit.
                add(&format!("{} {}", path.display(), shard.bytes));
                continue;
            }
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            let modified = modified.map_err(FileError::of("read", path))?;
            add(&format!("{} {} {modified:?}", path.display(), shard.bytes));
        }
        add(env!("CARGO_PKG_VERSION"));
        add(self.config.text());
        add(&format!("{:?}", self.choice.plan));
        add(&format!("{:?}", self.operator));
        for file in &output.plan.files {
            add(&file.name);
            add(&String::from_utf8_lossy(&file.header));
        }
        for tensor in &output.tensors {
            add(&format!("{:?}", tensor.parts));
        }
        Ok(hash.finalize().to_hex().to_string())
    }
}

/// Streams tensors into shards.
struct Writer<'a> {
    growth: &'a Growth<'a>,
    /// Open files of the source.
    sources: HashMap<usize, File>,
    /// The expert that was computed last.
    replica: Option<Replica<'a>>,
    /// Experts of the shard that had to be copies.
    deviations: Vec<Deviation>,
    done: u64,
    stop: &'a AtomicBool,
    report: &'a mut dyn FnMut(u64),
}

impl Writer<'_> {
    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        (self.report)(self.done);
    }

    fn shard(
        &mut self,
        file: &mut File,
        path: &Path,
        shard: &ShardFile,
        tensors: &[OutTensor],
    ) -> Result<(), HfError> {
        self.bytes(file, path, &shard.header)?;
        for &index in &shard.tensors {
            let tensor = &tensors[index];
            for part in &tensor.parts {
                self.part(file, path, &tensor.meta, part)?;
            }
        }
        let written = file
            .stream_position()
            .map_err(FileError::of("write", path))?;
        if written != shard.bytes {
            let problem = format!("came out with {written} bytes, not {}", shard.bytes);
            return Err(HfError::file(path, problem));
        }
        Ok(())
    }

    fn bytes(&mut self, file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), HfError> {
        file.write_all(bytes)
            .map_err(FileError::of("write", path))?;
        self.advance(bytes.len() as u64);
        Ok(())
    }

    fn part(
        &mut self,
        file: &mut File,
        path: &Path,
        meta: &TensorMeta,
        part: &Part,
    ) -> Result<(), HfError> {
        go_on(self.stop, path)?;
        let values = match *part {
            Part::Copy {
                shard,
                offset,
                bytes,
            } => return self.copy(file, path, shard, offset, bytes),
            Part::Zeros { bytes } => {
                let written = io::copy(&mut io::repeat(0).take(bytes), file);
                written.map_err(FileError::of("write", path))?;
                self.advance(bytes);
                return Ok(());
            }
            Part::Columns {
                shard,
                offset,
                rows,
                row,
                bytes,
                factor,
            } => {
                let all = (rows - 1) * row + bytes;
                let all = self.growth.checkpoint.read_bytes(shard, offset, all)?;
                let columns = all.chunks(row as usize);
                let columns: Vec<u8> = columns
                    .flat_map(|row| &row[..bytes as usize])
                    .copied()
                    .collect();
                let values = floats::decode(meta.dtype, &columns).unwrap_or_default();
                values.into_iter().map(|value| value * factor).collect()
            }
            Part::Rows { layer } => self.growth.rows(layer)?.weight,
            Part::Bias { layer } => self.growth.rows(layer)?.bias,
            Part::Replica {
                layer,
                expert,
                matrix,
            } => {
                let is_last =
                    |replica: &&Replica| (replica.layer, replica.expert) == (layer, expert);
                if self.replica.as_ref().filter(is_last).is_none() {
                    let (replica, deviation) = self.growth.replica(layer, expert)?;
                    self.replica = Some(replica);
                    let known = |new: &Deviation| self.deviations.contains(new);
                    let deviation = deviation.filter(|new| !known(new));
                    self.deviations.extend(deviation);
                }
                let replica = self.replica.as_ref();
                replica
                    .map(|replica| replica.matrix(matrix))
                    .unwrap_or_default()
            }
        };
        let bytes = floats::encode(meta.dtype, &values)
            .map_err(|problem| self.growth.checkpoint.fault(&meta.name, problem))?;
        self.bytes(file, path, &bytes)
    }

    /// Lets the operating system copy bytes of the source.
    fn copy(
        &mut self,
        file: &mut File,
        path: &Path,
        shard: usize,
        offset: u64,
        bytes: u64,
    ) -> Result<(), HfError> {
        let source = &self.growth.checkpoint.shards[shard].path;
        if let Some(ranges) = &self.growth.checkpoint.ranges {
            let (from, _) = ranges.open(&name_of(source), offset, bytes)?;
            let copied = io::copy(&mut from.take(bytes), file);
            let copied = copied.map_err(|error| {
                HfError::file(
                    source,
                    format!("did not come: {error}; go on with `--resume`"),
                )
            })?;
            if copied < bytes {
                let problem = "ended before all of it had come; go on with `--resume`";
                return Err(HfError::file(source, problem));
            }
            self.advance(copied);
            return Ok(());
        }
        let from = match self.sources.entry(shard) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(File::open(source).map_err(FileError::of("open", source))?)
            }
        };
        from.seek(SeekFrom::Start(offset))
            .map_err(FileError::of("read", source))?;
        let mut left = bytes;
        while left > 0 {
            go_on(self.stop, path)?;
            let piece = left.min(PIECE);
            let copied = io::copy(&mut Read::by_ref(from).take(piece), file)
                .map_err(FileError::of("write", path))?;
            if copied < piece {
                return Err(HfError::file(source, "became shorter while it was read"));
            }
            left -= copied;
            self.done += copied;
            (self.report)(self.done);
        }
        Ok(())
    }
}

/// Ends writing the file at `path` if that was asked for.
fn go_on(stop: &AtomicBool, path: &Path) -> Result<(), HfError> {
    if stop.load(Ordering::Relaxed) {
        let folder = path.parent().unwrap_or(path).to_owned();
        return Err(HfError::Interrupted { folder });
    }
    Ok(())
}

/// Bytes of all shards that are not there yet.
fn missing_bytes(to: &Path, plan: &ShardPlan) -> u64 {
    let folder = partial(to);
    let missing = plan.files.iter().filter(|file| !file.is_in(&folder));
    missing.map(|file| file.bytes).sum()
}

/// The disk of a folder that is to be made must have so many bytes left.
pub(crate) fn check_space(to: &Path, needed: u64) -> Result<(), HfError> {
    let existing = existing_above(to);
    let available = available_space(existing)?;
    if needed > available {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        return Err(HfError::file(
            to,
            format!(
                "needs {:.2} GB, its disk has {:.2} GB free; choose another folder",
                gigabytes(needed),
                gigabytes(available)
            ),
        ));
    }
    Ok(())
}

/// What is written to the source's own folder would be taken for its files.
fn check_outside(to: &Path, from: &Path) -> Result<(), HfError> {
    let above = existing_above(to);
    let canonical = |path: &Path| path.canonicalize().map_err(FileError::of("read", path));
    if canonical(above)?.starts_with(canonical(from)?) {
        let problem = format!(
            "lies in the checkpoint {} itself; choose another folder",
            from.display()
        );
        return Err(HfError::file(to, problem));
    }
    Ok(())
}

/// Copies the contents of a file; it is whole or absent.
pub(crate) fn copy_file(from: &Path, to: &Path) -> Result<(), HfError> {
    let mut source = File::open(from).map_err(FileError::of("open", from))?;
    write_with(to, |file| {
        let copied = io::copy(&mut source, file);
        Ok(copied.map(|_| ()).map_err(FileError::of("write", to))?)
    })
}

/// Writes a small file whole.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), HfError> {
    Ok(upcycle_files::write(path, text.as_bytes())?)
}

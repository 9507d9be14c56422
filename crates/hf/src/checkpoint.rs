//! A checkpoint on disk: configuration, shards, tensors.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use safetensors::Dtype;
use serde::Deserialize;
use upcycle_files::FileError;

use crate::{
    config::ConfigFile,
    error::HfError,
    floats,
    folder::is_trace,
    header::Header,
    layout::Layout,
    ranges::{Ranges, read_exact, read_header},
};

pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const SINGLE: &str = "model.safetensors";

/// A checkpoint in the layout of Hugging Face's transformers. Opening it reads headers, not weights.
#[derive(Debug)]
pub struct HfCheckpoint {
    /// Its folder.
    pub dir: PathBuf,
    /// Its `config.json`.
    pub config: ConfigFile,
    /// Its family.
    pub layout: Layout,
    pub(crate) shards: Vec<Shard>,
    /// By name.
    pub(crate) tensors: BTreeMap<String, TensorEntry>,
    /// Whether it is a dense model, seen as one of its family with a single expert in each layer.
    pub dense: bool,
    /// Where its shards lie, if not in its folder.
    pub(crate) ranges: Option<Box<dyn Ranges>>,
    /// Whether a few routers stand for all, where every byte comes over a network.
    pub(crate) sampled: bool,
}

/// A safetensors file.
#[derive(Debug)]
pub(crate) struct Shard {
    pub path: PathBuf,
    pub bytes: u64,
    /// The `__metadata__` of its header.
    pub metadata: Option<std::collections::HashMap<String, String>>,
}

/// A tensor in a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorEntry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Index of its file.
    pub shard: usize,
    /// Its first byte in the file.
    pub offset: u64,
    pub bytes: u64,
    pub values: Values,
}

/// What the values of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Values {
    /// Those in its file, one after the other.
    Stored,
    /// Zeros, which are in no file.
    Zeros,
    /// Some columns of a matrix whose rows have `row` bytes in the file, times a factor.
    Columns { row: u64, factor: f32 },
}

/// `model.safetensors.index.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Names of the files that it speaks of, in order.
    pub fn files(&self) -> Vec<String> {
        let mut files: Vec<String> = self.weight_map.values().cloned().collect();
        files.sort();
        files.dedup();
        files
    }

    /// Checks that it names files of its own folder only.
    pub fn parse(text: &str, path: &Path) -> Result<Self, HfError> {
        let index: Self = serde_json::from_str(text)
            .map_err(|error| HfError::file(path, format!("is not an index: {error}")))?;
        for (tensor, file) in &index.weight_map {
            let plain = Path::new(file)
                .file_name()
                .is_some_and(|name| name == file.as_str());
            if !plain || !file.ends_with(".safetensors") {
                return Err(HfError::Tensor {
                    path: path.to_owned(),
                    tensor: tensor.clone(),
                    problem: format!(
                        "is said to be in `{file}`, which is no safetensors file of this folder"
                    ),
                });
            }
        }
        Ok(index)
    }
}

impl TensorEntry {
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }
}

impl HfCheckpoint {
    /// Whether a folder looks like one.
    pub fn is_one(dir: &Path) -> bool {
        dir.join(ConfigFile::NAME).is_file()
    }

    /// Opens the checkpoint in `dir`, of the family that `config.json` names, or of `layout`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the files contradict each other.
    pub fn open(dir: &Path, layout: Option<Layout>) -> Result<Self, HfError> {
        let index = read_index(dir)?;
        let files = match &index {
            Some(index) => {
                let files = index.files();
                check_sidecars(dir, &files)?;
                files
            }
            None => {
                check_single(dir)?;
                vec![SINGLE.to_owned()]
            }
        };
        Self::of_files(dir, layout, &files, index.as_ref(), None)
    }

    /// Opens the checkpoint whose small files are in `dir` and whose shards lie elsewhere, among `others`; `sampled` ones are only
    /// looked at, by a few of their routers.
    #[cfg(feature = "hub")]
    pub(crate) fn open_elsewhere(
        dir: &Path,
        layout: Option<Layout>,
        ranges: Box<dyn Ranges>,
        others: &[String],
        sampled: bool,
    ) -> Result<Self, HfError> {
        let index = read_index(dir)?;
        let files = match &index {
            Some(index) => {
                let files = index.files();
                let beside = sidecars(others, &files).next();
                if let Some(file) = beside.filter(|_| !sampled) {
                    return Err(HfError::file(
                        dir,
                        format!(
                            "{file} lies beside {INDEX} on the hub, which does not name it, and would stay as it is while the others grow; leave `--stream` out, and read all files with `--without-index`"
                        ),
                    ));
                }
                files
            }
            None => vec![SINGLE.to_owned()],
        };
        let checkpoint = Self::of_files(dir, layout, &files, index.as_ref(), Some(ranges))?;
        Ok(Self {
            sampled,
            ..checkpoint
        })
    }

    /// Opens the checkpoint in `dir` with all safetensors files that lie there, whatever an index says.
    ///
    /// # Errors
    /// As [`open`](Self::open), or if there is no such file, files that their names count are missing, or two have a tensor
    /// of the same name.
    pub fn open_without_index(dir: &Path, layout: Option<Layout>) -> Result<Self, HfError> {
        let files = safetensors_in(dir)?;
        if files.is_empty() {
            return Err(HfError::file(dir, "there is no safetensors file in it"));
        }
        if let Some(missing) = missing_of_series(&files) {
            let problem = format!("has no {missing}, though there are others of its series");
            return Err(HfError::file(dir, problem));
        }
        Self::of_files(dir, layout, &files, None, None)
    }

    /// What `config.json` calls the kind of model; none if it does not say.
    ///
    /// # Errors
    /// If it is no text.
    pub(crate) fn model_type(&self) -> Result<Option<String>, HfError> {
        self.config.get("model_type")
    }

    fn of_files(
        dir: &Path,
        layout: Option<Layout>,
        files: &[String],
        index: Option<&Index>,
        ranges: Option<Box<dyn Ranges>>,
    ) -> Result<Self, HfError> {
        if !Self::is_one(dir) {
            let problem = format!("there is no {} in it", ConfigFile::NAME);
            return Err(HfError::file(dir, problem));
        }
        let config = ConfigFile::read(dir)?;
        let of_dense = match (&layout, config.get::<String>("model_type")?) {
            (None, Some(model_type)) => Layout::of_dense(&model_type),
            _ => None,
        };
        let dense = of_dense.is_some();
        let layout = match layout.or(of_dense) {
            Some(layout) => layout,
            None => Layout::of(&config.need::<String>("model_type")?, config.path())?,
        };
        let mut checkpoint = Self {
            dir: dir.to_owned(),
            config,
            layout,
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            dense,
            ranges,
            sampled: false,
        };
        for file in files {
            checkpoint.add_shard(file, index)?;
        }
        for (tensor, file) in index.into_iter().flat_map(|index| &index.weight_map) {
            if !checkpoint.tensors.contains_key(tensor) {
                return Err(HfError::Tensor {
                    path: dir.join(file),
                    tensor: tensor.clone(),
                    problem: format!("is missing, though {INDEX} says that it is there"),
                });
            }
        }
        if dense {
            checkpoint.see_as_moe()?;
        }
        Ok(checkpoint)
    }

    fn add_shard(&mut self, file: &str, index: Option<&Index>) -> Result<(), HfError> {
        let path = self.dir.join(file);
        if self.ranges.is_none() && !path.is_file() {
            let problem = match index {
                Some(_) => format!("is missing, though {INDEX} names it; download it again"),
                None => format!("is missing, and there is no {INDEX}; weights must be safetensors"),
            };
            return Err(HfError::file(path, problem));
        }
        let header = match &self.ranges {
            Some(ranges) => read_header(ranges.as_ref(), &path)?,
            None => Header::read(&path)?,
        };
        let shard = self.shards.len();
        for (name, info) in header.metadata.tensors() {
            // Another file may be said to have it.
            let place = index.and_then(|index| index.weight_map.get(&name));
            if place.is_some_and(|place| place != file) {
                continue;
            }
            let (start, end) = info.data_offsets;
            let entry = TensorEntry {
                dtype: info.dtype,
                shape: info.shape.clone(),
                shard,
                offset: header.data + start as u64,
                bytes: (end - start) as u64,
                values: Values::Stored,
            };
            if let Some(other) = self.tensors.insert(name.clone(), entry) {
                let first = self.shards[other.shard].path.display();
                return Err(HfError::Tensor {
                    problem: format!("is in {first}, too"),
                    path,
                    tensor: name,
                });
            }
        }
        self.shards.push(Shard {
            bytes: header.data + header.metadata.data_len() as u64,
            metadata: header.metadata.metadata().clone(),
            path,
        });
        Ok(())
    }

    /// The tensor of this name.
    pub(crate) fn tensor(&self, name: &str) -> Result<&TensorEntry, HfError> {
        self.tensors
            .get(name)
            .ok_or_else(|| self.fault(name, "is missing"))
    }

    /// An error about a tensor.
    pub(crate) fn fault(&self, name: &str, problem: impl Into<String>) -> HfError {
        let path = match (self.tensors.get(name), self.shards.as_slice()) {
            (Some(tensor), shards) => shards[tensor.shard].path.clone(),
            (None, [single]) => single.path.clone(),
            (None, _) => self.dir.join(INDEX),
        };
        HfError::Tensor {
            path,
            tensor: name.to_owned(),
            problem: problem.into(),
        }
    }

    /// Some bytes of a file.
    pub(crate) fn read_bytes(
        &self,
        shard: usize,
        offset: u64,
        bytes: u64,
    ) -> Result<Vec<u8>, HfError> {
        let path = &self.shards[shard].path;
        if let Some(ranges) = &self.ranges {
            return read_exact(ranges.as_ref(), path, offset, bytes);
        }
        let read = || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut buffer = vec![0; bytes as usize];
            file.read_exact(&mut buffer)?;
            Ok(buffer)
        };
        Ok(read().map_err(FileError::of("read", path))?)
    }

    /// The values of a floating-point tensor, which must have this shape.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, HfError> {
        let tensor = self.tensor(name)?;
        if tensor.shape != shape {
            let problem = format!("has shape {:?}, not {shape:?}", tensor.shape);
            return Err(self.fault(name, problem));
        }
        self.float_range(name, 0, tensor.elements())
    }

    /// Whether a tensor can be computed with.
    pub(crate) fn check_float(&self, name: &str) -> Result<(), HfError> {
        let dtype = self.tensor(name)?.dtype;
        if floats::is_float(dtype) {
            return Ok(());
        }
        Err(self.fault(name, floats::not_a_float(dtype)))
    }

    /// Some consecutive values of a floating-point tensor.
    pub(crate) fn float_range(
        &self,
        name: &str,
        start: u64,
        count: u64,
    ) -> Result<Vec<f32>, HfError> {
        self.check_float(name)?;
        let tensor = self.tensor(name)?;
        match tensor.values {
            Values::Stored => {}
            Values::Zeros => return Ok(vec![0.0; count as usize]),
            Values::Columns { .. } => return Err(self.fault(name, "is only a part of a matrix")),
        }
        let size = tensor.dtype.bitsize() as u64 / 8;
        let bytes = self.read_bytes(tensor.shard, tensor.offset + start * size, count * size)?;
        floats::decode(tensor.dtype, &bytes).ok_or_else(|| self.fault(name, "is not of floats"))
    }

    /// Files of the folder that are neither weights nor written anew, by path in the folder; and those left out: weights
    /// that do not belong to the checkpoint, with all that lies beside them in a folder of their own, and what is no file.
    pub(crate) fn other_files(&self) -> Result<(Vec<PathBuf>, Vec<PathBuf>), HfError> {
        let (mut kept, mut left) = (Vec::new(), Vec::new());
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let path = self.dir.join(&folder);
            let (mut files, mut weights) = (Vec::new(), Vec::new());
            for entry in fs::read_dir(&path).map_err(FileError::of("read", &path))? {
                let entry = entry.map_err(FileError::of("read", &path))?;
                let name = folder.join(entry.file_name());
                if entry.file_name().to_string_lossy().starts_with('.') || is_trace(&name) {
                    continue;
                }
                let path = entry.path();
                let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                // Links to files are followed, a hub's cache is made of them; links to folders may lead back.
                match fs::metadata(&path) {
                    Ok(metadata) if metadata.is_dir() && !is_link => folders.push(name),
                    Ok(metadata) if metadata.is_file() && !is_weights(&name) => files.push(name),
                    Ok(_) if self.shards.iter().any(|shard| shard.path == path) => {}
                    Ok(metadata) if metadata.is_file() => weights.push(name),
                    // Pipes, links to nowhere, and the like.
                    _ => left.push(name),
                }
            }
            let is_root = folder.as_os_str().is_empty();
            let foreign = !is_root && !weights.is_empty();
            let to = if foreign { &mut left } else { &mut kept };
            to.append(&mut files);
            left.append(&mut weights);
        }
        kept.retain(|name| name != Path::new(ConfigFile::NAME) && name != Path::new(INDEX));
        kept.sort();
        left.sort();
        Ok((kept, left))
    }
}

/// Whether a file holds weights, or the index of some.
pub(crate) fn is_weights(name: &Path) -> bool {
    let extension = name.extension().and_then(|extension| extension.to_str());
    let weights = [
        "safetensors",
        "bin",
        "pt",
        "pth",
        "ckpt",
        "h5",
        "msgpack",
        "gguf",
        "onnx",
    ];
    let index = name.to_string_lossy().ends_with(".index.json") && name != Path::new(INDEX);
    index || extension.is_some_and(|extension| weights.contains(&extension))
}

/// Names of the safetensors files in a folder, in order.
fn safetensors_in(dir: &Path) -> Result<Vec<String>, HfError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(FileError::of("read", dir))? {
        let entry = entry.map_err(FileError::of("read", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") && !name.starts_with('.') {
            files.push(name);
        }
    }
    files.sort();
    Ok(files)
}

/// Without an index there is one file.
fn check_single(dir: &Path) -> Result<(), HfError> {
    let files = safetensors_in(dir)?;
    if files.is_empty() || files.iter().any(|file| file == SINGLE) {
        return Ok(());
    }
    let problem = format!(
        "is missing, though there are {} safetensors files; download it again, or read all of them with `--without-index`",
        files.len()
    );
    Err(HfError::file(dir.join(INDEX), problem))
}

/// Weights of multi-token prediction beside the index would stay behind when the others grow.
fn check_sidecars(dir: &Path, indexed: &[String]) -> Result<(), HfError> {
    match sidecars(&safetensors_in(dir)?, indexed).next() {
        Some(file) => Err(HfError::file(
            dir.join(file),
            format!(
                "lies beside {INDEX}, which does not name it, and would stay as it is while the others grow; read all files with `--without-index`, which puts its tensors among the others, or move it elsewhere to do without it"
            ),
        )),
        None => Ok(()),
    }
}

/// Files beside an index that may have weights of multi-token prediction.
pub(crate) fn sidecars<'a>(
    there: &'a [String],
    indexed: &[String],
) -> impl Iterator<Item = &'a String> {
    there.iter().filter(|file| {
        let name = file.to_lowercase();
        let prediction = name.contains("mtp") || name.contains("nextn");
        let weights = name.ends_with(".safetensors") && !name.contains('/');
        prediction && weights && !indexed.contains(file)
    })
}

/// A file that the names of the others, such as `model-00001-of-00003.safetensors`, count and that is not there.
fn missing_of_series(files: &[String]) -> Option<String> {
    files.iter().find_map(|file| {
        let (start, end) = file.strip_suffix(".safetensors")?.split_once("-of-")?;
        let (stem, number) = start.rsplit_once('-')?;
        let (count, width) = (end.parse::<usize>().ok()?, number.len());
        let name = |index: usize| format!("{stem}-{index:0width$}-of-{end}.safetensors");
        (1..=count.min(100_000))
            .map(name)
            .find(|name| !files.contains(name))
    })
}

fn read_index(dir: &Path) -> Result<Option<Index>, HfError> {
    let path = dir.join(INDEX);
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(FileError::of("read", &path))?;
    Index::parse(&text, &path).map(Some)
}

//! Checkpoints: whole or absent, checked when read.
//!
//! A checkpoint is a folder with `model.mpk` and `optimizer.mpk` (Burn records), `checkpoint.json` and, where the data
//! has one, `tokenizer.json`. It is written beside its final name and renamed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::{
    module::Module,
    record::{FullPrecisionSettings, NamedMpkBytesRecorder, Record, Recorder},
    tensor::backend::Backend,
};
use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_files::{FileError, Staged, remove_folder};
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend, adamw::moment_shape};
use upcycle_lm::{FeedForwardRecord, Lm, LmConfig, LmRecord, WeightSource, parameter_shapes};
use upcycle_moe::{GrowthState, MoeModel};

use crate::error::TrainError;

/// Version of the checkpoint format and of everything that stages' results depend on in this code.
pub const FORMAT_VERSION: u32 = 4;

const INFO: &str = "checkpoint.json";
const MODEL: &str = "model.mpk";
const OPTIMIZER: &str = "optimizer.mpk";
const TOKENIZER: &str = "tokenizer.json";

/// What `checkpoint.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// Version of the format.
    pub format: u32,
    /// The model.
    pub model: LmConfig,
    /// What each MoE layer knows of its growths.
    pub growths: Vec<GrowthState>,
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Fingerprint of the data that it was trained on.
    pub data: String,
    /// Size and BLAKE3 hash of every file.
    pub files: BTreeMap<String, FileSum>,
}

/// Size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Bytes.
    pub bytes: u64,
    /// Hexadecimal BLAKE3 hash.
    pub blake3: String,
}

/// A model with everything that is needed to go on.
pub struct Checkpoint<B: MoeAutodiffBackend> {
    /// The model.
    pub model: Lm<B>,
    /// State of its optimizer.
    pub optimizer: AdamWRecord<B>,
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Fingerprint of the data; empty if it was trained on none.
    pub data: String,
    /// The data's `tokenizer.json`.
    pub tokenizer: Option<String>,
}

impl CheckpointInfo {
    /// Reads `checkpoint.json` of the checkpoint in `dir`.
    ///
    /// # Errors
    /// If it is missing, damaged or of another format.
    pub fn read(dir: &Path) -> Result<Self, TrainError> {
        let path = dir.join(INFO);
        if !path.is_file() {
            return Err(broken(
                dir,
                format!("there is no {INFO}; give the folder of a checkpoint"),
            ));
        }
        let text = fs::read_to_string(&path).map_err(FileError::of("read", &path))?;
        let info: Self = serde_json::from_str(&text)
            .map_err(|error| broken(dir, format!("{INFO} is damaged: {error}")))?;
        if info.format != FORMAT_VERSION {
            return Err(broken(
                dir,
                format!(
                    "it has format {}, this program reads format {FORMAT_VERSION}",
                    info.format
                ),
            ));
        }
        info.model.validate()?;
        info.check_growths()
            .map_err(|problem| broken(dir, problem))?;
        Ok(info)
    }

    /// What layers say of their growths must lead to the model's experts.
    fn check_growths(&self) -> Result<(), String> {
        let (layers, experts) = (self.model.moe_layers(), self.model.experts);
        if self.growths.len() != layers {
            let found = self.growths.len();
            return Err(format!(
                "it has growths of {found} MoE layers, the model has {layers}"
            ));
        }
        for (layer, state) in self.growths.iter().enumerate() {
            let found = state.experts();
            if found != experts {
                return Err(format!(
                    "MoE layer {layer} is grown to {found} experts, the model has {experts}"
                ));
            }
            let checked = state.check(self.model.top_k);
            checked.map_err(|error| format!("MoE layer {layer}: {error}"))?;
        }
        Ok(())
    }

    /// Whether this is the data that the model was trained on.
    ///
    /// # Errors
    /// If it is other data.
    pub fn check_data(&self, data: &Dataset) -> Result<(), TrainError> {
        check_data(&self.data, data)
    }

    /// Compares the sizes of all files; cheap, unlike their hashes.
    ///
    /// # Errors
    /// The first file that is missing or has another size.
    pub fn check_sizes(&self, dir: &Path) -> Result<(), TrainError> {
        for (name, sum) in &self.files {
            let path = dir.join(name);
            let bytes = fs::metadata(&path)
                .map_err(FileError::of("read", &path))?
                .len();
            sum.check_size(dir, name, bytes)?;
        }
        Ok(())
    }

    /// Reads a file of the checkpoint and compares size and hash.
    fn read_file(&self, dir: &Path, name: &str) -> Result<Vec<u8>, TrainError> {
        let sum = self
            .files
            .get(name)
            .ok_or_else(|| broken(dir, format!("{INFO} does not list {name}")))?;
        let path = dir.join(name);
        let bytes = fs::read(&path).map_err(FileError::of("read", &path))?;
        sum.check_size(dir, name, bytes.len() as u64)?;
        if blake3::hash(&bytes).to_hex().as_str() != sum.blake3 {
            return Err(broken(
                dir,
                format!(
                    "{name} does not have its checksum; it was changed; use another checkpoint, or remove this folder to compute it again"
                ),
            ));
        }
        Ok(bytes)
    }
}

/// A model goes on only on the data whose fingerprint it has; one without was trained on none.
pub(crate) fn check_data(fingerprint: &str, data: &Dataset) -> Result<(), TrainError> {
    if fingerprint.is_empty() || fingerprint == data.fingerprint() {
        return Ok(());
    }
    Err(TrainError::OtherData {
        data: data.label().to_owned(),
    })
}

impl FileSum {
    fn check_size(&self, dir: &Path, name: &str, found: u64) -> Result<(), TrainError> {
        if found == self.bytes {
            return Ok(());
        }
        Err(broken(
            dir,
            format!(
                "{name} has {found} bytes, not {}; it is cut off or was changed; use another checkpoint, or remove this folder to compute it again",
                self.bytes
            ),
        ))
    }
}

impl<B: MoeAutodiffBackend> Checkpoint<B> {
    /// A new model from a seed.
    ///
    /// # Errors
    /// If the configuration cannot be built.
    pub fn initial(config: &LmConfig, seed: u64, device: &B::Device) -> Result<Self, TrainError> {
        Ok(Self::of_model(config.init(seed, device)?))
    }

    /// A model that was trained elsewhere.
    ///
    /// # Errors
    /// If its parameters cannot be read.
    pub fn of_weights(source: &dyn WeightSource, device: &B::Device) -> Result<Self, TrainError> {
        let model = Lm::from_weights(source, device).map_err(TrainError::Weights)?;
        Ok(Self::of_model(model))
    }

    /// A model that has taken no step.
    pub fn of_model(model: Lm<B>) -> Self {
        Self {
            model,
            optimizer: AdamWRecord::new(),
            step: 0,
            tokens: 0,
            data: String::new(),
            tokenizer: None,
        }
    }

    /// Reads the model alone of the checkpoint in `dir`.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn load_model(dir: &Path, device: &B::Device) -> Result<Lm<B>, TrainError> {
        Self::model_of(&CheckpointInfo::read(dir)?, dir, device)
    }

    fn model_of(
        info: &CheckpointInfo,
        dir: &Path,
        device: &B::Device,
    ) -> Result<Lm<B>, TrainError> {
        let record: LmRecord<B> = decode(info.read_file(dir, MODEL)?, dir, MODEL, device)?;
        let growths = info.growths.clone();
        let mut model = load_model(&info.model, growths, record, device)
            .map_err(|problem| broken(dir, problem))?;
        model.at_step(info.step);
        Ok(model)
    }

    /// Reads the checkpoint in `dir`.
    ///
    /// # Errors
    /// If it is missing or damaged, or its parts do not fit each other.
    pub fn load(dir: &Path, device: &B::Device) -> Result<Self, TrainError> {
        let info = CheckpointInfo::read(dir)?;
        let model = Self::model_of(&info, dir, device)?;
        let optimizer: AdamWRecord<B> =
            decode(info.read_file(dir, OPTIMIZER)?, dir, OPTIMIZER, device)?;
        let tokenizer = if info.files.contains_key(TOKENIZER) {
            let bytes = info.read_file(dir, TOKENIZER)?;
            let text = String::from_utf8(bytes)
                .map_err(|_| broken(dir, format!("{TOKENIZER} is not UTF-8")))?;
            Some(text)
        } else {
            None
        };
        check_optimizer(&model, &optimizer).map_err(|problem| broken(dir, problem))?;
        Ok(Self {
            model,
            optimizer,
            step: info.step,
            tokens: info.tokens,
            data: info.data,
            tokenizer,
        })
    }

    /// Writes the checkpoint as the folder `dir`, which must not exist.
    ///
    /// # Errors
    /// If it exists or cannot be written; nothing half-written is left under `dir`.
    pub fn save(&self, dir: &Path) -> Result<(), TrainError> {
        if dir.exists() {
            return Err(broken(
                dir,
                "it exists already; choose another folder or remove it".into(),
            ));
        }
        let mut staged = Staged::new(dir)?;
        self.write_files(staged.path())
            .map_err(|error| at_home(error, staged.path(), dir))?;
        Ok(staged.publish()?)
    }

    fn write_files(&self, dir: &Path) -> Result<(), TrainError> {
        let mut files = BTreeMap::new();
        let mut write = |name: &str, bytes: &[u8]| {
            let sum = FileSum {
                bytes: bytes.len() as u64,
                blake3: blake3::hash(bytes).to_hex().to_string(),
            };
            files.insert(name.to_owned(), sum);
            upcycle_files::write(&dir.join(name), bytes).map_err(TrainError::from)
        };
        write(
            MODEL,
            &encode::<B, _>(self.model.clone().into_record(), dir)?,
        )?;
        write(OPTIMIZER, &encode::<B, _>(self.optimizer.clone(), dir)?)?;
        if let Some(tokenizer) = &self.tokenizer {
            write(TOKENIZER, tokenizer.as_bytes())?;
        }
        let info = CheckpointInfo {
            format: FORMAT_VERSION,
            model: self.model.config(),
            growths: self.model.growth_states(),
            step: self.step,
            tokens: self.tokens,
            data: self.data.clone(),
            files,
        };
        let json =
            serde_json::to_string_pretty(&info).map_err(|error| broken(dir, error.to_string()))?;
        Ok(upcycle_files::write(&dir.join(INFO), json.as_bytes())?)
    }
}

/// An error of writing beside a folder's name, told of the name.
fn at_home(error: TrainError, beside: &Path, dir: &Path) -> TrainError {
    match error {
        TrainError::File(mut error) => {
            if let Ok(file) = error.path.strip_prefix(beside) {
                error.path = dir.join(file);
            }
            TrainError::File(error)
        }
        other => other,
    }
}

/// Builds the model of `config`, grown as its layers say, and loads a record into it, after comparing shapes.
fn load_model<B: MoeAutodiffBackend>(
    config: &LmConfig,
    growths: Vec<GrowthState>,
    record: LmRecord<B>,
    device: &B::Device,
) -> Result<Lm<B>, String> {
    let mut fresh: Lm<B> = config.init(0, device).map_err(|error| error.to_string())?;
    let levels = |model: &Lm<B>| -> usize {
        let layers = model.moe_layers();
        layers.map(|layer| layer.router.tie_breaks.len()).sum()
    };
    fresh
        .restore(growths, device)
        .map_err(|error| error.to_string())?;
    let recorded: usize = (record.blocks.iter())
        .map(|block| match &block.ffn {
            FeedForwardRecord::Moe(moe) => moe.router.tie_breaks.len(),
            FeedForwardRecord::Dense(_) => 0,
        })
        .sum();
    // Burn panics on a list of another length.
    if recorded != levels(&fresh) {
        return Err(format!(
            "it has {recorded} tie-breaks, its growths ask for {}",
            levels(&fresh)
        ));
    }
    let expected = parameter_shapes(&fresh);
    let model = fresh.load_record(record);
    let found = parameter_shapes(&model);
    for (expected, found) in expected.iter().zip(&found) {
        if (&expected.path, &expected.dims, expected.trained)
            != (&found.path, &found.dims, found.trained)
        {
            return Err(format!(
                "parameter {} has shape {:?}, the configuration asks for {:?}",
                found.path, found.dims, expected.dims
            ));
        }
    }
    if expected.len() != found.len() {
        return Err(format!(
            "it has {} parameters, the configuration asks for {}",
            found.len(),
            expected.len()
        ));
    }
    Ok(model)
}

/// Every state of the optimizer must belong to a parameter of the same shape.
fn check_optimizer<B: MoeAutodiffBackend>(
    model: &Lm<B>,
    optimizer: &AdamWRecord<B>,
) -> Result<(), String> {
    let shapes = parameter_shapes(model);
    let known = shapes
        .iter()
        .filter(|shape| {
            optimizer
                .get(&shape.id)
                .is_some_and(|state| moment_shape(state) == shape.dims)
        })
        .count();
    if known == optimizer.len() {
        Ok(())
    } else {
        Err(format!(
            "{} of {} optimizer states belong to no parameter of their shape",
            optimizer.len() - known,
            optimizer.len()
        ))
    }
}

fn encode<B: Backend, R: Record<B>>(record: R, dir: &Path) -> Result<Vec<u8>, TrainError> {
    NamedMpkBytesRecorder::<FullPrecisionSettings>::default()
        .record(record, ())
        .map_err(|error| broken(dir, error.to_string()))
}

fn decode<B: Backend, R: Record<B>>(
    bytes: Vec<u8>,
    dir: &Path,
    name: &str,
    device: &B::Device,
) -> Result<R, TrainError> {
    NamedMpkBytesRecorder::<FullPrecisionSettings>::default()
        .load(bytes, device)
        .map_err(|error| broken(dir, format!("{name} cannot be read: {error}")))
}

fn broken(path: &Path, problem: String) -> TrainError {
    TrainError::Checkpoint {
        path: path.to_owned(),
        problem,
    }
}

/// The checkpoints of one stage: folders named by step, of which the newest is kept.
#[derive(Debug, Clone)]
pub struct StageCheckpoints {
    dir: PathBuf,
}

impl StageCheckpoints {
    /// The checkpoints of the stage in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.join("checkpoints"),
        }
    }

    /// The newest checkpoint.
    pub fn latest(&self) -> Option<PathBuf> {
        self.steps().pop().map(|step| self.path(step))
    }

    /// Writes a checkpoint, then removes older ones and what a killed run left half-written.
    ///
    /// # Errors
    /// If it cannot be written; older ones are then kept.
    pub fn save<B: MoeAutodiffBackend>(
        &self,
        checkpoint: &Checkpoint<B>,
    ) -> Result<PathBuf, TrainError> {
        let path = self.path(checkpoint.step);
        if !path.exists() {
            checkpoint.save(&path)?;
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.path() != path {
                remove_folder(&entry.path())?;
            }
        }
        Ok(path)
    }

    /// Folder for the checkpoint of an upcycling stage at `step`; removes what a killed run left.
    ///
    /// # Errors
    /// If the folder cannot be emptied or made.
    pub fn prepare(&self, step: u64) -> Result<PathBuf, TrainError> {
        if self.dir.exists() {
            remove_folder(&self.dir)?;
        }
        Ok(self.path(step))
    }

    fn path(&self, step: u64) -> PathBuf {
        self.dir.join(format!("step-{step:08}"))
    }

    /// Steps of whole checkpoints, in order.
    fn steps(&self) -> Vec<u64> {
        let mut steps: Vec<u64> = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("step-")?
                    .parse()
                    .ok()
            })
            .collect();
        steps.sort_unstable();
        steps
    }
}

//! Checkpoints: whole or absent, checked when read.
//!
//! A checkpoint is a folder with `model.safetensors`, `optimizer.safetensors`, `checkpoint.json` and, where the data has
//! one, `tokenizer.json`. It is written beside its final name and renamed. Tensors are written and read one at a time, so
//! that beside model and optimizer no more than the largest of them is in memory. Devices that share a model's parameters
//! and moments each read their elements alone, and write the same files together.

mod model_file;
mod optimizer_file;
mod output;
mod records;
mod share;
mod stage;
mod tensor_file;

use std::{
    collections::BTreeMap,
    fs,
    fs::File,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use upcycle_data::Dataset;
use upcycle_files::{FileError, Staged};
use upcycle_kernels::{AdamWRecord, MoeAutodiffBackend};
use upcycle_lm::{Lm, LmConfig};
use upcycle_moe::{GrowthState, MoeModel};

use self::share::{check_same, fresh};
pub use self::stage::StageCheckpoints;
use crate::{crew::Crew, error::TrainError};

/// Version of everything that stages' results depend on in this code.
pub const RESULTS_VERSION: u32 = 7;

/// Version of the checkpoint format that is written.
const FORMAT_VERSION: u32 = 5;
/// The format before, which is read, too.
const RECORDS_VERSION: u32 = 4;

const INFO: &str = "checkpoint.json";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const MODEL_RECORD: &str = "model.mpk";
const OPTIMIZER_RECORD: &str = "optimizer.mpk";
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
        if !(RECORDS_VERSION..=FORMAT_VERSION).contains(&info.format) {
            return Err(broken(
                dir,
                format!(
                    "it has format {}, this program reads formats {RECORDS_VERSION} and {FORMAT_VERSION}",
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

    /// Compares the size of a file, on the first device its hash, too, and says where it is.
    fn check_file_by(&self, dir: &Path, name: &str, crew: &Crew) -> Result<PathBuf, TrainError> {
        if crew.leads() {
            return self.check_file(dir, name);
        }
        self.check_sizes(dir)?;
        Ok(dir.join(name))
    }

    /// Compares size and hash of a file, and says where it is.
    fn check_file(&self, dir: &Path, name: &str) -> Result<PathBuf, TrainError> {
        let sum = self
            .files
            .get(name)
            .ok_or_else(|| broken(dir, format!("{INFO} does not list {name}")))?;
        let path = dir.join(name);
        let file = File::open(&path).map_err(FileError::of("read", &path))?;
        let bytes = file.metadata().map_err(FileError::of("read", &path))?.len();
        sum.check_size(dir, name, bytes)?;
        let mut hash = blake3::Hasher::new();
        hash.update_reader(file)
            .map_err(FileError::of("read", &path))?;
        if hash.finalize().to_hex().as_str() != sum.blake3 {
            return Err(broken(
                dir,
                format!(
                    "{name} does not have its checksum; it was changed; use another checkpoint, or remove this folder to compute it again"
                ),
            ));
        }
        Ok(path)
    }

    fn read_file(&self, dir: &Path, name: &str) -> Result<Vec<u8>, TrainError> {
        let path = self.check_file(dir, name)?;
        Ok(fs::read(&path).map_err(FileError::of("read", &path))?)
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
    fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        }
    }

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
        Self::initial_by(config, seed, &Crew::alone(), device)
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
        Self::model_of(&CheckpointInfo::read(dir)?, dir, &Crew::alone(), device)
    }

    fn model_of(
        info: &CheckpointInfo,
        dir: &Path,
        crew: &Crew,
        device: &B::Device,
    ) -> Result<Lm<B>, TrainError> {
        let growths = info.growths.clone();
        let mut model = if info.format == RECORDS_VERSION {
            let bytes = info.read_file(dir, MODEL_RECORD)?;
            records::model(&info.model, growths, bytes, device)
                .map_err(|problem| broken(dir, format!("{MODEL_RECORD}: {problem}")))?
        } else {
            let fresh = fresh(&info.model, growths, crew, device);
            let fresh = fresh.map_err(|error| match error {
                TrainError::Devices(_) => error,
                other => broken(dir, other.to_string()),
            })?;
            let path = info.check_file_by(dir, MODEL, crew)?;
            model_file::read(fresh, &path).map_err(|error| of_folder(error, dir))?
        };
        model.at_step(info.step);
        Ok(model)
    }

    /// Reads the checkpoint in `dir`.
    ///
    /// # Errors
    /// If it is missing or damaged, or its parts do not fit each other.
    pub fn load(dir: &Path, device: &B::Device) -> Result<Self, TrainError> {
        Self::load_by(dir, &Crew::alone(), device)
    }

    /// Reads this device's share of the checkpoint in `dir`; all of a crew have to.
    pub(crate) fn load_by(dir: &Path, crew: &Crew, device: &B::Device) -> Result<Self, TrainError> {
        check_same(dir, crew)?;
        let info = CheckpointInfo::read(dir)?;
        if info.format == RECORDS_VERSION && crew.all.size() > 1 {
            let problem = format!(
                "it has format {RECORDS_VERSION}, which one device alone can read; go on with one device until it has written a checkpoint"
            );
            return Err(broken(dir, problem));
        }
        let model = Self::model_of(&info, dir, crew, device)?;
        let optimizer = if info.format == RECORDS_VERSION {
            let bytes = info.read_file(dir, OPTIMIZER_RECORD)?;
            records::optimizer(&model, bytes, device)
                .map_err(|problem| broken(dir, format!("{OPTIMIZER_RECORD}: {problem}")))?
        } else {
            let path = info.check_file_by(dir, OPTIMIZER, crew)?;
            let optimizer = optimizer_file::read(&model, &path, crew, device);
            optimizer.map_err(|error| of_folder(error, dir))?
        };
        let tokenizer = if info.files.contains_key(TOKENIZER) {
            let bytes = info.read_file(dir, TOKENIZER)?;
            let text = String::from_utf8(bytes)
                .map_err(|_| broken(dir, format!("{TOKENIZER} is not UTF-8")))?;
            Some(text)
        } else {
            None
        };
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
        self.save_by(dir, &Crew::alone())
    }

    /// Writes what the devices of a crew have as one checkpoint; all of them have to.
    pub(crate) fn save_by(&self, dir: &Path, crew: &Crew) -> Result<(), TrainError> {
        if !crew.leads() {
            return self.write_files(dir, crew);
        }
        if dir.exists() {
            return Err(broken(
                dir,
                "it exists already; choose another folder or remove it".into(),
            ));
        }
        let mut staged = Staged::new(dir)?;
        self.write_files(staged.path(), crew)
            .map_err(|error| at_home(error, staged.path(), dir))?;
        Ok(staged.publish()?)
    }

    /// Writes the files on the first device, and gives it what the others have of them.
    fn write_files(&self, dir: &Path, crew: &Crew) -> Result<(), TrainError> {
        let (model, device) = (&self.model, self.model.head_vd.device());
        let path = dir.join(OPTIMIZER);
        let sums = [
            (MODEL, model_file::write(model, &dir.join(MODEL), crew)?),
            (
                OPTIMIZER,
                optimizer_file::write(model, &self.optimizer, &path, crew, &device)?,
            ),
        ];
        if !crew.leads() {
            return Ok(());
        }
        let mut files: BTreeMap<String, FileSum> = sums
            .into_iter()
            .filter_map(|(name, sum)| Some((name.to_owned(), sum?)))
            .collect();
        if let Some(tokenizer) = &self.tokenizer {
            upcycle_files::write(&dir.join(TOKENIZER), tokenizer.as_bytes())?;
            files.insert(TOKENIZER.to_owned(), FileSum::of(tokenizer.as_bytes()));
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

/// An error of a file, told of the checkpoint.
fn of_folder(error: TrainError, dir: &Path) -> TrainError {
    match error {
        TrainError::Checkpoint { path, problem } => {
            let name = path.file_name().unwrap_or_default().display();
            broken(dir, format!("{name}: {problem}"))
        }
        other => other,
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

fn broken(path: &Path, problem: String) -> TrainError {
    TrainError::Checkpoint {
        path: path.to_owned(),
        problem,
    }
}

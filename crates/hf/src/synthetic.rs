//! Generated checkpoints: every family at any size, for tests and benchmarks.

use std::{collections::HashMap, fs, io::Write, path::Path};

use rand_distr::{Distribution, StandardNormal};
use safetensors::Dtype;
use serde_json::{Value, json};
use upcycle_digest::Digest;
use upcycle_files::{FileError, write_with};

use crate::{
    checkpoint::INDEX,
    config::ConfigFile,
    error::HfError,
    floats,
    layout::{ExpertLayout, Layout, Matrix, Orientation, Stacking},
    pattern::{Pattern, Place},
    shards::{ShardPlan, TensorMeta},
};

/// A checkpoint to generate. It has embeddings, routers with their norms, and experts: all that upcycling looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct Synthetic {
    /// A `model_type` of a built-in family.
    pub model_type: String,
    /// MoE layers.
    pub layers: usize,
    /// Experts of a layer, E.
    pub experts: usize,
    /// Experts of a token, K.
    pub top_k: usize,
    /// Groups of experts, where the family has such.
    pub groups: usize,
    /// Model width, D.
    pub d: usize,
    /// Hidden width of an expert, F.
    pub f: usize,
    /// In which of the family's ways experts are stored, from 0.
    pub storage: usize,
    /// What type they are.
    pub weights: Weights,
    /// Largest size of a shard's data.
    pub shard_bytes: u64,
}

/// What type the weights of experts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// As f32.
    F32,
    /// As bf16.
    Bf16,
    /// As f16.
    F16,
    /// As f8_e4m3 with a scale for each block of 128 x 128 (DeepSeek-V3).
    Fp8,
    /// As MXFP4: blocks of 32 values and their scales (GPT-OSS).
    Mxfp4,
}

/// Values are drawn once and repeated: drawing gigabytes would take longer than copying them.
const DRAWN: usize = 1 << 18;

impl Synthetic {
    /// Writes the checkpoint as the folder `dir`.
    ///
    /// # Errors
    /// If the family is not known, or a file cannot be written.
    pub fn write(&self, dir: &Path, seed: u64) -> Result<(), HfError> {
        let layout = Layout::of(&self.model_type, dir)?;
        fs::create_dir_all(dir).map_err(FileError::of("create", dir))?;
        let tensors = self.tensors(&layout);
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let plan = ShardPlan::new(&tensors, self.shard_bytes, Some(&metadata))?;
        let mut rng = Digest::new("synthetic checkpoint").number(seed).rng();
        let drawn: Vec<f32> = (0..DRAWN)
            .map(|_| StandardNormal.sample(&mut rng))
            .collect();
        for (number, shard) in plan.files.iter().enumerate() {
            let path = dir.join(&shard.name);
            write_with(&path, |file| {
                file.write_all(&shard.header)
                    .map_err(FileError::of("write", &path))?;
                for &index in &shard.tensors {
                    let tensor = &tensors[index];
                    // Every tensor begins elsewhere.
                    let start = (index * 7919 + number) % (DRAWN / 2);
                    let scale = (self.d as f32).powf(-0.5);
                    let values: Vec<f32> =
                        drawn[start..].iter().map(|value| scale * value).collect();
                    let bytes = floats::encode(tensor.dtype, &values).unwrap_or_else(|_| {
                        // Of bytes, none is a NaN of f8_e4m3 and none a scale that overflows.
                        values
                            .iter()
                            .map(|value| 96 + (value.to_bits() % 31) as u8)
                            .collect()
                    });
                    let mut left = tensor.bytes() as usize;
                    while left > 0 {
                        let piece = left.min(bytes.len());
                        file.write_all(&bytes[..piece])
                            .map_err(FileError::of("write", &path))?;
                        left -= piece;
                    }
                }
                Ok::<_, HfError>(())
            })?;
        }
        if let Some(index) = plan.index(&tensors) {
            upcycle_files::write(&dir.join(INDEX), index.as_bytes())?;
        }
        let config = format!("{:#}\n", self.config(&layout));
        Ok(upcycle_files::write(
            &dir.join(ConfigFile::NAME),
            config.as_bytes(),
        )?)
    }

    fn config(&self, layout: &Layout) -> Value {
        let mut config = json!({ "model_type": self.model_type, "hidden_size": self.d });
        let fields = &layout.config;
        for (field, value) in [
            (fields.experts.first(), self.experts),
            (fields.top_k.first(), self.top_k),
            (fields.groups.first(), self.groups),
            (fields.top_groups.first(), self.groups),
            (layout.router.further_rows.first(), 1),
        ] {
            // A field may lie in a section.
            let mut parts = field.into_iter().flat_map(|field| field.split('.'));
            if let Some(first) = parts.next() {
                let place = parts.fold(&mut config[first], |place, part| &mut place[part]);
                *place = value.into();
            }
        }
        config
    }

    fn tensors(&self, layout: &Layout) -> Vec<TensorMeta> {
        let (e, d) = (self.experts, self.d);
        let plain = match self.weights {
            Weights::F32 => Dtype::F32,
            Weights::F16 => Dtype::F16,
            _ => Dtype::BF16,
        };
        let meta = |name: String, dtype, shape: Vec<usize>| TensorMeta {
            name,
            dtype,
            parameters: shape.iter().map(|&dim| dim as u64).product(),
            shape,
        };
        let mut tensors = vec![meta("model.embed_tokens.weight".into(), plain, vec![64, d])];
        let further = layout.router.further_rows.len();
        for (layer, (storages, router)) in
            (0..self.layers).flat_map(|layer| layout.sets().into_iter().map(move |it| (layer, it)))
        {
            let named = |patterns: &[Pattern]| {
                let pattern = patterns.get(self.storage).or(patterns.first());
                pattern.map(|pattern| pattern.name(place(layer, None, "")))
            };
            if let Some(weight) = named(&router.weight) {
                tensors.push(meta(weight, plain, vec![e + further, d]));
            }
            if let Some(bias) = named(&router.bias) {
                tensors.push(meta(bias, Dtype::F32, vec![e + further]));
            }
            if let Some(norm) = named(&router.input_norm) {
                tensors.push(meta(norm, plain, vec![d]));
            }
            let Some(storage) = storages.get(self.storage).or(storages.first()) else {
                continue;
            };
            for pattern in &storage.further {
                let name = pattern.name(place(layer, None, ""));
                tensors.push(meta(name, Dtype::F32, vec![e]));
            }
            let experts = &storage.tensors;
            let each: Vec<Option<usize>> = match storage.stacking() {
                Stacking::Separate => (0..e).map(Some).collect(),
                Stacking::Stacked | Stacking::Flat => vec![None],
            };
            for expert in each {
                for (part, dtype, mut shape) in self.parts(storage, plain) {
                    match storage.stacking() {
                        Stacking::Separate => {}
                        Stacking::Stacked => shape.insert(storage.axis, e),
                        Stacking::Flat => shape[0] *= e,
                    }
                    tensors.push(meta(
                        experts.name(place(layer, expert, &part)),
                        dtype,
                        shape,
                    ));
                }
            }
        }
        tensors
    }

    /// Tensors of one expert.
    fn parts(&self, storage: &ExpertLayout, plain: Dtype) -> Vec<(String, Dtype, Vec<usize>)> {
        let (d, f) = (self.d, self.f);
        let mut parts = Vec::new();
        for name in storage.names() {
            let matrix = storage.matrix(name).unwrap_or(Matrix::Up);
            let [inputs, outputs] = match matrix {
                Matrix::Down => [f, d],
                Matrix::GateUp(_) => [d, 2 * f],
                Matrix::Gate | Matrix::Up => [d, f],
            };
            let shape = match storage.orientation(matrix) {
                Orientation::InOut => vec![inputs, outputs],
                Orientation::OutIn => vec![outputs, inputs],
            };
            let name = name.to_owned();
            match self.weights {
                Weights::F32 | Weights::Bf16 | Weights::F16 => parts.push((name, plain, shape)),
                Weights::Fp8 => {
                    let blocks = shape.iter().map(|dim| dim.div_ceil(128)).collect();
                    parts.push((format!("{name}_scale_inv"), Dtype::F32, blocks));
                    parts.push((name, Dtype::F8_E4M3, shape));
                }
                Weights::Mxfp4 => {
                    let blocks = inputs.div_ceil(32);
                    parts.push((format!("{name}_bias"), plain, vec![outputs]));
                    parts.push((
                        format!("{name}_blocks"),
                        Dtype::U8,
                        vec![outputs, blocks, 16],
                    ));
                    parts.push((format!("{name}_scales"), Dtype::U8, vec![outputs, blocks]));
                }
            }
        }
        parts
    }
}

fn place(layer: usize, expert: Option<usize>, after: &str) -> Place<'_> {
    Place {
        before: "model.",
        layer,
        expert,
        after,
    }
}

//! Checkpoints as models of ours.

use upcycle_lm::{LayerPattern, LmConfig, WeightSource};
use upcycle_moe::ScoreFunction;

use crate::{
    checkpoint::HfCheckpoint,
    error::HfError,
    experts::transpose,
    layout::{Layout, ModelLayout},
    moe::Moe,
    names::{EMBEDDING, HEAD, Stored, stored},
    pattern::Place,
};

/// A checkpoint of a family that we can run: OLMoE, Mixtral, Qwen3-MoE.
#[derive(Debug)]
pub struct Import {
    checkpoint: HfCheckpoint,
    config: LmConfig,
    tied: bool,
}

impl Import {
    /// Reads the shape of the model.
    ///
    /// # Errors
    /// If the family or one of its options is not ours, or tensors are missing.
    pub fn new(checkpoint: HfCheckpoint) -> Result<Self, HfError> {
        let Some(model) = &checkpoint.layout.model else {
            let known: Vec<String> = Layout::built_in()?
                .into_iter()
                .filter(|layout| layout.model.is_some())
                .map(|layout| layout.name)
                .collect();
            return Err(HfError::file(
                checkpoint.config.path(),
                format!(
                    "models of the {} family cannot be run here; those of {} can",
                    checkpoint.layout.name,
                    known.join(", ")
                ),
            ));
        };
        let moe = checkpoint.moe()?;
        check_options(&checkpoint)?;
        let config = shape(&checkpoint, model, &moe)?;
        config
            .validate()
            .map_err(|error| HfError::file(checkpoint.config.path(), error.to_string()))?;
        let tied = checkpoint
            .config
            .get("tie_word_embeddings")?
            .unwrap_or(false);
        Ok(Self {
            config,
            tied,
            checkpoint,
        })
    }

    /// The same model for shorter sequences.
    pub fn with_context(mut self, context: usize) -> Self {
        self.config.context = self.config.context.min(context);
        self
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &HfCheckpoint {
        &self.checkpoint
    }

    fn values(&self, path: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, HfError> {
        let checkpoint = &self.checkpoint;
        let matrix = |name: &str, [rows, columns]: [usize; 2]| {
            let values = checkpoint.floats(name, &[columns, rows])?;
            Ok::<_, HfError>(transpose(&values, [columns, rows]))
        };
        match (stored(&checkpoint.layout, &self.config, path), shape) {
            (Some(Stored::Nowhere), _) => Ok(None),
            (Some(Stored::Same(name)), _) => {
                let name = if self.tied && name == HEAD {
                    EMBEDDING
                } else {
                    &name
                };
                checkpoint.floats(name, shape).map(Some)
            }
            (Some(Stored::Transposed(name)), &[rows, columns]) => {
                matrix(&name, [rows, columns]).map(Some)
            }
            (Some(Stored::Experts(names)), &[_, rows, columns]) => {
                let mut values = Vec::with_capacity(names.len() * rows * columns);
                for name in names {
                    values.extend(matrix(&name, [rows, columns])?);
                }
                Ok(Some(values))
            }
            _ => Err(HfError::file(
                &checkpoint.dir,
                format!("has nothing for the parameter {path} of shape {shape:?}"),
            )),
        }
    }
}

impl WeightSource for Import {
    fn config(&self) -> &LmConfig {
        &self.config
    }

    fn read(&self, path: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, String> {
        self.values(path, shape).map_err(|error| error.to_string())
    }
}

/// Options of the families that our model does not have.
fn check_options(checkpoint: &HfCheckpoint) -> Result<(), HfError> {
    let config = &checkpoint.config;
    let refuse = |field: &str, value: String| {
        let problem = format!(
            "field `{field}` is {value}, which models here do not know; grow the checkpoint without running it"
        );
        Err(HfError::file(config.path(), problem))
    };
    if let Some(act) = config
        .get::<String>("hidden_act")?
        .filter(|act| act != "silu")
    {
        return refuse("hidden_act", act);
    }
    if config.get("attention_bias")?.unwrap_or(false) {
        return refuse("attention_bias", "true".into());
    }
    if let Some(clip) = config.get::<f64>("clip_qkv")? {
        return refuse("clip_qkv", clip.to_string());
    }
    for field in [
        "rope_scaling.rope_type",
        "rope_scaling.type",
        "rope_parameters.rope_type",
    ] {
        if let Some(kind) = config
            .get::<String>(field)?
            .filter(|kind| kind != "default")
        {
            return refuse(field, kind);
        }
    }
    for field in [
        "rope_parameters.partial_rotary_factor",
        "partial_rotary_factor",
    ] {
        if let Some(factor) = config.get::<f64>(field)?.filter(|&factor| factor != 1.0) {
            return refuse(field, factor.to_string());
        }
    }
    Ok(())
}

fn shape(checkpoint: &HfCheckpoint, model: &ModelLayout, moe: &Moe) -> Result<LmConfig, HfError> {
    let config = &checkpoint.config;
    let (heads, layers) = (
        config.need("num_attention_heads")?,
        config.need("num_hidden_layers")?,
    );
    let d_model: usize = config.need("hidden_size")?;
    let theta = match config.get("rope_parameters.rope_theta")? {
        Some(theta) => theta,
        None => config.need("rope_theta")?,
    };
    // Within its window, sliding attention is plain attention.
    let window = match config.get("use_sliding_window")? {
        Some(false) => None,
        _ => config.get("sliding_window")?,
    };
    let longest: usize = config.need("max_position_embeddings")?;
    let limit = longest.min(window.unwrap_or(usize::MAX));
    let moe_layers: Vec<usize> = moe.layers.iter().map(|layer| layer.layer).collect();
    let missing = (0..layers).find(|layer| !moe_layers.contains(layer));
    if let (None, Some(layer)) = (&model.d_ffn, missing) {
        let place = Place {
            before: "model.",
            layer,
            expert: None,
            after: "",
        };
        let weight = checkpoint.layout.router.weight.first();
        let first = weight.map(|weight| weight.name(place)).unwrap_or_default();
        return Err(checkpoint.fault(&first, "is missing"));
    }
    let head: Option<usize> = config.get("head_dim")?;
    Ok(LmConfig {
        vocab: config.need("vocab_size")?,
        context: limit,
        d_model,
        layers,
        heads,
        kv_heads: config.get("num_key_value_heads")?.unwrap_or(heads),
        d_head: head.filter(|&width| width * heads != d_model).unwrap_or(0),
        d_ffn: match &model.d_ffn {
            Some(field) if moe_layers.len() < layers => config.need(field)?,
            _ => 0,
        },
        pattern: match moe_layers.len() == layers {
            true => LayerPattern::AllMoe,
            false => LayerPattern::List(moe_layers),
        },
        experts: moe.experts,
        top_k: moe.top_k,
        d_expert: config.need(&model.d_expert)?,
        score: ScoreFunction::Softmax,
        renormalize: moe.routing.renormalize,
        gate_scale: 1.0,
        qk_norm: model.qk_norm,
        rope_theta: theta,
        norm_eps: config.need("rms_norm_eps")?,
        embedding_std: 0.5,
    })
}

//! Checkpoints as models of ours.

use upcycle_lm::{LayerPattern, LmConfig, WeightSource};
use upcycle_moe::ScoreFunction;
use upcycle_operator::GateScore;

use crate::{
    checkpoint::HfCheckpoint,
    error::HfError,
    experts::transpose,
    layout::{Layout, ModelLayout},
    moe::{Moe, MoeLayer},
    names::{EMBEDDING, HEAD, Stored, stored},
    pattern::Place,
};

/// A checkpoint of a family that we can run, see [`Layout::runs`].
#[derive(Debug)]
pub struct Import {
    checkpoint: HfCheckpoint,
    config: LmConfig,
    family: ModelLayout,
    moe: Moe,
    tied: bool,
}

impl Import {
    /// Reads the shape of the model.
    ///
    /// # Errors
    /// If the family or one of its options is not ours, or tensors are missing.
    pub fn new(checkpoint: HfCheckpoint) -> Result<Self, HfError> {
        let model_type = checkpoint.model_type()?.unwrap_or_default();
        let Some(family) = checkpoint.layout.model(&model_type).cloned() else {
            let known: Vec<&str> = Layout::built_in().flat_map(Layout::runs).collect();
            return Err(HfError::file(
                checkpoint.config.path(),
                format!(
                    "models of type `{model_type}` cannot be run here; those of {} can",
                    known.join(", ")
                ),
            ));
        };
        let moe = checkpoint.moe()?;
        check_options(&checkpoint, &family)?;
        let config = shape(&checkpoint, &family, &moe)?;
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
            family,
            moe,
        })
    }

    /// Whether its routers have biases for the selection alone, as loss-free balancing needs them.
    pub fn has_selection_biases(&self) -> bool {
        self.checkpoint.layout.has_selection_biases()
    }

    /// MoE layers of the checkpoint that the model does not run, and that do not come along: those of multi-token prediction.
    pub fn left_out(&self) -> Vec<usize> {
        let layers = self.moe.layers.iter().filter(|layer| !layer.runs);
        layers.map(|layer| layer.layer).collect()
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
        if let Some((layer, part)) = self.of_moe_layer(path) {
            return match (part, shape) {
                ("router.weight_ed", _) => checkpoint.floats(&layer.weight, shape).map(Some),
                ("router.selection_bias_e", &[experts]) => match &layer.bias {
                    Some(bias) => checkpoint.float_range(bias, 0, experts as u64).map(Some),
                    None => Ok(None),
                },
                ("experts.gate_edf", &[_, d, f]) => checkpoint.stacked(layer, 0, [d, f]).map(Some),
                ("experts.up_edf", &[_, d, f]) => checkpoint.stacked(layer, 1, [d, f]).map(Some),
                ("experts.down_efd", &[_, f, d]) => checkpoint.stacked(layer, 2, [f, d]).map(Some),
                _ => self.plain(path, shape),
            };
        }
        self.plain(path, shape)
    }

    /// The MoE layer that a parameter is of, and what it is there.
    fn of_moe_layer<'a>(&self, path: &'a str) -> Option<(&MoeLayer, &'a str)> {
        let (number, part) = path.strip_prefix("blocks.")?.split_once('.')?;
        let number: usize = number.parse().ok()?;
        let part = part.strip_prefix("ffn.Moe.")?;
        let mut layers = self.moe.layers.iter();
        let layer = layers.find(|layer| layer.runs && layer.layer == number)?;
        Some((layer, part))
    }

    /// A parameter that has one tensor, or none.
    fn plain(&self, path: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, HfError> {
        let checkpoint = &self.checkpoint;
        let stored = stored(&checkpoint.layout, &self.family, &self.config, path);
        match (stored, shape) {
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
                let values = checkpoint.floats(&name, &[columns, rows])?;
                Ok(Some(transpose(&values, [columns, rows])))
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
pub(crate) fn check_options(
    checkpoint: &HfCheckpoint,
    family: &ModelLayout,
) -> Result<(), HfError> {
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
    if family.rotary_share.is_none() {
        for field in ROTARY_SHARE {
            if let Some(factor) = config.get::<f64>(field)?.filter(|&factor| factor != 1.0) {
                return refuse(field, factor.to_string());
            }
        }
    }
    Ok(())
}

/// Fields of the share of a head's channels that are turned.
const ROTARY_SHARE: [&str; 2] = [
    "rope_parameters.partial_rotary_factor",
    "partial_rotary_factor",
];

/// The shape of the model of a checkpoint.
pub(crate) fn shape(
    checkpoint: &HfCheckpoint,
    family: &ModelLayout,
    moe: &Moe,
) -> Result<LmConfig, HfError> {
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
    let moe_layers = moe.layers.iter().filter(|layer| layer.runs);
    let moe_layers: Vec<usize> = moe_layers.map(|layer| layer.layer).collect();
    let missing = (0..layers).find(|layer| !moe_layers.contains(layer));
    if let (None, Some(layer)) = (&family.d_ffn, missing) {
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
    let d_expert: usize = config.need(&family.d_expert)?;
    let shared = family.shared.as_ref();
    let d_shared = match shared.map(|shared| (&shared.width, &shared.count)) {
        Some((Some(width), _)) => config.need(width)?,
        Some((_, Some(count))) => d_expert.saturating_mul(config.need(count)?),
        _ => 0,
    };
    let share = match family.rotary_share {
        Some(default) => config
            .first(&ROTARY_SHARE.map(String::from))?
            .unwrap_or(default),
        None => 1.0,
    };
    let gate_scale = match &family.gate_scale {
        Some(field) => config.get(field)?.unwrap_or(1.0),
        None => 1.0,
    };
    Ok(LmConfig {
        vocab: config.need("vocab_size")?,
        context: limit,
        d_model,
        layers,
        heads,
        kv_heads: config.get("num_key_value_heads")?.unwrap_or(heads),
        d_head: head.filter(|&width| width * heads != d_model).unwrap_or(0),
        d_ffn: match &family.d_ffn {
            Some(field) if moe_layers.len() < layers => config.need(field)?,
            _ => 0,
        },
        pattern: match moe_layers.len() == layers {
            true => LayerPattern::AllMoe,
            false => LayerPattern::List(moe_layers),
        },
        experts: moe.experts,
        top_k: moe.top_k,
        d_expert,
        score: match moe.routing.score {
            GateScore::Sigmoid => ScoreFunction::Sigmoid,
            GateScore::Softmax => ScoreFunction::Softmax,
            GateScore::TopKSoftmax => ScoreFunction::TopKSoftmax,
            GateScore::SqrtSoftplus => {
                let problem = "scores of its router are roots of softplus, which models here do not know; grow the checkpoint without running it";
                return Err(HfError::file(config.path(), problem));
            }
        },
        renormalize: moe.routing.renormalize,
        gate_scale,
        groups: moe.group_limit(),
        d_shared,
        shared_gate: d_shared > 0 && shared.is_some_and(|shared| shared.gate.is_some()),
        attention_bias: config.choice(&family.attention_bias)?,
        qk_norm: config.choice(&family.qk_norm)?,
        rotary_share: share,
        rope_theta: theta,
        norm_eps: config.need("rms_norm_eps")?,
        embedding_std: 0.5,
    })
}

//! Parameters of our model and the tensors that hold them, for families that we can run.

use upcycle_lm::LmConfig;

use crate::{
    layout::{Layout, Matrix, ModelLayout},
    pattern::Place,
};

/// The tensors of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stored {
    /// One, of the same shape.
    Same(String),
    /// One matrix, transposed.
    Transposed(String),
    /// One for each expert, transposed.
    Experts(Vec<String>),
    /// None: state of ours that the family does not know.
    Nowhere,
}

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// Where the parameter at `path` is stored; none if the path is unknown.
pub(crate) fn stored(
    layout: &Layout,
    family: &ModelLayout,
    config: &LmConfig,
    path: &str,
) -> Option<Stored> {
    let same = |name: &str| Some(Stored::Same(name.to_owned()));
    let Some(path) = path.strip_prefix("blocks.") else {
        return match path {
            "embedding_vd" => same(EMBEDDING),
            "head_vd" => same(HEAD),
            "norm.scale_d" => same("model.norm.weight"),
            _ => None,
        };
    };
    let (layer, path) = path.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let name = |name: &str| format!("model.layers.{layer}.{name}.weight");
    let same = |tensor: &str| Some(Stored::Same(name(tensor)));
    let transposed = |tensor: &str| Some(Stored::Transposed(name(tensor)));
    let bias = |tensor: &str| Some(Stored::Same(format!("model.layers.{layer}.{tensor}.bias")));
    let place = |expert| Place {
        before: "model.",
        layer,
        expert,
        after: "",
    };
    let experts = |matrix| {
        // Families that can be run here name separate experts first.
        let storage = layout.experts.first()?;
        let part = storage.part(matrix)?;
        let of = |expert| {
            let place = place(Some(expert));
            storage.tensors.name(Place {
                after: part,
                ..place
            })
        };
        Some(Stored::Experts((0..config.experts).map(of).collect()))
    };
    match path {
        "attention_norm.scale_d" => same("input_layernorm"),
        "attention.query" => transposed("self_attn.q_proj"),
        "attention.key" => transposed("self_attn.k_proj"),
        "attention.value" => transposed("self_attn.v_proj"),
        "attention.output" => transposed("self_attn.o_proj"),
        "attention.query_bias" => bias("self_attn.q_proj"),
        "attention.key_bias" => bias("self_attn.k_proj"),
        "attention.value_bias" => bias("self_attn.v_proj"),
        "attention.output_bias" => bias("self_attn.o_proj"),
        "attention.query_norm.scale_d" => same("self_attn.q_norm"),
        "attention.key_norm.scale_d" => same("self_attn.k_norm"),
        "ffn_norm.scale_d" => same("post_attention_layernorm"),
        "ffn.Dense.gate_df" => transposed("mlp.gate_proj"),
        "ffn.Dense.up_df" => transposed("mlp.up_proj"),
        "ffn.Dense.down_fd" => transposed("mlp.down_proj"),
        "ffn.Moe.router.weight_ed" => {
            let weight = layout.router.weight.first()?;
            Some(Stored::Same(weight.name(place(None))))
        }
        "ffn.Moe.experts.gate_edf" => experts(Matrix::Gate),
        "ffn.Moe.experts.up_edf" => experts(Matrix::Up),
        "ffn.Moe.experts.down_efd" => experts(Matrix::Down),
        "ffn.Moe.router.selection_bias_e" if layout.has_selection_biases() => {
            let bias = layout.router.bias.first()?;
            Some(Stored::Same(bias.name(place(None))))
        }
        path if path.starts_with("ffn.Moe.router.") => Some(Stored::Nowhere),
        path => {
            let shared = family.shared.as_ref()?;
            let matrix = |tensor: &str| transposed(&format!("mlp.{}.{tensor}", shared.name));
            match path.strip_prefix("ffn.Moe.shared.")? {
                "network.gate_df" => matrix("gate_proj"),
                "network.up_df" => matrix("up_proj"),
                "network.down_fd" => matrix("down_proj"),
                "gate_1d" => same(&format!("mlp.{}", shared.gate.as_ref()?)),
                _ => None,
            }
        }
    }
}

//! Every operation at the sizes of a model, ready to be measured.

use std::cell::RefCell;

use burn::tensor::{Distribution, Int, Tensor, backend::Backend, ops::FloatTensor};

use upcycle_kernels::{
    ExpertWeights, MoeAutodiffBackend, MoeBackend, Precision, RotaryAngles, SoftTargets, Traced,
    adamw::Update, reference,
};

/// Sizes of a model and a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Sequences, B.
    pub rows: usize,
    /// Tokens of a sequence, S.
    pub context: usize,
    /// Model width, D.
    pub d_model: usize,
    /// Attention heads, H; keys and values have as many.
    pub heads: usize,
    /// Experts, E.
    pub experts: usize,
    /// Experts of a token, K.
    pub top_k: usize,
    /// Hidden width of an expert, F.
    pub d_expert: usize,
    /// Vocabulary, V.
    pub vocab: usize,
}

/// One operation: forward and backward pass, or the one pass it has.
pub struct Case {
    /// Name of the method of [`MoeBackend`].
    pub name: &'static str,
    /// Floating point operations of its matrix products, both passes.
    pub flops: f64,
    /// Bytes of its arguments, results and gradients, each moved once a pass.
    pub bytes: f64,
    /// The backend's own body; none where it takes the reference.
    pub specialised: Option<Run>,
    /// The reference body, and autodiff's backward pass, begun by a sum.
    pub reference: Run,
}

/// Computes once, and waits for the device.
pub type Run = Box<dyn Fn()>;

/// All operations.
pub fn cases<B: MoeAutodiffBackend>(sizes: Sizes, device: &B::Device) -> Vec<Case> {
    let make = Make::<B> {
        sizes,
        device: device.clone(),
    };
    vec![
        make.top_k(),
        make.expert_ffn(),
        make.causal_attention(),
        make.rms_norm(),
        make.rotary(),
        make.project(),
        make.embed(),
        make.linear_cross_entropy(),
        make.adamw(),
    ]
}

/// Bytes of an f32.
const FLOAT: usize = 4;
const F32: Precision = Precision::F32;

type Inner<B> = <B as burn::tensor::backend::AutodiffBackend>::InnerBackend;

struct Make<B: MoeAutodiffBackend> {
    sizes: Sizes,
    device: B::Device,
}

impl<B: MoeAutodiffBackend> Make<B> {
    fn tokens(&self) -> usize {
        self.sizes.rows * self.sizes.context
    }

    fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<Inner<B>, D> {
        Tensor::random(shape, Distribution::Uniform(-0.1, 0.1), &self.device)
    }

    fn indices<const D: usize>(&self, shape: [usize; D], below: usize) -> Tensor<Inner<B>, D, Int> {
        Tensor::random(
            shape,
            Distribution::Uniform(0.0, below as f64),
            &self.device,
        )
    }

    /// A traced operation and its backward pass for an output gradient of this shape.
    fn traced<const D: usize, const N: usize>(
        &self,
        output: [usize; D],
        op: impl Fn() -> Option<Traced<Inner<B>, N>> + 'static,
    ) -> Option<Run> {
        op()?;
        let gradient: FloatTensor<Inner<B>> = primitive(self.random(output));
        Some(self.waiting(move || {
            if let Some(traced) = op() {
                (traced.backward)(gradient.clone(), [true; N]);
            }
        }))
    }

    /// An operation on autodiff tensors, and the backward pass of the sum of its output.
    fn differentiated<const D: usize>(&self, op: impl Fn() -> Tensor<B, D> + 'static) -> Run {
        self.waiting(move || drop(op().sum().backward()))
    }

    fn waiting(&self, run: impl Fn() + 'static) -> Run {
        let device = self.device.clone();
        Box::new(move || {
            run();
            // A device that fails has failed before: the time of this run means nothing then.
            let _ = B::sync(&device);
        })
    }

    fn top_k(&self) -> Case {
        let Sizes { experts, top_k, .. } = self.sizes;
        let t = self.tokens();
        let scores = self.random([t, experts]);
        let reference = scores.clone();
        Case {
            name: "top_k",
            flops: 0.0,
            bytes: (FLOAT * t * (experts + top_k)) as f64,
            specialised: Some(self.waiting(move || drop(Inner::<B>::top_k(scores.clone(), top_k)))),
            reference: self.waiting(move || drop(reference::top_k(reference.clone(), top_k))),
        }
    }

    fn expert_ffn(&self) -> Case {
        let Sizes {
            d_model: d,
            experts: e,
            top_k: k,
            d_expert: f,
            ..
        } = self.sizes;
        let t = self.tokens();
        let (x, gates) = (self.random([t, d]), self.random([t, k]));
        let weights = ExpertWeights {
            gate_edf: self.random([e, d, f]),
            up_edf: self.random([e, d, f]),
            down_efd: self.random([e, f, d]),
        };
        let experts = Inner::<B>::top_k(self.random([t, e]), k);

        let leaf_weights = ExpertWeights {
            gate_edf: leaf::<B, 3>(&weights.gate_edf),
            up_edf: leaf::<B, 3>(&weights.up_edf),
            down_efd: leaf::<B, 3>(&weights.down_efd),
        };
        let (leaf_x, leaf_gates) = (leaf::<B, 2>(&x), leaf::<B, 2>(&gates));
        let leaf_experts = Tensor::from_inner(experts.clone());
        Case {
            name: "expert_ffn",
            flops: (18 * t * k * d * f) as f64,
            // Weights are read twice and their gradients written; x, y, dy and dx are rows.
            bytes: (FLOAT * (9 * e * d * f + 5 * t * d)) as f64,
            specialised: self.traced([t, d], move || {
                Inner::<B>::expert_ffn_traced(
                    x.clone(),
                    weights.clone(),
                    experts.clone(),
                    gates.clone(),
                    F32,
                )
            }),
            reference: self.differentiated(move || {
                reference::expert_ffn(
                    leaf_x.clone(),
                    leaf_weights.clone(),
                    leaf_experts.clone(),
                    leaf_gates.clone(),
                    F32,
                )
            }),
        }
    }

    fn causal_attention(&self) -> Case {
        let Sizes {
            rows: b,
            context: s,
            d_model,
            heads: h,
            ..
        } = self.sizes;
        let shape = [b, s, h, d_model / h];
        let [q, k, v] = [(); 3].map(|()| self.random(shape));
        let leaves = [&q, &k, &v].map(leaf::<B, 4>);
        Case {
            name: "causal_attention",
            // Two products forward and five backward over half of the S x S scores.
            flops: (7 * b * s * s * d_model) as f64,
            bytes: (FLOAT * 12 * b * s * d_model) as f64,
            specialised: self.traced(shape, move || {
                Inner::<B>::causal_attention_traced(q.clone(), k.clone(), v.clone(), F32)
            }),
            reference: self.differentiated(move || {
                let [q, k, v] = leaves.clone();
                reference::causal_attention(q, k, v, F32)
            }),
        }
    }

    fn rms_norm(&self) -> Case {
        let (t, d) = (self.tokens(), self.sizes.d_model);
        let (x, scale) = (self.random([t, d]), self.random([d]));
        let (leaf_x, leaf_scale) = (leaf::<B, 2>(&x), leaf::<B, 1>(&scale));
        Case {
            name: "rms_norm",
            flops: 0.0,
            bytes: (FLOAT * 5 * t * d) as f64,
            specialised: self.traced([t, d], move || {
                Inner::<B>::rms_norm_traced(x.clone(), scale.clone(), 1e-5)
            }),
            reference: self.differentiated(move || {
                reference::rms_norm(leaf_x.clone(), leaf_scale.clone(), 1e-5)
            }),
        }
    }

    fn rotary(&self) -> Case {
        let Sizes {
            rows: b,
            context: s,
            d_model,
            heads: h,
            ..
        } = self.sizes;
        let c = d_model / h;
        let x = self.random([b, s, h, c]);
        let angles = RotaryAngles {
            cos_sc: self.random([s, c / 2]),
            sin_sc: self.random([s, c / 2]),
        };
        let leaf_x = leaf::<B, 4>(&x);
        let leaf_angles = RotaryAngles {
            cos_sc: Tensor::from_inner(angles.cos_sc.clone()),
            sin_sc: Tensor::from_inner(angles.sin_sc.clone()),
        };
        Case {
            name: "rotary",
            flops: 0.0,
            bytes: (FLOAT * 4 * b * s * d_model) as f64,
            specialised: self.traced([b, s, h, c], move || {
                Inner::<B>::rotary_traced(x.clone(), angles.clone())
            }),
            reference: self
                .differentiated(move || reference::rotary(leaf_x.clone(), leaf_angles.clone())),
        }
    }

    /// One of the four projections of attention.
    fn project(&self) -> Case {
        let (t, d) = (self.tokens(), self.sizes.d_model);
        let (x, weight) = (self.random([t, d]), self.random([d, d]));
        let (leaf_x, leaf_weight) = (leaf::<B, 2>(&x), leaf::<B, 2>(&weight));
        Case {
            name: "project",
            flops: (6 * t * d * d) as f64,
            bytes: (FLOAT * (5 * t + 3 * d) * d) as f64,
            specialised: self.traced([t, d], move || {
                Inner::<B>::project_traced(x.clone(), weight.clone(), F32)
            }),
            reference: self.differentiated(move || {
                reference::project(leaf_x.clone(), leaf_weight.clone(), F32)
            }),
        }
    }

    fn embed(&self) -> Case {
        let (t, d, v) = (self.tokens(), self.sizes.d_model, self.sizes.vocab);
        let (table, ids) = (self.random([v, d]), self.indices([t], v));
        let (leaf_table, leaf_ids) = (leaf::<B, 2>(&table), Tensor::from_inner(ids.clone()));
        Case {
            name: "embed",
            flops: 0.0,
            bytes: (FLOAT * (3 * t * d + v * d)) as f64,
            specialised: self.traced([t, d], move || {
                Inner::<B>::embed_traced(table.clone(), ids.clone())
            }),
            reference: self.differentiated(move || {
                reference::embed(leaf_table.clone(), Tensor::clone(&leaf_ids))
            }),
        }
    }

    fn linear_cross_entropy(&self) -> Case {
        let (t, d, v) = (self.tokens(), self.sizes.d_model, self.sizes.vocab);
        let (x, head) = (self.random([t, d]), self.random([v, d]));
        let targets = SoftTargets {
            ids_tj: self.indices([t, 1], v),
            weights_tj: Tensor::ones([t, 1], &self.device),
        };
        let (leaf_x, leaf_head) = (leaf::<B, 2>(&x), leaf::<B, 2>(&head));
        let leaf_targets = SoftTargets {
            ids_tj: Tensor::from_inner(targets.ids_tj.clone()),
            weights_tj: Tensor::from_inner(targets.weights_tj.clone()),
        };
        Case {
            name: "linear_cross_entropy",
            flops: (6 * t * d * v) as f64,
            bytes: (FLOAT * 3 * (t + v) * d) as f64,
            specialised: self.traced([t], move || {
                Inner::<B>::linear_cross_entropy_traced(
                    x.clone(),
                    head.clone(),
                    targets.clone(),
                    F32,
                )
            }),
            reference: self.differentiated(move || {
                reference::linear_cross_entropy(
                    leaf_x.clone(),
                    leaf_head.clone(),
                    leaf_targets.clone(),
                    F32,
                )
            }),
        }
    }

    /// The update of all weights of the experts of a layer.
    fn adamw(&self) -> Case {
        let Sizes {
            d_model: d,
            experts: e,
            d_expert: f,
            ..
        } = self.sizes;
        let shape = [3 * e, d, f];
        let update = Update {
            lr: 1e-3,
            beta_1: 0.9,
            beta_2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            correction_1: 0.5,
            correction_2: 0.5,
            gradient_scale: 1.0,
        };
        let state = || {
            let moments = (self.random(shape), self.random(shape).abs());
            (self.random(shape), moments, self.random(shape))
        };
        let step = |body: AdamWBody<Inner<B>>| {
            let (parameter, moments, gradient) = state();
            let held = RefCell::new(Some((parameter, moments)));
            self.waiting(move || {
                // Nobody else holds the tensors, so that they can be updated in place.
                let taken = held.borrow_mut().take();
                *held.borrow_mut() = taken.map(|(parameter, moments)| {
                    let (p, m, v) = body(parameter, gradient.clone(), moments, update);
                    (p, (m, v))
                });
            })
        };
        Case {
            name: "adamw",
            flops: 0.0,
            bytes: (FLOAT * 7 * 3 * e * d * f) as f64,
            specialised: Some(step(Inner::<B>::adamw)),
            reference: step(reference::adamw),
        }
    }
}

type AdamWBody<B> = fn(
    Tensor<B, 3>,
    Tensor<B, 3>,
    (Tensor<B, 3>, Tensor<B, 3>),
    Update,
) -> (Tensor<B, 3>, Tensor<B, 3>, Tensor<B, 3>);

/// A differentiable tensor of these values.
fn leaf<B: MoeAutodiffBackend, const D: usize>(values: &Tensor<Inner<B>, D>) -> Tensor<B, D> {
    Tensor::from_inner(values.clone()).require_grad()
}

/// The primitive of a float tensor.
fn primitive<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

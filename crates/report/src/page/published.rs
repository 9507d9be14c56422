//! The paper's published figures (arXiv 2604.19835 v2).

use crate::results::Setting;

/// The model of Tables 2 and 3.
pub(super) const ABLATION: &str = "paper: 10 layers, 32 to 64 experts, top-2";

/// Table 2a: tau over all steps (T = 100K) and gap closure in %, 32 to 64 experts.
pub(super) const TABLE_2A: [(&str, f64, f64); 5] = [
    ("5K", 0.05, 81.0),
    ("13K", 0.13, 100.0),
    ("25K", 0.25, 100.0),
    ("38K", 0.38, 100.0),
    ("51K", 0.51, 98.0),
];

/// Table 2b: CPT steps over pre-training steps (tau = 50K) and gap closure in %, recipe not stated, 32 to 64 experts.
pub(super) const TABLE_2B: [(&str, f64, f64); 5] = [
    ("5K", 0.10, 34.7),
    ("13K", 0.26, 64.0),
    ("25K", 0.50, 84.3),
    ("38K", 0.76, 88.5),
    ("51K", 1.02, 98.0),
];

/// Table 3: losses of Fixed-32 and Fixed-64, and of each selection, at CPT of 13K, 25K, 38K and 50K steps (tau = 50K).
pub(super) const TABLE_3_FIXED: [(f64, [f64; 2]); 4] = [
    (0.26, [2.857, 2.808]),
    (0.50, [2.835, 2.785]),
    (0.76, [2.821, 2.769]),
    (1.0, [2.809, 2.758]),
];
pub(super) const TABLE_3: [(&str, &str, [f64; 4]); 6] = [
    ("random-experts", "random new", [3.107, 3.010, 2.969, 2.963]),
    ("uniform", "uniform", [2.853, 2.809, 2.787, 2.769]),
    ("paper-weight-norm", "|w|", [2.846, 2.807, 2.785, 2.771]),
    ("paper-saliency", "|g| |w|", [2.846, 2.809, 2.778, 2.766]),
    ("paper", "|g|²", [2.844, 2.804, 2.773, 2.759]),
    ("paper-fisher", "|g|²/H", [2.845, 2.805, 2.776, 2.768]),
];

/// Table 4: K / E of the target in %, losses of Fixed-E, Fixed-mE, MoE to MoE and dense to MoE (K = 1).
pub(super) const TABLE_4: [(f64, [f64; 4]); 4] = [
    (25.0, [3.085, 3.056, 3.061, 3.087]),
    (12.5, [3.056, 3.018, 3.025, 3.086]),
    (6.25, [3.018, 2.986, 2.992, 3.069]),
    (3.125, [2.894, 2.788, 2.808, 3.049]),
];

/// Tables 8, 11 and 12: final losses by heuristic, by the names of our recipes.
pub(super) const TABLES_8_11_12: [(&str, f64); 40] = [
    ("expert-noise-0.01", 2.76859),
    ("expert-noise-0.02", 2.76860),
    ("expert-noise-0.05", 2.76895),
    ("expert-scaled-0.95", 2.76846),
    ("expert-scaled-0.90", 2.76815),
    ("expert-scaled-1.05", 2.76896),
    ("expert-drop-xavier-0.3", 2.77043),
    ("expert-drop-xavier-0.5", 2.77125),
    ("expert-drop-xavier-0.7", 2.77304),
    ("expert-drop-kaiming-0.5", 2.77337),
    ("expert-drop-normal-0.5", 2.77203),
    ("expert-interpolate-0.2", 2.76888),
    ("expert-interpolate-0.5", 2.76953),
    ("expert-interpolate-0.7", 2.76966),
    ("expert-orthogonal", 2.77487),
    ("expert-svd-0.05-0.02", 2.77476),
    ("expert-svd-0.1-0.05", 2.77483),
    ("expert-svd-0.2-0.1", 2.77472),
    ("expert-svd-drop-0.3", 2.77441),
    ("expert-svd-values-0.15", 2.76938),
    ("expert-svd-vectors-0.1", 2.77468),
    ("expert-svd-mix-0.2", 2.77483),
    ("expert-svd-mix-0.3", 2.77472),
    ("expert-svd-mix-0.5", 2.77472),
    ("expert-svd-mix-0.7", 2.77475),
    ("expert-sparse-code-256", 2.77034),
    ("expert-sparse-code-512", 2.76955),
    ("expert-sparse-code-1024", 2.76938),
    ("expert-sparse-code-sparsity-0.2", 2.76981),
    ("expert-sparse-code-sparsity-0.05", 2.76951),
    ("expert-sparse-code-mix-0.5", 2.76964),
    ("expert-sparse-code-200", 2.76945),
    ("router-interpolate-light", 2.76861),
    ("router-interpolate-balanced", 2.76877),
    ("router-interpolate-heavy", 2.76776),
    ("router-bias-only", 2.76836),
    ("router-orthogonal", 2.76867),
    ("router-adversarial-0.1", 2.76848),
    ("router-adversarial-0.3", 2.76990),
    (PLAIN, PLAIN_LOSS),
];

/// The recipe here that is the plain copy of those tables, and its loss there.
pub(super) const PLAIN: &str = "uniform";
pub(super) const PLAIN_LOSS: f64 = 2.76858;

/// Tables 1 and 7: scale, CPT over pre-training, losses of Fixed-E, Upcycled and Fixed-mE.
pub(super) const BY_SCALE: [(&str, f64, [f64; 3]); 5] = [
    ("7B-interleaved", 0.5, [1.339, 1.305, 1.308]),
    ("7B-interleaved", 1.0, [1.301, 1.263, 1.267]),
    ("154M", 1.0, [3.564, 3.519, 3.516]),
    ("305M", 1.0, [3.153, 3.071, 3.067]),
    ("1B", 1.0, [2.819, 2.767, 2.763]),
];

/// Its section on cost: scale, experts before and after, billions of tokens of pre-training, CPT over pre-training.
const COST: (&str, [usize; 2], f64, f64) = ("7B-interleaved", [32, 64], 383.5, 0.5);
/// GPU hours there of Upcycled and of Fixed-mE.
const GPU_HOURS: [f64; 2] = [27_888.0, 41_328.0];

/// The paper's GPU hours of Upcycled, pre-training included, and of Fixed-mE; none for a setting of which it publishes none.
pub fn paper_gpu_hours(setting: &Setting, pretrain_tokens: u64) -> Option<[f64; 2]> {
    let (scale, experts, billions, cpt) = COST;
    let changed = setting.transition.is_some()
        || setting.length.is_some()
        || setting.cpt_lr.is_some()
        || setting.grows.is_some();
    let same = setting.scale == scale
        && [setting.experts, setting.target_experts] == experts
        && (pretrain_tokens as f64 / 1e9 - billions).abs() < 0.1
        && setting.cpt_fraction == cpt;
    (same && !changed).then_some(GPU_HOURS)
}

//! Element-wise loops compiled for several instruction sets, and the functions they need.

/// Defines functions whose body is compiled for AVX-512, AVX2 and the baseline of the target, and picked at run time.
///
/// Inside the body, `FMA` is a constant: whether a fused multiply-add is one instruction (see [`fma`](math::fma)).
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[allow(clippy::too_many_arguments, clippy::extra_unused_type_parameters)]
            #[inline(always)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512cd,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                match $crate::cpu::math::Level::detect() {
                    // SAFETY: the processor has the instructions.
                    $crate::cpu::math::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: the processor has the instructions.
                    $crate::cpu::math::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::cpu::math::Level::Baseline => {}
                }
            }
            body::<{ cfg!(any(target_arch = "aarch64", target_feature = "fma")) }>($($arg),*)
        }
    )*};
}

/// Instruction sets that [`vectorised!`] compiles for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Baseline,
}

impl Level {
    /// The best one of this processor; detection is cached by the standard library.
    #[inline]
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("fma") {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512cd")
            {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Baseline
    }
}

/// Lanes that reductions keep apart: two AVX-512 registers, so that sums do not wait for one another.
pub(crate) const LANES: usize = 32;

/// Lanes of loops over what is often shorter than [`LANES`], such as a head of attention.
pub(crate) const NARROW: usize = 8;

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `max` without the NaN rules of [`f32::max`], which cost two more instructions.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Exponential with a relative error below 2e-7.
///
/// Results below `f32::MIN_POSITIVE` are zero and arguments above 88.37 count as 88.37; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    const HIGHEST: f32 = 88.37;
    /// `1.5 * 2^23`: adding it leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let clamped = if x > HIGHEST { HIGHEST } else { x };
    let clamped = if clamped < LOWEST { LOWEST } else { clamped };
    let rounded = fma::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fma::<FMA>(n, -LN_2_LOW, fma::<FMA>(n, -LN_2_HIGH, clamped));

    // Minimax polynomial of Cephes' expf on +-ln(2)/2.
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_199_9e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    p = fma::<FMA>(p * r, r, r) + 1.0;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < LOWEST { 0.0 } else { p * power }
}

/// Natural logarithm of positive normal numbers, with a relative error below 3e-7.
#[inline(always)]
pub(crate) fn ln<const FMA: bool>(x: f32) -> f32 {
    /// Bits of the root of a half: mantissas are taken from there to the root of two.
    const ROOT_HALF: u32 = 0x3f35_04f3;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let shifted = x.to_bits().wrapping_sub(ROOT_HALF);
    let exponent = (shifted as i32 >> 23) as f32;
    let r = f32::from_bits((shifted & 0x007f_ffff) + ROOT_HALF) - 1.0;
    // Polynomial of Cephes' logf.
    let mut p = 7.037_684e-2;
    p = fma::<FMA>(p, r, -1.151_461e-1);
    p = fma::<FMA>(p, r, 1.167_699_9e-1);
    p = fma::<FMA>(p, r, -1.242_014_1e-1);
    p = fma::<FMA>(p, r, 1.424_932_3e-1);
    p = fma::<FMA>(p, r, -1.666_805_7e-1);
    p = fma::<FMA>(p, r, 2.000_071_5e-1);
    p = fma::<FMA>(p, r, -2.499_999_4e-1);
    p = fma::<FMA>(p, r, 3.333_333e-1);
    let square = r * r;
    let tail = fma::<FMA>(exponent, LN_2_LOW, p * r * square);
    let tail = fma::<FMA>(square, -0.5, tail);
    fma::<FMA>(exponent, LN_2_HIGH, r + tail)
}

/// Logistic function.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// Combines the halves until one lane is left.
#[inline(always)]
fn fold_lanes(lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let lanes: [f32; 16] = std::array::from_fn(|i| f(lanes[i], lanes[i + 16]));
    let lanes: [f32; 8] = std::array::from_fn(|i| f(lanes[i], lanes[i + 8]));
    let lanes: [f32; 4] = std::array::from_fn(|i| f(lanes[i], lanes[i + 4]));
    let lanes: [f32; 2] = std::array::from_fn(|i| f(lanes[i], lanes[i + 2]));
    f(lanes[0], lanes[1])
}

/// Sum over lanes in a fixed order.
#[inline(always)]
pub(crate) fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    fold_lanes(lanes, |a, b| a + b)
}

/// Largest lane.
#[inline(always)]
pub(crate) fn max_lanes(lanes: [f32; LANES]) -> f32 {
    fold_lanes(lanes, larger)
}

/// Dot product of two slices of the same length.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for l in 0..LANES {
            lanes[l] = fma::<FMA>(a[l], b[l], lanes[l]);
        }
    }
    for (l, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[l] = fma::<FMA>(*a, *b, lanes[l]);
    }
    sum_lanes(lanes)
}

/// Largest value of a slice; negative infinity of an empty one.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = larger(chunk[l], lanes[l]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*x, *lane);
    }
    max_lanes(lanes)
}

vectorised! {
    /// Exponential of every value, in place; relative error below 2e-7, zero below the normal numbers.
    pub fn exp_in_place(x: &mut [f32]) {
        for x in x {
            *x = exp::<FMA>(*x);
        }
    }

    /// Natural logarithm of every value, in place; they must be positive and normal.
    pub fn ln_in_place(x: &mut [f32]) {
        for x in x {
            *x = ln::<FMA>(*x);
        }
    }

    /// `silu(x) = x / (1 + exp(-x))` of every value, in place.
    pub fn silu_in_place(x: &mut [f32]) {
        for x in x {
            *x *= sigmoid::<FMA>(*x);
        }
    }

    /// `out = factor * x`.
    pub(crate) fn scaled(out: &mut [f32], x: &[f32], factor: f32) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * factor;
        }
    }

    /// `out += factor * x`.
    pub(crate) fn add_scaled(out: &mut [f32], x: &[f32], factor: f32) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = fma::<FMA>(*x, factor, *out);
        }
    }
}

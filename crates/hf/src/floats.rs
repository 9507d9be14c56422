//! Values of floating-point tensors.

use half::{bf16, f16};
use safetensors::Dtype;

/// Whether values of a dtype can be computed with.
pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Values in f32; none for other dtypes than floats of at least 16 bits.
pub(crate) fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F64 => each(bytes, |bytes| f64::from_le_bytes(bytes) as f32),
        Dtype::F16 => each(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => each(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        _ => return None,
    })
}

fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&bytes| value(bytes)).collect()
}

/// Bytes of values in a dtype, rounded to nearest.
///
/// # Errors
/// What is wrong with a tensor of this dtype: it is no float of at least 16 bits, or too small for a value.
pub(crate) fn encode(dtype: Dtype, values: &[f32]) -> Result<Vec<u8>, String> {
    let most = match dtype {
        Dtype::F16 => f16::MAX.to_f32(),
        Dtype::BF16 => bf16::MAX.to_f32(),
        _ => f32::INFINITY,
    };
    if let Some(value) = values.iter().find(|value| value.abs() > most) {
        return Err(format!(
            "would get a value of {value:e}, which {dtype} cannot hold"
        ));
    }
    Ok(match dtype {
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F64 => values
            .iter()
            .flat_map(|&v| f64::from(v).to_le_bytes())
            .collect(),
        Dtype::F16 => values
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .iter()
            .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
            .collect(),
        _ => return Err(not_a_float(dtype)),
    })
}

/// What is wrong with a tensor of another dtype than floats of at least 16 bits.
pub(crate) fn not_a_float(dtype: Dtype) -> String {
    format!("has dtype {dtype}, which cannot be computed with; f64, f32, f16 and bf16 can")
}

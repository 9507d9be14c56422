//! Headers of safetensors files.

use std::collections::HashMap;

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

/// How a safetensors file begins whose tensors, by name, type and shape, lie in this order: the length of its header, and the
/// header, padded to 8 bytes.
///
/// # Errors
/// With a sentence if there can be no such file.
pub fn tensor_header<'a>(
    tensors: impl IntoIterator<Item = (&'a str, Dtype, &'a [usize])>,
    metadata: Option<&HashMap<String, String>>,
) -> Result<Vec<u8>, String> {
    let mut end = 0;
    let tensors = tensors.into_iter().map(|(name, dtype, shape)| {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info = TensorInfo {
            dtype,
            shape: shape.to_vec(),
            data_offsets: (start, end),
        };
        (name.to_owned(), info)
    });
    let metadata = Metadata::new(metadata.cloned(), tensors.collect());
    let metadata = metadata.map_err(|error| error.to_string())?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

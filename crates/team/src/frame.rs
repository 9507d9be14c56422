//! What goes over a socket: a byte for the kind, eight for the length of the rest, and the rest. Numbers are little-endian.

use std::io::{self, ErrorKind, Read, Write};

use burn::tensor::{DType, TensorData};

/// Bytes of the longest frame. A length above it is an error of the sender's.
const LONGEST: u64 = 1 << 36;

const HEARTBEAT: u8 = 0;
const TENSOR: u8 = 1;
const VALUE: u8 = 2;
const FAULT: u8 = 3;
const LEAVE: u8 = 4;
const FAREWELL: u8 = 5;

/// The rest of a frame that is its kind alone.
const NOTHING: (Vec<u8>, &[u8]) = (Vec::new(), &[]);

/// The types of tensors; a type is written as its index.
const TYPES: [DType; 5] = [
    DType::F64,
    DType::F32,
    DType::Flex32,
    DType::F16,
    DType::BF16,
];

/// One message between two processes.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    /// The sender is there.
    Heartbeat,
    /// A tensor: type, number of axes, size of each, elements.
    Tensor(TensorData),
    /// A value as MessagePack.
    Value(Vec<u8>),
    /// The device of this rank is lost. Nothing else follows.
    Fault { rank: usize, reason: String },
    /// The sender's work is done. Nothing else follows.
    Leave,
    /// The answer to a fault or a leave: all before it has come. Nothing else follows.
    Farewell,
}

impl Frame {
    /// Writes this frame.
    pub(crate) fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let (kind, (head, body)) = match self {
            Self::Heartbeat => (HEARTBEAT, NOTHING),
            Self::Tensor(data) => (TENSOR, (tensor_head(data)?, &data.bytes[..])),
            Self::Value(bytes) => (VALUE, (Vec::new(), &bytes[..])),
            Self::Fault { rank, reason } => {
                let rank = (*rank as u64).to_le_bytes().to_vec();
                (FAULT, (rank, reason.as_bytes()))
            }
            Self::Leave => (LEAVE, NOTHING),
            Self::Farewell => (FAREWELL, NOTHING),
        };
        let length = (head.len() + body.len()) as u64;
        output.write_all(&[kind])?;
        output.write_all(&length.to_le_bytes())?;
        output.write_all(&head)?;
        output.write_all(body)
    }

    /// Reads the next frame.
    pub(crate) fn read(input: &mut impl Read) -> io::Result<Self> {
        let [kind] = read_array(input)?;
        let length = read_number(input)?;
        if length > LONGEST {
            return Err(invalid("a frame is longer than any is"));
        }
        match (kind, length) {
            (HEARTBEAT, 0) => Ok(Self::Heartbeat),
            (TENSOR, _) => read_tensor(input, length),
            (VALUE, _) => Ok(Self::Value(read_bytes(input, length)?)),
            (FAULT, 8..) => Ok(Self::Fault {
                rank: read_size(input)?,
                reason: String::from_utf8_lossy(&read_bytes(input, length - 8)?).into_owned(),
            }),
            (LEAVE, 0) => Ok(Self::Leave),
            (FAREWELL, 0) => Ok(Self::Farewell),
            _ => Err(invalid("a frame is of no known kind")),
        }
    }
}

fn tensor_head(data: &TensorData) -> io::Result<Vec<u8>> {
    let index = TYPES.iter().position(|&dtype| dtype == data.dtype);
    let index = index.ok_or_else(|| invalid("a tensor is not of floats"))?;
    let mut head = vec![index as u8, data.shape.num_dims() as u8];
    for &size in data.shape.iter() {
        head.extend((size as u64).to_le_bytes());
    }
    Ok(head)
}

fn read_tensor(input: &mut impl Read, length: u64) -> io::Result<Frame> {
    let [index, axes] = read_array(input)?;
    let dtype = TYPES.get(usize::from(index)).copied();
    let dtype = dtype.ok_or_else(|| invalid("a tensor is of no known type"))?;
    let shape = (0..axes)
        .map(|_| read_size(input))
        .collect::<io::Result<Vec<_>>>()?;
    let bytes = shape.iter().try_fold(dtype.size() as u64, |bytes, &size| {
        bytes.checked_mul(size as u64)
    });
    match bytes {
        Some(bytes) if length.checked_sub(2 + 8 * u64::from(axes)) == Some(bytes) => {
            let bytes = read_bytes(input, bytes)?;
            let data = TensorData::from_bytes_vec(bytes, shape, dtype);
            Ok(Frame::Tensor(data))
        }
        _ => Err(invalid("a tensor's length is not that of its shape")),
    }
}

fn read_array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_number(input: &mut impl Read) -> io::Result<u64> {
    Ok(u64::from_le_bytes(read_array(input)?))
}

fn read_size(input: &mut impl Read) -> io::Result<usize> {
    usize::try_from(read_number(input)?).map_err(|_| invalid("a size is too large"))
}

fn read_bytes(input: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let size = usize::try_from(length).map_err(|_| invalid("a frame is too long"))?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(io::Error::other)?;
    input.by_ref().take(length).read_to_end(&mut bytes)?;
    if bytes.len() < size {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_written() {
        let frames = [
            Frame::Heartbeat,
            Frame::Tensor(TensorData::new(vec![1.5_f32, f32::MIN, -0.0], [3, 1])),
            Frame::Tensor(TensorData::new(Vec::<f64>::new(), [0, 7])),
            Frame::Value(vec![1, 2, 3]),
            Frame::Fault {
                rank: 3,
                reason: "out of memory".into(),
            },
            Frame::Leave,
            Frame::Farewell,
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut input = &bytes[..];
        for frame in &frames {
            assert_eq!(&Frame::read(&mut input).unwrap(), frame);
        }
        assert!(Frame::read(&mut input).is_err());
    }

    #[test]
    fn nonsense_is_an_error() {
        let frame = |kind: u8, length: u64, rest: &[u8]| {
            let bytes = [&[kind][..], &length.to_le_bytes(), rest].concat();
            Frame::read(&mut &bytes[..])
        };
        let long = frame(VALUE, u64::MAX, &[]).unwrap_err();
        assert_eq!(long.kind(), ErrorKind::InvalidData);
        let short = frame(VALUE, 4, &[1]).unwrap_err();
        assert_eq!(short.kind(), ErrorKind::UnexpectedEof);
        assert!(frame(77, 0, &[]).is_err());
        // A shape whose product overflows.
        let huge = [&[1_u8, 2][..], &[255; 16]].concat();
        assert!(frame(TENSOR, 18, &huge).is_err());
    }
}

//! Tensors, which stay on devices where they can.

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

use crate::{error::TeamError, host, inbox::Parcel, ranges::even_ranges, team::Team};

/// Elements up to which everybody adds up the whole tensor. It is one message instead of two, and all have the sum at once.
const SMALL: usize = 4096;

/// Calls on tensors, which are on the device of their member before and after. Gradients do not flow through them.
impl Team {
    /// Part `p` goes to member `p`. Gives what each has sent here, by rank. All have `D` axes; their shapes may differ, and
    /// sizes may be 0.
    ///
    /// # Errors
    /// If a member is lost or does something else.
    pub fn exchange<B: Backend, const D: usize>(
        &self,
        parts: Vec<Tensor<B, D>>,
        device: &B::Device,
    ) -> Result<Vec<Tensor<B, D>>, TeamError> {
        self.check_parts(parts.len())?;
        for (member, part) in parts.into_iter().enumerate() {
            self.send_tensor(member, part)?;
        }
        self.receive_tensors(device)
    }

    /// The tensors of all members, by rank. Their shapes may differ.
    ///
    /// # Errors
    /// If a member is lost or does something else.
    pub fn gather<B: Backend, const D: usize>(
        &self,
        tensor: Tensor<B, D>,
        device: &B::Device,
    ) -> Result<Vec<Tensor<B, D>>, TeamError> {
        for member in 0..self.size() {
            self.send_tensor(member, tensor.clone())?;
        }
        self.receive_tensors(device)
    }

    /// The sum of the tensors of all members, which have one shape. It is added up in the order of ranks, so that all have
    /// the same bits, every time.
    ///
    /// # Errors
    /// If a member is lost or does something else.
    pub fn sum<B: Backend, const D: usize>(
        &self,
        tensor: Tensor<B, D>,
        device: &B::Device,
    ) -> Result<Tensor<B, D>, TeamError> {
        let dims = tensor.dims();
        let elements: usize = dims.iter().product();
        if elements == 0 {
            return self.fault().map_or(Ok(tensor), Err);
        }
        if self.size() == 1 || elements <= SMALL {
            for member in 0..self.size() {
                self.send_tensor(member, tensor.clone())?;
            }
            return self.receive_sum(dims, device);
        }
        let ranges = even_ranges(elements, self.size());
        let own = self.sum_ranges(tensor.reshape([elements]), &ranges, device)?;
        let parts = self.gather(own, device)?;
        for (member, (part, range)) in parts.iter().zip(&ranges).enumerate() {
            self.check_dims(member, part.dims(), [range.len()])?;
        }
        Ok(Tensor::cat(parts, 0).reshape(dims))
    }

    /// The sum over all members of one range of a flat tensor: member `p` gets that of range `p`, added up in the order of
    /// ranks. All have tensors of one length, and give the same ranges. Ranges may be empty.
    ///
    /// # Errors
    /// If a member is lost or does something else, or the ranges do not fit.
    pub fn sum_ranges<B: Backend>(
        &self,
        flat: Tensor<B, 1>,
        ranges: &[Range<usize>],
        device: &B::Device,
    ) -> Result<Tensor<B, 1>, TeamError> {
        self.check_parts(ranges.len())?;
        let [elements] = flat.dims();
        for range in ranges {
            if range.start > range.end || range.end > elements {
                return Err(self.refuse(format!("there is no {range:?} of {elements} elements")));
            }
        }
        let dtype = flat.dtype();
        for (member, range) in ranges.iter().enumerate() {
            if !range.is_empty() {
                self.send_tensor(member, flat.clone().slice([range.clone()]))?;
            }
        }
        let sum = match ranges[self.rank()].len() {
            0 => Ok(Tensor::empty([0_usize], (device, dtype))),
            own => self.receive_sum([own], device),
        };
        // The own range can be a view of this: a sum that was made in its place would keep all of its memory.
        drop(flat);
        sum
    }

    /// Sends a tensor to a member, which [receives](Self::receive_tensor) it. Does not wait for that.
    ///
    /// # Errors
    /// If a member is lost, or the device cannot be read.
    pub fn send_tensor<B: Backend, const D: usize>(
        &self,
        to: usize,
        tensor: Tensor<B, D>,
    ) -> Result<(), TeamError> {
        self.wires.send_tensor(self.wire(to)?, tensor)
    }

    /// The next tensor that a member sends to this one. Waits for it.
    ///
    /// # Errors
    /// If a member is lost or does something else.
    pub fn receive_tensor<B: Backend, const D: usize>(
        &self,
        from: usize,
        device: &B::Device,
    ) -> Result<Tensor<B, D>, TeamError> {
        let sender = self.wire(from)?;
        let sent: String = match self.wires.receive(sender)? {
            Parcel::Tensor(tensor) => match tensor.downcast::<Tensor<B, D>>() {
                Ok(tensor) => {
                    let moved = host::moved(*tensor, device);
                    return moved.map_err(|error| self.wires.fail(error));
                }
                Err(_) => "a tensor with other axes, or of another backend".into(),
            },
            Parcel::Data(data) if data.shape.num_dims() != D => {
                format!("a tensor of {} axes", data.shape.num_dims())
            }
            Parcel::Data(data) if !B::supports_dtype(device, data.dtype) => {
                format!("a tensor of {:?}, which this device has not", data.dtype)
            }
            Parcel::Data(data) => return Ok(host::upload(data, device)),
            Parcel::Value(_) => "a value".into(),
        };
        Err(self.mismatch(
            from,
            format!("it sent {sent} where a tensor of {D} axes was awaited"),
        ))
    }

    fn receive_tensors<B: Backend, const D: usize>(
        &self,
        device: &B::Device,
    ) -> Result<Vec<Tensor<B, D>>, TeamError> {
        (0..self.size())
            .map(|member| self.receive_tensor(member, device))
            .collect()
    }

    /// Adds up what all members send here.
    fn receive_sum<B: Backend, const D: usize>(
        &self,
        dims: [usize; D],
        device: &B::Device,
    ) -> Result<Tensor<B, D>, TeamError> {
        let mut sum: Tensor<B, D> = self.receive_tensor(0, device)?;
        self.check_dims(0, sum.dims(), dims)?;
        for member in 1..self.size() {
            let part: Tensor<B, D> = self.receive_tensor(member, device)?;
            self.check_dims(member, part.dims(), dims)?;
            sum = sum + part;
        }
        Ok(sum)
    }

    fn check_dims<const D: usize>(
        &self,
        member: usize,
        sent: [usize; D],
        awaited: [usize; D],
    ) -> Result<(), TeamError> {
        if sent != awaited {
            let problem = format!("it sent {sent:?} elements where {awaited:?} were awaited");
            return Err(self.mismatch(member, problem));
        }
        Ok(())
    }
}

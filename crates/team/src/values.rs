//! Values of the host, which go as MessagePack: numbers keep their bits.

use serde::{Serialize, de::DeserializeOwned};

use crate::{error::TeamError, inbox::Parcel, team::Team};

impl Team {
    /// Part `p` goes to member `p`. Gives what each has sent here, by rank.
    ///
    /// # Errors
    /// If a member is lost or does something else.
    pub fn exchange_values<T: Serialize + DeserializeOwned>(
        &self,
        parts: Vec<T>,
    ) -> Result<Vec<T>, TeamError> {
        self.check_parts(parts.len())?;
        for (member, part) in parts.iter().enumerate() {
            self.send_value(member, part)?;
        }
        self.receive_values()
    }

    /// The values of all members, by rank.
    ///
    /// # Errors
    /// If a member is lost or does something else.
    pub fn gather_values<T: Serialize + DeserializeOwned>(
        &self,
        value: &T,
    ) -> Result<Vec<T>, TeamError> {
        for member in 0..self.size() {
            self.send_value(member, value)?;
        }
        self.receive_values()
    }

    /// Sends a value to a member, which [receives](Self::receive_value) it. Does not wait for that.
    ///
    /// # Errors
    /// If a member is lost, or the value cannot be written as MessagePack.
    pub fn send_value<T: Serialize + ?Sized>(&self, to: usize, value: &T) -> Result<(), TeamError> {
        let receiver = self.wire(to)?;
        let value = rmp_serde::to_vec_named(value)
            .map_err(|error| self.wires.fail(TeamError::Send(error.to_string())))?;
        self.wires.send_value(receiver, value)
    }

    /// The next value that a member sends to this one. Waits for it.
    ///
    /// # Errors
    /// If a member is lost or does something else.
    pub fn receive_value<T: DeserializeOwned>(&self, from: usize) -> Result<T, TeamError> {
        let sender = self.wire(from)?;
        match self.wires.receive(sender)? {
            Parcel::Value(bytes) => rmp_serde::from_slice(&bytes).map_err(|error| {
                self.mismatch(from, format!("it sent a value of another type ({error})"))
            }),
            Parcel::Tensor(_) | Parcel::Data(_) => {
                Err(self.mismatch(from, "it sent a tensor, not a value".into()))
            }
        }
    }

    fn receive_values<T: DeserializeOwned>(&self) -> Result<Vec<T>, TeamError> {
        (0..self.size())
            .map(|member| self.receive_value(member))
            .collect()
    }
}

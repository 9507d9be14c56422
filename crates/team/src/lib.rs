//! Devices that train one model together: what they tell each other.
//!
//! Each device is a thread of one process ([`Team::threads`]) or a process of its own, on any machine
//! ([`Team::connect`]); the calls are the same. All members of a team make the same calls in the same order, and each finds
//! its tensors on its own device before and after.
//!
//! ```
//! use upcycle_team::Team;
//!
//! std::thread::scope(|scope| {
//!     for team in Team::threads(2) {
//!         scope.spawn(move || {
//!             assert_eq!(team.gather_values(&team.rank()).unwrap(), [0, 1]);
//!             team.leave();
//!         });
//!     }
//! });
//! ```
//!
//! Who fails tells the others: the first error of any device is that of all, and every later call gives it at once. So does
//! who is dropped without [`Team::leave`], and a process that does not answer any more.
//!
//! Between processes, what is sent is neither encrypted nor authenticated. It is for a cluster's own network.

mod error;
mod frame;
mod guests;
mod host;
mod inbox;
mod meet;
mod meeting;
mod message;
mod network;
mod ranges;
mod socket;
mod team;
mod tensors;
mod values;
mod wires;

pub use error::TeamError;
pub use meeting::Meeting;
pub use ranges::even_ranges;
pub use team::Team;

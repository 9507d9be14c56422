//! Teams of both kinds, and work for them.

use std::{net::TcpListener, thread, time::Duration};

use burn::tensor::{Tensor, TensorData};
use burn_flex::{Flex, FlexDevice};
use upcycle_team::{Meeting, Team, TeamError};

pub const DEVICE: FlexDevice = FlexDevice;

pub type Teams = fn(usize) -> Vec<Team>;
pub const KINDS: [Teams; 2] = [Team::threads, processes];

pub fn meeting(rank: usize, size: usize) -> Meeting {
    Meeting {
        address: String::new(),
        rank,
        size,
        token: "test".into(),
        timeout: Duration::from_secs(30),
    }
}

pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// What becomes of processes that meet.
pub fn meet(meetings: Vec<Meeting>) -> Vec<Result<Team, TeamError>> {
    let address = free_address();
    thread::scope(|scope| {
        let processes: Vec<_> = meetings
            .into_iter()
            .map(|meeting| {
                let address = address.clone();
                scope.spawn(move || Team::connect(&Meeting { address, ..meeting }))
            })
            .collect();
        let processes = processes.into_iter();
        processes.map(|process| process.join().unwrap()).collect()
    })
}

pub fn processes(size: usize) -> Vec<Team> {
    let teams = meet((0..size).map(|rank| meeting(rank, size)).collect());
    teams.into_iter().map(Result::unwrap).collect()
}

/// What all members make of some work, or that they panic.
pub fn outcomes<R: Send>(
    teams: Vec<Team>,
    work: impl Fn(Team) -> R + Sync,
) -> Vec<thread::Result<R>> {
    let work = &work;
    thread::scope(|scope| {
        let members: Vec<_> = teams
            .into_iter()
            .map(|team| scope.spawn(move || work(team)))
            .collect();
        members.into_iter().map(|member| member.join()).collect()
    })
}

pub fn all<R: Send>(teams: Vec<Team>, work: impl Fn(Team) -> R + Sync) -> Vec<R> {
    let outcomes = outcomes(teams, work);
    outcomes.into_iter().map(Result::unwrap).collect()
}

pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<Flex, D> {
    Tensor::from_data(TensorData::new(values, shape), &DEVICE)
}

pub fn values<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
    tensor.into_data().into_vec().unwrap()
}

/// Numbers whose sum depends on the order.
pub fn numbers(rank: usize, count: usize) -> Vec<f32> {
    (0..count)
        .map(|index| ((index * 7 + rank * 13) as f32).sin() * 10_f32.powi(rank as i32 * 3))
        .collect()
}

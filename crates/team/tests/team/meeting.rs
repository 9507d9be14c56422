//! How processes meet.

use std::{thread, time::Duration};

use upcycle_team::{Meeting, Team};

use crate::common::{all, free_address, meet, meeting};

#[test]
fn strangers_are_turned_away() {
    let address = free_address();
    let at = |meeting| Meeting {
        address: address.clone(),
        ..meeting
    };
    let first = at(meeting(0, 2));
    thread::scope(|scope| {
        let leader = scope.spawn(|| Team::connect(&first).unwrap());
        let stranger = Meeting {
            token: "another".into(),
            ..at(meeting(1, 2))
        };
        let error = Team::connect(&stranger).unwrap_err().to_string();
        assert!(error.contains("token"), "{error}");
        let second = Team::connect(&at(meeting(1, 2))).unwrap();
        all(vec![leader.join().unwrap(), second], |team| {
            team.gather_values(&0).unwrap();
            team.leave();
        });
    });
}

#[test]
fn processes_that_were_told_otherwise_do_not_meet() {
    for (wrong, expected) in [
        (meeting(2, 4), "4 processes"),
        (meeting(1, 3), "two processes"),
        (meeting(3, 3), "no rank 3"),
    ] {
        let meetings = [meeting(0, 3), meeting(1, 3), wrong];
        let hasty = |meeting| Meeting {
            timeout: Duration::from_secs(3),
            ..meeting
        };
        let errors: Vec<_> = meet(meetings.into_iter().map(hasty).collect())
            .into_iter()
            .map(|team| team.unwrap_err().to_string())
            .collect();
        assert!(
            errors.iter().any(|error| error.contains(expected)),
            "{errors:?}"
        );
    }
}

//! How teams end.

use burn_flex::Flex;
use upcycle_team::{Team, TeamError};

use crate::common::{DEVICE, KINDS, all, numbers, outcomes, tensor, values};

#[test]
fn who_fails_ends_the_calls_of_all() {
    let ways: [fn(Team); 3] = [
        |_| panic!("a test's"),
        |_| {},
        |team| team.fail("the disk is full"),
    ];
    let reasons = ["panicked", "before its work was done", "the disk is full"];
    for teams in KINDS {
        for (way, expected) in ways.into_iter().zip(reasons) {
            let errors = outcomes(teams(3), |team| {
                match team.rank() {
                    1 => {
                        way(team);
                        None
                    }
                    // Waits for one that does not answer, and not for the one that fails.
                    0 => {
                        let error = team.receive_value::<u8>(2).unwrap_err();
                        assert_eq!(team.gather_values(&0), Err(error.clone()));
                        assert_eq!(team.fault(), Some(error.clone()));
                        Some(error)
                    }
                    _ => Some(team.receive_value::<u8>(1).unwrap_err()),
                }
            });
            for rank in [0, 2] {
                match errors[rank].as_ref().unwrap() {
                    Some(TeamError::Lost { rank: 1, reason }) => {
                        assert!(reason.contains(expected), "{reason}");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn calls_that_do_not_fit_are_errors_of_all() {
    let calls: [fn(&Team) -> TeamError; 3] = [
        |team| team.receive_value::<String>(0).unwrap_err(),
        |team| team.receive_tensor::<Flex, 2>(0, &DEVICE).unwrap_err(),
        |team| team.exchange_values(vec![0]).unwrap_err(),
    ];
    for teams in KINDS {
        for (index, call) in calls.into_iter().enumerate() {
            all(teams(2), |team| {
                if team.rank() == 1 {
                    let error = call(&team);
                    match error {
                        TeamError::Mismatch { rank, .. } => {
                            assert_eq!((rank, index < 2), (0, true))
                        }
                        TeamError::Call(_) => assert_eq!(index, 2),
                        other => panic!("{other}"),
                    }
                } else {
                    let sent = team.send_tensor(1, tensor(vec![1.0], [1]));
                    let awaited = sent.and_then(|()| team.receive_value::<u8>(1));
                    let error = awaited.unwrap_err();
                    assert!(matches!(error, TeamError::Lost { rank: 1, .. }), "{error}");
                }
            });
        }
    }
}

#[test]
fn who_leaves_leaves_what_was_sent() {
    for teams in KINDS {
        all(teams(2), |team| {
            if team.rank() == 0 {
                let clone = team.clone();
                team.send_tensor(1, tensor(numbers(0, 1 << 20), [1 << 20]))
                    .unwrap();
                team.leave();
                assert_eq!(clone.send_value(1, &0), Err(TeamError::Left));
                return;
            }
            let sent = team.receive_tensor::<Flex, 1>(0, &DEVICE).unwrap();
            assert_eq!(values(sent), numbers(0, 1 << 20));
            assert_eq!(team.fault(), None);
            let error = team.receive_value::<u8>(0).unwrap_err();
            assert!(matches!(error, TeamError::Lost { rank: 0, .. }), "{error}");
        });
    }
}

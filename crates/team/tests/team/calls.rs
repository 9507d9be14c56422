//! What calls give.

use burn_flex::Flex;
use upcycle_team::{Team, even_ranges};

use crate::common::{DEVICE, KINDS, all, numbers, tensor, values};

fn serial_sum(members: usize, count: usize) -> Vec<u32> {
    let mut sum = numbers(0, count);
    for rank in 1..members {
        for (sum, value) in sum.iter_mut().zip(numbers(rank, count)) {
            *sum += value;
        }
    }
    bits(&sum)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn parts_of_all_shapes_arrive() {
    for teams in KINDS {
        all(teams(3), |team| {
            let rank = team.rank();
            let part = |to: usize| {
                tensor(
                    vec![(rank * 10 + to) as f32; (rank + 1) * to],
                    [rank + 1, to],
                )
            };
            let parts = team.exchange((0..3).map(part).collect(), &DEVICE).unwrap();
            for (from, part) in parts.into_iter().enumerate() {
                assert_eq!(part.dims(), [from + 1, rank]);
                let expected = vec![(from * 10 + rank) as f32; (from + 1) * rank];
                assert_eq!(values(part), expected);
            }
            team.leave();
        });
    }
}

#[test]
fn sums_have_the_same_bits_everywhere() {
    for teams in KINDS {
        let sums = all(teams(3), |team| {
            let small = tensor(numbers(team.rank(), 6), [2, 3]);
            let large = tensor(numbers(team.rank(), 7000), [70, 100]);
            let small = team.sum(small, &DEVICE).unwrap();
            let large = team.sum(large, &DEVICE).unwrap();
            assert_eq!((small.dims(), large.dims()), ([2, 3], [70, 100]));
            team.leave();
            (bits(&values(small)), bits(&values(large)))
        });
        for sum in sums {
            assert_eq!(sum, (serial_sum(3, 6), serial_sum(3, 7000)));
        }
    }
}

#[test]
fn each_member_gets_the_sum_of_its_range() {
    for teams in KINDS {
        // Two elements for three members: the last one gets none.
        let parts = all(teams(3), |team| {
            let flat = tensor(numbers(team.rank(), 2), [2]);
            let part = team.sum_ranges(flat, &even_ranges(2, 3), &DEVICE).unwrap();
            let parts = team.gather(part.clone(), &DEVICE).unwrap();
            assert_eq!(parts.iter().map(|part| part.dims()[0]).sum::<usize>(), 2);
            team.leave();
            values(part)
        });
        assert!(parts[2].is_empty());
        assert_eq!(bits(&parts.concat()), serial_sum(3, 2));
    }
}

#[test]
fn subteams_work_at_the_same_time() {
    for teams in KINDS {
        all(teams(4), |team| {
            let rank = team.rank();
            let (row, column) = (rank / 2, rank % 2);
            let pair = team.subteam([2 * row, 2 * row + 1]);
            assert_eq!((pair.rank(), pair.size()), (column, 2));
            // One pair has more to say than the other.
            for round in 0..=row * 5 {
                let said = pair.gather_values(&(rank, round)).unwrap();
                assert_eq!(said, [(2 * row, round), (2 * row + 1, round)]);
            }
            let across = team.subteam([column, 2 + column]);
            assert_eq!(across.gather_values(&rank).unwrap(), [column, 2 + column]);
            // A part of a part.
            assert_eq!(across.subteam([row]).gather_values(&rank).unwrap(), [rank]);
            assert_eq!(team.gather_values(&rank).unwrap(), [0, 1, 2, 3]);
            team.leave();
        });
    }
}

#[test]
fn values_arrive_in_order_and_keep_their_bits() {
    for teams in KINDS {
        all(teams(3), |team| {
            let rank = team.rank();
            let losses = team.gather_values(&[0.1 + 0.2, f64::NAN]).unwrap();
            assert!(
                losses
                    .iter()
                    .all(|[sum, nan]| *sum == 0.1 + 0.2 && nan.is_nan())
            );

            let ids = team
                .exchange_values((0..3).map(|to| vec![rank as u32; to]).collect())
                .unwrap();
            let expected: Vec<_> = (0..3_u32).map(|from| vec![from; rank]).collect();
            assert_eq!(ids, expected);

            if rank > 0 {
                team.send_value(0, "shard").unwrap();
                team.send_tensor(0, tensor(numbers(rank, 5), [5])).unwrap();
                team.send_value(0, &rank).unwrap();
            } else {
                for from in [2, 1] {
                    assert_eq!(team.receive_value::<String>(from).unwrap(), "shard");
                    let shard = team.receive_tensor::<Flex, 1>(from, &DEVICE).unwrap();
                    assert_eq!(values(shard), numbers(from, 5));
                    assert_eq!(team.receive_value::<usize>(from).unwrap(), from);
                }
            }
            team.leave();
        });
    }
}

#[test]
fn what_is_sent_to_others_is_counted() {
    for teams in KINDS {
        let sent = all(teams(2), |team| {
            team.gather(tensor(vec![0.0; 12], [3, 4]), &DEVICE).unwrap();
            let gathered = team.sent_bytes();
            team.sum(tensor(vec![0.0; 8000], [8000]), &DEVICE).unwrap();
            let sent = (gathered, team.sent_bytes() - gathered);
            team.leave();
            sent
        });
        // Half of the elements go to be added up, and half of the sums come back.
        assert_eq!(sent, [(48, 32_000), (48, 32_000)]);
    }
}

#[test]
fn alone_calls_are_the_identity() {
    let team = Team::alone();
    let sum = team.sum(tensor(numbers(0, 5000), [5000]), &DEVICE).unwrap();
    assert_eq!(values(sum), numbers(0, 5000));
    assert_eq!(
        team.exchange_values(vec!["own".to_owned()]).unwrap(),
        ["own"]
    );
    assert_eq!((team.rank(), team.size(), team.sent_bytes()), (0, 1, 0));
}

//! Cutting a line at the border of a rectangle.

use std::ops::Range;

type Point = (f64, f64);

/// The pieces of a line that lie inside `x` and `y`. A point that is not finite interrupts the line.
pub(crate) fn clipped(points: &[Point], x: &Range<f64>, y: &Range<f64>) -> Vec<Vec<Point>> {
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    for pair in points.windows(2) {
        let Some((from, to)) = segment(pair[0], pair[1], x, y) else {
            continue;
        };
        match pieces.last_mut() {
            Some(piece) if piece.last() == Some(&from) => piece.push(to),
            _ => pieces.push(vec![from, to]),
        }
    }
    pieces
}

/// The part of a segment inside the rectangle (Liang and Barsky's method).
fn segment(from: Point, to: Point, x: &Range<f64>, y: &Range<f64>) -> Option<(Point, Point)> {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    if !(dx.is_finite() && dy.is_finite()) {
        return None;
    }
    let borders = [
        (-dx, from.0 - x.start),
        (dx, x.end - from.0),
        (-dy, from.1 - y.start),
        (dy, y.end - from.1),
    ];
    let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
    for (direction, room) in borders {
        if direction == 0.0 {
            if room < 0.0 {
                return None;
            }
        } else if direction < 0.0 {
            enter = enter.max(room / direction);
        } else {
            leave = leave.min(room / direction);
        }
    }
    // Ends that are inside stay exactly as they are, so that segments join.
    let at = |t: f64| match t {
        0.0 => from,
        1.0 => to,
        _ => (from.0 + t * dx, from.1 + t * dy),
    };
    (enter <= leave).then(|| (at(enter), at(leave)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Range<f64> = 0.0..1.0;

    #[test]
    fn inside_stays_whole() {
        let line = [(0.1, 0.1), (0.5, 0.9), (1.0, 0.0)];
        assert_eq!(clipped(&line, &UNIT, &UNIT), [line.to_vec()]);
    }

    #[test]
    fn outside_is_cut_or_dropped() {
        let line = [(0.0, 2.0), (0.5, 0.0), (0.5, 2.0), (0.9, 2.0)];
        let pieces = clipped(&line, &UNIT, &UNIT);
        assert_eq!(pieces, [vec![(0.25, 1.0), (0.5, 0.0), (0.5, 1.0)]]);
        assert!(clipped(&[(2.0, 0.0), (2.0, 1.0)], &UNIT, &UNIT).is_empty());
    }

    #[test]
    fn a_gap_interrupts() {
        let line = [
            (0.0, 0.0),
            (0.2, 0.2),
            (0.4, f64::NAN),
            (0.6, 0.6),
            (0.8, 0.8),
        ];
        assert_eq!(clipped(&line, &UNIT, &UNIT).len(), 2);
    }
}

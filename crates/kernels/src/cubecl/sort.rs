//! Stable counting sort, deterministic and without atomics.

use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    buffer::{UNITS, array, cubes, empty_indices, units},
    scan::exclusive_scan,
};

/// The digit of a key that one pass sorts by: `(key >> shift) % buckets`.
#[derive(Debug, Clone, Copy)]
pub struct Digit {
    /// Bits below the digit.
    pub shift: u32,
    /// Values of the digit.
    pub buckets: usize,
}

/// Positions sorted by a digit of their keys.
pub struct Sorted<R: CubeRuntime> {
    /// Position at each sorted place, `[R]`.
    pub order: CubeTensor<R>,
    /// First place of every bucket, and the end of the last, `[buckets + 1]`.
    pub offsets: CubeTensor<R>,
}

/// Sorts the positions of `keys` stably by a digit of their keys, starting from the order of an earlier pass if any.
pub fn sort_by_digit<R: CubeRuntime>(
    keys: &CubeTensor<R>,
    earlier: Option<&CubeTensor<R>>,
    digit: Digit,
) -> Sorted<R> {
    let (client, rows) = (&keys.client, keys.meta.num_elements());
    let Digit { shift, buckets } = digit;
    let chunks = rows.div_ceil(UNITS);
    let counts = empty_indices(keys, buckets * chunks);
    let order = empty_indices(keys, rows);
    let offsets = empty_indices(keys, buckets + 1);
    let (from, permuted) = (earlier.unwrap_or(keys), earlier.is_some());
    // Without an earlier order its argument is never read.
    let from = || match permuted {
        true => array(from),
        false => array(&offsets),
    };

    count_kernel::launch::<R>(
        client,
        cubes(client, chunks),
        units(),
        array(keys),
        from(),
        array(&counts),
        rows,
        shift,
        buckets,
        permuted,
        keys.dtype.into(),
    );
    exclusive_scan(&counts, &offsets, [buckets, chunks]);
    // The last of the `buckets + 1` values counts for nothing in an exclusive sum.
    let total = empty_indices(keys, 1);
    exclusive_scan(&offsets, &total, [1, buckets + 1]);
    place_kernel::launch::<R>(
        client,
        cubes(client, chunks),
        units(),
        array(keys),
        from(),
        array(&counts),
        array(&offsets),
        array(&order),
        rows,
        shift,
        buckets,
        permuted,
        keys.dtype.into(),
    );
    Sorted { order, offsets }
}

/// The position at a place of the earlier order.
#[cube]
fn position(earlier: &Array<u32>, place: usize, #[comptime] permuted: bool) -> usize {
    if permuted {
        earlier[place] as usize
    } else {
        place
    }
}

/// The digit of the row at `place`, and `buckets` past the end.
#[cube]
fn digit_at<I: Int>(
    keys: &Array<I>,
    earlier: &Array<u32>,
    place: usize,
    rows: usize,
    shift: u32,
    buckets: usize,
    #[comptime] permuted: bool,
) -> u32 {
    let mut digit = buckets as u32;
    if place < rows {
        let key = u32::cast_from(keys[position(earlier, place, permuted)]);
        digit = (key >> shift) % (buckets as u32);
    }
    digit
}

/// How often every digit occurs among the rows of every chunk, `[buckets, chunks]`: one cube a chunk.
#[cube(launch)]
fn count_kernel<I: Int>(
    keys: &Array<I>,
    earlier: &Array<u32>,
    counts: &mut Array<u32>,
    rows: usize,
    shift: u32,
    buckets: usize,
    #[comptime] permuted: bool,
    #[define(I)] _dtype: StorageType,
) {
    let chunk = CUBE_POS;
    let chunks = rows.div_ceil(UNITS);
    if chunk >= chunks {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut digits = SharedMemory::<u32>::new(UNITS);
    let place = chunk * UNITS + unit;
    digits[unit] = digit_at::<I>(keys, earlier, place, rows, shift, buckets, permuted);
    sync_cube();

    for bucket in range_stepped(unit, buckets, UNITS) {
        let mut count = 0u32;
        for i in 0..UNITS {
            if digits[i] == bucket as u32 {
                count += 1u32;
            }
        }
        counts[bucket * chunks + chunk] = count;
    }
}

/// Writes the positions of a chunk to their places: one cube a chunk.
#[cube(launch)]
fn place_kernel<I: Int>(
    keys: &Array<I>,
    earlier: &Array<u32>,
    before_chunk: &Array<u32>,
    offsets: &Array<u32>,
    order: &mut Array<u32>,
    rows: usize,
    shift: u32,
    buckets: usize,
    #[comptime] permuted: bool,
    #[define(I)] _dtype: StorageType,
) {
    let chunk = CUBE_POS;
    let chunks = rows.div_ceil(UNITS);
    if chunk >= chunks {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut digits = SharedMemory::<u32>::new(UNITS);
    let place = chunk * UNITS + unit;
    let digit = digit_at::<I>(keys, earlier, place, rows, shift, buckets, permuted);
    digits[unit] = digit;
    sync_cube();

    let mut rank = 0u32;
    for i in 0..unit {
        if digits[i] == digit {
            rank += 1u32;
        }
    }
    if place < rows {
        let bucket = digit as usize;
        let to = offsets[bucket] + before_chunk[bucket * chunks + chunk] + rank;
        order[to as usize] = position(earlier, place, permuted) as u32;
    }
}

//! Which device has which elements of a model's parameters and of their moments.
//!
//! A parameter that several devices hold alike is updated by all of them together, each of which keeps the moments of its own
//! elements alone (ZeRO stage 1, [Rajbhandari et al., 2020](https://arxiv.org/abs/1910.02054)). Such parameters lie one after
//! the other in buckets, of which each device updates an even range: so one message a bucket is enough.

use std::ops::Range;

use burn::{module::ParamId, tensor::backend::Backend};
use upcycle_lm::{Lm, ParameterShape, parameter_shapes};
use upcycle_team::{Team, even_ranges};

use crate::crew::Crew;

/// Elements of a bucket at least, where there are as many: 16 MiB, since a bucket is in memory several times while it is sent.
const BUCKET: usize = 1 << 22;

/// A parameter, and where its elements are. Elements count within the whole parameter, flattened.
#[derive(Debug)]
pub(crate) struct Placement {
    /// Path, id and shape of the whole.
    pub whole: ParameterShape,
    /// Which devices give the values to a file.
    pub values: Pieces,
    /// Which devices keep the moments.
    pub moments: Pieces,
    /// Shape of this device's moments.
    pub moment_dims: Vec<usize>,
}

/// Elements on several devices.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// Those of this device.
    pub own: Range<usize>,
    /// A device's rank and its elements, one after the other; all elements once.
    pub all: Vec<(usize, Range<usize>)>,
}

/// Parameters that all members of a team hold alike, one after the other.
pub(crate) struct Bucket {
    /// Who holds them.
    pub team: Team,
    /// The parameters.
    pub spans: Vec<Span>,
    /// What each member updates.
    pub ranges: Vec<Range<usize>>,
}

/// A parameter in a bucket.
pub(crate) struct Span {
    /// Burn's id.
    pub id: ParamId,
    /// Number of its axes.
    pub axes: usize,
    /// Its elements in the bucket.
    pub place: Range<usize>,
}

impl Bucket {
    /// What this device updates.
    pub fn own(&self) -> Range<usize> {
        self.ranges[self.team.rank()].clone()
    }
}

impl Span {
    /// Its elements, counted in the bucket, within a range of the bucket.
    pub fn within(&self, range: &Range<usize>) -> Range<usize> {
        let start = self.place.start.max(range.start);
        start..self.place.end.min(range.end).max(start)
    }
}

/// The trained parameters of a model that other devices hold alike.
pub(crate) fn buckets<B: Backend>(model: &Lm<B>, crew: &Crew) -> Vec<Bucket> {
    let experts = experts(model);
    let (of_experts, others): (Vec<_>, Vec<_>) = parameter_shapes(model)
        .into_iter()
        .filter(|shape| shape.trained)
        .partition(|shape| experts.contains(&shape.id));
    let mut buckets = in_buckets(&others, &crew.all);
    buckets.extend(in_buckets(&of_experts, &crew.holders));
    buckets
}

fn in_buckets(shapes: &[ParameterShape], team: &Team) -> Vec<Bucket> {
    if team.size() == 1 {
        return Vec::new();
    }
    let mut left: usize = shapes.iter().map(elements).sum();
    let (mut buckets, mut spans, mut end) = (Vec::new(), Vec::new(), 0);
    for shape in shapes {
        let start = end;
        end += elements(shape);
        left -= elements(shape);
        spans.push(Span {
            id: shape.id,
            axes: shape.dims.len(),
            place: start..end,
        });
        // A rest that is too small for every member to have a share goes with what is before it.
        if left == 0 || (end >= BUCKET && left >= team.size()) {
            buckets.push(Bucket {
                team: team.clone(),
                spans: std::mem::take(&mut spans),
                ranges: even_ranges(end, team.size()),
            });
            end = 0;
        }
    }
    buckets
}

/// Where the parameters of a model are, in the order of [`parameter_shapes`].
pub(crate) fn placements<B: Backend>(model: &Lm<B>, crew: &Crew) -> Vec<Placement> {
    let (experts, buckets) = (experts(model), buckets(model, crew));
    let in_bucket = |id: ParamId| {
        let mut places = buckets
            .iter()
            .flat_map(|bucket| bucket.spans.iter().map(move |span| (bucket, span)));
        places.find(|(_, span)| span.id == id)
    };
    let shapes = parameter_shapes(model).into_iter();
    shapes
        .map(|shape| {
            let (is_expert, place) = (experts.contains(&shape.id), in_bucket(shape.id));
            Placement::new(shape, is_expert, place, crew)
        })
        .collect()
}

impl Placement {
    /// That of a parameter which has this shape here.
    fn new(
        mut shape: ParameterShape,
        is_expert: bool,
        place: Option<(&Bucket, &Span)>,
        crew: &Crew,
    ) -> Self {
        let held = elements(&shape);
        // Each block of experts is held by one member of each group; of what is no expert's there is one block.
        let (blocks, block) = match is_expert {
            true => (crew.group.size(), crew.group.rank()),
            false => (1, 0),
        };
        let at = |block: usize, range: &Range<usize>| {
            block * held + range.start..block * held + range.end
        };
        let parts: Vec<Range<usize>> = match place {
            Some((bucket, span)) => (bucket.ranges.iter())
                .map(|range| span.within(range))
                .map(|part| part.start - span.place.start..part.end - span.place.start)
                .collect(),
            None => std::iter::once(0..held).collect(),
        };
        let holder = place.map_or(0, |(bucket, _)| bucket.team.rank());
        let own = parts[holder].clone();
        let moment_dims = match place {
            Some(_) => vec![own.len()],
            None => shape.dims.clone(),
        };
        let of_block = |block: usize| {
            let parts = parts.iter().enumerate();
            parts.map(move |(holder, part)| (holder * blocks + block, at(block, part)))
        };
        let moments = Pieces {
            own: at(block, &own),
            all: (0..blocks).flat_map(of_block).collect(),
        };
        let values = Pieces {
            own: at(block, &(0..held)),
            all: (0..blocks)
                .map(|rank| (rank, at(rank, &(0..held))))
                .collect(),
        };
        shape.dims[0] *= blocks;
        Self {
            whole: shape,
            values,
            moments,
            moment_dims,
        }
    }
}

/// Ids of the experts' parameters.
fn experts<B: Backend>(model: &Lm<B>) -> Vec<ParamId> {
    let of_layers = model.moe_layers().map(|layer| &layer.experts);
    of_layers
        .flat_map(|experts| [experts.gate_edf.id, experts.up_edf.id, experts.down_efd.id])
        .collect()
}

fn elements(shape: &ParameterShape) -> usize {
    shape.dims.iter().product()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn_flex::{Flex, FlexDevice};
    use upcycle_lm::LmConfig;
    use upcycle_moe::MoeModel;

    use super::*;

    #[test]
    fn every_element_is_given_and_kept_once() {
        for expert_parallel in [1, 2, 4] {
            for team in Team::threads(4) {
                let crew = Crew::new(team, expert_parallel).unwrap();
                let config = LmConfig::default();
                let mut model = config.init::<Flex>(0, &FlexDevice).unwrap();
                let whole = parameter_shapes(&model);
                model.shard(&crew.group).unwrap();
                let placements = placements(&model, &crew);
                let wholes: Vec<_> = placements.iter().map(|it| it.whole.clone()).collect();
                assert_eq!(wholes, whole);
                for placement in placements {
                    let whole = placement.whole;
                    for pieces in [&placement.values, &placement.moments] {
                        let filled = pieces.all.iter().filter(|(_, range)| !range.is_empty());
                        let end = filled.fold(0, |end, (_, range)| {
                            assert_eq!(range.start, end, "{}", whole.path);
                            range.end
                        });
                        assert_eq!(end, elements(&whole), "{}", whole.path);
                    }
                    let own = (crew.all.rank(), placement.moments.own);
                    assert!(!whole.trained || placement.moments.all.contains(&own));
                }
            }
        }
    }
}

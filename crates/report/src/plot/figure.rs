//! A figure and what is said of it.

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// What it shows.
    pub kind: FigureKind,
    /// File stem, unique in a sweep, such as `gap_closure_tiny_8x2_k2`.
    pub name: String,
    /// Title; it stands in the picture too.
    pub title: String,
    /// What the marks and lines mean, in sentences.
    pub caption: String,
    /// The picture, on white ground.
    pub svg: String,
}

/// What a figure shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FigureKind {
    /// Gap closure over the CPT fraction.
    GapClosure,
    /// Validation loss over tokens.
    LossCurves,
    /// Final loss over training compute and time.
    Pareto,
    /// Load of each expert.
    RoutingLoad,
    /// Replicas drifting apart.
    Twins,
}

//! What can go wrong with a figure.

use resvg::usvg;

/// Why a figure could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The drawing library failed.
    #[error("cannot draw the figure: {0}")]
    Draw(String),
    /// The picture is not valid SVG.
    #[error("cannot read the figure as SVG")]
    Svg(#[from] usvg::Error),
    /// A picture of this size cannot be made.
    #[error("cannot make a PNG of {width} x {height} pixels; choose another scale")]
    Size {
        /// Pixels a row.
        width: f32,
        /// Rows.
        height: f32,
    },
    /// The PNG encoder failed.
    #[error("cannot encode the figure as PNG: {0}")]
    Encode(String),
}

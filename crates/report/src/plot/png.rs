//! SVG as PNG.

use std::sync::Arc;

use resvg::{tiny_skia, usvg};

use crate::plot::error::PlotError;

const LARGEST_SIDE: f32 = 32_768.0;

/// Renders SVG as PNG, `scale` pixels a unit. Text is set in a font that comes with the program, so that the result
/// is the same on every machine.
///
/// # Errors
///
/// When the text is not SVG, or the scale gives a picture of no size or more than 32,768 pixels a side.
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>, PlotError> {
    let tree = usvg::Tree::from_str(svg, &options())?;
    let (width, height) = (tree.size().width() * scale, tree.size().height() * scale);
    let size = PlotError::Size { width, height };
    if !(width >= 1.0 && height >= 1.0 && width.max(height) <= LARGEST_SIDE) {
        return Err(size);
    }
    let Some(mut pixels) = tiny_skia::Pixmap::new(width.ceil() as u32, height.ceil() as u32) else {
        return Err(size);
    };
    pixels.fill(tiny_skia::Color::WHITE);
    let scale = tiny_skia::Transform::from_scale(scale, scale);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    pixels
        .encode_png()
        .map_err(|error| PlotError::Encode(error.to_string()))
}

/// Options with the bundled font. It has Latin, Greek and Cyrillic letters, but no arrows.
fn options() -> usvg::Options<'static> {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family = fonts
        .faces()
        .find_map(|face| face.families.first().map(|(name, _)| name.clone()));
    if let Some(family) = family {
        fonts.set_sans_serif_family(family);
    }
    usvg::Options {
        fontdb: Arc::new(fonts),
        ..usvg::Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_drawn_without_system_fonts() {
        let picture = |text: &str| {
            let svg = format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="60" height="30"><text y="20" font-family="sans-serif">{text}</text></svg>"#
            );
            png(&svg, 1.0).unwrap()
        };
        for text in ["abc", "η", "τ", "±", "−", "…"] {
            assert_ne!(picture(text), picture(""), "{text} left no trace");
        }
    }

    #[test]
    fn no_png_of_impossible_size() {
        let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="60" height="30"/>"#;
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e9] {
            assert!(matches!(png(svg, scale), Err(PlotError::Size { .. })));
        }
        assert!(matches!(png("no picture", 1.0), Err(PlotError::Svg(_))));
    }
}

//! Bar charts as SVG, without a background of their own: they are read on a light page and on a dark one.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Readable on white and on black.
const INK: RGBColor = RGBColor(128, 128, 128);
const SERIES: [RGBColor; 3] = [RGBColor(46, 134, 222), RGBColor(230, 126, 34), RGBColor(155, 89, 182)];

const WIDTH: u32 = 900;
const BAR: u32 = 13;
const NAMES: u32 = 330;

/// A group of bars.
pub struct Row {
    pub name: String,
    /// One bar for each series, if it was measured.
    pub values: Vec<Option<f64>>,
}

/// Draws horizontal bars in nanoseconds.
pub fn draw(path: &Path, title: &str, series: &[&str], rows: &[Row]) -> Result<()> {
    try_draw(path, title, series, rows).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn try_draw(path: &Path, title: &str, series: &[&str], rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    let most = rows.iter().flat_map(|row| &row.values).flatten().fold(0.0, |most: f64, value| most.max(*value));
    let group = (BAR * series.len() as u32 + 9) as f64;
    let height = 80.0 + group * rows.len() as f64;
    let area = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    let text = |size: u32, at: Pos| ("sans-serif", size).into_font().color(&INK).pos(at);
    let left = Pos::new(HPos::Left, VPos::Center);

    area.draw(&Text::new(title.to_string(), (10, 16), text(16, left)))?;
    for (index, (name, color)) in series.iter().zip(SERIES).enumerate() {
        let at = NAMES as i32 + 180 * index as i32;
        area.draw(&Rectangle::new([(at, 34), (at + 12, 46)], color.filled()))?;
        area.draw(&Text::new(name.to_string(), (at + 18, 40), text(13, left)))?;
    }

    // From top to bottom, in pixels.
    let end = group * rows.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .margin_top(54)
        .margin_right(60)
        .x_label_area_size(26)
        .margin_left(NAMES)
        .build_cartesian_2d(0.0..most * 1.02, end..0.0)?;
    let labels = text(12, Pos::new(HPos::Center, VPos::Top));
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().disable_y_axis().light_line_style(TRANSPARENT).bold_line_style(INK.mix(0.3)).axis_style(INK);
    mesh.x_labels(8).x_label_formatter(&|ns| format!("{ns:.0} ns")).x_label_style(labels).draw()?;
    for (row, top) in rows.iter().zip((0..).map(|index| group * f64::from(index) + 5.0)) {
        for (index, value) in row.values.iter().enumerate() {
            let Some(value) = *value else { continue };
            let top = top + f64::from(BAR) * index as f64;
            let bar = [(0.0, top), (value, top + f64::from(BAR) - 1.0)];
            chart.draw_series([Rectangle::new(bar, SERIES[index].filled())])?;
            let number = EmptyElement::at((value, top + f64::from(BAR) / 2.0))
                + Text::new(format!("{value:.1}"), (4, -1), text(11, left));
            chart.draw_series([number])?;
        }
        let middle = top + f64::from(BAR) * row.values.len() as f64 / 2.0;
        let name = EmptyElement::at((0.0, middle))
            + Text::new(row.name.clone(), (-8, 0), text(13, Pos::new(HPos::Right, VPos::Center)));
        chart.draw_series([name])?;
    }
    area.present()?;
    Ok(())
}

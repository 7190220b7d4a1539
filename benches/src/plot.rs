//! The distributions as a picture: latency against percentile, both logarithmic.

use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use plotters::prelude::*;

const SIZE: (u32, u32) = (1100, 640);
/// Points of a line from one nine of the percentile to the next.
const POINTS_PER_NINE: f64 = 50.0;

/// Okabe and Ito's colours, which people who see few colours tell apart; none is grey.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(150, 150, 150),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
];

/// Draws one line per form to `name` beside what was built, an SVG, and returns where that is, from the workspace.
/// `values` is what is drawn, in the plural.
///
/// # Panics
/// When there are more forms than colours.
///
/// # Errors
/// When it cannot be written.
pub fn draw(
    target_tmpdir: &Path,
    name: &str,
    caption: &str,
    values: &str,
    forms: &[(&str, &Histogram<u64>)],
) -> Result<PathBuf, DrawingAreaErrorKind<std::io::Error>> {
    let path = target_tmpdir.with_file_name(name);
    let (lowest, highest, most) = forms.iter().fold((f64::MAX, 0f64, 0), |(low, high, most), (_, ns)| {
        (low.min(ns.min() as f64), high.max(ns.max() as f64), most.max(ns.len()))
    });
    let area = SVGBackend::new(&path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    // By how rare a value is: 10 at 90 %, 100 at 99 %.
    let rarities = (1.0..most as f64).log_scale();
    let latencies_ns = (lowest / 1.2..highest * 1.2).log_scale();
    let mut chart = ChartBuilder::on(&area)
        .caption(caption, ("sans-serif", 20))
        .margin(14)
        // The last percentile stands below the end of the axis.
        .margin_right(44)
        .x_label_area_size(48)
        .y_label_area_size(76)
        .build_cartesian_2d(rarities, latencies_ns)?;
    chart
        .configure_mesh()
        .x_desc(format!("percentile of {values}"))
        .y_desc("time")
        .x_labels(10)
        .y_labels(12)
        .x_label_formatter(&|rarity| percentile_text(*rarity))
        .y_label_formatter(&|ns| time_text(*ns))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .light_line_style(WHITE.mix(0.0))
        .draw()?;
    assert!(forms.len() <= COLOURS.len(), "{} forms want as many colours", forms.len());
    for ((name, ns), colour) in forms.iter().zip(COLOURS) {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line(ns), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.4))
        .legend_area_size(32)
        .label_font(("sans-serif", 15))
        .draw()?;
    area.present()?;
    drop(chart);
    drop(area);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(""));
    Ok(path.strip_prefix(workspace).unwrap_or(&path).to_owned())
}

/// From the least value to the greatest.
fn line(ns: &Histogram<u64>) -> impl Iterator<Item = (f64, f64)> {
    let rarest = ns.len() as f64;
    let points = (rarest.log10() * POINTS_PER_NINE).ceil() as u32;
    (0..=points).map(move |point| {
        let rarity = 10f64.powf(f64::from(point) / POINTS_PER_NINE).min(rarest);
        (rarity, ns.value_at_quantile(1.0 - 1.0 / rarity) as f64)
    })
}

fn percentile_text(rarity: f64) -> String {
    let nines = rarity.log10().round();
    let decimals = (nines as usize).saturating_sub(2);
    format!("{:.decimals$} %", 100.0 * (1.0 - 10f64.powf(-nines)))
}

fn time_text(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.0} µs", ns / 1e3),
        ns => format!("{:.0} ms", ns / 1e6),
    }
}

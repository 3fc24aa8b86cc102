//! Latency over rate, as a picture.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use plotters::prelude::*;

use super::line::{Latency, Line};

const SIZE: (u32, u32) = (900, 560);

/// Draws the latencies of `lines` over their rates, both on logarithmic axes, into an SVG file.
///
/// # Errors
/// If there is nothing to draw, or the file cannot be written.
pub fn latency_over_rate(lines: &[Line], file: &Path) -> anyhow::Result<()> {
    let mut points: Vec<Latency> = lines.iter().filter_map(|line| line.latency).collect();
    points.sort_by_key(|point| point.rate);
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        bail!("there is nothing to draw: no run had a rate");
    };
    // A margin, so that one point is a picture too.
    let rates = first.rate as f64 / 1.2..last.rate as f64 * 1.2;
    let lowest = points.iter().map(|point| point.p50_us).fold(f64::MAX, f64::min).max(0.1);
    let highest = points.iter().map(|point| point.p999_us).fold(lowest, f64::max);
    draw(&points, rates, lowest / 1.5..highest * 1.5, file)
        .map_err(|error| anyhow!("{error}"))
        .with_context(|| format!("cannot draw {}", file.display()))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(
    points: &[Latency],
    rates: std::ops::Range<f64>,
    latencies: std::ops::Range<f64>,
    file: &Path,
) -> Drawn {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Yahoo Streaming Benchmark: latency of a row over the rate", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(rates.log_scale(), latencies.log_scale())?;
    chart
        .configure_mesh()
        .x_desc("events per second")
        .y_desc("microseconds")
        .x_label_formatter(&|rate| short(*rate))
        .y_label_formatter(&|micros| short(*micros))
        .draw()?;
    let lines: [(&str, RGBColor, fn(&Latency) -> f64); 4] = [
        ("p50", RGBColor(0x1b, 0x7a, 0x3d), |point| point.p50_us),
        ("p99", RGBColor(0x1f, 0x5f, 0xbf), |point| point.p99_us),
        ("p99.9", RGBColor(0xb0, 0x30, 0x60), |point| point.p999_us),
        ("noise of the machine, p99.9", RGBColor(0x99, 0x99, 0x99), |point| point.noise_p999_us),
    ];
    for (name, color, of) in lines {
        // On a logarithmic axis there is no zero.
        let line = points.iter().map(|point| (point.rate as f64, of(point).max(0.1)));
        chart.draw_series(line.clone().map(|at| Circle::new(at, 3, color.filled())))?;
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

/// `250k`, `1.5M`.
fn short(value: f64) -> String {
    let trimmed = |value: f64| {
        let text = format!("{value:.1}");
        text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
    };
    match value {
        value if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        value if value >= 1e3 => format!("{}k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.5, 20.0, 250_000.0, 1.5e6].map(short), ["0.5", "20", "250k", "1.5M"]);
    }
}

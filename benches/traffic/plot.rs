//! A plot over seconds, as SVG: axes, a grid, lines, a legend. No more than the figures need.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
/// Left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (46.0, 54.0, 12.0, 34.0);

/// One value a second.
pub struct Series {
    name: &'static str,
    colour: &'static str,
    values: Vec<f64>,
    dashed: bool,
}

impl Series {
    /// What is measured.
    pub fn line(name: &'static str, colour: &'static str, values: Vec<f64>) -> Series {
        Series { name, colour, values, dashed: false }
    }

    /// What is given.
    pub fn steps(name: &'static str, colour: &'static str, values: Vec<f64>) -> Series {
        Series { name, colour, values, dashed: true }
    }
}

pub struct Plot {
    title: &'static str,
    series: Vec<Series>,
}

impl Plot {
    pub fn new(title: &'static str) -> Plot {
        Plot { title, series: Vec::new() }
    }

    pub fn add(&mut self, series: Series) {
        self.series.push(series);
    }

    pub fn draw(&self) -> String {
        let seconds = self.series.iter().map(|series| series.values.len()).max().unwrap_or(1) as f64;
        let most = self.series.iter().flat_map(|series| &series.values).copied().fold(1.0, f64::max);
        let grid = grid(most);
        let most = (most / grid).ceil() * grid;
        let (left, top, right, bottom) = MARGIN;
        let x = |second: f64| left + second / seconds * (WIDTH - left - right);
        let y = |value: f64| HEIGHT - bottom - value / most * (HEIGHT - top - bottom);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"{left}\" y=\"20\" font-size=\"14\">{}</text>\n",
            self.title
        );
        let mut value = 0.0;
        while value <= most {
            let (at, to) = (y(value), WIDTH - right);
            _ = writeln!(out, "<path d=\"M{left} {at:.1}H{to}\" stroke=\"#e4e4e4\"/>");
            _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", left - 6.0, at + 4.0);
            value += grid;
        }
        let mut second = 0.0;
        while second <= seconds {
            let (at, low) = (x(second), HEIGHT - bottom + 16.0);
            let minutes = second / 60.0;
            // In the middle of its mark, but for the one at the edge.
            let anchor = if at < WIDTH - right { "middle" } else { "end" };
            _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{low}\" text-anchor=\"{anchor}\">{minutes} min</text>");
            second += 120.0;
        }
        let mut legend = left;
        for series in &self.series {
            let points: Vec<String> = series
                .values
                .iter()
                .enumerate()
                .map(|(second, value)| format!("{:.1},{:.1}", x(second as f64), y(*value)))
                .collect();
            let (dash, stroke) = (if series.dashed { " stroke-dasharray=\"5 3\"" } else { "" }, series.colour);
            _ = writeln!(
                out,
                "<polyline fill=\"none\" stroke=\"{stroke}\" stroke-width=\"1.5\"{dash} points=\"{}\"/>",
                points.join(" ")
            );
            _ = writeln!(out, "<path d=\"M{legend} 38h18\" stroke=\"{stroke}\" stroke-width=\"2\"{dash}/>");
            _ = writeln!(out, "<text x=\"{}\" y=\"42\">{}</text>", legend + 23.0, series.name);
            legend += 46.0 + 6.6 * series.name.len() as f64;
        }
        out.push_str("</svg>\n");
        out
    }
}

/// A round distance of grid lines: about five up to `most`.
fn grid(most: f64) -> f64 {
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

//! A run as a picture: the throughput of each rail over time, one on top of the other, what the live links
//! could give, and the faults. Written by hand: a few shapes and words. Light and dark, by the viewer's
//! wish.

use std::fmt::Write as _;

use super::record::Record;
use crate::units;

/// Draws the run; `title` says what it was.
pub(crate) fn draw(record: &Record, title: &str) -> String {
    let chart = Chart::new(record);
    let mut svg = String::new();
    head(&mut svg, title);
    chart.legend(&mut svg);
    chart.grid(&mut svg);
    chart.areas(&mut svg);
    chart.bound(&mut svg);
    chart.marks(&mut svg);
    svg.push_str("</svg>\n");
    svg
}

struct Chart<'a> {
    record: &'a Record,
    end_us: u64,
    marks: Vec<Mark>,
    /// Where the plot begins, below legend and marks, and its height.
    plot_top: f64,
    plot_height: f64,
    /// Bytes per second at the top.
    top: f64,
    unit: (f64, &'static str),
}

impl<'a> Chart<'a> {
    fn new(record: &'a Record) -> Self {
        let end_us = record.end_us.max(1000);
        let marks = marks(record, end_us);
        let mark_rows = marks.iter().map(|mark| mark.row + 1).max().unwrap_or(0);
        let legend_rows = (record.rails() + 1).div_ceil(LEGEND_COLUMNS);
        let plot_top = LEGEND_TOP + 16.0 * float(legend_rows) + 14.0 * float(mark_rows) + 12.0;
        let plot_height = HEIGHT - plot_top - 52.0;
        let unit = (1e6, "MB/s");
        let mut chart = Self { record, end_us, marks, plot_top, plot_height, top: 1.0, unit };
        let sums = chart.bins().map(|(from, to)| record.rate(from, to));
        let live = edges(record).map(|(_, live)| live);
        let most = sums.chain(live).fold(0.0, f64::max);
        chart.unit = if most >= 1e9 { (1e9, "GB/s") } else { (1e6, "MB/s") };
        let step = nice_step(most / chart.unit.0, 5.0);
        // Some air, so that the bound is not the frame.
        chart.top = ((most / chart.unit.0 * 1.02 / step).ceil() * step).max(step) * chart.unit.0;
        chart
    }

    fn x(&self, us: u64) -> f64 {
        x_of(us, self.end_us)
    }

    fn y(&self, rate: f64) -> f64 {
        self.bottom() - (rate / self.top).clamp(0.0, 1.0) * self.plot_height
    }

    fn bottom(&self) -> f64 {
        self.plot_top + self.plot_height
    }

    /// Stretches of equal length, long enough to be calm and short enough to show a stall.
    fn bins(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let end_us = self.end_us;
        let width = (end_us / BINS).max(BIN_MIN_US);
        (0..end_us.div_ceil(width)).map(move |at| (at * width, ((at + 1) * width).min(end_us)))
    }

    fn legend(&self, svg: &mut String) {
        let each = (PLOT_WIDTH / float(LEGEND_COLUMNS)).floor();
        let place = |at: usize| {
            let (row, column) = (at / LEGEND_COLUMNS, at % LEGEND_COLUMNS);
            (LEFT + each * float(column), LEGEND_TOP + 16.0 * float(row))
        };
        for rail in 0..self.record.rails() {
            let (x, y) = place(rail);
            let name = format!("r{rail}  {}", units::rate_bps(self.record.rates_bps[rail]));
            let (class, fade) = color(rail);
            add(
                svg,
                format_args!(
                    "<rect class=\"{class}\"{fade} x=\"{x:.0}\" y=\"{y:.0}\" width=\"11\" height=\"11\" rx=\"2\"/>"
                ),
            );
            text(svg, "ink", x + 16.0, y + 10.0, "start", &name);
        }
        let (x, y) = place(self.record.rails());
        add(svg, format_args!("<path class=\"bound\" d=\"M{x:.0} {:.0}h11\"/>", y + 6.0));
        text(svg, "ink", x + 16.0, y + 10.0, "start", "what the live links can give");
    }

    fn grid(&self, svg: &mut String) {
        let (scale, unit) = self.unit;
        let step = nice_step(self.top / scale, 5.0);
        let lines =
            (0..).map(|n| f64::from(n) * step).take_while(|v| *v <= self.top / scale + 1e-9);
        for value in lines {
            let y = self.y(value * scale);
            add(svg, format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}h{PLOT_WIDTH}\"/>"));
            text(svg, "faint", LEFT - 8.0, y + 4.0, "end", &short(value));
        }
        let end_s = units::as_f64(self.end_us) / 1e6;
        let step = nice_step(end_s, 10.0);
        for s in (0..).map(|n| f64::from(n) * step).take_while(|s| *s <= end_s + 1e-9) {
            let x = LEFT + s / end_s * PLOT_WIDTH;
            let y = self.bottom();
            add(svg, format_args!("<path class=\"axis\" d=\"M{x:.1} {y:.0}v5\"/>"));
            text(svg, "faint", x, y + 19.0, "middle", &short(s));
        }
        let y = self.bottom();
        add(svg, format_args!("<path class=\"axis\" d=\"M{LEFT} {y:.0}h{PLOT_WIDTH}\"/>"));
        text(svg, "faint", LEFT + PLOT_WIDTH / 2.0, y + 38.0, "middle", "time (s)");
        let (x, y) = (LEFT - 46.0, self.plot_top + self.plot_height / 2.0);
        add(
            svg,
            format_args!(
                "<text class=\"faint\" x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"middle\" transform=\"rotate(-90 {x:.0} {y:.0})\">throughput ({unit})</text>"
            ),
        );
    }

    fn areas(&self, svg: &mut String) {
        let bins: Vec<_> = self.bins().collect();
        let mut below = vec![0.0; bins.len()];
        for rail in 0..self.record.rails() {
            let rate = |(from, to): &(u64, u64)| self.record.rail_rate(rail, *from, *to);
            let above: Vec<f64> =
                bins.iter().zip(&below).map(|(bin, low)| low + rate(bin)).collect();
            let (class, fade) = color(rail);
            let path = self.outline(&bins, &above) + &self.outline_back(&bins, &below);
            add(svg, format_args!("<path class=\"{class} area\"{fade} d=\"{path}Z\"/>"));
            below = above;
        }
    }

    /// As steps: a rate belongs to its whole stretch, and a stall is a notch, not a slope.
    fn outline(&self, bins: &[(u64, u64)], rates: &[f64]) -> String {
        let mut path = String::new();
        for ((from, to), rate) in bins.iter().zip(rates) {
            let verb = if path.is_empty() { 'M' } else { 'L' };
            let y = self.y(*rate);
            // writing to a String cannot fail
            let _ = write!(path, "{verb}{:.1} {y:.1}H{:.1}", self.x(*from), self.x(*to));
        }
        path
    }

    fn outline_back(&self, bins: &[(u64, u64)], rates: &[f64]) -> String {
        let mut path = String::new();
        for ((from, to), rate) in bins.iter().zip(rates).rev() {
            let y = self.y(*rate);
            let _ = write!(path, "L{:.1} {y:.1}H{:.1}", self.x(*to), self.x(*from));
        }
        path
    }

    fn bound(&self, svg: &mut String) {
        let mut path = String::new();
        for (us, live) in edges(self.record) {
            let (x, y) = (self.x(us), self.y(live));
            if path.is_empty() {
                let _ = write!(path, "M{x:.1} {y:.1}");
            } else {
                let _ = write!(path, "H{x:.1}V{y:.1}");
            }
        }
        let end = LEFT + PLOT_WIDTH;
        add(svg, format_args!("<path class=\"bound\" d=\"{path}H{end}\"/>"));
    }

    /// A line for each fault, its name above the plot.
    fn marks(&self, svg: &mut String) {
        for Mark { us, name, row } in &self.marks {
            let (x, y) = (self.x(*us), self.plot_top - 8.0 - 14.0 * float(*row));
            // not through the names in the rows below
            let (begin, length) = (self.plot_top - 4.0, self.plot_height + 4.0);
            add(svg, format_args!("<path class=\"mark\" d=\"M{x:.1} {begin:.1}v{length:.1}\"/>"));
            text(svg, "ink", x, y, "middle", name);
        }
    }
}

/// A fault, named in a row of its own where names would overlap.
struct Mark {
    us: u64,
    name: String,
    row: usize,
}

fn marks(record: &Record, end_us: u64) -> Vec<Mark> {
    let mut free_from = [0.0; MARK_ROWS];
    let faults = record.applied.iter().filter(|a| a.us <= end_us);
    faults
        .map(|fault| {
            let (x, name) = (x_of(fault.us, end_us), fault.entry.to_string());
            let half = (float(name.len()) * LETTER + 8.0) / 2.0;
            let row = free_from.iter().position(|free| *free <= x - half);
            let row = row.unwrap_or(MARK_ROWS - 1);
            free_from[row] = x + half;
            Mark { us: fault.us, name, row }
        })
        .collect()
}

fn x_of(us: u64, end_us: u64) -> f64 {
    LEFT + units::as_f64(us.min(end_us)) / units::as_f64(end_us) * PLOT_WIDTH
}

/// When the bound changed, and to what, in bytes per second.
fn edges(record: &Record) -> impl Iterator<Item = (u64, f64)> + '_ {
    let times = std::iter::once(0).chain(record.applied.iter().map(|a| a.us));
    times.map(|us| (us, record.live_rate(us)))
}

fn head(svg: &mut String, title: &str) {
    let title = escape(title);
    add(
        svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
        ),
    );
    add(svg, format_args!("<title>{title}</title>"));
    svg.push_str(STYLE);
    add(svg, format_args!("<rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>"));
    add(svg, format_args!("<text class=\"title\" x=\"{LEFT}\" y=\"28\">{title}</text>"));
}

fn text(svg: &mut String, class: &str, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escape(words);
    add(
        svg,
        format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
        ),
    );
}

fn add(svg: &mut String, line: std::fmt::Arguments<'_>) {
    // writing to a String cannot fail
    let _ = writeln!(svg, "{line}");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Beyond the colors there are, they come again, fainter.
fn color(rail: usize) -> (String, &'static str) {
    let fade = if rail < COLORS { "" } else { " opacity=\"0.55\"" };
    (format!("c{}", rail % COLORS), fade)
}

/// 1, 2 or 5 times a power of ten, so that about `count` of them cover the range.
fn nice_step(range: f64, count: f64) -> f64 {
    let rough = (range / count).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= rough * 0.999).unwrap_or(10.0);
    factor * power
}

/// `0`, `0.5`, `250`.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn float(n: usize) -> f64 {
    units::as_f64(n as u64)
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 470.0;
const LEFT: f64 = 70.0;
const PLOT_WIDTH: f64 = WIDTH - LEFT - 24.0;
const LEGEND_TOP: f64 = 42.0;
const LEGEND_COLUMNS: usize = 6;
const MARK_ROWS: usize = 3;
/// Width of a letter of a mark.
const LETTER: f64 = 6.2;
const BINS: u64 = 250;
const BIN_MIN_US: u64 = 10_000;
const COLORS: usize = 8;
/// Okabe and Ito's colors, which everybody can tell apart, on both papers.
const STYLE: &str = "<style>
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
.title{font-size:15px;font-weight:600}
.paper{fill:#ffffff}.title,.ink{fill:#1f2328}.faint{fill:#59636e}
.grid{stroke:#1f2328;stroke-opacity:.12}.axis{stroke:#59636e}
.mark{stroke:#59636e;stroke-dasharray:3 3;fill:none}
.bound{stroke:#1f2328;stroke-width:1.4;stroke-dasharray:7 4;fill:none}
.c0{fill:#0072b2}.c1{fill:#e69f00}.c2{fill:#009e73}.c3{fill:#cc79a7}
.c4{fill:#56b4e9}.c5{fill:#d55e00}.c6{fill:#b8a800}.c7{fill:#8c8c8c}
@media (prefers-color-scheme:dark){
.paper{fill:#0d1117}.title,.ink{fill:#e6edf3}.faint{fill:#9198a1}
.grid{stroke:#e6edf3;stroke-opacity:.14}.axis{stroke:#9198a1}
.mark{stroke:#9198a1}.bound{stroke:#e6edf3}
}
</style>
";

#[cfg(test)]
mod tests {
    use super::super::record::Applied;
    use super::super::record::tests::made;
    use super::super::script;
    use super::*;

    fn run(rails: usize) -> Record {
        let mut record =
            made(
                &vec![400_000_000; rails],
                2000,
                |rail, ms| {
                    if rail == 1 && ms > 1000 { 0 } else { 49_000 }
                },
            );
        let script = script::parse("1s hole r1; 1.01s slow r0; 1.02s heal r0; 1.9s heal r1", rails);
        let script = script.unwrap();
        record.applied = script.iter().map(|e| Applied { entry: *e, us: e.at_us }).collect();
        record
    }

    /// Every element is closed, and every number is one.
    fn is_sound(svg: &str) {
        let opened = svg.matches('<').count() - svg.matches("</").count();
        assert_eq!(opened, svg.matches("/>").count() + svg.matches("</").count());
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg.matches('"').count() % 2, 0);
    }

    #[test]
    fn a_picture_has_axes_rails_bound_and_faults() {
        let svg = draw(&run(4), "WRITE <over> \"4\" & more");
        is_sound(&svg);
        for words in [
            "WRITE &lt;over&gt; &quot;4&quot; &amp; more",
            "time (s)",
            "throughput (MB/s)",
            "r3  400 Mbit/s",
            "what the live links can give",
            ">hole r1<",
            ">slow r0 x0.1<",
            "prefers-color-scheme:dark",
        ] {
            assert!(svg.contains(words), "{words}");
        }
        assert_eq!(svg.matches(" area\"").count(), 4);
        assert_eq!(svg.matches("class=\"mark\"").count(), 4);
    }

    #[test]
    fn names_of_faults_do_not_overlap() {
        let svg = draw(&run(4), "t");
        let place = |name: &str| {
            let at = svg.find(&format!(">{name}<")).unwrap();
            let line = svg[..at].rsplit('\n').next().unwrap().to_string();
            line.split("y=\"").nth(1).unwrap().split('"').next().unwrap().to_string()
        };
        let rows = [place("hole r1"), place("slow r0 x0.1"), place("heal r0")];
        assert!(rows[0] != rows[1] && rows[1] != rows[2] && rows[0] != rows[2], "{rows:?}");
        assert_eq!(place("heal r1"), rows[0]);
    }

    #[test]
    fn any_run_can_be_drawn() {
        is_sound(&draw(&Record::default(), ""));
        is_sound(&draw(&made(&[8], 0, |_, _| 0), "nothing"));
        let many = draw(&run(16), "many");
        is_sound(&many);
        assert!(many.contains("opacity=\"0.55\""));
        let fast = draw(&made(&[80_000_000_000], 100, |_, _| 10_000_000), "fast");
        assert!(fast.contains("throughput (GB/s)"));
    }

    #[test]
    fn steps_are_round_and_few() {
        for (range, count, step) in [(8.0, 10.0, 1.0), (200.0, 5.0, 50.0), (0.7, 5.0, 0.2)] {
            assert!((nice_step(range, count) - step).abs() < 1e-9, "{range}");
        }
        assert_eq!(
            (short(0.0), short(2.5), short(250.0)),
            ("0".into(), "2.5".into(), "250".into())
        );
    }
}

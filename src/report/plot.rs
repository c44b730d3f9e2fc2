//! A dot plot of a table as SVG: mean, 95 % interval, and a small dot for each run. Drawn by hand
//! (some lines and circles), so that it needs no font and no library at run time.

use std::fmt::Write as _;

use super::{Row, TaskTable};

const ROW: usize = 28;
const LEFT: usize = 330;
const WIDTH: usize = 460;
const RIGHT: usize = 30;
const TOP: usize = 34;

/// The plot of all tables, one below the other.
pub fn plot_svg(tables: &[TaskTable]) -> String {
    let height: usize = tables.iter().map(|table| TOP + ROW * table.rows.len() + 40).sum();
    let total = LEFT + WIDTH + RIGHT;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total}\" height=\"{height}\" viewBox=\"0 0 {total} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut top = 0;
    for table in tables {
        draw(&mut out, table, top);
        top += TOP + ROW * table.rows.len() + 40;
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, table: &TaskTable, top: usize) {
    let most = if table.share { 1.0 } else { largest(table) };
    let place = |value: f64| LEFT as f64 + (value / most).clamp(0.0, 1.0) * WIDTH as f64;
    let bottom = top + TOP + ROW * table.rows.len();
    // Writing into a text cannot fail.
    let _ = writeln!(
        out,
        "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{}: {}{}</text>",
        top + 20,
        escape(&table.task),
        escape(&table.metric),
        if table.share { " in %" } else { "" }
    );
    for tick in 0..=5 {
        let value = most * f64::from(tick) / 5.0;
        let x = place(value);
        let label = if table.share { format!("{}", tick * 20) } else { format!("{value:.2}") };
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>",
            top + TOP
        );
        let _ =
            writeln!(out, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 16);
    }
    for (index, row) in table.rows.iter().enumerate() {
        let y = top + TOP + ROW * index + ROW / 2;
        let label: String = row.label.chars().take(48).collect();
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 10,
            y + 4,
            escape(&label)
        );
        if let Some((low, high)) = row.ci95 {
            let (low, high) = (place(low), place(high));
            let _ = writeln!(
                out,
                "<line x1=\"{low:.1}\" y1=\"{y}\" x2=\"{high:.1}\" y2=\"{y}\" stroke=\"#1f5fa8\" stroke-width=\"2\"/>"
            );
        }
        // What is too large for a number is nowhere on the axis.
        for value in row.values.iter().filter(|value| value.is_finite()) {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{y}\" r=\"3\" fill=\"none\" stroke=\"#1f5fa8\"/>",
                place(*value)
            );
        }
        if row.mean.is_finite() {
            let mean = place(row.mean);
            let _ = writeln!(out, "<circle cx=\"{mean:.1}\" cy=\"{y}\" r=\"5\" fill=\"#1f5fa8\"/>");
        }
    }
}

/// The end of the axis of a score without a largest value.
fn largest(table: &TaskTable) -> f64 {
    let of_row =
        |row: &'_ Row| row.values.iter().copied().chain(row.ci95.map(|(_, high)| high)).collect::<Vec<_>>();
    let values = table.rows.iter().flat_map(of_row);
    values.filter(|value| value.is_finite()).fold(f64::MIN_POSITIVE, f64::max)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

//! The plan as a mermaid flowchart.

use std::fmt::Write as _;

use super::Plan;

impl Plan {
    /// A mermaid `flowchart`, as GitHub and GitLab draw it.
    pub fn to_mermaid(&self) -> String {
        let mut text = "flowchart TD\n".to_owned();
        for index in self.graph.node_indices() {
            let node = &self.graph[index];
            let label = escape(&node.id);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "    n{}[\"{label}<br/><i>{}</i>\"]", index.index(), node.kind.name);
        }
        for index in self.graph.node_indices() {
            for next in self.downstream(index) {
                let _ = writeln!(text, "    n{} --> n{}", index.index(), next.index());
            }
        }
        text
    }
}

/// Mermaid reads `#code;` entities inside quoted labels.
fn escape(label: &str) -> String {
    let mut text = String::new();
    for c in label.chars() {
        if c.is_alphanumeric() || " _=.,+-".contains(c) {
            text.push(c);
        } else {
            let _ = write!(text, "#{};", u32::from(c));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn brackets_and_quotes_become_entities() {
        assert_eq!(super::escape("a[b=\"1\"]<x>"), "a#91;b=#34;1#34;#93;#60;x#62;");
    }
}

//! The plan as a Graphviz digraph.

use std::fmt::Write as _;

use super::Plan;

impl Plan {
    /// A `digraph` for `dot`.
    pub fn to_dot(&self) -> String {
        let mut text = format!("digraph {} {{\n    node [shape=box];\n", quote(&self.recipe_name));
        for index in self.graph.node_indices() {
            let node = &self.graph[index];
            let label = quote(&format!("{}\n{}", node.id, node.kind.name));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "    n{} [label={label}];", index.index());
        }
        for index in self.graph.node_indices() {
            for next in self.downstream(index) {
                let _ = writeln!(text, "    n{} -> n{};", index.index(), next.index());
            }
        }
        text.push_str("}\n");
        text
    }
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn quotes_are_escaped() {
        assert_eq!(super::quote("a\"b\\\nc"), r#""a\"b\\\nc""#);
    }
}

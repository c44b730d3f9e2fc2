//! Whether two Python-style expressions have the same value: what the reference asks sympy.
//!
//! Reads numbers, names, `+ - * / **`, brackets, `pi`, `E` and some functions of one argument, at
//! most 400 characters of them. Without names, values may differ by 1e-3. With names, both sides are
//! compared at fixed points: equal there to 1e-9 is equal. So nothing is proved, and nothing hangs;
//! what sympy would also read (sets, comparisons, complex numbers, any other function) is unequal
//! here.

use std::collections::BTreeMap;

use super::equal::is_close;

/// Longer texts are prose.
const MAX_LENGTH: usize = 400;
/// Also bounds the recursion.
const MAX_DEPTH: usize = 64;
const CONSTANTS: f64 = 1e-3;
const IDENTITIES: f64 = 1e-9;
/// Of both signs, and in no simple relation to each other.
const POINTS: [f64; 6] = [0.731_52, 1.913_7, 2.648_1, -0.437_9, -1.283_3, 3.507_3];
/// Words that are no names to sympy or Python.
const RESERVED: [&str; 16] =
    ["I", "N", "O", "Q", "S", "oo", "zoo", "nan", "and", "or", "not", "in", "is", "if", "else", "lambda"];

/// Whether both are expressions of the same value.
pub(super) fn are_equal(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (Expression::parse(a), Expression::parse(b)) else { return false };
    let mut names: Vec<&str> = a.names().chain(b.names()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        let (a, b) = (a.value(&BTreeMap::new()), b.value(&BTreeMap::new()));
        return a.is_finite() && b.is_finite() && is_close(a, b, CONSTANTS);
    }
    let mut defined = 0;
    let agree = (0..POINTS.len()).all(|shift| {
        let at: BTreeMap<&str, f64> = names
            .iter()
            .enumerate()
            .map(|(place, name)| (*name, POINTS[(place + shift) % POINTS.len()] + 0.1 * place as f64))
            .collect();
        let (a, b) = (a.value(&at), b.value(&at));
        defined += usize::from(a.is_finite() && b.is_finite());
        a.is_finite() == b.is_finite() && (!a.is_finite() || is_close(a, b, IDENTITIES))
    });
    agree && defined > 0
}

/// A parsed expression, as a program for a stack.
struct Expression(Vec<Op>);

enum Op {
    Number(f64),
    Name(String),
    Negate,
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
    Call(fn(f64) -> f64),
}

impl Expression {
    fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let mut parser = Parser { rest: text, out: Vec::new(), depth: 0 };
        parser.sum()?;
        parser.skip();
        parser.rest.is_empty().then_some(Self(parser.out))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|op| if let Op::Name(name) = op { Some(name.as_str()) } else { None })
    }

    /// NaN where it is not defined.
    fn value(&self, names: &BTreeMap<&str, f64>) -> f64 {
        let mut stack = Vec::new();
        for op in &self.0 {
            let mut pop = || stack.pop().unwrap_or(f64::NAN);
            let value = match op {
                Op::Number(value) => *value,
                Op::Name(name) => names.get(name.as_str()).copied().unwrap_or(f64::NAN),
                Op::Negate => -pop(),
                Op::Call(function) => function(pop()),
                Op::Add | Op::Subtract | Op::Multiply | Op::Divide | Op::Power => {
                    let (right, left) = (pop(), pop());
                    match op {
                        Op::Add => left + right,
                        Op::Subtract => left - right,
                        Op::Multiply => left * right,
                        Op::Divide => left / right,
                        _ => left.powf(right),
                    }
                }
            };
            stack.push(value);
        }
        stack.pop().unwrap_or(f64::NAN)
    }
}

/// Recursive descent in Python's precedence.
struct Parser<'t> {
    rest: &'t str,
    out: Vec<Op>,
    depth: usize,
}

impl Parser<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip();
        let found = self.rest.strip_prefix(token);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn sum(&mut self) -> Option<()> {
        self.product()?;
        loop {
            let op = if self.take("+") {
                Op::Add
            } else if self.take("-") {
                Op::Subtract
            } else {
                return Some(());
            };
            self.product()?;
            self.out.push(op);
        }
    }

    fn product(&mut self) -> Option<()> {
        self.signed()?;
        loop {
            self.skip();
            let op = if !self.rest.starts_with("**") && self.take("*") {
                Op::Multiply
            } else if !self.rest.starts_with("//") && self.take("/") {
                Op::Divide
            } else {
                return Some(());
            };
            self.signed()?;
            self.out.push(op);
        }
    }

    /// A sign binds less than `**` on its right, more than `*`.
    fn signed(&mut self) -> Option<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        if self.take("-") {
            self.signed()?;
            self.out.push(Op::Negate);
        } else if self.take("+") {
            self.signed()?;
        } else {
            self.atom()?;
            if self.take("**") {
                self.signed()?;
                self.out.push(Op::Power);
            }
        }
        self.depth -= 1;
        Some(())
    }

    fn atom(&mut self) -> Option<()> {
        if self.take("(") {
            self.sum()?;
            return self.take(")").then_some(());
        }
        let part = |allowed: fn(char) -> bool, text: &str| -> usize {
            text.find(|c: char| !allowed(c)).unwrap_or(text.len())
        };
        let first = self.rest.chars().next()?;
        if first.is_ascii_digit() || first == '.' {
            let mut length = part(|c| c.is_ascii_digit() || c == '.', self.rest);
            let exponent = self.rest[length..].strip_prefix(['e', 'E']);
            if let Some(exponent) = exponent {
                let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                if digits.starts_with(|c: char| c.is_ascii_digit()) {
                    length = self.rest.len() - digits.len() + part(|c| c.is_ascii_digit(), digits);
                }
            }
            let (number, rest) = self.rest.split_at(length);
            self.rest = rest;
            self.out.push(Op::Number(number.parse().ok()?));
        } else if first.is_ascii_alphabetic() || first == '_' {
            let (name, rest) = self.rest.split_at(part(|c| c.is_ascii_alphanumeric() || c == '_', self.rest));
            self.rest = rest;
            if self.take("(") {
                let function = function(name)?;
                self.sum()?;
                self.out.push(Op::Call(function));
                return self.take(")").then_some(());
            }
            self.out.push(match name {
                "pi" => Op::Number(std::f64::consts::PI),
                "E" => Op::Number(std::f64::consts::E),
                name if RESERVED.contains(&name) || function(name).is_some() => return None,
                name => Op::Name(name.to_owned()),
            });
        } else {
            return None;
        }
        // Python has no implied product: `2x` and `2(3)` are no expressions.
        self.skip();
        let next = self.rest.chars().next();
        (!next.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '(' || c == '.')).then_some(())
    }
}

fn function(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "sqrt" => f64::sqrt,
        "cbrt" => f64::cbrt,
        "exp" => f64::exp,
        "log" | "ln" => f64::ln,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "abs" | "Abs" => f64::abs,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_compared_by_value() {
        for (a, b) in [
            ("x+1", "1+x"),
            ("-2**2", "-4"),
            ("2**-1", "0.5"),
            ("2**3**2", "512"),
            ("(x+y)**2", "x**2+2*x*y+y**2"),
            ("x/2", "0.5*x"),
            ("sqrt(8)", "2*sqrt(2)"),
            ("1e3", "1000"),
            ("- -3", "3"),
            ("pi/4", "atan(1)"),
        ] {
            assert!(are_equal(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("2x", "2*x"),
            ("x^2", "x*x"),
            ("x", "y"),
            ("x+1", "x+1.01"),
            ("1/0", "1/0"),
            ("sqrt(x**2)", "x"),
            ("sqrt", "sqrt"),
            ("2(3)", "6"),
            ("(1", "1"),
            ("1)", "1"),
            ("5 6", "56"),
            ("7//2", "3"),
            ("", ""),
            ("lambda", "lambda"),
        ] {
            assert!(!are_equal(a, b), "{a} {b}");
        }
        let deep = format!("{}1{}", "(".repeat(190), ")".repeat(190));
        assert!(!are_equal(&deep, "1"));
        assert!(!are_equal(&"-".repeat(399), "1"));
    }
}

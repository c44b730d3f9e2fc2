//! The order of the steps, and the circle when there is none.

use std::collections::{BTreeSet, VecDeque};

use super::links::Outline;
use crate::{diagnostic::Diagnostic, recipe::source::Sources};

/// The steps, each after those that it refers to.
pub(super) fn order(
    outlines: &[Outline<'_>],
    sources: &Sources,
    out: &mut Vec<Diagnostic>,
) -> Option<Vec<usize>> {
    let needs: Vec<BTreeSet<usize>> = outlines
        .iter()
        .map(|outline| outline.own.iter().flat_map(|(_, links)| links.all()).map(|(step, _)| *step).collect())
        .collect();
    let mut waiting: Vec<usize> = needs.iter().map(BTreeSet::len).collect();
    let mut users = vec![Vec::new(); outlines.len()];
    for (step, needed) in needs.iter().enumerate() {
        needed.iter().for_each(|needed| users[*needed].push(step));
    }
    let mut ready: VecDeque<usize> = (0..outlines.len()).filter(|step| waiting[*step] == 0).collect();
    let mut order = Vec::new();
    while let Some(step) = ready.pop_front() {
        order.push(step);
        for user in &users[step] {
            waiting[*user] -= 1;
            if waiting[*user] == 0 {
                ready.push_back(*user);
            }
        }
    }
    if order.len() == outlines.len() {
        return Some(order);
    }
    let done: BTreeSet<usize> = order.into_iter().collect();
    let mut told: BTreeSet<usize> = BTreeSet::new();
    for start in (0..outlines.len()).filter(|step| !done.contains(step)) {
        // One circle tells enough about the steps in it.
        if told.contains(&start) {
            continue;
        }
        if let Some(circle) = circle(start, &needs) {
            told.extend(circle.iter().copied());
            out.push(describe(&circle, outlines, sources));
        }
    }
    None
}

/// The shortest way from a step back to itself.
fn circle(start: usize, needs: &[BTreeSet<usize>]) -> Option<Vec<usize>> {
    let mut from = vec![None; needs.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(step) = queue.pop_front() {
        for next in &needs[step] {
            if *next == start {
                let mut path = vec![step];
                while let Some(before) = from[path[path.len() - 1]] {
                    path.push(before);
                }
                path.reverse();
                return Some(path);
            }
            if from[*next].is_none() {
                from[*next] = Some(step);
                queue.push_back(*next);
            }
        }
    }
    None
}

fn describe(circle: &[usize], outlines: &[Outline<'_>], sources: &Sources) -> Diagnostic {
    let id = |step: usize| format!("`{}`", outlines[step].step.id);
    let first = circle[0];
    let next = circle[1 % circle.len()];
    let links = outlines[first].own.iter().flat_map(|(_, links)| links.all());
    let place = links.filter(|(step, _)| *step == next).map(|(_, span)| *span).next();
    let place = place.unwrap_or(outlines[first].step.id_span);
    let message = if circle.len() == 1 {
        format!("step {} needs itself", id(first))
    } else {
        let names: Vec<String> = circle.iter().chain([&first]).map(|step| id(*step)).collect();
        format!("the steps need each other in a circle: {}", names.join(" -> "))
    };
    sources.at(place, message).hint("remove one of these references")
}

//! Where the rows of a pass lie in a cache, and what a device makes of that.

use std::{
    any::Any,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

/// Where a row's keys and values lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of its oldest tokens, which it shares with other rows: slot, and how many of its tokens.
    pub shared: Vec<(usize, usize)>,
    /// The row's own slot.
    pub slot: usize,
    /// Tokens already there.
    pub past: usize,
}

/// One for each row of a pass. Devices keep here what all layers of the pass need, such as masks.
#[derive(Debug)]
pub(crate) struct Places {
    rows: Vec<Place>,
    /// For each kind of window.
    made: Mutex<Vec<(Option<usize>, Made)>>,
}

type Made = Arc<dyn Any + Send + Sync>;

impl Places {
    pub(crate) fn new(rows: Vec<Place>) -> Arc<Self> {
        Arc::new(Self { rows, made: Mutex::default() })
    }

    /// What `make` gives for layers with this window, made by the first of them.
    pub(super) fn once<T: Any + Send + Sync>(
        &self,
        window: Option<usize>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_window = made.iter().filter(|(of, _)| *of == window);
        if let Some(found) = of_window.find_map(|(_, made)| Arc::clone(made).downcast().ok()) {
            return found;
        }
        let new = Arc::new(make());
        made.push((window, Arc::clone(&new) as Made));
        new
    }
}

impl Deref for Places {
    type Target = [Place];

    fn deref(&self) -> &[Place] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_makes_a_thing_once_for_each_window() {
        let places = Places::new(Vec::new());
        let mut made = 0;
        for window in [None, Some(3), None, Some(3), Some(4)] {
            let found = places.once(window, || {
                made += 1;
                (window, made)
            });
            assert_eq!(found.0, window);
        }
        assert_eq!(made, 3);
        assert_eq!(*places.once(None, || "of another type"), "of another type");
    }
}

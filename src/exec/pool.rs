//! The worker processes of a run. A step has one to itself while it runs; after that it is kept for the
//! next, so that evaluations which follow each other load their base once. Commands share one, which
//! only starts them.

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;

use super::{process::Process, slots::Cards};
use crate::{
    digest::Digest,
    steps::{Input, takes_the_memory},
};

/// All worker processes of a run; they end with it.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Option<Arc<Process>>>,
}

struct Idle {
    process: Process,
    /// All that it ever had: what it computed on holds memory of it until it ends.
    cards: Cards,
    /// The base that it holds.
    kept: Option<Digest>,
}

/// A process that works for a step.
pub(super) struct Taken {
    pub(super) process: Process,
    /// All that it ever had, with those of this step.
    cards: Cards,
}

/// What a step wants of its process.
pub(super) struct Wish<'a> {
    pub(super) kind: &'a str,
    pub(super) cards: &'a Cards,
    pub(super) inputs: &'a BTreeMap<String, Arc<Input>>,
    pub(super) log: &'a Path,
}

impl Pool {
    /// A process for one step.
    ///
    /// # Errors
    /// When none can be started.
    pub(super) fn take(&self, wish: &Wish) -> anyhow::Result<Taken> {
        let mut ended = Vec::new();
        let chosen = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let in_the_way = |idle: &Idle| takes_the_memory(wish.kind) && idle.kept.is_some();
            ended.extend(idle.extract_if(.., |idle| !idle.process.is_alive() || in_the_way(idle)));
            let usable = idle.iter().enumerate().filter(|(_, idle)| idle.cards.visible == wish.cards.visible);
            let best = usable.min_by_key(|(_, idle)| match &idle.kept {
                Some(kept) if wish.inputs.values().any(|input| input.find(kept).is_some()) => 0,
                None => 1,
                Some(_) => 2,
            });
            let best = best.map(|(at, _)| at);
            let chosen = best.map(|at| idle.swap_remove(at));
            ended.extend(idle.extract_if(.., |idle| idle.cards.overlap(wish.cards)));
            chosen
        };
        drop(ended);
        match chosen {
            Some(idle) => Ok(Taken { process: idle.process, cards: wish.cards.clone().with(&idle.cards) }),
            None => {
                let early = File::options().create(true).append(true).open(wish.log);
                let early = early.context("cannot make the log")?;
                let process = Process::own(wish.cards.visible.as_deref(), early)?;
                Ok(Taken { process, cards: wish.cards.clone() })
            }
        }
    }

    /// Keeps a process for the next step of its kind. One that has trained ends instead, which gives all
    /// its memory back.
    pub(super) fn put_back(&self, taken: Taken, kind: &str, kept: Option<Digest>) {
        if !takes_the_memory(kind) {
            let Taken { process, cards } = taken;
            let idle = Idle { process, cards, kept };
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
        }
    }

    /// The process that starts commands.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn shared(&self) -> anyhow::Result<Arc<Process>> {
        self.make_room_for_commands();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shared {
            Some(process) if process.is_alive() => Ok(Arc::clone(process)),
            _ => Ok(Arc::clone(shared.insert(Arc::new(Process::shared()?)))),
        }
    }

    fn make_room_for_commands(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let ended: Vec<Idle> = idle.extract_if(.., |idle| idle.kept.is_some()).collect();
        drop(idle);
        drop(ended);
    }
}

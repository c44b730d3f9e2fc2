//! What the machine has to hand out, and who has it.

use std::{collections::BTreeSet, fs};

use crate::{
    env,
    error::hinted,
    key::StepKey,
    params::DeviceName,
    plan::{Resources, StepNode},
};

/// What a run may use of the machine.
#[derive(Debug, Clone)]
pub struct Capacity {
    /// Processor cores.
    pub cpus: u32,
    /// Bytes of memory.
    pub mem: u64,
    /// The graphics cards, as `CUDA_VISIBLE_DEVICES` names them.
    pub gpus: Vec<String>,
}

impl Capacity {
    /// What is asked for, and where nothing is, what this machine has.
    pub fn of(asked: &Resources) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        Self {
            cpus: asked.cpus.unwrap_or_else(cores),
            mem: asked.mem.unwrap_or_else(memory),
            gpus: cards(asked.gpu),
        }
    }

    /// What a step takes.
    ///
    /// # Errors
    /// When it can never run here.
    pub(super) fn demand(
        &self,
        node: &StepNode,
        key: &StepKey,
        memory: Option<u64>,
    ) -> anyhow::Result<Demand> {
        self.check_cards(node)?;
        let computes_on_card = key.params.get("device").is_some_and(|class| class == "libtorch:cuda");
        let named = || match serde_json::from_value(node.params.get("device")?.clone()).ok()? {
            DeviceName::LibTorchCuda(index) => Some(index),
            _ => None,
        };
        let cards = match node.resources.gpu {
            Some(count) => Wanted::Any(count as usize),
            // Without slots to hand out, the step finds its card itself.
            None if !computes_on_card || self.gpus.is_empty() => Wanted::Any(0),
            None => named().filter(|index| *index < self.gpus.len()).map_or(Wanted::Any(1), Wanted::This),
        };
        // The estimate is of the device's memory, which is the machine's only where the CPU computes.
        let estimate = memory.filter(|_| !computes_on_card).unwrap_or(0);
        let (asked_cpus, mem) = (node.resources.cpus, node.resources.mem.unwrap_or(estimate));
        let cpus = asked_cpus.unwrap_or_else(|| self.default_cpus(node, &cards));
        let mut alone = Vec::new();
        if cpus > self.cpus {
            alone.push(format!("{cpus} processor cores, of which there are {}", self.cpus));
        }
        if mem > self.mem {
            alone.push(format!("{} of memory, of which there are {}", gib(mem), gib(self.mem)));
        }
        let alone = (!alone.is_empty()).then(|| alone.join(", and "));
        Ok(Demand { cpus: cpus.min(self.cpus), mem: mem.min(self.mem), cards, alone })
    }

    /// # Errors
    /// When a step asks for more cards than there are.
    pub(super) fn check_cards(&self, node: &StepNode) -> anyhow::Result<()> {
        let (wanted, there) = (node.resources.gpu.unwrap_or(0) as usize, self.gpus.len());
        if wanted > there {
            return Err(hinted(
                format!("step `{}` asks for `gpu: {wanted}`, and there are {there}", node.id),
                format!("ask for fewer, or say what there is: `--resources gpu={wanted}`"),
            ));
        }
        Ok(())
    }

    /// One core, or all where the work is known to use them; work on a card leaves the cores of the
    /// other cards alone.
    fn default_cpus(&self, node: &StepNode, cards: &Wanted) -> u32 {
        let heavy = matches!(node.kind.name, "pretrain" | "train" | "eval");
        let share = |count: usize| (self.cpus as usize * count / self.gpus.len().max(1)).max(1) as u32;
        match cards {
            _ if !heavy => 1,
            Wanted::Any(0) => self.cpus,
            Wanted::Any(count) => share(*count),
            Wanted::This(_) => share(1),
        }
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// The machine's memory, or what its control group may use.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    let machine = info.totalram.saturating_mul(u64::from(info.mem_unit));
    let limit =
        fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    limit.map_or(machine, |limit: u64| limit.min(machine))
}

/// The first `count` cards, or all. Their files are counted, since asking the driver takes seconds; a
/// count that the user gives is believed.
fn cards(count: Option<u32>) -> Vec<String> {
    // Set to nothing it hides all of them.
    let visible = std::env::var_os(env::CUDA_VISIBLE_DEVICES);
    let mut names = match &visible {
        Some(list) => listed(&list.to_string_lossy()),
        None => {
            let files = fs::read_dir("/dev").into_iter().flatten().flatten();
            let number = |name: String| name.strip_prefix("nvidia")?.parse::<u32>().ok();
            let found = files.filter_map(|file| number(file.file_name().into_string().ok()?)).count();
            (0..found).map(|index| index.to_string()).collect()
        }
    };
    if let Some(count) = count {
        names.truncate(count as usize);
        let more = names.len()..count as usize;
        names.extend(more.map(|index| index.to_string()));
    }
    names
}

/// The cards of a list. As for CUDA, it ends where it names none.
fn listed(list: &str) -> Vec<String> {
    let names = list.split(',').map(str::trim);
    names.take_while(|name| !matches!(*name, "" | "-1" | "none")).map(str::to_owned).collect()
}

/// What one step takes.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    cpus: u32,
    mem: u64,
    cards: Wanted,
    /// What it asks for beyond what there is. It runs while nothing else does.
    pub(super) alone: Option<String>,
}

/// Cards that a step wants.
#[derive(Debug, Clone)]
enum Wanted {
    Any(usize),
    /// The recipe names one.
    This(usize),
}

/// Cards that a step has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cards {
    places: BTreeSet<usize>,
    /// `CUDA_VISIBLE_DEVICES`, where the step is to see these alone.
    pub(super) visible: Option<String>,
}

impl Cards {
    /// These, and those that were had before.
    pub(super) fn with(mut self, before: &Self) -> Self {
        self.places.extend(&before.places);
        self
    }

    pub(super) fn overlap(&self, other: &Self) -> bool {
        !self.places.is_disjoint(&other.places)
    }
}

/// What a running step holds.
#[derive(Debug)]
pub(super) struct Grant {
    cpus: u32,
    mem: u64,
    pub(super) cards: Cards,
    alone: bool,
}

/// What is free at the moment.
#[derive(Debug)]
pub(super) struct Slots<'c> {
    capacity: &'c Capacity,
    cpus: u32,
    mem: u64,
    cards: BTreeSet<usize>,
    steps: usize,
    alone: bool,
}

/// What steps of higher priority wait for; those of lower priority must not take it from them.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    cpus: bool,
    mem: bool,
    cards: bool,
    everything: bool,
}

impl<'c> Slots<'c> {
    pub(super) fn new(capacity: &'c Capacity) -> Self {
        let Capacity { cpus, mem, gpus } = capacity;
        let cards = (0..gpus.len()).collect();
        Self { capacity, cpus: *cpus, mem: *mem, cards, steps: 0, alone: false }
    }

    /// Takes what a step needs, or reserves what it lacks.
    pub(super) fn take(&mut self, demand: &Demand, reserved: &mut Reserved) -> Option<Grant> {
        let alone = demand.alone.is_some();
        let cards = self.choose(&demand.cards);
        let lacks = Reserved {
            cpus: demand.cpus > self.cpus || (demand.cpus > 0 && reserved.cpus),
            mem: demand.mem > self.mem || (demand.mem > 0 && reserved.mem),
            cards: cards.is_none()
                || (cards.as_ref().is_some_and(|cards| !cards.is_empty()) && reserved.cards),
            everything: reserved.everything || self.alone || (alone && self.steps > 0),
        };
        let Some(places) = cards.filter(|_| !lacks.any()) else {
            reserved.cpus |= lacks.cpus;
            reserved.mem |= lacks.mem;
            reserved.cards |= lacks.cards;
            reserved.everything |= lacks.everything;
            return None;
        };
        self.cpus -= demand.cpus;
        self.mem -= demand.mem;
        self.cards.retain(|place| !places.contains(place));
        self.steps += 1;
        self.alone = alone;
        // One that the recipe names is found under that name among all.
        let visible = match &demand.cards {
            Wanted::Any(count) if *count > 0 => {
                let names: Vec<&str> = places.iter().map(|at| self.capacity.gpus[*at].as_str()).collect();
                Some(names.join(","))
            }
            _ => None,
        };
        Some(Grant { cpus: demand.cpus, mem: demand.mem, cards: Cards { places, visible }, alone })
    }

    /// What a step held.
    pub(super) fn give_back(&mut self, grant: Grant) {
        self.cpus += grant.cpus;
        self.mem += grant.mem;
        self.cards.extend(grant.cards.places);
        self.steps -= 1;
        self.alone &= !grant.alone;
    }

    fn choose(&self, wanted: &Wanted) -> Option<BTreeSet<usize>> {
        match wanted {
            Wanted::Any(count) if *count <= self.cards.len() => {
                Some(self.cards.iter().copied().take(*count).collect())
            }
            Wanted::This(place) if self.cards.contains(place) => Some(BTreeSet::from([*place])),
            _ => None,
        }
    }
}

impl Reserved {
    /// Whether nothing can start any more: every step takes a core.
    pub(super) fn all(&self) -> bool {
        self.everything || self.cpus
    }

    fn any(&self) -> bool {
        self.cpus || self.mem || self.cards || self.everything
    }
}

impl Grant {
    /// Names of the cards, for people.
    pub(super) fn card_names(&self, capacity: &Capacity) -> Vec<String> {
        self.cards.places.iter().map(|place| capacity.gpus[*place].clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity() -> Capacity {
        Capacity { cpus: 4, mem: 100, gpus: vec!["2".to_owned(), "5".to_owned()] }
    }

    fn demand(cpus: u32, mem: u64, cards: usize) -> Demand {
        Demand { cpus, mem, cards: Wanted::Any(cards), alone: None }
    }

    #[test]
    fn a_list_may_hide_cards() {
        assert_eq!(listed("2, GPU-a"), ["2", "GPU-a"]);
        assert_eq!(listed("0,-1,1"), ["0"]);
        for hidden in ["", " ", "-1", "none"] {
            assert_eq!(listed(hidden), [""; 0]);
        }
    }

    #[test]
    fn cards_go_to_one_step_each_under_their_own_names() {
        let capacity = capacity();
        let mut slots = Slots::new(&capacity);
        let mut take = |demand: &Demand| slots.take(demand, &mut Reserved::default());
        let first = take(&demand(1, 0, 1)).unwrap();
        let second = take(&demand(1, 0, 1)).unwrap();
        assert_eq!(first.cards.visible.as_deref(), Some("2"));
        assert_eq!(second.cards.visible.as_deref(), Some("5"));
        assert!(!first.cards.overlap(&second.cards));
        assert!(take(&demand(1, 0, 1)).is_none());
        assert_eq!(take(&demand(1, 0, 0)).unwrap().cards, Cards::default());
        slots.give_back(first);
        let named = Demand { cards: Wanted::This(1), ..demand(1, 0, 0) };
        assert!(slots.take(&named, &mut Reserved::default()).is_none(), "that very card is in use");
        slots.give_back(second);
        let grant = slots.take(&named, &mut Reserved::default()).unwrap();
        assert_eq!((grant.cards.visible.clone(), grant.card_names(&capacity)), (None, vec!["5".to_owned()]));
    }

    #[test]
    fn cards_that_were_had_before_count() {
        let cards = |place: usize| Cards { places: BTreeSet::from([place]), visible: None };
        let both = cards(1).with(&cards(0));
        assert!(both.overlap(&cards(0)) && both.overlap(&cards(1)) && !both.overlap(&cards(2)));
    }

    #[test]
    fn what_a_step_waits_for_is_not_taken_by_those_after_it() {
        let capacity = capacity();
        let mut slots = Slots::new(&capacity);
        let running = slots.take(&demand(2, 60, 0), &mut Reserved::default()).unwrap();
        let mut reserved = Reserved::default();
        assert!(slots.take(&demand(1, 50, 0), &mut reserved).is_none(), "there is not enough memory");
        assert!(slots.take(&demand(1, 10, 0), &mut reserved).is_none(), "memory is spoken for");
        assert!(slots.take(&demand(2, 0, 1), &mut reserved).is_some(), "nobody waits for cores and cards");
        slots.give_back(running);
        assert!(slots.take(&demand(1, 50, 0), &mut Reserved::default()).is_some());
    }

    #[test]
    fn a_step_that_asks_for_too_much_runs_alone() {
        let capacity = capacity();
        let mut slots = Slots::new(&capacity);
        let small = slots.take(&demand(1, 0, 0), &mut Reserved::default()).unwrap();
        let huge = Demand { alone: Some("more".to_owned()), ..demand(1, 1, 0) };
        let mut reserved = Reserved::default();
        assert!(slots.take(&huge, &mut reserved).is_none());
        assert!(slots.take(&demand(1, 0, 0), &mut reserved).is_none(), "it would never get its turn");
        slots.give_back(small);
        let huge = slots.take(&huge, &mut Reserved::default()).unwrap();
        assert!(slots.take(&demand(1, 0, 0), &mut Reserved::default()).is_none());
        slots.give_back(huge);
        assert!(slots.take(&demand(4, 100, 2), &mut Reserved::default()).is_some());
    }
}

//! What several verbs need: the plan, the cache, stdout, tables.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
};

use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::{
    cache::{Cache, Remote},
    cli::{Cli, RecipeArgs, SelectionArgs},
    env,
    error::{Error, hinted},
    exec::{self, NodeStatus},
    hub::LockFile,
    plan::{self, Plan, Selection},
    recipe,
};

/// Reads a recipe and makes its plan, with the commits of its lock file.
pub(super) fn planned(recipe: &Path, sets: &[String]) -> Result<Plan, Error> {
    let mut plan = plan::build(&recipe::load(recipe, sets)?)?;
    if plan.wants_pins() {
        plan.pin(&LockFile::of_recipe(&plan.recipe_path).map_err(Error::Usage)?.commits);
    }
    Ok(plan)
}

pub(super) fn cache_root(cli: &Cli) -> Result<PathBuf, Error> {
    cli.cache.cache_dir.clone().or_else(env::cache_dir).ok_or_else(|| {
        let hint = format!("set --cache-dir or {}", env::CACHE_DIR);
        Error::Usage(hinted("there is no home folder to keep the cache in", hint))
    })
}

/// The cache with its remote, as the command line and the environment say.
pub(super) fn open_cache(cli: &Cli) -> Result<Cache, Error> {
    let open = || -> anyhow::Result<Cache> {
        let cache = Cache::open(&cache_root(cli)?, cli.cache.cache_mode)?;
        let remote = match &cli.cache.remote {
            Some(address) if !address.is_empty() => Remote::open(address, cli.cache.remote_mode)?,
            _ => None,
        };
        Ok(cache.with_remote(remote))
    };
    let cache = open().map_err(Error::Usage)?;
    warn(&cache);
    Ok(cache)
}

/// Shows what went wrong with the cache.
pub(super) fn warn(cache: &Cache) {
    cache.take_warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
}

/// The nodes that `--force` names; `*` is all of them.
pub(super) fn named_or_all(plan: &Plan, names: &[String]) -> Result<BTreeSet<NodeIndex>, Error> {
    let mut nodes = BTreeSet::new();
    for name in names {
        match name.as_str() {
            "*" => nodes.extend(plan.graph.node_indices()),
            name => nodes.extend(plan.named(name)?),
        }
    }
    Ok(nodes)
}

pub(super) fn selection(args: &SelectionArgs) -> Selection {
    Selection { only: args.only.clone(), from: args.from.clone(), until: args.until.clone() }
}

/// A plan, its cache, and the state of every node.
pub(super) struct Survey {
    pub(super) plan: Plan,
    pub(super) cache: Cache,
    nodes: Vec<(NodeIndex, NodeStatus)>,
    selected: BTreeSet<NodeIndex>,
}

impl Survey {
    pub(super) fn of(cli: &Cli, recipe: &RecipeArgs) -> Result<Self, Error> {
        Self::made(cli, recipe, &Selection::default(), &[])
    }

    /// Of the selected nodes alone, forced ones running whatever is cached.
    pub(super) fn under(cli: &Cli, recipe: &RecipeArgs, args: &SelectionArgs) -> Result<Self, Error> {
        Self::made(cli, recipe, &selection(args), &args.force)
    }

    fn made(cli: &Cli, recipe: &RecipeArgs, selection: &Selection, forced: &[String]) -> Result<Self, Error> {
        let plan = planned(&recipe.recipe, &recipe.set)?;
        let cache = open_cache(cli)?;
        let nodes = exec::status(&plan, &cache, &named_or_all(&plan, forced)?)?;
        warn(&cache);
        let selected = plan.select(selection)?;
        Ok(Self { plan, cache, nodes, selected })
    }

    /// Every selected node, each after those that it needs.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeStatus> {
        self.states().map(|(_, node)| node)
    }

    /// As [`Self::nodes`], with their places in the plan.
    pub(super) fn states(&self) -> impl Iterator<Item = &(NodeIndex, NodeStatus)> {
        self.nodes.iter().filter(|(index, _)| self.selected.contains(index))
    }

    /// Those of the whole plan.
    pub(super) fn all_states(&self) -> &[(NodeIndex, NodeStatus)] {
        &self.nodes
    }

    /// The step kind of every selected node, in the same order.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.states().map(|(index, _)| self.plan.graph[*index].kind.name)
    }

    /// Whether the commit of one of the node's hub sources is not known yet.
    pub(super) fn lacks_a_pin(&self, node: &NodeStatus) -> bool {
        self.plan.find(&node.step).is_some_and(|index| self.plan.graph[index].unpinned().is_some())
    }

    /// The nodes that a name on the command line means.
    pub(super) fn named(&self, name: &str) -> Result<Vec<&NodeStatus>, Error> {
        let wanted = self.plan.named(name)?;
        Ok(self.states().filter(|(index, _)| wanted.contains(index)).map(|(_, node)| node).collect())
    }
}

/// Prints results. A closed pipe is an error that ends the program quietly.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Error::Other(error.into()))
}

pub(super) fn print_json(value: &impl Serialize) -> Result<(), Error> {
    print(&(serde_json::to_string_pretty(value).map_err(|error| Error::Other(error.into()))? + "\n"))
}

/// Columns padded to their widest cell; the last is left as it is.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let padding = if column + 1 == row.len() { 0 } else { widths[column] - cell.chars().count() };
            format!("{cell}{}", " ".repeat(padding))
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

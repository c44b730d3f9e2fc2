//! The command line: clap types and their help texts, no logic.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{exec, plan::Resources};

const RECIPE: &str = "recipe.yaml";

/// Train a PEFT adapter once on an old base and carry it to the updated base (Trans-PEFT), as a
/// reproducible pipeline described in one YAML recipe.
///
/// Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 a step failed, 2 the
/// command line or the recipe is wrong, 3 a lock was not free in time, 4 a selection matches no
/// step, 5 `plan --check` found steps that would run, 6 the cache is damaged, 70 a defect of
/// evergraft, 129/130/143 stopped by SIGHUP/SIGINT/SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "evergraft", version, after_help = "Example:\n  evergraft run recipes/quickstart.yaml")]
pub struct Cli {
    /// Work as if started in this folder.
    #[arg(short = 'C', long = "directory", value_name = "DIR", global = true)]
    pub directory: Option<PathBuf>,
    /// The cache folder [default: $EVERGRAFT_CACHE_DIR, $XDG_CACHE_HOME/evergraft or ~/.cache/evergraft].
    #[arg(long, value_name = "DIR", global = true)]
    pub cache_dir: Option<PathBuf>,
    /// Print warnings, errors and results only.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a recipe: steps whose results are in the cache are not run again.
    #[command(
        after_help = "Examples:\n  evergraft run recipes/quickstart.yaml\n  evergraft run recipe.yaml --set params.pc=0.1 --set 'params.seeds=[1,2]'\n  evergraft run recipe.yaml --until train -j 2\n  evergraft run recipe.yaml --resources gpu=2,mem=40G -k"
    )]
    Run(RunArgs),
    /// Check a recipe without running anything.
    #[command(visible_alias = "validate", after_help = "Example:\n  evergraft check recipe.yaml")]
    Check(RecipeArgs),
    /// Tell what would run, what is cached, and why.
    #[command(
        after_help = "Examples:\n  evergraft plan recipe.yaml\n  evergraft plan recipe.yaml --check     # exit code 5 if anything would run"
    )]
    Plan(PlanArgs),
    /// Show field by field how a step's key differs from the last one.
    #[command(after_help = "Example:\n  evergraft explain train -f recipe.yaml --set params.pc=0.3")]
    Explain(StepArgs),
    /// Draw the steps and their edges.
    #[command(
        after_help = "Examples:\n  evergraft graph recipe.yaml --format mermaid\n  evergraft graph recipe.yaml --format dot | dot -Tsvg > graph.svg"
    )]
    Graph(GraphArgs),
    /// Print the log of a step's result.
    #[command(after_help = "Example:\n  evergraft log 'train[method=lora,seed=1]' -f recipe.yaml")]
    Log(StepSelector),
    /// List the devices that this program can compute on here, the best first.
    #[command(after_help = "Example:\n  evergraft devices")]
    Devices(DevicesArgs),
    /// Print the JSON Schema of recipes, or of task files, for editors.
    #[command(
        after_help = "Example:\n  evergraft schema > recipe.schema.json\n  # then begin recipes with: # yaml-language-server: $schema=recipe.schema.json"
    )]
    Schema(SchemaArgs),
    /// List the steps with their results' folders.
    #[command(after_help = "Example:\n  evergraft ls recipe.yaml")]
    Ls(ListArgs),
    /// Run steps that `run` orders on stdin.
    #[command(name = exec::VERB, hide = true)]
    StepWorker,
    /// Look at the cache, or empty it.
    #[command(subcommand, after_help = "Examples:\n  evergraft cache size\n  evergraft cache verify")]
    Cache(CacheCommand),
}

/// Which recipe.
#[derive(Debug, Clone, Args)]
pub struct RecipeArgs {
    /// The recipe.
    #[arg(default_value = RECIPE)]
    pub recipe: PathBuf,
    /// Change a value: a dotted path, then a value as YAML would read it. May be repeated.
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Steps at the same time [default: number of processor cores].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: Option<u32>,
    /// What there is to hand out, e.g. `gpu=2,mem=40G,cpus=8` [default: what this machine has].
    #[arg(long, value_name = "LIST")]
    pub resources: Option<Resources>,
    /// Go on with steps that do not need a failed one.
    #[arg(short, long)]
    pub keep_going: bool,
    /// Only tell what would run, as `plan` does.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Run these steps whatever is cached; without a name, all.
    #[arg(long, value_name = "STEP", num_args = 0..=1, require_equals = true, default_missing_value = "*")]
    pub force: Vec<String>,
    /// These steps alone; what they need must be cached.
    #[arg(long, value_name = "STEP")]
    pub only: Vec<String>,
    /// These steps and all that need them.
    #[arg(long, value_name = "STEP")]
    pub from: Vec<String>,
    /// These steps and all that they need.
    #[arg(long, value_name = "STEP")]
    pub until: Vec<String>,
    /// Ask the hub again which commits the `hf://` sources are, and write them into the lock file.
    #[arg(long)]
    pub update_lock: bool,
    /// Seconds to wait for a lock [default: as long as its owner lives].
    #[arg(long, value_name = "SECONDS")]
    pub lock_timeout: Option<u64>,
    /// Parent of the run folders.
    #[arg(long, value_name = "DIR", default_value = "outputs")]
    pub outputs: PathBuf,
    /// Output form; json is one event a line.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// End with code 5 if a step would run.
    #[arg(long)]
    pub check: bool,
    /// Output form.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `explain`.
#[derive(Debug, Args)]
pub struct StepArgs {
    /// Which step.
    #[command(flatten)]
    pub step: StepSelector,
    /// Output form.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// A step of a recipe.
#[derive(Debug, Args)]
pub struct StepSelector {
    /// A step (all its cells) or one cell, e.g. `train[seed=1]`.
    pub step: String,
    /// The recipe.
    #[arg(short = 'f', long, default_value = RECIPE)]
    pub recipe: PathBuf,
    /// Change a value, as for `run`.
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

/// `graph`.
#[derive(Debug, Args)]
pub struct GraphArgs {
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Drawing language.
    #[arg(long, value_enum, default_value_t)]
    pub format: GraphFormat,
}

/// `ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Output form.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Output form.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `cache ...`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Print the cache's folder.
    #[command(after_help = "Example: evergraft cache dir")]
    Dir,
    /// Count results and bytes.
    #[command(after_help = "Example: evergraft cache size --format json")]
    Size {
        /// Output form.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Read everything again and compare it with its digests; exit code 6 if something differs.
    #[command(after_help = "Example: evergraft cache verify")]
    Verify {
        /// Output form.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove everything, or what unfinished steps left.
    #[command(after_help = "Example: evergraft cache clean --checkpoints")]
    Clean {
        /// Remove only the checkpoints of steps that were stopped; they start over then.
        #[arg(long)]
        checkpoints: bool,
        /// Seconds to wait for those who use it [default: as long as they live].
        #[arg(long, value_name = "SECONDS")]
        lock_timeout: Option<u64>,
    },
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Which files.
    #[arg(value_enum, default_value_t)]
    pub of: SchemaOf,
}

/// Kinds of files with a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum SchemaOf {
    /// Recipes.
    #[default]
    Recipe,
    /// Task files of an evaluation.
    Task,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

/// How a graph is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum GraphFormat {
    /// For markdown.
    #[default]
    Mermaid,
    /// For Graphviz.
    Dot,
    /// The whole plan, for scripts.
    Json,
}

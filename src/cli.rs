//! The command line: clap types and their help texts, no logic.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{cache::Mode, env, exec, plan::Resources, units};

const RECIPE: &str = "recipe.yaml";
const OUTPUTS: &str = "outputs";

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
    /// Which caches.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Print warnings, errors and results only.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where results are looked for and kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// The cache folder [default: $EVERGRAFT_CACHE_DIR, $XDG_CACHE_HOME/evergraft or ~/.cache/evergraft].
    #[arg(long, value_name = "DIR", global = true)]
    pub cache_dir: Option<PathBuf>,
    /// What the cache folder is used for. What must not be kept there lies in the run's folder.
    #[arg(long, value_enum, value_name = "MODE", default_value_t, global = true)]
    pub cache_mode: Mode,
    /// A cache that other machines share: s3://bucket/folder, gs://..., az://... or a path. Credentials
    /// come from the environment (AWS_ACCESS_KEY_ID, ...).
    #[arg(long, value_name = "URL", env = env::REMOTE, global = true)]
    pub remote: Option<String>,
    /// What the remote cache is used for.
    #[arg(long, value_enum, value_name = "MODE", default_value_t, env = env::REMOTE_MODE, global = true)]
    pub remote_mode: Mode,
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
    /// Show field by field how a step's key differs from its last one, and what before it led to that.
    #[command(
        after_help = "Examples:\n  evergraft explain train\n  evergraft explain 'train[seed=1]' recipe.yaml --set params.pc=0.3"
    )]
    Explain(ExplainArgs),
    /// Draw the steps and their edges.
    #[command(
        after_help = "Examples:\n  evergraft graph recipe.yaml --format mermaid\n  evergraft graph recipe.yaml --format dot | dot -Tsvg > graph.svg"
    )]
    Graph(GraphArgs),
    /// Print the log of a step's result, or of a step that runs now.
    #[command(
        after_help = "Examples:\n  evergraft log 'train[method=lora,seed=1]' recipe.yaml\n  evergraft log train --follow"
    )]
    Log(LogArgs),
    /// Tell what the newest run of a recipe is at, or came to, step by step.
    #[command(
        after_help = "Examples:\n  evergraft status recipe.yaml\n  evergraft status --run outputs/quickstart/latest --format json"
    )]
    Status(StatusArgs),
    /// Compare two runs: parameters, inputs and metrics of every step.
    #[command(after_help = "Example:\n  evergraft diff quickstart/20261125T220000000Z-17 quickstart/latest")]
    Diff(DiffArgs),
    /// Write a commented recipe to begin with, and its schema for editors.
    #[command(after_help = "Example:\n  evergraft init my-recipe.yaml")]
    Init(InitArgs),
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
    /// Which part of it.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Ask the hub again which commits the `hf://` sources are, and write them into the lock file.
    #[arg(long)]
    pub update_lock: bool,
    /// Seconds to wait for a lock [default: as long as its owner lives].
    #[arg(long, value_name = "SECONDS")]
    pub lock_timeout: Option<u64>,
    /// Parent of the run folders.
    #[arg(long, value_name = "DIR", default_value = OUTPUTS)]
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
    /// Which part of it.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// End with code 5 if a step would run.
    #[arg(long)]
    pub check: bool,
    /// Output form.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Which part of a recipe.
#[derive(Debug, Clone, Args)]
pub struct SelectionArgs {
    /// These steps alone; what they need must be cached.
    #[arg(long, value_name = "STEP")]
    pub only: Vec<String>,
    /// These steps and all that need them.
    #[arg(long, value_name = "STEP")]
    pub from: Vec<String>,
    /// These steps and all that they need.
    #[arg(long, value_name = "STEP")]
    pub until: Vec<String>,
    /// Run these steps whatever is cached; without a name, all.
    #[arg(long, value_name = "STEP", num_args = 0..=1, require_equals = true, default_missing_value = "*")]
    pub force: Vec<String>,
}

/// `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Which step.
    #[command(flatten)]
    pub step: StepSelector,
    /// Output form.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `log`.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Which step.
    #[command(flatten)]
    pub step: StepSelector,
    /// Show the log of a running step as it grows, until the step is over.
    #[arg(long)]
    pub follow: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// This run instead of the recipe's newest.
    #[arg(long, value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// Parent of the run folders.
    #[arg(long, value_name = "DIR", default_value = OUTPUTS)]
    pub outputs: PathBuf,
    /// Output form.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A run: its folder, or `<recipe>/<run>` below the parent of the run folders.
    #[arg(value_name = "RUN")]
    pub first: PathBuf,
    /// The run to compare it with.
    #[arg(value_name = "RUN")]
    pub second: PathBuf,
    /// Parent of the run folders.
    #[arg(long, value_name = "DIR", default_value = OUTPUTS)]
    pub outputs: PathBuf,
    /// Output form.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The file to write.
    #[arg(default_value = RECIPE)]
    pub recipe: PathBuf,
}

/// A step of a recipe.
#[derive(Debug, Args)]
pub struct StepSelector {
    /// A step (all its cells) or one cell, e.g. `train[seed=1]`.
    pub step: String,
    /// Which recipe.
    #[command(flatten)]
    pub recipe: RecipeArgs,
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
    #[command(after_help = "Examples:\n  evergraft cache verify\n  evergraft cache verify --repair")]
    Verify {
        /// Move what is damaged aside: its steps run again.
        #[arg(long)]
        repair: bool,
        /// Seconds to wait for those who use the cache, with --repair [default: as long as they live].
        #[arg(long, value_name = "SECONDS")]
        lock_timeout: Option<u64>,
        /// Output form.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove results by age, size, or because nothing leads to them. What a kept run needs stays, and
    /// runs at work are waited for.
    #[command(
        after_help = "Examples:\n  evergraft cache prune --older-than 30d --dry-run\n  evergraft cache prune --max-size 50G --unreachable"
    )]
    Prune(PruneArgs),
    /// Keep the results of a run, whatever `prune` is asked for; without a run, list those kept.
    #[command(after_help = "Example: evergraft cache keep quickstart/latest")]
    Keep(KeepArgs),
    /// Let `prune` remove the results of a kept run again.
    #[command(after_help = "Example: evergraft cache unkeep quickstart/latest")]
    Unkeep(KeepArgs),
    /// Remove everything, kept runs too, or what unfinished steps left.
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

/// `cache prune`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("rules").required(true).multiple(true)))]
pub struct PruneArgs {
    /// Results that were not used for so long: `30d`, `12h`.
    #[arg(long, value_name = "TIME", group = "rules", value_parser = time)]
    pub older_than: Option<Duration>,
    /// Those used least recently, until the cache is no larger: `50G`, `500M`.
    #[arg(long, value_name = "SIZE", group = "rules", value_parser = size)]
    pub max_size: Option<u64>,
    /// What no result leads to: leftovers of killed runs, damaged records, what `verify --repair` moved.
    #[arg(long, group = "rules")]
    pub unreachable: bool,
    /// Only tell what would go.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Seconds to wait for those who use the cache [default: as long as they live].
    #[arg(long, value_name = "SECONDS")]
    pub lock_timeout: Option<u64>,
    /// Output form.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `cache keep`, `cache unkeep`.
#[derive(Debug, Args)]
pub struct KeepArgs {
    /// A run: its folder, or `<recipe>/<run>` below the parent of the run folders.
    #[arg(value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// Parent of the run folders.
    #[arg(long, value_name = "DIR", default_value = OUTPUTS)]
    pub outputs: PathBuf,
}

fn time(text: &str) -> Result<Duration, String> {
    let seconds = units::seconds(text).filter(|seconds| (0.0..3.2e9).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected a time such as `30d`, `12h` or `90s`".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    let bytes = text.parse().ok().or_else(|| units::bytes(text));
    bytes.ok_or_else(|| "expected a size such as `50G`, `500M` or a number of bytes".to_owned())
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

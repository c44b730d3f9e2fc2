//! What a fuzz target does with one input. The regular test `hostile` does the same with every file
//! that was once found.
//!
//! Each function puts the input where a user's file would stand, reads it as evergraft does, and
//! gives the error. A panic, an endless loop or an allocation that no file's size bounds is a
//! finding; so is a file that is read as something else than it says (the assertions).

use std::{fs, path::Path};

use evergraft::{
    device::resolve,
    eval::Task,
    model::{
        BaseFolder, Decoder, HalvesOrder, ModelConfig, RandomWeights, SafetensorsWeights, SourceModel,
        Tokenizer, TokenizerFiles, WeightSource, expected_tensors, gguf::GgufFile, parameter_count,
    },
    params::{DeviceName, Dtype, TaskDefinition},
    peft::{Adapter, Merged},
    plan, recipe,
};
use serde_json::Value;

/// Reads one kind of file: the folder to work in, and the file's content.
pub type Entry = fn(&Path, &[u8]) -> anyhow::Result<()>;

/// Every kind, under the name of its target.
pub const ENTRIES: [(&str, Entry); 9] = [
    ("gguf", gguf),
    ("llama2c", llama2c),
    ("llama2c_tokenizer", llama2c_tokenizer),
    ("safetensors", safetensors),
    ("safetensors_index", safetensors_index),
    ("config_json", config_json),
    ("adapter_config", adapter_config),
    ("recipe", recipe),
    ("task", task),
];

const CONFIG: &[u8] = include_bytes!("../../fixtures/models/llama/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../fixtures/models/llama/model.safetensors");
const ADAPTER_WEIGHTS: &[u8] = include_bytes!("../../fixtures/models/llama-lora/adapter_model.safetensors");
const SHARD: &[u8] =
    include_bytes!("../../fixtures/models/llama-untied-sharded/model-00001-of-00003.safetensors");

/// A GGUF file as a model: header, tensors of every number format, configuration, tokenizer.
pub fn gguf(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let path = dir.join("model.gguf");
    fs::write(&path, bytes)?;
    let file = GgufFile::open(&path)?;
    for name in file.tensor_names() {
        let shape = file.tensor_shape(name).expect("it was listed");
        assert_eq!(file.load_tensor(name)?.len(), shape.iter().product::<usize>());
    }
    drop(file);
    // The configuration is read even where the tokenizer is wrong, and the other way round.
    let bare = SourceModel::open_without_tokenizer(&path);
    let whole = SourceModel::open_native(&path);
    let model = bare?;
    assert_eq!(ModelConfig::from_json(&model.config.to_json())?.to_json(), model.config.to_json());
    let (config, weights) = HalvesOrder::wrap(&model.config, model.weights);
    load_all(weights.as_ref(), &config)?;
    if let Some(files) = whole?.tokenizer {
        files.write(dir)?;
        Tokenizer::from_dir(dir)?.encode("Hello  world 12345 \u{e9}", true)?;
    }
    Ok(())
}

/// A llama2.c checkpoint, up to its weights.
pub fn llama2c(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let path = dir.join("model.bin");
    fs::write(&path, bytes)?;
    let model = SourceModel::open_native(&path)?.into_halves();
    load_all(model.weights.as_ref(), &model.config)
}

/// A tokenizer of llama2.c, for a model of 260 tokens.
pub fn llama2c_tokenizer(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let path = dir.join("tokenizer.bin");
    fs::write(&path, bytes)?;
    TokenizerFiles::from_llama2c(&path, 260)?.write(dir)?;
    Tokenizer::from_dir(dir)?.encode("Hello  world 12345 \u{e9}", true)?;
    Ok(())
}

fn load_all(weights: &dyn WeightSource, config: &ModelConfig) -> anyhow::Result<()> {
    for (name, shape) in expected_tensors(config) {
        assert_eq!(weights.load(&name)?.len(), shape.iter().product::<usize>());
    }
    Ok(())
}

/// One file of weights.
pub fn safetensors(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let path = dir.join("model.safetensors");
    fs::write(&path, bytes)?;
    let weights = SafetensorsWeights::open_file(&path)?;
    for name in weights.names() {
        let shape = weights.shape(&name).expect("it was listed");
        // Integers and the like are listed, but not read.
        if let Ok(values) = weights.load(&name) {
            assert_eq!(values.len(), shape.iter().product::<usize>());
        }
    }
    Ok(())
}

/// A list of shards, beside one that is whole.
pub fn safetensors_index(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(dir.join("model-00001-of-00003.safetensors"), SHARD)?;
    fs::write(dir.join("model.safetensors.index.json"), bytes)?;
    let weights = SafetensorsWeights::open_dir(dir)?;
    for name in weights.names() {
        weights.load(&name)?;
    }
    Ok(())
}

/// A `config.json`, alone and in a folder with weights.
pub fn config_json(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(dir.join("config.json"), bytes)?;
    fs::write(dir.join("model.safetensors"), WEIGHTS)?;
    let value = serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    if let Ok(config) = ModelConfig::from_json(&value) {
        assert!(parameter_count(&config) > 0 && config.max_positions() > 0);
        let again = ModelConfig::from_json(&config.to_json()).expect("what is written reads back");
        assert_eq!(again.to_json(), config.to_json());
        for layer in 0..config.num_hidden_layers {
            assert_eq!(again.window(layer), config.window(layer));
        }
    }
    let base = BaseFolder::open(dir)?;
    Decoder::load(&base.config, base.weights.as_ref(), &resolve(DeviceName::Flex)?, Dtype::F32)?;
    Ok(())
}

/// An `adapter_config.json` beside a LoRA adapter's weights, attached to a model and merged into it.
pub fn adapter_config(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(dir.join("adapter_config.json"), bytes)?;
    fs::write(dir.join("adapter_model.safetensors"), ADAPTER_WEIGHTS)?;
    Adapter::read(dir)?;
    let config = ModelConfig::from_json(&serde_json::from_slice::<Value>(CONFIG)?)?;
    let base = RandomWeights::new(config.clone(), 1);
    if let Ok(merged) = Merged::open(&config, &base, dir) {
        load_all(&merged, &config)?;
    }
    let mut model = Decoder::load(&config, &base, &resolve(DeviceName::Flex)?, Dtype::F32)?;
    Adapter::load(&mut model, dir)?;
    Ok(())
}

/// A recipe, up to the plan and what is printed of it.
pub fn recipe(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let path = dir.join("recipe.yaml");
    fs::write(&path, bytes)?;
    let plan = plan::build(&recipe::load(&path, &[])?)?;
    assert_eq!(plan.order().len(), plan.to_json().nodes.len());
    let json = serde_json::to_string(&plan.to_json())?;
    assert!(!json.is_empty() && !plan.to_dot().is_empty() && !plan.to_mermaid().is_empty());
    Ok(())
}

/// A task file, up to the plan; then a row is asked, whatever comes of it.
pub fn task(dir: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    const RECIPE: &str = "version: 1\nsteps:\n  o: { uses: base, with: { source: . } }\n  \
        d: { uses: dataset, with: { source: recipe.yaml, format: raw } }\n  \
        e: { uses: eval, with: { model: \"${{ steps.o }}\", tasks: [{ task: task.yaml, dataset: \"${{ steps.d }}\" }] } }\n";
    fs::write(dir.join("task.yaml"), bytes)?;
    let path = dir.join("recipe.yaml");
    fs::write(&path, RECIPE)?;
    let plan = plan::build(&recipe::load(&path, &[])?)?;
    let definitions = plan.graph.node_weights().map(|node| &node.params["tasks"][0]["definition"]);
    let definition = { definitions }.find(|definition| definition.is_object()).expect("a task is there");
    let task = Task::new(serde_json::from_value::<TaskDefinition>(definition.clone())?, None)?;
    let row = serde_json::json!({"question": "Why?", "answer": "a", "n": 1, "choices": ["a", "b"]});
    let ask = move || {
        let row = row.as_object().expect("a mapping");
        let _ = (task.question(row, &[row]), task.answer(row), task.answers("The answer is: 5 or a"));
    };
    // As the step does: what templates nest takes stack when it is dropped.
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(ask)?;
    assert!(thread.join().is_ok());
    Ok(())
}

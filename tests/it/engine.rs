//! Generation and log-likelihoods: what is computed for one sequence is computed for it in any company.

use std::cell::RefCell;

use burn::tensor::{Device, Tensor};
use evergraft::{
    eval::{Choices, GenerateOptions, Sampling, Score, generate, log_likelihoods, shared_prefix},
    model::{Decoder, TokenBatch, Untouched},
};

use crate::{devices::on_every_device, messages::known, tiny};

fn prompts(count: u32, prefix: u32) -> Vec<Vec<u32>> {
    let own = |n: u32| (0..1 + n * 5 % 9).map(move |at| (at * 7 + n * 3) % 40);
    (0..count).map(|n| (0..prefix).map(|at| at * 11 % 40).chain(own(n)).collect()).collect()
}

fn run(model: &Decoder, prompts: &[Vec<u32>], options: &GenerateOptions<'_>) -> Vec<Vec<u32>> {
    let mut out = vec![None; prompts.len()];
    generate(model, prompts, options, &mut || Ok(()), &mut |index, new| {
        assert!(out[index].replace(new.to_vec()).is_none(), "prompt {index} is done once");
        Ok(())
    })
    .unwrap();
    out.into_iter().map(|new| new.expect("every prompt is done")).collect()
}

fn alone(model: &Decoder, prompts: &[Vec<u32>], options: &GenerateOptions<'_>) -> Vec<Vec<u32>> {
    prompts.iter().map(|prompt| run(model, std::slice::from_ref(prompt), options).remove(0)).collect()
}

#[test]
fn neighbours_order_and_refilled_slots_change_nothing() {
    on_every_device(|device| {
        let model = tiny::decoder(2, device);
        // Lengths of continuations differ, so that slots become free at different times.
        let stop = |new: &[u32]| new.iter().sum::<u32>() % 5 == 0;
        for (prefix, stop) in [(0, &stop as &dyn Fn(&[u32]) -> bool), (9, &stop), (9, &|_: &[u32]| false)] {
            let prompts = prompts(11, prefix);
            let options = GenerateOptions { max_new_tokens: 12, stop, ..Default::default() };
            let expected = alone(&model, &prompts, &options);
            let lengths = expected.iter().map(Vec::len);
            assert!(prefix == 9 || lengths.clone().max() > lengths.clone().min(), "{expected:?}");
            for batch_size in [1, 2, 3, 7, 100] {
                let options = GenerateOptions { batch_size, ..options.clone() };
                assert_eq!(run(&model, &prompts, &options), expected, "batch size {batch_size}");
                let reversed: Vec<Vec<u32>> = prompts.iter().rev().cloned().collect();
                let mut found = run(&model, &reversed, &options);
                found.reverse();
                assert_eq!(found, expected, "batch size {batch_size}, reversed");
            }
        }
    });
}

#[test]
fn the_caller_and_end_tokens_end_sequences() {
    let model = tiny::decoder(2, &Device::flex());
    let prompt = &prompts(3, 0)[2..];
    let all = GenerateOptions { max_new_tokens: 10, ..Default::default() };
    let free = run(&model, prompt, &all).remove(0);
    assert_eq!(free.len(), 10);
    let asked = RefCell::new(Vec::new());
    let stop = |new: &[u32]| {
        asked.borrow_mut().push(new.to_vec());
        new.len() == 4
    };
    let stopped = run(&model, prompt, &GenerateOptions { stop: &stop, ..all.clone() }).remove(0);
    assert_eq!(stopped, free[..4]);
    assert_eq!(asked.into_inner(), (1..=4).map(|count| free[..count].to_vec()).collect::<Vec<_>>());
    let end = free[5];
    let ended = run(&model, prompt, &GenerateOptions { stop_token_ids: vec![end], ..all.clone() }).remove(0);
    let first = free.iter().position(|token| *token == end).unwrap();
    assert_eq!(ended, free[..first]);
    let none = run(&model, prompt, &GenerateOptions { max_new_tokens: 0, ..all });
    assert_eq!(none, [vec![0_u32; 0]]);
    assert!(run(&model, &[], &GenerateOptions::default()).is_empty());
}

#[test]
fn draws_depend_on_seed_and_prompt_alone() {
    on_every_device(|device| {
        let model = tiny::decoder(2, device);
        let prompts = prompts(6, 4);
        let sampled = |seed, batch_size| {
            let sampling = Some(Sampling { temperature: 1.5, top_k: 30, top_p: 0.95, seed });
            let options = GenerateOptions { max_new_tokens: 10, batch_size, sampling, ..Default::default() };
            run(&model, &prompts, &options)
        };
        let first = sampled(1, 1);
        assert_eq!(first, sampled(1, 4));
        assert_eq!(first, sampled(1, 6));
        assert_ne!(first, sampled(2, 4));
        let greedy = GenerateOptions { max_new_tokens: 10, ..Default::default() };
        assert_ne!(first, run(&model, &prompts, &greedy));
        let same = vec![prompts[0].clone(); 2];
        let sampling = Some(Sampling { temperature: 1.5, top_k: 0, top_p: 1.0, seed: 1 });
        let twice = run(&model, &same, &GenerateOptions { sampling, ..greedy });
        assert_eq!(twice[0], twice[1], "draws do not depend on a prompt's place");
    });
}

/// The same from one pass over the whole sequence.
fn plain_score(model: &Decoder, context: &[u32], continuation: &[u32]) -> Score {
    let ids: Vec<i32> = context.iter().chain(continuation).map(|id| *id as i32).collect();
    let hidden = model.hidden(&TokenBatch::rows(&[&ids]), None, &Untouched);
    let log_p: Tensor<2> = burn::tensor::activation::log_softmax(model.logits(hidden), 1);
    let log_p = log_p.into_data().try_to_vec::<f32>().unwrap();
    let rows = log_p.chunks(model.config.vocab_size).skip(context.len() - 1).zip(continuation);
    let mut score = Score { log_likelihood: 0.0, is_greedy: true };
    for (row, token) in rows {
        score.log_likelihood += f64::from(row[*token as usize]);
        score.is_greedy &= row.iter().all(|other| *other <= row[*token as usize]);
    }
    score
}

fn scores(model: &Decoder, items: &[Choices], batch_size: usize) -> Vec<Vec<Score>> {
    let mut out = vec![Vec::new(); items.len()];
    log_likelihoods(model, items, batch_size, None, &mut || Ok(()), &mut |index, scores| {
        out[index] = scores.to_vec();
        Ok(())
    })
    .unwrap();
    out
}

#[test]
fn log_likelihoods_are_those_of_whole_sequences() {
    on_every_device(|device| {
        let model = tiny::decoder(2, device);
        for prefix in [0, 7] {
            let mut items: Vec<Choices> = (prompts(9, prefix).into_iter().zip(0..))
                .map(|(context, n)| Choices {
                    context,
                    continuations: (0..n % 5)
                        .map(|c| (0..1 + c).map(|at| (at * 13 + c + n) % 40).collect())
                        .collect(),
                })
                .collect();
            // One that the model would say, and one that just fits.
            let said = run(
                &model,
                &[items[3].context.clone()],
                &GenerateOptions { max_new_tokens: 4, ..Default::default() },
            );
            items[3].continuations.extend(said);
            let left = model.max_positions() + 1 - items[4].context.len();
            items[4].continuations.push((0..left as u32).map(|at| at % 40).collect());
            let found = scores(&model, &items, 6);
            for (item, found) in items.iter().zip(&found) {
                assert_eq!(found.len(), item.continuations.len());
                for (continuation, found) in item.continuations.iter().zip(found) {
                    if item.context.len() + continuation.len() > model.max_positions() {
                        continue;
                    }
                    let plain = plain_score(&model, &item.context, continuation);
                    assert!(
                        (plain.log_likelihood - found.log_likelihood).abs() < 1e-4,
                        "{plain:?} {found:?}"
                    );
                    assert_eq!(plain.is_greedy, found.is_greedy);
                }
            }
            assert!(found[3].last().unwrap().is_greedy && !found[3][0].is_greedy, "{:?}", found[3]);
            for batch_size in [1, 100] {
                for (a, b) in scores(&model, &items, batch_size).concat().iter().zip(found.concat()) {
                    assert!((a.log_likelihood - b.log_likelihood).abs() < 1e-5 && a.is_greedy == b.is_greedy);
                }
            }
            if *device == Device::flex() {
                assert_eq!(scores(&model, &items, 1), found, "to the last bit");
            }
        }
        assert!(scores(&model, &[], 4).is_empty());
    });
}

/// An item's choices are read in passes of the batch's size, and of a bounded number of tokens.
#[test]
fn choices_that_take_many_passes_score_as_each_alone() {
    let model = tiny::decoder(2, &Device::flex());
    let choice = |n: u32, length: u32| (0..length).map(|at| (at * 13 + n * 7) % 40).collect::<Vec<u32>>();
    let long: Vec<Vec<u32>> = (0..110).map(|n| choice(n, 40 + n % 9)).collect();
    assert!(long.iter().map(Vec::len).sum::<usize>() > 4096, "more than a pass reads");
    let items = [
        Choices { context: choice(3, 9), continuations: (0..7).map(|n| choice(n, 1 + n)).collect() },
        Choices { context: choice(5, 11), continuations: long },
        Choices { context: choice(8, 2), continuations: vec![choice(1, 3)] },
    ];
    // With what the contexts have in common computed apart, a last bit may be another.
    let scored = |items: &[Choices], batch_size: usize| {
        let (mut passes, mut found) = (0, vec![Vec::new(); items.len()]);
        let count = &mut || {
            passes += 1;
            Ok(())
        };
        log_likelihoods(&model, items, batch_size, Some(0), count, &mut |index, scores| {
            found[index] = scores.to_vec();
            Ok(())
        })
        .unwrap();
        (found, passes)
    };
    let alone: Vec<Vec<Score>> = (items.iter())
        .map(|item| {
            let context = &item.context;
            let apart = item
                .continuations
                .iter()
                .map(|choice| Choices { context: context.clone(), continuations: vec![choice.clone()] });
            scored(&apart.collect::<Vec<_>>(), 4).0.concat()
        })
        .collect();
    for batch_size in [1, 3, 16, 1000] {
        let (found, passes) = scored(&items, batch_size);
        assert_eq!(found, alone, "batch size {batch_size}");
        // Contexts, then choices of more than a token, which are more tokens than one pass reads.
        let expected = 3_usize.div_ceil(batch_size) + 117_usize.div_ceil(batch_size).max(2);
        assert_eq!(passes, expected, "batch size {batch_size}");
    }
}

#[test]
fn what_cannot_be_computed_is_named() {
    let mut model = tiny::decoder(2, &Device::flex());
    let generate = |model: &Decoder, prompts: &[Vec<u32>], check: &mut dyn FnMut() -> anyhow::Result<()>| {
        let options = GenerateOptions { max_new_tokens: 3, ..Default::default() };
        known(&generate(model, prompts, &options, check, &mut |_, _| Ok(())).unwrap_err())
    };
    let score = |model: &Decoder, context: Vec<u32>, continuation: Vec<u32>| {
        let fine = Choices { context: vec![1], continuations: vec![vec![2]] };
        let items = [fine, Choices { context, continuations: vec![continuation] }];
        known(&log_likelihoods(model, &items, 4, None, &mut || Ok(()), &mut |_, _| Ok(())).unwrap_err())
    };
    let ok = &mut || Ok(());
    assert_eq!(generate(&model, &[vec![1], vec![]], ok), "prompt 1 is empty");
    assert_eq!(generate(&model, &[vec![1; 64]], ok), "prompt 0 has 64 tokens, but the model takes 64");
    assert_eq!(generate(&model, &[vec![1]], &mut || anyhow::bail!("enough")), "enough");
    assert_eq!(score(&model, vec![], vec![1]), "item 1 has an empty context");
    assert_eq!(score(&model, vec![1], vec![]), "item 1 has an empty continuation");
    assert_eq!(score(&model, vec![1; 60], vec![1; 6]), "item 1 has 65 tokens, but the model takes 64");

    let nan = f32::NAN;
    for mut param in model.params() {
        if param.name == "model.norm.weight" {
            let value = param.value();
            param.set(value * nan);
        }
    }
    let error = generate(&model, &[vec![1], vec![2, 3]], ok);
    assert_eq!(error, "the model's logits for item 1 are not finite");
    let error = score(&model, vec![1, 2], vec![1]);
    assert_eq!(error, "the model's logits for item 1 are not finite");
}

/// The mean logarithm of the probabilities of a continuation's tokens.
fn mean(model: &Decoder, prompt: &[u32], continuation: &[u32]) -> f64 {
    plain_score(model, prompt, continuation).log_likelihood / continuation.len() as f64
}

#[test]
fn as_many_beams_as_there_are_tokens_find_the_best_continuation() {
    on_every_device(|device| {
        let model = tiny::decoder(2, device);
        let vocab = model.config.vocab_size as u32;
        let prompts = prompts(5, 3);
        let mut ended = 0;
        for (row, prompt) in prompts.iter().enumerate() {
            // Sometimes the most likely first token, so that ending at once can be the best.
            let first = GenerateOptions { max_new_tokens: 1, ..Default::default() };
            let end = if row % 2 == 0 { run(&model, std::slice::from_ref(prompt), &first)[0][0] } else { 7 };
            // The end token counts, but is not part of the result.
            let best = (0..vocab)
                .flat_map(|first| match first == end {
                    true => vec![vec![first]],
                    false => (0..vocab).map(|second| vec![first, second]).collect(),
                })
                .max_by(|a, b| mean(&model, prompt, a).total_cmp(&mean(&model, prompt, b)))
                .unwrap();
            let best: Vec<u32> = best.into_iter().take_while(|token| *token != end).collect();
            ended += usize::from(best.len() < 2);
            let options = GenerateOptions {
                max_new_tokens: 2,
                stop_token_ids: vec![end],
                beams: vocab as usize,
                ..Default::default()
            };
            assert_eq!(run(&model, std::slice::from_ref(prompt), &options), [best]);
        }
        assert!((1..5).contains(&ended), "{ended} of 5 end early");
    });
}

#[test]
fn beams_do_not_depend_on_their_neighbours_and_are_better_than_none() {
    on_every_device(|device| {
        let model = tiny::decoder(2, device);
        let prompts = prompts(7, 4);
        let options = GenerateOptions { max_new_tokens: 9, ..Default::default() };
        let greedy = run(&model, &prompts, &options);
        let with_beams = GenerateOptions { beams: 3, batch_size: 7, ..options };
        assert_eq!(shared_prefix(&model, prompts.iter().map(Vec::as_slice)), 4);
        let found = run(&model, &prompts, &with_beams);
        assert_eq!(found, alone(&model, &prompts, &with_beams));
        // What all prompts begin with is computed once, or not.
        let apart = GenerateOptions { prefix: Some(0), ..with_beams.clone() };
        assert_eq!(found, run(&model, &prompts, &apart));
        let better = |(at, prompt): (usize, &Vec<u32>)| {
            mean(&model, prompt, &found[at]) - mean(&model, prompt, &greedy[at])
        };
        let gain: f64 = prompts.iter().enumerate().map(better).sum();
        assert!(found != greedy && gain > 0.0, "{gain}");
    });
}

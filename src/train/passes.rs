//! One micro-batch forward and backward: with everything kept between the two, or, with gradient
//! checkpointing, with each layer's input alone, from which the backward pass runs it again.

use burn::tensor::{Gradients, Tensor};

use crate::model::{Decoder, ForwardHook, Rotations, TokenBatch};

/// What the forward pass left for the backward pass.
pub(super) enum Forward<'b> {
    /// The hidden states, with the tape behind them.
    Taped(Box<Tensor<2>>),
    /// No tape.
    Layers(Box<Layers<'b>>),
}

/// Inputs of the layers, in order, and of the last norm; outside any tape.
pub(super) struct Layers<'b> {
    batch: &'b TokenBatch,
    hook: &'b dyn ForwardHook,
    rotations: Rotations,
    inputs: Vec<Tensor<2>>,
    hidden: Tensor<2>,
}

impl<'b> Forward<'b> {
    /// Runs the network up to and including its last norm.
    pub(super) fn run(
        model: &Decoder,
        batch: &'b TokenBatch,
        hook: &'b dyn ForwardHook,
        gradient_checkpointing: bool,
    ) -> Self {
        if !gradient_checkpointing {
            return Self::Taped(Box::new(model.hidden(batch, None, hook)));
        }
        let plain = model.without_tape();
        let rotations = plain.rotations(batch);
        let mut inputs = vec![plain.embed(batch)];
        for index in 0..plain.layers.len() {
            inputs.push(plain.layer(index, inputs[index].clone(), batch, &rotations, None, hook));
        }
        let hidden = plain.finish(inputs[plain.layers.len()].clone());
        let rotations = model.rotations(batch);
        Self::Layers(Box::new(Layers { batch, hook, rotations, inputs, hidden }))
    }

    /// The hidden states, outside any tape.
    pub(super) fn hidden(&self) -> Tensor<2> {
        match self {
            Self::Taped(hidden) => (**hidden).clone().inner(),
            Self::Layers(layers) => layers.hidden.clone(),
        }
    }

    /// Carries the gradient of the hidden states back. `collect` gets every tape; a parameter has
    /// its gradient on one of them, or on none when the output did not depend on it.
    pub(super) fn backward(self, model: &mut Decoder, grad: Tensor<2>, collect: &mut Collect<'_>) {
        match self {
            Self::Taped(hidden) => {
                run_back(*hidden, grad, model, collect);
            }
            Self::Layers(layers) => layers.backward(model, grad, collect),
        }
    }
}

/// What is done with a finished tape.
pub(super) type Collect<'c> = dyn FnMut(&mut Decoder, &Gradients) + 'c;

/// The output as a linear function of itself: its tape then carries exactly this gradient. Nothing
/// is tracked when every adapted part of it was dropped.
fn run_back(
    output: Tensor<2>,
    grad: Tensor<2>,
    model: &mut Decoder,
    collect: &mut Collect<'_>,
) -> Option<Gradients> {
    if !output.is_tracked() {
        return None;
    }
    let tape = (output * Tensor::from_inner(grad)).sum().backward();
    collect(model, &tape);
    Some(tape)
}

impl Layers<'_> {
    fn backward(mut self, model: &mut Decoder, mut grad: Tensor<2>, collect: &mut Collect<'_>) {
        let depth = model.layers.len();
        for index in (0..=depth).rev() {
            let input = self.inputs.pop().expect("one input for each layer and for the last norm");
            let input = Tensor::from_inner(input).require_grad();
            let output = match index == depth {
                true => model.finish(input.clone()),
                false => model.layer(index, input.clone(), self.batch, &self.rotations, None, self.hook),
            };
            let tape = run_back(output, grad, model, collect).expect("its input is tracked");
            grad = input.grad(&tape).expect("a layer's output depends on its input");
        }
        run_back(model.embed(self.batch), grad, model, collect);
    }
}

//! `silu(gate) * up` on the CPU, in one pass over memory.

use pulp::Arch;
use rayon::prelude::*;

use super::exp::exp;

/// Values that one thread takes at a time.
const CHUNK: usize = 1 << 14;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `gate * sigmoid(gate) * up`.
pub(super) fn forward([gate, up]: [&[f32]; 2], out: &mut [f32]) {
    let arch = Arch::new();
    let chunks = out.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)));
    chunks.for_each(|(out, (gate, up))| {
        arch.dispatch(
            #[inline(always)]
            || {
                for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                    *out = gate * sigmoid(*gate) * up;
                }
            },
        );
    });
}

/// Gradients of the gate and of up.
pub(super) fn backward([gate, up, grad]: [&[f32]; 3], [gate_grad, up_grad]: [&mut [f32]; 2]) {
    let arch = Arch::new();
    let outputs = gate_grad.par_chunks_mut(CHUNK).zip(up_grad.par_chunks_mut(CHUNK));
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(grad.par_chunks(CHUNK));
    outputs.zip(inputs).for_each(|((gate_grad, up_grad), ((gate, up), grad))| {
        arch.dispatch(
            #[inline(always)]
            || {
                let inputs = gate.iter().zip(up).zip(grad);
                for ((gate_grad, up_grad), ((gate, up), grad)) in
                    gate_grad.iter_mut().zip(up_grad).zip(inputs)
                {
                    let s = sigmoid(*gate);
                    *gate_grad = grad * up * s * (1.0 + gate * (1.0 - s));
                    *up_grad = grad * gate * s;
                }
            },
        );
    });
}

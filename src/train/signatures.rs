//! Signs that Trans-PEFT did not do what it was asked to.

use super::state::State;
use crate::params::TransPeftParams;

/// Fewer dropped FFNs than this, on average, may be none by chance.
const TELLING: f64 = 5.0;
/// Fewer expected FFNs than this mean that a schedule kept the rate down.
const KEPT_DOWN: f64 = 1.0;

/// Warnings of a whole run in which a rate was in force and nothing happened. An adapter that met
/// neither is plain LoRA's, and moving it is what the paper calls direct transfer.
pub(super) fn unapplied(params: &TransPeftParams, state: &State) -> Vec<String> {
    let mut warnings = Vec::new();
    let idle = state.dropped_ffns == 0 && state.masked[0] == 0;
    if idle && !params.schedule.is_plain() && state.expected_drops < KEPT_DOWN {
        let mean = |sum: f64| sum / state.step.max(1) as f64;
        let [pc, pi] = state.rates.map(mean);
        if (params.pc, params.pi) != (0.0, 0.0) {
            warnings.push(format!(
                "no FFN was dropped and no activation masked in the whole run: `trans_peft.schedule` and its \
                 warmup kept `pc` at {pc:.2e} and `pi` at {pi:.2e} on average, where up to {} and {} are asked \
                 for; shorten the warmup or train for more steps: as it is, the adapter is that of plain LoRA, \
                 and moving it is direct transfer",
                params.pc, params.pi
            ));
        }
        return warnings;
    }
    if params.pc > 0.0 && state.dropped_ffns == 0 && state.expected_drops > TELLING {
        warnings.push(format!(
            "no FFN was dropped in the whole run, though `pc` is {} and {:.1} were to be expected",
            params.pc, state.expected_drops
        ));
    }
    if params.pi > 0.0 && state.masked[0] == 0 {
        warnings.push(format!("no activation was masked in the whole run, though `pi` is {}", params.pi));
    }
    if idle && let Some(last) = warnings.last_mut() {
        last.push_str(": the adapter is that of plain LoRA, and moving it is direct transfer");
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::RateSchedule;

    #[test]
    fn rates_that_did_nothing_are_told() {
        let both = TransPeftParams { pc: 0.2, pi: 0.1, ..TransPeftParams::default() };
        let idle = State { expected_drops: 7.0, ..State::default() };
        let warnings = unapplied(&both, &idle);
        assert!(warnings[0].contains("though `pc` is 0.2 and 7.0 were to be expected"), "{warnings:?}");
        assert!(warnings[1].contains("no activation was masked"), "{warnings:?}");
        assert_eq!(warnings.len(), 2);
        let plain = |warnings: &[String]| warnings.iter().any(|warning| warning.contains("plain LoRA"));
        assert!(plain(&warnings), "{warnings:?}");
        for half in [
            State { dropped_ffns: 3, expected_drops: 7.0, ..State::default() },
            State { masked: [5, 50], expected_drops: 7.0, ..State::default() },
        ] {
            let warnings = unapplied(&both, &half);
            assert!(warnings.len() == 1 && !plain(&warnings), "one of the rates did something: {warnings:?}");
        }
        let short = State { masked: [5, 50], expected_drops: 4.0, ..State::default() };
        assert!(unapplied(&both, &short).is_empty(), "none may be dropped by chance");
        let schedule = RateSchedule { warmup_steps: Some(9), ..RateSchedule::default() };
        let warnings = unapplied(&TransPeftParams { schedule, ..both.clone() }, &State::default());
        assert!(warnings.len() == 1 && warnings[0].contains("`trans_peft.schedule` and its warmup kept"));
        let busy = State { dropped_ffns: 3, masked: [5, 50], ..State::default() };
        assert!(unapplied(&both, &busy).is_empty());
        assert!(unapplied(&TransPeftParams::default(), &idle).is_empty());
    }
}

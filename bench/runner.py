"""Times runs of a generated graph: cold, again with nothing to do, and what would run.

    runner.py EVERGRAFT STEPS ROUNDS

Layers of twenty steps; each joins the first lines of two files of the layer before. Prints medians in
seconds and the largest peak memory of a process, for evergraft, dvc and snakemake, beside the same shell lines
alone; then evergraft on ever larger graphs, and its figures beside what is wanted of them.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

WIDTH = 20
BESIDE = os.path.dirname(sys.executable)
# ext4 is slow to make files for minutes after many were deleted: all is removed at the end, and what was deleted
# before this began should be some minutes old. Each turn begins after a pause.
PAUSE = 6
ROOT = tempfile.TemporaryDirectory()


def steps(count):
    """(name, names before it) of every step."""
    for at in range(count):
        layer, place = divmod(at, WIDTH)
        before = [] if layer == 0 else [(layer - 1) * WIDTH + place, (layer - 1) * WIDTH + (place + 1) % WIDTH]
        yield f"s{at}", [f"s{b}" for b in before]


def evergraft(folder, count):
    with open(f"{folder}/recipe.yaml", "w") as file:
        file.write("version: 1\nname: bench\nsteps:\n")
        for name, before in steps(count):
            files = " ".join(f'"$STEP_{b.upper()}/out"' for b in before)
            run = f"head -qn 1 {files} > out; echo {name} >> out" if before else f"echo {name} > out"
            given = ", ".join(f"{b}: \"${{{{ steps.{b} }}}}\"" for b in before)
            file.write(f"  {name}: {{ uses: command, with: {{ run: '{run}', steps: {{ {given} }}, outputs: [out] }} }}\n")


def evergraft_matrix(folder, count):
    """Ten steps, one after another, each with a tenth of the count as cells: a recipe holds at most 1 MiB."""
    cells = ", ".join(str(cell) for cell in range(count // 10))
    with open(f"{folder}/recipe.yaml", "w") as file:
        file.write("version: 1\nname: bench\nsteps:\n")
        for layer in range(10):
            run = f'head -qn 1 \\"$STEP_L{layer - 1}/out\\" > out' if layer else "echo ${{ matrix.cell }} > out"
            given = f'l{layer - 1}: "${{{{ steps.l{layer - 1} }}}}"' if layer else ""
            axis = "" if layer else f" matrix: {{ cell: [{cells}] }},"
            file.write(f"  l{layer}: {{ uses: command,{axis} with: {{ run: \"{run}; echo l{layer} >> out\", "
                       f"steps: {{ {given} }}, outputs: [out] }} }}\n")


def dvc(folder, count):
    subprocess.run([f"{BESIDE}/dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    stages = {}
    for name, before in steps(count):
        files = " ".join(before)
        run = f"head -qn 1 {files} > {name}; echo {name} >> {name}" if before else f"echo {name} > {name}"
        stages[name] = {"cmd": run, "deps": before, "outs": [name]}
    with open(f"{folder}/dvc.yaml", "w") as file:
        json.dump({"stages": stages}, file)


def snakemake(folder, count):
    with open(f"{folder}/Snakefile", "w") as file:
        file.write(f"rule all:\n    input: [f's{{i}}' for i in range({max(0, count - WIDTH)}, {count})]\n")
        for name, before in steps(count):
            files = " ".join(before)
            run = f"head -qn 1 {files} > {name}; echo {name} >> {name}" if before else f"echo {name} > {name}"
            file.write(f"rule r{name}:\n    input: {before!r}\n    output: {name!r}\n    shell: {run!r}\n")


def timed(command, folder, environment=None):
    """Seconds and peak memory in MiB of the largest process."""
    # What was written before is not this command's to wait for.
    os.sync()
    start = time.monotonic()
    with open(f"{folder}/said", "w") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env={**os.environ, **(environment or {})})
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status != 0:
        sys.exit(f"{command} failed:\n{open(f'{folder}/said').read()[-2000:]}")
    return seconds, usage.ru_maxrss // 1024


def peers(program, cores):
    return {
        "evergraft": (evergraft, [program, "-q", "run", "-j", cores], [program, "-q", "plan"]),
        "dvc": (dvc, [f"{BESIDE}/dvc", "repro", "--quiet"], [f"{BESIDE}/dvc", "status", "--quiet"]),
        "snakemake": (
            snakemake,
            [f"{BESIDE}/snakemake", "--quiet", "all", "--cores", cores],
            [f"{BESIDE}/snakemake", "--quiet", "all", "--cores", cores, "--dry-run"],
        ),
    }


def measure(name, make, run, plan, count, rounds):
    """Medians of a cold run, a run with nothing to do, and a plan; the largest peak memory."""
    seen = {"cold": [], "warm": [], "plan": []}
    peak = 0
    for _ in range(rounds):
        folder = tempfile.mkdtemp(dir=ROOT.name)
        cache = {"EVERGRAFT_CACHE_DIR": f"{folder}/cache", "DVC_NO_ANALYTICS": "1"}
        make(folder, count)
        time.sleep(PAUSE)
        for what, command in (("cold", run), ("warm", run), ("plan", plan)):
            seconds, mib = timed(command, folder, cache)
            seen[what].append(seconds)
            peak = max(peak, mib)
    figures = {what: statistics.median(times) for what, times in seen.items()}
    print(f"{name:<14} {count:>6} steps  " + "  ".join(f"{what} {value:8.3f} s" for what, value in figures.items())
          + f"  peak {peak} MiB  (medians of {rounds})", flush=True)
    return {**figures, "peak": peak}


def bare(count, jobs, rounds):
    """The shell lines alone, as a runner starts them: in order, `jobs` of them at a time."""
    times = []
    for _ in range(rounds):
        folder = tempfile.mkdtemp(dir=ROOT.name)

        def line(step):
            name, before = step
            files = " ".join(before)
            run = f"head -qn 1 {files} > {name}; echo {name} >> {name}" if before else f"echo {name} > {name}"
            subprocess.run(["sh", "-e", "-c", run], cwd=folder, check=True)

        time.sleep(PAUSE)
        start = time.monotonic()
        with ThreadPoolExecutor(jobs) as pool:
            # A layer waits for the one before.
            whole = list(steps(count))
            for layer in range(0, count, WIDTH):
                list(pool.map(line, whole[layer:layer + WIDTH]))
        times.append(time.monotonic() - start)
    print(f"{f'sh, {jobs} at once':<14} {count:>6} steps  cold {statistics.median(times):8.3f} s")
    return statistics.median(times)


def main():
    program, count, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    wanted = []
    for jobs in (1, 2):
        spawns = bare(count, jobs, rounds)
        make, run, plan = peers(program, str(jobs))["evergraft"]
        figures = measure(f"evergraft -j {jobs}", make, run, plan, count, rounds)
        wanted.append((f"-j {jobs}: {count} steps cold, times the shell lines alone", figures["cold"] / spawns, 1.5))
    wanted += [(f"{count} steps, {what} (s)", figures[what], 0.05) for what in ("warm", "plan")]
    for name, (make, run, plan) in peers(program, "2").items():
        if name == "evergraft":
            continue
        if not os.path.exists(run[0]):
            print(f"{name:<14} skipped: it is not installed beside {sys.executable}")
            continue
        measure(name, make, run, plan, count, rounds)
    _, run, plan = peers(program, "2")["evergraft"]
    for larger in (1000, 10000):
        figures = measure("evergraft -j 2", evergraft_matrix, run, plan, larger, min(rounds, 3))
    wanted += [(f"{larger} steps, {what} (s)", figures[what], 1.0) for what in ("warm", "plan")]
    wanted.append((f"{larger} steps, peak memory (MiB)", figures["peak"], 200))
    for what, seen, most in wanted:
        print(f"{what}: {seen:.3g}, wanted at most {most}: {'yes' if seen <= most else 'NO'}")


main()

"""Milliseconds a plan takes, beside what this machine could do at best.

    python benchmarks/planner_speed.py --json benchmarks/results/planner_speed.json
    python benchmarks/planner_speed.py --sizes hopper --batch 1 --threads 1

The networks are those of preset `paper` with random weights, for weights do not change the
time. Every variant of one size and batch is timed in turn, so that a disturbance of the
machine meets all of them. Variants:

    naive             a straightforward port of the pseudo-code: the generator reads the whole
                      sequence for each state, and guidance makes two passes
    plain             the library as it is: cached decoding, guidance in one batch
    openvino          the same plan after actor.compile("openvino") on a CPU
    cudagraph         the same plan after actor.compile() on a GPU
    ddim2             the fastest of these with two DDIM evaluations in place of five
    warm              the fastest with warm_start="previous", the five evaluations kept
    warm_ddim2        both
    bf16              the plan after actor.compile(autocast=torch.bfloat16); its floor is that of
                      single precision
    bf16_warm_ddim2   likewise warm_ddim2
    compiled          the exact plan by torch.compile (--torch-compile; takes minutes)
    compiled_warm_ddim2  warm_ddim2 by torch.compile
    decision_diffuser 100 steps from pure noise through the very same U-Net, guidance batched; on a
                      CPU plainly, for a program so long takes minutes to compile
    diffuser          20 such steps
    actor             what TDPlannerActor takes around a plan (measured with a tiny planner)

Each row states its network evaluations (generator passes and U-Net passes; guidance's two in
one batch are one), its time and the processor's own, for on a machine shared with other work the
time alone says little, and its time as a multiple of the floor of its own plan, see
machine_floor.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from machine_floor import Machine
from planner_variants import SIZES, Parts, Variant, actor_overhead, floor, variants

from torchrl_td.comparison.collecting import machine
from torchrl_td.inference.openvino_model import openvino_installed

_LEAST = 20  # plans timed of each variant, if they take no longer than five times its share
_TURN = 6  # plans a turn
_SLOW = 500.0  # milliseconds after which a turn ends
_VERY_SLOW = 5000.0  # milliseconds from which one plan is enough, and the first one counts
COLUMNS = (
    "size",
    "batch",
    "threads",
    "variant",
    "median_ms",
    "p95_ms",
    "processor_ms",
    "network_evaluations",
    "floor_ms",
    "times_floor",
)


Time = tuple[float, float]  # milliseconds on the clock, and of the processor


def measure(found: dict[str, Variant], seconds: float, machine: Machine) -> dict[str, list[Time]]:
    """Times of plans; the variants take turns until each had its share of seconds."""
    times: dict[str, list[Time]] = {name: [] for name in found}
    with torch.no_grad():
        for name, variant in found.items():
            for _ in range(variant.warm_up):
                timed(variant, machine)  # records, captures or compiles
            first = timed(variant, machine)
            if first[0] > _VERY_SLOW:
                times[name] = [first]
        while True:
            spent = {name: sum(time for time, _ in taken) for name, taken in times.items()}
            waiting = [n for n, t in times.items() if len(t) < _LEAST or spent[n] < 1e3 * seconds]
            waiting = [n for n in waiting if spent[n] < 5e3 * seconds]
            if not waiting:
                return times
            for name in waiting:
                times[name] += turn(found[name], machine)


def turn(variant: Variant, machine: Machine) -> list[Time]:
    """Some plans in a row, as an agent makes them; the first is timed only if it is slow.

    It finds the caches full of another variant's weights.
    """
    times: list[Time] = []
    for _ in range(_TURN):
        times.append(timed(variant, machine))
        if sum(time for time, _ in times) > _SLOW:
            break
    return times[1:] if len(times) > 1 else times


def timed(variant: Variant, machine: Machine) -> Time:
    """What one plan takes."""
    machine.synchronize()
    start, worked = time.perf_counter(), time.process_time()
    variant.call()
    machine.synchronize()
    return 1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - worked)


def rows_of(
    size: str, batch: int, options: argparse.Namespace, machine: Machine
) -> list[dict[str, Any]]:
    """Measures one size and batch."""
    parts = Parts(size, batch, machine.device)
    found = variants(parts, options.torch_compile)
    if options.variants is not None:
        found = {name: variant for name, variant in found.items() if name in options.variants}
    rows = []
    for name, times in measure(found, options.seconds, machine).items():
        variant = found[name]
        least = 1e3 * floor(parts, variant, machine)
        rows.append(
            {
                "size": size,
                "batch": batch,
                "threads": options.threads,
                "variant": name,
                **summary(times),
                "network_evaluations": variant.generator_passes + variant.refiner_passes,
                "floor_ms": round(least, 4),
                "times_floor": round(statistics.median(time for time, _ in times) / least, 2),
            }
        )
    return rows


def summary(times: list[Time]) -> dict[str, float]:
    """Median and 95th percentile of times, and the median of the processor's."""
    ordered = sorted(time for time, _ in times)
    return {
        "median_ms": round(statistics.median(ordered), 4),
        "p95_ms": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 4),
        "processor_ms": round(statistics.median(worked for _, worked in times), 4),
        "plans_timed": len(ordered),
    }


def main() -> None:
    """Runs the benchmark, prints its table and writes its JSON."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
    device = torch.device(options.device)
    limits = Machine(device)
    cuda = device.type == "cuda"
    about = {
        "device": torch.cuda.get_device_name(device) if cuda else machine()["processor"],
        "torch": torch.__version__,
        "openvino": version("openvino") if openvino_installed() else None,
        "python": platform.python_version(),
        "tf32_products": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "matrix_gflops": round(limits.operations_per_second() / 1e9, 1),
        "read_64mb_gb_per_s": round(limits.bytes_per_second(64 * 2**20) / 1e9, 1),
    }
    print("  ".join(f"{key}={value}" for key, value in about.items()), f"threads={options.threads}")
    print("  ".join(f"{column:>17}" for column in COLUMNS))
    overhead = measure(actor_overhead(device, limits), options.seconds, limits)
    pairs = zip(overhead["actor"], overhead["inside"], strict=False)
    around = [(a[0] - b[0], a[1] - b[1]) for a, b in pairs]
    rows: list[dict[str, Any]] = []
    add(rows, [{"size": "any", "batch": 1, "threads": options.threads, "variant": "actor",
                **summary(around), "network_evaluations": 0, "floor_ms": None,
                "times_floor": None}], about, options.json)  # fmt: skip
    for batch in options.batch:
        for size in options.sizes:
            add(rows, rows_of(size, batch, options, limits), about, options.json)


def add(
    rows: list[dict[str, Any]], new: list[dict[str, Any]], about: dict[str, Any], path: Path | None
) -> None:
    """Prints new rows and writes all so far."""
    for row in new:
        print("  ".join(f"{row[column]!s:>17}" for column in COLUMNS), flush=True)
        rows.append(row | about)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--sizes", default=",".join(SIZES), help="of halfcheetah,hopper,walker2d")
    parser.add_argument("--batch", default="1,32,256,1024" if gpu else "1,32,256")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--variants", help="of the above; all of them if not given")
    parser.add_argument("--seconds", type=float, default=2.0, help="a variant, size and batch")
    parser.add_argument(
        "--tf32", action="store_true", help="products in TF32, too, as PyTorch's convolutions are"
    )
    parser.add_argument("--torch-compile", action="store_true", help="time torch.compile, too")
    options = parser.parse_args()
    if not options.seconds > 0:
        parser.error("--seconds is to be above 0")
    options.sizes = options.sizes.split(",")
    options.variants = options.variants and options.variants.split(",")
    unknown = [size for size in options.sizes if size not in SIZES]
    if unknown:
        parser.error(f"unknown sizes {unknown}; allowed are {', '.join(SIZES)}")
    try:
        options.batch = [int(batch) for batch in options.batch.split(",")]
    except ValueError:
        parser.error(f"--batch takes whole numbers with commas between them, got {options.batch}")
    if min(options.batch) < 1 or options.threads < 1:
        parser.error("--batch and --threads must be at least 1")
    return options


if __name__ == "__main__":
    main()

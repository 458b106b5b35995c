# SPDX-License-Identifier: GPL-2.0-or-later
"""How much longer ``nlmfo status`` takes than a bare interpreter: ``python -m tests.bench.status [ROUNDS]``.

Of one service that another node serves, by its owner record; both in turn, so that a noisy moment meets both. Prints
one ``NAME VALUE UNIT`` per line: medians.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nlmfo.ownership.registry import DirectoryRegistry
from tests.unit import shapes

ROUNDS = 40
#: What the program that pip or a package installs consists of.
PROGRAM = "from nlmfo.__main__ import entry; entry()"
CHECKOUT = Path(__file__).resolve().parents[2]


def write_configuration(directory: Path) -> None:
    registry = directory / "registry"
    (registry / "services").mkdir(parents=True)
    DirectoryRegistry(registry).claim(shapes.record(1, "elsewhere"))
    (directory / "nlmfo.toml").write_text(f'[node]\nname = "here"\n[cluster]\nregistry = "{registry}"\n')
    (directory / "services.d").mkdir()
    example = CHECKOUT / "contrib/example/services.d/home.toml"
    (directory / "services.d/home.toml").write_bytes(example.read_bytes())


def milliseconds(*words: str) -> float:
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *words], check=False, capture_output=True, cwd=CHECKOUT, text=True)
    taken = (time.perf_counter() - begun) * 1000
    if words[1] == PROGRAM and not done.stdout.startswith("home  serving on elsewhere"):
        raise SystemExit(f"'nlmfo status' says: {done.stdout}{done.stderr}")
    return taken


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory(prefix="nlmfo-bench-") as made:
        write_configuration(Path(made))
        status = ("-c", PROGRAM, "--config", made, "status")
        pairs = [(milliseconds("-c", "pass"), milliseconds(*status)) for _ in range(rounds)]
    python, whole = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"python_ms {python:.1f} ms")
    print(f"status_ms_over_python {whole - python:.1f} ms")
    print(f"status_times_python {whole / python:.1f} times")


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    main()

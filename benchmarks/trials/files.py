"""Damaged files, and writers that are killed: a file is whole or refused, and the old one is never lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import parareal as pr
from trials import Report


def solution(value: float = 1.0, size: int = 4) -> pr.Solution:
    """A small solution with everything in it."""
    grid = pr.TimeGrid.uniform(0.0, 1.0, 4, 2)
    u0 = {"a": torch.full((size,), value, dtype=torch.float64), "b": (torch.ones(1, dtype=torch.complex64),)}
    problem = pr.ODE(lambda t, u: {"a": -u["a"], "b": (-u["b"][0],)})
    stop, coarse = pr.Iterations(2), pr.Secant(pr.Euler())
    return pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=coarse, stop=stop, keep="all")


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A file as a broken disk, a broken copy or a forger leaves it."""
    way, data, size = chance.randrange(6), bytearray(content), int.from_bytes(content[:8], "little")
    if way == 0:
        return content[: chance.randrange(len(content))]
    if way == 1:
        for _ in range(chance.choice((1, 1, 2, 8))):
            data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        return bytes(data)
    if way == 2:
        at = chance.randrange(len(data))
        return content[:at] + chance.randbytes(chance.randrange(1, 64)) + content[at:]
    if way == 3:
        data[:8] = chance.choice((0, 1, 2**63, len(content), chance.randrange(2**64))).to_bytes(8, "little")
        return bytes(data)
    if way == 4:
        at, length = chance.randrange(len(data)), chance.randrange(1, 4096)
        data[at : at + length] = bytes(len(data[at : at + length]))
        return bytes(data)
    return forged(content, size, chance)


def forged(content: bytes, size: int, chance: random.Random) -> bytes:
    """A header that is JSON, and says something else."""
    header: Any = json.loads(content[8 : 8 + size])
    name = chance.choice([*header])
    if name == "__metadata__":
        inside = json.loads(header[name]["parareal"])
        key = chance.choice([*inside])
        inside[key] = chance.choice((None, [], {}, -1, "x", 1e400, [[]], True))
        header[name]["parareal"] = json.dumps(inside)
    elif chance.random() < 0.3:
        del header[name]
    else:
        part = chance.choice([*header[name]])
        values = ("F64", "I64", "F16", [], [0, 8], [2**60, 1], [8, 0], [-1], None, "x")
        header[name][part] = chance.choice(values)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def damaged_files(count: int, folder: Path, seed: int = 0) -> Report:
    """Files that were damaged at random: each is refused by a ValueError that names it, or holds what was saved."""
    report, path, hit = Report("damaged files"), folder / "whole", folder / "hit"
    sol = solution()
    sol.save(path)
    content = path.read_bytes()
    for number in range(seed, seed + count):
        hit.write_bytes(damaged(content, random.Random(number)))
        report.tried += 1
        try:
            came = pr.Solution.load(hit)
            came.save(folder / "again")
            if (folder / "again").read_bytes() != content:
                report.broken.append(f"seed {number}: loaded, and holds something else")
        except ValueError as error:
            report.refused["damaged"] += 1
            if "hit'" not in str(error):
                report.broken.append(f"seed {number}: does not name the file: {str(error)[:150]}")
        except Exception as error:
            report.broken.append(f"seed {number}: {type(error).__name__}: {str(error)[:150]}")
    return report


WRITER = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from trials.files import solution
sols = [solution(float(i), int(sys.argv[3])) for i in (1, 2)]
print("ready", flush=True)
while True:
    for sol in sols:
        sol.save(sys.argv[1])
"""


def killed_writers(count: int, folder: Path, size: int = 100_000, seed: int = 0) -> Report:
    """Two processes write to one name and are killed at any moment: the file is whole, and nothing else remains."""
    report, path, chance = Report("kills of writers"), folder / "run", random.Random(seed)
    solution(0.0, size).save(path)
    while report.tried < count:
        command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parents[1]), str(size)]
        writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.2))
        for writer in writers:
            writer.send_signal(chance.choice((signal.SIGKILL, signal.SIGTERM)))
            writer.communicate()  # closes the pipe, too
            report.tried += 1
        try:
            found = pr.Solution.load(path)
            if not bool((found.us["a"][0] == found.us["a"][0, 0]).all()):
                report.broken.append("a mixture of two files")
            found.save(path)
        except Exception as error:
            report.broken.append(f"{type(error).__name__}: {str(error)[:150]}")
        if left := [name for name in os.listdir(folder) if name.endswith(".part")]:
            report.broken.append(f"after the next save there is still {left[0]}")
    return report

"""Whole runs on a card: QJOB SOURCE_DIR [CASE ...].  $QJOB_TEST_MODEL, a recipe of a larger model, is run as well when it is set."""
import os
import pathlib
import random
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from qjob import *

RECIPES = [
    ("gptq", {}),
    ("order, no symmetry, 3 bits", {"quantize": {"bits": 3, "sym": False, "desc_act": True, "group_size": 32}}),
    ("original stream", {"quantize": {"propagate": "original"}, "pack": {"format": "compressed-tensors"}}),
    ("high accuracy, all sites at once", {"quantize": {"accuracy": "high", "true_sequential": False}}),
    ("compat", {"quantize": {"preset": "compat"}}),
    ("rtn, 2 bits", {"quantize": {"method": "rtn", "bits": 2}}),
]
LARGER = os.environ.get("QJOB_TEST_MODEL")


def perplexities(folder):
    """Before and after."""
    p = json.loads((pathlib.Path(folder) / "report.json").read_text())["perplexity"]
    return p["original"], p["quantized"]


def both(p, file, name):
    """A recipe on the CPU and on the card: neither result is the other's, and both are as good."""
    p.qjob("run", file, "-q", "-o", f"cpu-{name}", "--device", "cpu")
    p.qjob("run", file, "-q", "-o", f"cuda-{name}", "--device", "cuda")
    cpu, cuda = perplexities(p.dir / f"cpu-{name}"), perplexities(p.dir / f"cuda-{name}")
    print(f"         {name}: perplexity {cpu[0]:.4f} -> {cpu[1]:.4f} on the CPU, {cuda[0]:.4f} -> {cuda[1]:.4f} on the card")
    return cpu, cuda


def the_cpu_agrees():
    with place() as p:
        for i, (name, sections) in enumerate(RECIPES):
            r = trained(**{**sections, "calibration": {"samples": 32, "seqlen": 256}})
            r["validate"]["perplexity"].update(seqlen=256, windows=16)
            p.write("r.yaml", r)
            cpu, cuda = both(p, "r.yaml", f"{i}")
            for a, b in zip(cpu, cuda):
                check(abs(a - b) <= 0.005 * a, name, a, "on the CPU,", b, "on the card")


def a_larger_model_agrees():
    if not LARGER:
        raise Skip("QJOB_TEST_MODEL names no recipe")
    with place() as p:
        cpu, cuda = both(p, LARGER, "larger")
        for a, b in zip(cpu, cuda):
            check(abs(a - b) <= 0.005 * a, a, "on the CPU,", b, "on the card")


def same_bytes():
    with place() as p:
        p.furnish()
        for i, (name, sections) in enumerate(RECIPES):
            p.write("r.yaml", recipe(**sections))
            for n in (1, 2):
                p.cache = p.dir / f"store-{n}"
                p.qjob("run", "r.yaml", "-q", "-o", f"out-{i}-{n}", "--device", "cuda")
            equal(digests(p.dir / f"out-{i}-1"), digests(p.dir / f"out-{i}-2"), name)


def less_memory():
    """What does not fit on the card is kept beside it: not a bit changes."""
    with place() as p:
        p.write("r.yaml", trained(calibration={"samples": 64, "seqlen": 256}))
        for i, memory in enumerate(("8G", "1100M")):
            p.cache = p.dir / f"store-{i}"
            p.qjob("run", "r.yaml", "-q", "-o", f"out-{i}", "--device", "cuda", "--memory", memory)
        equal(digests(p.dir / "out-0"), digests(p.dir / "out-1"))


def kills(file=None, count=5):
    """kill -9 at random moments: the bytes of an undisturbed run."""
    rng = random.Random(5)
    with place() as p:
        if not file:
            file = p.write("r.yaml", trained(calibration={"samples": 64, "seqlen": 256}))
        args = ["run", file, "-q", "--device", "cuda"]
        seconds = p.qjob(*args, "-o", "undisturbed").seconds
        p.cache = p.dir / "another store"
        done = 0
        while True:
            run = subprocess.Popen(p.command(*args, "-o", "out"), cwd=p.dir, env=p.env, stdin=subprocess.DEVNULL)
            try:
                run.wait(timeout=(0.3 + 0.7 * rng.random()) * seconds if done < count else 300)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
                done += 1
                continue
            equal(run.returncode, 0)
            if done >= count:
                break
            shutil.rmtree(p.cache)
            shutil.rmtree(p.dir / "out")
        equal(digests(p.dir / "out"), digests(p.dir / "undisturbed"), f"after {done} kills")


def kills_of_a_larger_model():
    if not LARGER:
        raise Skip("QJOB_TEST_MODEL names no recipe")
    kills(LARGER)


def why_names_the_device():
    with place() as p:
        p.furnish()
        p.qjob("run", "r.yaml", "-q", "--device", "cpu")
        said = p.qjob("why", "r.yaml", "--device", "cuda").out
        check("device: cpu -> cuda" in said, said)


def no_memory_at_all():
    with place() as p:
        p.furnish()
        done = p.qjob("run", "r.yaml", "-q", "--device", "cuda", "--memory", "64M", code=None)
        check(done.code in (1, 2), done.code, done.err)
        check("--memory" in done.err or "memory" in done.err, done.err)
        check(not (p.dir / "out").exists(), "an output folder")


main([the_cpu_agrees, same_bytes, less_memory, kills, why_names_the_device, no_memory_at_all, a_larger_model_agrees, kills_of_a_larger_model])

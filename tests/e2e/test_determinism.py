"""The same bytes, whatever happens: threads, folders, environment, kill -9 at any moment."""
import json
import os
import random
import shutil
import signal
import subprocess
import time

from qjob import *

RECIPES = [
    ("gptq", recipe()),
    ("order, no symmetry, 3 bits", recipe(quantize={"bits": 3, "sym": False, "desc_act": True, "group_size": 32})),
    ("original stream, compressed-tensors", recipe(quantize={"propagate": "original"}, pack={"format": "compressed-tensors"})),
    ("high accuracy, all sites at once", recipe(quantize={"accuracy": "high", "true_sequential": False})),
    ("fp16 products", recipe(calibration={"dtype": "float16"}, validate={"dtype": "float16"})),
    ("rtn, shards", recipe(quantize={"method": "rtn"}, pack={"max_shard_size": "60KB"})),
]


def compare(want, have, what):
    equal(have.keys(), want.keys(), what)
    equal([n for n in want if want[n] != have[n]], [], what, "gives other bytes in")


def two_folders():
    """Another store, folder, current folder, number of threads: every byte of every file, qjob.json and report included."""
    with place() as p, place("another place ") as other:
        p.furnish()
        other.furnish()
        (other.dir / "deep/er").mkdir(parents=True)
        for i, (name, r) in enumerate(RECIPES):
            p.write("r.yaml", r)
            other.write("r.yaml", r)
            p.qjob("run", "r.yaml", "-q", "-o", f"out-{i}", "--threads", "1")
            other.qjob("run", "../../r.yaml", "-q", "-o", "result", "--threads", "2", cwd=other.dir / "deep/er")
            want = digests(p.dir / f"out-{i}")
            compare(want, digests(other.dir / "deep/er/result"), name)
            for file in want:
                data = (p.dir / f"out-{i}" / file).read_bytes()
                check(str(p.dir).encode() not in data, name, file, "tells where it was made")


def memory():
    """As little memory of the device as a recipe can be run with."""
    with place() as p:
        p.furnish()
        for i, (name, r) in enumerate(RECIPES):
            p.write("r.yaml", r)
            p.qjob("run", "r.yaml", "-q", "-o", f"out-{i}")
            for size in range(500, 20000, 500):
                p.cache = p.dir / f"store-{i}-{size}"
                done = p.qjob("run", "r.yaml", "-q", "-o", f"little-{i}", "--memory", f"{size}K", code=None)
                if done.code == 0:
                    break
                check(done.code == 2 and done.err.startswith("memory: "), done.code, done.err)
            compare(digests(p.dir / f"out-{i}"), digests(p.dir / f"little-{i}"), f"{name}: {size}K")


def threads():
    """A model large enough for its products to be shared out, with every instruction set that this processor has."""
    tried = []
    with place() as p:
        p.write("r.yaml", trained(calibration={"samples": 8, "seqlen": 128}))
        for isa in ("auto", "sse41", "avx2", "avx512", "avx512_bf16", "amx"):
            want = None
            for n in (1, 2, 3):
                p.cache = p.dir / f"store-{isa}-{n}"
                out = p.dir / f"out-{isa}-{n}"
                done = p.qjob("run", "r.yaml", "-q", "-o", out, "--threads", n, "--isa", isa, code=None)
                if done.code != 0:
                    equal((done.code, len(done.err.splitlines()), isa == "auto"), (2, 1, False), done.err)
                    break
                want = want or digests(out)
                compare(want, digests(out), f"--isa {isa} --threads {n}")
            if want:
                tried.append(isa)
    print(f"         instruction sets: {', '.join(tried)}")


def environments():
    rows = [
        {"LC_ALL": "C.UTF-8", "TZ": "Asia/Kolkata", "HOME": "/nonexistent"},
        {"LC_ALL": "POSIX", "LANG": "tr_TR.UTF-8", "TZ": ":America/New_York", "USER": "nobody"},
        {"LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de"},              # where it is installed, the decimal point is a comma
        {"TMPDIR": "/nonexistent", "COLUMNS": "20", "TERM": "vt100", "NO_COLOR": "1"},
        {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "2", "OMP_DYNAMIC": "true", "OMP_SCHEDULE": "dynamic,1"},
        {"MALLOC_PERTURB_": "165"},                               # memory that nobody wrote shows
        {"MALLOC_PERTURB_": "90", "MALLOC_ARENA_MAX": "1"},
        {"DNNL_DEFAULT_FPMATH_MODE": "BF16", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
        {"DNNL_MAX_CPU_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"OPENBLAS_CORETYPE": "Nehalem"},
    ]
    problems = []
    with place() as p:
        p.furnish()
        for name, r in RECIPES[:2]:
            p.write("r.yaml", r)
            shutil.rmtree(p.dir / "out", ignore_errors=True)
            p.cache = p.dir / "store"
            p.qjob("run", "r.yaml", "-q")
            want, keys = digests(p.dir / "out"), node_keys(p.dir / "out")
            for i, env in enumerate(rows):
                p.cache = p.dir / f"store-{i}"
                shutil.rmtree(p.cache, ignore_errors=True)
                p.qjob("run", "r.yaml", "-q", "-o", "other", env=env, umask=0o077 if i % 2 else 0o002)
                have = digests(p.dir / "other")
                if have != want and node_keys(p.dir / "other")["quantize/0"] == keys["quantize/0"]:
                    problems.append(f"{name}: {env}: other bytes under the same key: {[n for n in want if have.get(n) != want[n]]}")
                if have != want and i < 7:
                    problems.append(f"{name}: {env}: other bytes: {[n for n in want if have.get(n) != want[n]]}")
                shutil.rmtree(p.dir / "other")
    check(not problems, "\n".join(problems))


def node_keys(folder):
    return {n["name"]: n.get("key") for n in json.loads((folder / "qjob.json").read_text())["nodes"]}


# ---- crashes ----

BUSY_RECIPE = recipe(calibration={"samples": 64, "seqlen": 64}, pack={"max_shard_size": "100KB"})
BUSY_BLOCKS = 8


def busy_place(p):
    """A run that takes a while, done once: its bytes and seconds."""
    p.furnish(num_hidden_layers=BUSY_BLOCKS)
    p.write("calibration.txt", text(1, 4000))
    p.write("r.yaml", BUSY_RECIPE)
    p.cache = p.dir / "undisturbed store"
    p.run()                                       # warms the machine
    shutil.rmtree(p.cache)
    shutil.rmtree(p.dir / "out")
    _, done = p.run()
    want = digests(p.dir / "out")
    shutil.rmtree(p.dir / "out")
    p.cache = p.dir / "store"
    return want, done.seconds


def start(p, events):
    return subprocess.Popen(p.command("run", "r.yaml", "--events", str(events)), cwd=p.dir, env=p.env, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def check_half_made(p, want, when):
    """Whoever looks into the folder meanwhile finds no config.json, or everything."""
    out = p.dir / "out"
    if (out / "config.json").exists():
        have = digests(out)
        equal([n for n in want if have.get(n) != want[n]], [], when, "config.json is there, but not yet")


def kills():
    """20 times kill -9 at random moments: what was finished stays finished, and the bytes are those of an undisturbed run."""
    rng = random.Random(20)
    killed = rounds = again = 0
    with place() as p:
        want, seconds = busy_place(p)
        finished, cut = set(), set()
        while killed < 20 or finished:
            events = p.dir / "events"
            events.unlink(missing_ok=True)
            run = start(p, events)
            try:
                _, err = run.communicate(timeout=rng.random() * seconds * 0.7 if killed < 20 else 300)
            except subprocess.TimeoutExpired:
                run.kill()
                run.communicate()
                killed += 1
            states = {}
            for e in read_events(events):
                if e["event"] == "state":
                    states.setdefault(e["node"], []).append(e["state"])
            for node in finished & states.keys():
                check("runs" not in states[node], node, "was finished before the kill and runs again:", states[node])
            again += len({n for n in cut if "runs" in states.get(n, [])})
            finished |= {n for n, s in states.items() if {"done", "same", "hit"} & set(s) and not n.startswith("fetch/")}
            cut = {n for n, s in states.items() if s[-1] in ("runs", "replays") and n.startswith("quantize/")}
            check(len(cut) <= 2, "more blocks under way than one that runs and one that is being written:", cut)
            if run.returncode == 0:
                compare(want, digests(p.dir / "out"), f"after {killed} kills")
                rounds += 1
                finished, cut = set(), set()
                shutil.rmtree(p.cache)
                shutil.rmtree(p.dir / "out")
            else:
                equal(run.returncode, -signal.SIGKILL, err if run.returncode > 0 else "")
                check_half_made(p, want, "after a kill:")
        check(again <= 2 * killed, again, "blocks done again after", killed, "kills")
        print(f"         {killed} kills in {rounds} runs of {seconds:.2f} s: {again} blocks done again")


def kills_in_the_output_folder():
    """The same while another result is replaced: out is never a mixture that a loader would take."""
    rng = random.Random(21)
    with place() as p:
        p.furnish()
        results = {}
        for bits in (4, 3):
            p.write("r.yaml", recipe(quantize={"bits": bits}, pack={"max_shard_size": "30KB"}))
            _, done = p.run("r.yaml", "-o", f"alone-{bits}")
            results[bits] = digests(p.dir / f"alone-{bits}")
        p.run()
        _, done = p.run("r.yaml")
        for i in range(20):
            bits = 4 - i % 2
            p.write("r.yaml", recipe(quantize={"bits": bits}, pack={"max_shard_size": "30KB"}))
            run = start(p, p.dir / "events")
            try:
                run.communicate(timeout=rng.random() * done.seconds * 1.2)
            except subprocess.TimeoutExpired:
                run.kill()
                run.communicate()
            if (p.dir / "out/config.json").exists():
                have = {n: d for n, d in digests(p.dir / "out").items() if not n.startswith(".") and ".tmp." not in n and n != "qjob.json"}
                check(any(have == {n: d for n, d in r.items() if n != "qjob.json"} for r in results.values()), "a mixture:", sorted(have))
        p.run()
        compare(results[bits], digests(p.dir / "out"), "after 20 kills")


def interrupts():
    """SIGINT and SIGTERM: exit code 130, how to go on, nothing half-made; then it does go on."""
    with place() as p:
        want, seconds = busy_place(p)
        for number in (signal.SIGINT, signal.SIGTERM):
            shutil.rmtree(p.cache, ignore_errors=True)
            shutil.rmtree(p.dir / "out", ignore_errors=True)
            events = p.dir / "events"
            events.unlink(missing_ok=True)
            run = start(p, events)
            while run.poll() is None and '"quantize/1"' not in (events.read_text() if events.exists() else ""):
                time.sleep(0.001)
            run.send_signal(number)
            out, err = run.communicate(timeout=60)
            equal(run.returncode, 130, out + err)
            check("qjob: stopping; what is finished is kept (again to stop at once)\n" in err, err)
            check(err.endswith("qjob: interrupted; run the same command again to continue\n"), err)
            check(not (p.dir / "out").exists(), "an output folder")
            equal([n for n in os.listdir(p.cache / "work")] if (p.cache / "work").exists() else [], [], "left in the store")
            equal(p.json("log")[0]["result"], "interrupted")
            before = last_states(read_events(events))
            equal(before["quantize/0"], "done")
            states, _ = p.run()
            check("quantize/0" not in ran(states), "a finished block runs again")
            compare(want, digests(p.dir / "out"), number.name)


main([two_folders, memory, threads, environments, kills, kills_in_the_output_folder, interrupts])

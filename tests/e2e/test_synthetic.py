"""Synthetic models and data: planned from headers alone, made for a run, the same bytes wherever and however often."""
import os

import qjob
from qjob import check, digests, equal, place

MODEL = "synthetic:qwen2-0.5b?layers=1&seed=5"


def recipe(**quantize):
    return {"qjob": 1, "model": {"source": MODEL}, "calibration": {"dataset": "synthetic:tokens?seed=1", "samples": 2, "seqlen": 64},
            "quantize": quantize, "output": "out"}


def held(folder):
    return sum(os.stat(os.path.join(d, f)).st_blocks * 512 for d, _, files in os.walk(folder) for f in files)


def a_plan_makes_headers_and_a_run_the_data():
    with place() as p:
        p.env["QJOB_SYNTHETIC"] = str(p.dir / "made")
        p.write("r.yaml", recipe(method="rtn", bits=8))
        equal(p.plan()["quantize/0"][0], "run")
        check(held(p.dir / "made") < 1 << 20, "a plan holds", held(p.dir / "made"))
        p.run()
        check(held(p.dir / "made") > 300e6, "a run made", held(p.dir / "made"))
        states, _ = p.run()
        equal(qjob.ran(states, fetch=False), set(), "nothing has changed")
        equal({action for action, _ in p.plan().values()}, {"hit"})
        first = digests(p.dir / "out")
        p.env["QJOB_SYNTHETIC"] = str(p.dir / "elsewhere")
        states, _ = p.run("r.yaml", "-o", "again")
        equal(qjob.ran(states, fetch=False), set(), "content decides, not the place")
        equal(digests(p.dir / "again"), first)


def made_up_ids_calibrate():
    with place() as p:
        p.env["QJOB_SYNTHETIC"] = str(p.dir / "made")
        p.write("r.yaml", recipe(method="gptq", bits=4, overrides=[{"match": "*.mlp.*", "skip": True}]))
        p.run()
        states, _ = p.run("r.yaml", "--set", "calibration.dataset=synthetic:tokens?seed=2")
        check("quantize/0" in qjob.ran(states), "another seed gives other ids")


def mistakes_are_told():
    with place() as p:
        p.env["QJOB_SYNTHETIC"] = str(p.dir / "made")
        p.write("r.yaml", recipe(method="gptq"))
        for name, value, want in (
                ("model.source", "synthetic:qwen2-0.5c", "did you mean qwen2-0.5b?"),
                ("model.source", "synthetic:qwen2-0.5b?layers=25", "layers=25 is not a whole number from 1 to 24"),
                ("calibration.dataset", "synthetic:texts", "'synthetic:texts': the only made-up data are synthetic:tokens and "
                                                           "synthetic:tokens?seed=N"),
                ("calibration.dataset", "synthetic:tokens?seeds=1", "'seeds=1' is not one of seed, as in seed=1")):
            done = p.qjob("plan", "r.yaml", "--set", f"{name}={value}", code=2)
            check(want in done.err, done.err)
        check(not os.path.exists(p.dir / "made") or held(p.dir / "made") < 1 << 20, "a mistake made a model")


qjob.main([a_plan_makes_headers_and_a_run_the_data, made_up_ids_calibrate, mistakes_are_told])

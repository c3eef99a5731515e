"""MST or AIM of package dpmm on rows of bins, in a Python of its own; see `privacy.py --peer-python`.

    PEER_PYTHON bench/_marginals_work.py MST|AIM ROWS.npz DRAWN.npz EPSILON DELTA

ROWS has `names` of the columns, how many `bins` each has, and `rows` (n, columns). DRAWN gets such `rows`, as many as
the noisy marginals say. Nothing here needs nsstream: dpmm wants an older numpy than it does.
"""

import sys
import warnings

import numpy as np
import pandas as pd
from dpmm.models.aim import AIMGM
from dpmm.models.mst import MSTGM
from dpmm.pipelines.base import GenerativePipeline

STEPS = {"MST": 1000, "AIM": 100}  # of inference, AIM's after each round; their own are 5,000 and 1,000
AIM_ROUNDS = 20  # of the mechanism's own 16 a column, which can take hours
AIM_MIB = 2  # of the model; its own: 80
AIM_CELLS = 400_000  # of a marginal that may be chosen, before bins without a noisy count are made one


def main() -> None:
    mechanism, rows, drawn, epsilon, delta = sys.argv[1:]
    warnings.simplefilter("ignore")  # dpmm's own, of pandas
    with np.load(rows) as given:
        names = [str(name) for name in given["names"]]
        frame = pd.DataFrame({name: given["rows"][:, i] for i, name in enumerate(names)})
        domain = {name: int(size) for name, size in zip(names, given["bins"], strict=True)}
    promise = {"epsilon": float(epsilon), "delta": float(delta), "compress": True, "n_jobs": 1}
    promise["n_iters"] = STEPS[mechanism]
    if mechanism == "MST":
        model = MSTGM(**promise)
    else:
        model = AIMGM(**promise, rounds=AIM_ROUNDS, max_model_size=AIM_MIB, max_cells=AIM_CELLS)
    pipeline = GenerativePipeline(model)
    pipeline.fit(frame, domain)
    made = pipeline.generate(n_records=max(1, round(model.generator.model.total)))
    np.savez(drawn, rows=made[names].to_numpy(np.int64))


if __name__ == "__main__":
    main()

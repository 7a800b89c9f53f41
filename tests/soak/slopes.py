# SPDX-License-Identifier: Apache-2.0
"""Least-squares slopes per 1,000 steps, each with an interval and a verdict.

Figures of different processes are not compared: each life has its own intercept, its first steps do not
count, and one slope is fitted to all lives of a role. Consecutive samples are correlated, so the interval is
widened by their autocorrelation. `leak`: the interval is above the bound. `flat`: below. If the bound is
within the interval, as when an allocator takes and returns tens of MiB at once, the median change over 20
steps decides: `leak` if its interval is above the bound, `jumps` if below. `unclear`: neither; more steps
would tell.
"""

import itertools
import math

# What 1,000 steps may add. Memory: 3 % of what the process holds, which is less than fragmentation varies
# from hour to hour and too little to matter in a run of the paper's size. Counts: one; a leak of one per
# step would be 1,000, of one per killed server 10.
MEMORY_SHARE, COUNT = 0.03, 1.0
MEMORY = ("pss", "uss")
# These grow by design: the rollouts of a step are kept, so that a resumed run trains on the same answers.
BY_DESIGN = ("run folder files", "run folder MiB")
# 97.5 % of Student's t
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 8: 2.31, 10: 2.23, 15: 2.13, 20: 2.09, 30: 2.04}


def slope(lives):
    """Slope per 1,000 steps of all lives together and half its 95 % interval; None for too few points.

    Args:
        lives: for each life, points (step, value).
    """
    centred = []
    for points in lives:
        if len(points) > 1:
            x0, y0 = (sum(part) / len(points) for part in zip(*points, strict=True))
            centred.append([(x - x0, y - y0) for x, y in points])
    pairs = [pair for points in centred for pair in points]
    spread = sum(x * x for x, _ in pairs)
    if not spread:
        return None
    best = sum(x * y for x, y in pairs) / spread
    rest = [[y - best * x for x, y in points] for points in centred]
    squares = sum(e * e for part in rest for e in part)
    if squares < 1e-18:
        return 1000 * best, 0.0
    together = sum(a * b for part in rest for a, b in itertools.pairwise(part))
    alike = min(max(together / squares, 0.0), 0.99)
    count = len(pairs) * (1 - alike) / (1 + alike)
    free = count - len(centred) - 1
    if free < 1:
        return 1000 * best, math.inf
    error = math.sqrt(squares / free / spread * len(pairs) / count)
    t = next((value for known, value in sorted(_T.items(), reverse=True) if free >= known), 12.71)
    return 1000 * best, 1000 * error * (t if free < 60 else 1.98)


def median_change(lives, span=4):
    """Median change per 1,000 steps from a sample to the one `span` later, and its 95 % interval's ends.

    A steady leak moves the median as it moves the slope; a jump does not. None for too few samples.
    """
    changes = sorted(
        1000 * (points[at + span][1] - points[at][1]) / (points[at + span][0] - points[at][0])
        for points in lives
        for at in range(0, len(points) - span, span)
    )
    n = len(changes)
    # the sign test's order statistic: the median is beyond this one with a chance of 2.5 %
    upper = math.ceil(n / 2 + 0.98 * math.sqrt(n))
    if n < 6 or upper >= n:
        return None
    return (changes[n // 2] + changes[(n - 1) // 2]) / 2, changes[n - 1 - upper], changes[upper]


def series(rows, warm_up, first_kill):
    """(role, name) -> lives with their points after the warm-up; for the whole run, after the first kill.

    The first server is the command's child, later ones the rank's, so the first kill changes the counts once.
    """
    first, by_series = {}, {}
    for row in rows:
        for role, figures in row["roles"].items():
            begun = first.setdefault(figures["life"], row["step"])
            if row["step"] - begun < warm_up:
                continue
            for name, value in figures.items():
                if name != "life":
                    lives = by_series.setdefault((role, name), {})
                    lives.setdefault(figures["life"], []).append((row["step"], value))
    late = [row for row in rows if row["step"] >= first_kill + warm_up]
    for name in late[0]["files"] if late else ():
        by_series["run", name] = {"": [(row["step"], row["files"][name]) for row in late]}
    return {key: list(lives.values()) for key, lives in by_series.items()}


def judged(key, lives):
    """One row of the table."""
    role, name = key
    values = [value for points in lives for _, value in points]
    mean = sum(values) / len(values) if values else 0.0
    fit = slope(lives)
    row = {"of": role, "what": name, "mean": round(mean, 1), "lives": len(lives), "samples": len(values)}
    if fit is None:
        return row | {"slope": None, "half": None, "bound": None, "verdict": "too few samples"}
    best, half = fit
    bound = max(MEMORY_SHARE * mean, 1.0) if name in MEMORY or name.endswith("MiB") else COUNT
    verdict = "leak" if best - half > bound else "flat" if best + half <= bound else "unclear"
    median = median_change(lives)
    if verdict == "unclear" and median is not None:
        _, low, high = median
        verdict = "leak" if low > bound else "jumps" if high <= bound else "unclear"
    verdict = "grows by design" if name in BY_DESIGN else verdict
    row |= {"slope": round(best, 2), "half": half, "bound": round(bound, 2), "verdict": verdict}
    return row | {"median": median and [round(figure, 2) for figure in median]}


def verdicts(rows, warm_up, first_kill):
    """`{table, rows, leaks}` for the samples."""
    table_rows = [judged(key, lives) for key, lives in series(rows, warm_up, first_kill).items()]
    lines = ["| of | what | mean | per 1,000 steps | median | bound | verdict |", "|" + "---|" * 7]
    for row in table_rows:
        said = "" if row["slope"] is None else f"{row['slope']:+.2f} ± {row['half']:.2f}"
        unit = " MiB" if row["what"] in MEMORY else ""
        median = "{:+.2f} ({:+.2f} to {:+.2f})".format(*row["median"]) if row.get("median") else ""
        cells = [row["of"], row["what"] + unit, f"{row['mean']:.1f}", said, median, str(row["bound"])]
        cells.append(row["verdict"])
        lines.append("| " + " | ".join(cells) + " |")
    steps = f"steps {rows[0]['step']} to {rows[-1]['step']}, {len(rows)} samples" if rows else "no samples"
    leaks = [f"{row['of']}: {row['what']}" for row in table_rows if row["verdict"] == "leak"]
    lines += ["", f"{steps}; {'leaks: ' + ', '.join(leaks) if leaks else 'no leak'}"]
    return {"table": "\n".join(lines), "rows": table_rows, "leaks": leaks}
